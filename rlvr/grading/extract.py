"""Where the answer stands in a text, and whether its tags are in order. Every function is one linear scan.

A finder answers one of three things: None = the form does not occur, "" = its last occurrence is empty or not
terminated, else the text inside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Form = Literal["box", "answer", "hash", "number"]


MAX_ANSWER = 20_000  # a longer "answer" is a text, not an answer


MAX_NESTED = 8  # boxes in a box


MAX_TAGGED = 20_000  # tags also hold boards and lists of moves


END_MARKERS = ("<|im_end|>", "</s>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")


# A run of backslashes is one token, so that `\{` and `\\{` are told apart without looking back.
_BRACES = re.compile(r"(?P<slash>\\++)(?:(?P<box>(?:boxed|fbox)\s*+\{)|[{}])?|(?P<brace>[{}])")


# What may stand between two boxes of one list.
_BETWEEN = re.compile(
    r"(?:[\s$~&,;]|\\[ ,;:!()\[\]]|\\q?quad\b|\\text *\{[ ,]*(?:and|or)[ ,]*\}|\band\b|\bor\b){0,24}+"
)


_BOX_ONLY = re.compile(r"\\+(?:boxed|fbox)\s*+\{")


_NUMBER = re.compile(
    r"(?<![0-9.)}\]])-?\\[dt]?frac\{-?[0-9]{1,40}\}\{[0-9]{1,40}\}"
    r"|(?:(?<![0-9a-zA-Z)}\]])[-\u2212])?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,20}(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)(?:/[0-9]++|\\?%|[eE][-+]?[0-9]++)?"
)


def final_turn(text: str) -> str:
    """The text up to the first end-of-turn marker.   final_turn("4<|im_end|>User: 5") -> "4" """
    ends = [place for marker in END_MARKERS if (place := text.find(marker)) >= 0]
    return text[: min(ends)] if ends else text


def after_thinking(text: str, prefill: str = "") -> str:
    """What follows the last `</think>`; nothing where thinking was opened and never closed.

    >>> after_thinking("<think>3?</think>4"), after_thinking("3, no, 4", prefill="<think>"), after_thinking("4")
    ('4', '', '4')
    """
    _, closed, tail = text.rpartition("</think>")
    opened = "<think>" in text or prefill.rstrip().endswith("<think>")
    return tail if closed or not opened else ""


def find_form(form: Form, text: str) -> str | None:
    """The answer in that form.   find_form("hash", "6*7\\n#### 42") -> "42" """
    return _FINDERS[form](text)


def answers_in(text: str, prefill: str, forms: Sequence[Form]) -> dict[Form, str]:
    """The answers after the thinking of the first turn, by those of the forms that occur, in their order."""
    tail = after_thinking(final_turn(text), prefill)
    return {form: answer for form in forms if (answer := find_form(form, tail)) is not None}


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`; never an earlier one where the last is empty or unterminated.

    Boxes with only a comma, `and`, `or` or white space between them are one list, in which repeats count once.

    >>> last_box(r"\boxed{3}, no: $\boxed{\{1\}}$"), last_box(r"\boxed{3} \boxed{"), last_box(r"\boxed{3} or \boxed{4}")
    ('\\{1\\}', '', '3, 4')
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    together = [boxes.pop()]
    while (
        boxes and boxes[-1].end and _BETWEEN.fullmatch(text, boxes[-1].end + 1, together[-1].begin)
    ):
        together.append(boxes.pop())
    contents = dict.fromkeys(_content(text, box) for box in reversed(together))
    return ", ".join(contents) if all(contents) else ""


def _content(text: str, box: _Box) -> str:
    if not box.end or box.end - box.start > MAX_ANSWER:
        return ""
    content = text[box.start : box.end].strip()
    for _ in range(MAX_NESTED):  # a box in a box
        opening, inner = _BOX_ONLY.match(content), _boxes(content)
        if (
            not opening
            or len(inner) != 1
            or (inner[0].start, inner[0].end) != (opening.end(), len(content) - 1)
        ):
            return content
        content = content[opening.end() : -1].strip()
    return ""


class _Box(NamedTuple):
    """Where a box begins with its command, and where its content begins and ends; the end is 0 where it stays open."""

    begin: int
    start: int
    end: int


def _boxes(text: str) -> list[_Box]:
    """The outermost boxes in order; one that stays open counts only where no box follows in it."""
    first = min(
        (place for word in ("boxed", "fbox") if (place := text.find(word)) >= 0), default=-1
    )
    if first < 0:
        return []
    start = len(
        text[:first].rstrip("\\")
    )  # what comes before the first box opens nothing that matters
    open_braces: list[_Box | None] = []  # None for a plain brace
    found: list[_Box] = []
    for token in _BRACES.finditer(text, start):
        slashes, symbol = token.end("slash") - token.start("slash"), token[0][-1]
        if token["box"]:
            open_braces.append(_Box(token.start(), token.end(), 0))
        elif symbol == "\\" or (token["slash"] and slashes % 2):
            continue
        elif symbol == "{":
            open_braces.append(None)
        elif open_braces and (box := open_braces.pop()):
            while found and found[-1].begin > box.begin:
                found.pop()
            found.append(box._replace(end=token.end() - 1))
    last = next((box for box in reversed(open_braces) if box), None)
    if last and (not found or found[-1].begin < last.begin):
        found.append(last)
    return found


def last_answer_tag(text: str) -> str | None:
    """The content of the last `<answer>…</answer>`.   last_answer_tag("<answer> 4 </answer>") -> "4" """
    start = text.rfind("<answer>")
    if start < 0:
        return None
    end = text.find("</answer>", start)
    content = text[start + len("<answer>") : end].strip() if end >= 0 else ""
    return content if len(content) <= MAX_TAGGED else ""


def last_hash(text: str) -> str | None:
    """The rest of the line after the last `####`.   last_hash("6 * 7 = 42\\n#### 42\\n") -> "42" """
    _, marker, tail = text.rpartition("####")
    content = tail.split("\n", 1)[0].strip()
    return (content if len(content) <= MAX_ANSWER else "") if marker else None


def last_number(text: str) -> str | None:
    """The last number as it is written.   last_number("7 - 12 is $-5.") -> "-5" """
    found = ""
    for match in _NUMBER.finditer(text):
        found = match[0]
    return found if found and len(found) <= MAX_ANSWER else None


_FINDERS = {"box": last_box, "answer": last_answer_tag, "hash": last_hash, "number": last_number}


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
    outside = (
        text[: think.start()],
        text[think_end.end() : answer.start()],
        text[answer_end.end() :],
    )
    return Tags(
        ordered=True,
        clean=not any(part.strip().strip(_FENCE) for part in outside),
        thought=len(text[think.end() : think_end.start()].split(None, min_think)) >= min_think,
        answered=bool(text[answer.end() : answer_end.start()].strip()),
        ended=not truncated,
    )
