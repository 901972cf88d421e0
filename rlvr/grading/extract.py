"""Where the answer stands in a text.

Every function is one linear scan. A finder returns one of three things: None where the form does not occur, "" where
its last occurrence is empty or not terminated, else the text inside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Form = Literal["box", "answer", "hash", "number"]

MAX_ANSWER = 20_000  # a longer "answer" is a text, not an answer
MAX_NESTED = 8  # boxes in a box
MAX_TAGGED = 20_000  # tags also hold boards and lists of moves

# What ends a turn in the chat templates of 2023 to 2026, by itself or as the user's next one. Nearly all begin with `<`
# or `<|`, so that a text without it is looked through once for all of those.
_PIPED_MARKERS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|user|>",
    "<|observation|>",
)
_ANGLED_MARKERS = (
    "</s>",
    "<end_of_turn>",
    "<turn|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5cUser\uff5c>",
)
_SQUARE_MARKERS = ("[e~[", "[|endofturn|]")
END_MARKERS = (*_PIPED_MARKERS, *_ANGLED_MARKERS, *_SQUARE_MARKERS, "<|end|>")

# Phi ends a turn with it; harmony ends its thinking so, and goes on with `<|start|>`.
_PHI_END = re.compile(r"<\|end\|>(?!\s*<\|start\|>)")

_BOX_COMMANDS = ("boxed", "fbox")
_BOX_OPENING = re.compile(r"\\+(?:boxed|fbox)\s*+\{")

# A run of backslashes is one token, so that `\{` and `\\{` are told apart without looking back.
# What can repeat is possessive (`++`), so that no text makes the scan go back.
_BRACES = re.compile(r"(?P<slash>\\++)(?:(?P<box>(?:boxed|fbox)\s*+\{)|[{}])?|(?P<brace>[{}])")

# What may stand between two boxes of one list.
_JOINS = r"(?:[\s$~&,;]|\\[ ,;:!()\[\]]|\\q?quad\b|\\text *\{[ ,]*(?:and|or)[ ,]*\}|\band\b|\bor\b){0,24}+"
_BETWEEN = re.compile(_JOINS)

# The name of what stands in a box, and what stands between two named boxes of one sentence.
_LABEL = r"(?P<label>(?:[A-Za-z]|\\[a-z]{1,10})(?:_(?:[0-9a-z]|\{[0-9a-z]{1,4}\}))?)\s*=[\s$]*"
_LABEL_BEFORE = re.compile(rf"(?<![A-Za-z0-9)}}\]^*/+-]){_LABEL}\Z")
_BETWEEN_NAMED = re.compile(rf"(?=[^=]*(?:[,;]|\band\b|\bor\b)){_JOINS}{_LABEL}")
MAX_LABEL = 30

# A fraction of whole numbers, or a number with what may stand around it: a minus sign that is no
# operator, commas in groups of three, a point, then a slash, a percent sign or an exponent.
_NUMBER = re.compile(
    r"(?<![0-9.)}\]])-?\\[dt]?frac\{-?[0-9]{1,40}\}\{[0-9]{1,40}\}"
    r"|(?:(?<![0-9a-zA-Z)}\]])[-\u2212])?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,20}(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)"
    r"(?:/[0-9]++|\\?%|[eE][-+]?[0-9]++)?"
)


def cut_at_end_of_turn(text: str) -> str:
    """Return the text up to the first end-of-turn marker.   cut_at_end_of_turn("4<|im_end|>User: 5") -> "4" """
    end = _find_first(text, _SQUARE_MARKERS)
    if "<" in text:
        end = min(end, _find_first(text, _ANGLED_MARKERS))
    if "<|" in text:
        end = min(end, _find_first(text, _PIPED_MARKERS))
        phi_end = _PHI_END.search(text, 0, end)
        if phi_end:
            end = phi_end.start()
    return text[:end]


def _find_first(text: str, words: Iterable[str]) -> int:
    """Return where the first of several words begins, the length of the text where none occurs."""
    first = len(text)
    for word in words:
        place = text.find(word)
        if 0 <= place < first:
            first = place
    return first


def strip_thinking(text: str, prefill: str = "") -> str:
    """Return what follows the last `</think>`; nothing where thinking was opened and never closed.

    >>> strip_thinking("<think>3?</think>4"), strip_thinking("3, no, 4", prefill="<think>"), strip_thinking("4")
    ('4', '', '4')
    """
    _, closing, tail = text.rpartition("</think>")
    if closing:
        return tail
    if "<think>" in text or leaves_thinking_open(prefill):
        return ""
    return text


def leaves_thinking_open(prefill: str) -> bool:
    """Whether a response begins inside thinking.   leaves_thinking_open("<think>\\nOkay,") -> True"""
    return "<think>" in prefill.rpartition("</think>")[2]


def find_form(form: Form, text: str) -> str | None:
    """Return the answer in that form.   find_form("hash", "6*7\\n#### 42") -> "42" """
    return _FINDERS[form](text)


def extract_answers(text: str, prefill: str, forms: Sequence[Form]) -> dict[Form, str]:
    """Return the answers after the thinking of the first turn, by those of the forms that occur, in their order."""
    tail = strip_thinking(cut_at_end_of_turn(text), prefill)
    answers: dict[Form, str] = {}
    for form in forms:
        answer = find_form(form, tail)
        if answer is not None:
            answers[form] = answer
    return answers


def find_last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}` or `\fbox{}`; never an earlier one where it is empty or unterminated.

    Boxes with only a comma, `and`, `or` or white space between them are one list, in which repeats count once. So are
    named boxes with a comma, `and` or `or` between them, which keep their names.

    >>> find_last_box(r"\boxed{3}, no: $\boxed{\{1\}}$"), find_last_box(r"\boxed{3} \boxed{")
    ('\\{1\\}', '')
    >>> find_last_box(r"\boxed{3} or \boxed{4}")
    '3, 4'
    """
    boxes = _find_boxes(text)
    if not boxes:
        return None
    contents: dict[str, None] = {}  # a set in order
    listed = _take_last_list(text, boxes)
    labels = [_read_label(text, box) for box in listed]
    are_named = len(listed) > 1 and all(labels)
    for box, label in zip(listed, labels, strict=True):
        content = _read_content(text, box)
        if not content:
            return ""
        if are_named:
            content = f"{label} = {content}"
        contents[content] = None
    return ", ".join(contents)


class _Box(NamedTuple):
    """Where a box begins with its command, and where its content begins and ends; the end is 0 where it stays open."""

    begin: int
    start: int
    end: int


def _find_boxes(text: str) -> list[_Box]:
    """Return the outermost boxes in order; one that stays open counts only where no box follows in it."""
    first = _find_first(text, _BOX_COMMANDS)
    if first == len(text):
        return []
    # What comes before the first box opens nothing that matters; its backslashes stand before its word.
    start = len(text[:first].rstrip("\\"))
    open_braces: list[_Box | None] = []  # None for a plain brace
    boxes: list[_Box] = []
    for token in _BRACES.finditer(text, start):
        if token["box"]:
            open_braces.append(_Box(token.start(), token.end(), 0))
        elif _is_escaped(token):
            continue
        elif token[0][-1] == "{":
            open_braces.append(None)
        elif open_braces:
            box = open_braces.pop()
            if box:
                _append_outermost(boxes, box._replace(end=token.end() - 1))
    _append_unclosed(boxes, open_braces)
    return boxes


def _is_escaped(token: re.Match[str]) -> bool:
    r"""Whether backslashes leave no brace that groups: `\{`, or no brace at all; `\\{` is a line break and a brace."""
    slashes = token["slash"]
    if not slashes:
        return False
    return token[0][-1] == "\\" or len(slashes) % 2 == 1


def _append_outermost(boxes: list[_Box], box: _Box) -> None:
    """Append a box in place of those inside it."""
    while boxes and boxes[-1].begin > box.begin:
        boxes.pop()
    boxes.append(box)


def _append_unclosed(boxes: list[_Box], open_braces: Sequence[_Box | None]) -> None:
    """Append the last box that stays open, unless a box follows in it."""
    unclosed = [box for box in open_braces if box]
    if not unclosed:
        return
    if not boxes or boxes[-1].begin < unclosed[-1].begin:
        boxes.append(unclosed[-1])


def _take_last_list(text: str, boxes: list[_Box]) -> list[_Box]:
    """Return the last box and those before it that belong to one list, in order."""
    listed = [boxes.pop()]
    while boxes and boxes[-1].end:
        if not _are_joined(text, boxes[-1], listed[-1]):
            break
        listed.append(boxes.pop())
    listed.reverse()
    return listed


def _are_joined(text: str, box: _Box, following: _Box) -> bool:
    """Whether two boxes belong to one list, or to one sentence that names what stands in both."""
    place = box.end + 1
    if _BETWEEN.fullmatch(text, place, following.begin):
        return True
    if not _BETWEEN_NAMED.fullmatch(text, place, following.begin):
        return False
    return bool(_read_label(text, box))


def _read_label(text: str, box: _Box) -> str:
    r"""Return the name that stands before a box, "" where none does.   u = \boxed{3} -> u"""
    label = _LABEL_BEFORE.search(text[max(0, box.begin - MAX_LABEL) : box.begin])
    return label["label"] if label else ""


def _read_content(text: str, box: _Box) -> str:
    """Return what stands in a box, without further boxes that hold all of it; "" for what is no answer."""
    if not box.end or box.end - box.start > MAX_ANSWER:
        return ""
    content = text[box.start : box.end].strip()
    for _ in range(MAX_NESTED):
        inner = _strip_box(content)
        if inner is None:
            return content
        content = inner
    return ""


def _strip_box(content: str) -> str | None:
    """Return what stands in the box that is all of a text, None where there is no such box."""
    opening = _BOX_OPENING.match(content)
    if not opening:
        return None
    boxes = _find_boxes(content)
    if len(boxes) != 1:
        return None
    _, start, end = boxes[0]
    if start != opening.end() or end != len(content) - 1:
        return None
    return content[start:end].strip()


def find_last_answer_tag(text: str) -> str | None:
    """Return the content of the last `<answer>…</answer>`.   find_last_answer_tag("<answer> 4 </answer>") -> "4" """
    _, opening, tail = text.rpartition("<answer>")
    if not opening:
        return None
    content, closing, _ = tail.partition("</answer>")
    content = content.strip()
    if not closing or len(content) > MAX_TAGGED:
        return ""
    return content


def find_last_hash(text: str) -> str | None:
    """Return the rest of the line after the last `####`.   find_last_hash("6 * 7 = 42\\n#### 42\\n") -> "42" """
    _, marker, tail = text.rpartition("####")
    if not marker:
        return None
    content = tail.split("\n", 1)[0].strip()
    if len(content) > MAX_ANSWER:
        return ""
    return content


def find_last_number(text: str) -> str | None:
    """Return the last number as it is written.   find_last_number("7 - 12 is $-5.") -> "-5" """
    last = ""
    for match in _NUMBER.finditer(text):
        last = match[0]
    if not last or len(last) > MAX_ANSWER:
        return None
    return last


_FINDERS = {
    "box": find_last_box,
    "answer": find_last_answer_tag,
    "hash": find_last_hash,
    "number": find_last_number,
}
