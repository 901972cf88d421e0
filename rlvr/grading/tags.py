"""The tags of a response: `<think>…</think><answer>…</answer>`, each once and in this order."""

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


def check_tags(
    text: str, *, prefilled: bool = False, truncated: bool = False, min_think: int = 0
) -> Tags:
    """Check a response; `prefilled` says that the prompt ended with `<think>`, `min_think` counts words.

    It is one linear scan.

    >>> check_tags("so 4</think> <answer>4</answer>", prefilled=True).ok, check_tags("<answer>4</answer>").ok
    (True, False)
    """
    tags = list(_TAG.finditer(text))
    if prefilled and _list_names(tags) == _ORDER[1:]:
        text = f"<think>{text}"
        tags = list(_TAG.finditer(text))
    if _list_names(tags) != _ORDER:
        return Tags(
            ordered=False,
            clean=False,
            thought=False,
            answered=False,
            ended=not truncated,
        )
    think, think_end, answer, answer_end = tags
    before = text[: think.start()]
    thinking = text[think.end() : think_end.start()]
    between = text[think_end.end() : answer.start()]
    answered = text[answer.end() : answer_end.start()]
    behind = text[answer_end.end() :]
    return Tags(
        ordered=True,
        clean=_is_blank(before) and _is_blank(between) and _is_blank(behind),
        # No more words are split off than are asked for: thinking may be long.
        thought=len(thinking.split(None, min_think)) >= min_think,
        answered=bool(answered.strip()),
        ended=not truncated,
    )


def _list_names(tags: list[re.Match[str]]) -> list[str]:
    return [tag[0] for tag in tags]


def _is_blank(text: str) -> bool:
    return not text.strip().strip(_FENCE)
