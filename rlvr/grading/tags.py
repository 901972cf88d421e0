"""The format `<think>…</think><answer>…</answer>`: one scan over the tags, no pattern that could skip over one."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(r"</?(?:think|answer)>")
_ORDER = ["<think>", "</think>", "<answer>", "</answer>"]
_FENCE = "`"  # a code fence around the whole is typography, not text


@dataclass(frozen=True, slots=True)
class Tags:
    """What is true about the tags, each fact by itself; `ok` is all of them."""

    ordered: bool  # each tag once, in the right order
    clean: bool  # nothing but white space before, between and after the two blocks
    thought: bool  # the thinking has at least the words asked for
    answered: bool  # the answer block is not empty
    ended: bool  # the response was not cut off

    @property
    def ok(self) -> bool:
        return self.ordered and self.clean and self.thought and self.answered and self.ended


def check_tags(text: str, *, prefilled: bool = False, truncated: bool = False, min_think: int = 0) -> Tags:
    """Check a response; `prefilled` says that the prompt ended with `<think>`, `min_think` counts words.

    >>> check_tags("so 4</think> <answer>4</answer>", prefilled=True).ok, check_tags("<answer>4</answer>").ok
    (True, False)
    """
    tags = list(_TAG.finditer(text))
    if prefilled and [tag[0] for tag in tags] == _ORDER[1:]:
        text = f"<think>{text}"
        tags = list(_TAG.finditer(text))
    if [tag[0] for tag in tags] != _ORDER:
        return Tags(False, False, False, False, not truncated)
    think, think_end, answer, answer_end = tags
    outside = (text[: think.start()], text[think_end.end() : answer.start()], text[answer_end.end() :])
    return Tags(
        ordered=True,
        clean=not any(part.strip().strip(_FENCE) for part in outside),
        thought=len(text[think.end() : think_end.start()].split(None, min_think)) >= min_think,
        answered=bool(text[answer.end() : answer_end.start()].strip()),
        ended=not truncated,
    )
