r"""Whether an answer means the same as the gold: rules on trees, numbers at test points, never a
tolerance for free.

The rules: exact rational equality; a decimal stands for what has no decimal only with six digits;
units may be missing but not different; brackets, order and number of elements count, sets and lists
of roots have no order; an equation is what it is equivalent to; several answers where one is asked
are wrong. What the rules cannot decide is left to the symbolic library.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.lexer import lex
from rlvr.grading.normal_form import choose_sign
from rlvr.grading.notation import RELATIONS
from rlvr.grading.parser import MAX_LENGTH, parse
from rlvr.grading.points import have_same_values
from rlvr.grading.precision import Undecided
from rlvr.grading.rules import same
from rlvr.grading.systems import write_pieces
from rlvr.grading.traversal import get_infinity_sign
from rlvr.grading.tree import Node
from rlvr.grading.units import split_units
from rlvr.grading.words import PUNCTUATION, is_only_words

__all__ = ["Match", "canonical", "compare", "same"]

_INTEGER = re.compile(r"-?[0-9]{1,60}")

# What parts the cells of an environment such as `cases`.
_CELL_EDGE = re.compile(r"(\\(?:begin|end) *\{ *[a-z]+\*? *\}|\\\\|&)")

# The name of a piecewise function before its brace: `f(x) =`.
_FUNCTION_NAME = re.compile(
    r"[\s$]*[A-Za-z] *\([a-z]\) *= *(?=\\begin *\{(?:d?cases)\}|\\left *\\\{)"
)

# Relations of which one sign is as good as another, unlike `\sim` and `\approx`.
_RELATIONS = {sign: name for sign, name in RELATIONS.items() if name != "~"}

# What evaluating raises where there is no value.
_NO_VALUE = (Undecided, ArithmeticError, ValueError, TypeError)
_STRUCTURES = frozenset({"list", "set", "group", "rows", "setop", "ratio", "relation"})
_WITHOUT_NUMBER = frozenset({"symbol", "based", "ellipsis", "constant"})


@dataclass(frozen=True, slots=True)
class Match:
    """Whether two answers are the same (None: the rules do not say), and the rule that decided."""

    same: bool | None
    rule: str


def compare(gold: str, answer: str) -> Match:
    r"""Compare two bare answers; whatever they are, it returns.

    >>> compare(r"\frac{1}{2}", "0.5"), compare("(1,2)", "[1,2]").same, compare("5", "5 or 6").same
    (Match(same=True, rule='exact'), False, False)
    """
    # Most golds are integers, and most answers to them too.
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return Match(int(gold) == int(answer), "exact")
    if len(gold) > MAX_LENGTH or len(answer) > MAX_LENGTH:
        return Match(bool(gold.strip()) and gold.split() == answer.split(), "string")
    return _compare_texts(gold, answer)


@functools.lru_cache(maxsize=20_000)
def _compare_texts(gold: str, answer: str) -> Match:
    canonical_gold = canonical(gold)
    canonical_answer = canonical(answer)
    if not canonical_gold or not canonical_answer:
        return Match(False, "empty")
    if canonical_gold == canonical_answer or _is_same_function(gold, answer):
        return Match(True, "string")
    gold_tree = parse(gold)
    if gold_tree is None:
        return Match(None, "gold not in the grammar")
    answer_tree = parse(answer)
    if answer_tree is None:
        return Match(False, "unparseable")
    try:
        return _compare_trees(gold, answer, gold_tree, answer_tree)
    except (*_NO_VALUE, RecursionError):
        # A gold with a value is never equal to what has none; only a gold without one is left to
        # the library.
        if _has_value(gold_tree):
            return Match(False, "undecided")
        return Match(None, "undecided")


def _is_same_function(gold: str, answer: str) -> bool:
    """Whether they are the pieces of one function, of which one side alone has the name before them."""
    gold_pieces = _drop_function_name(gold)
    answer_pieces = _drop_function_name(answer)
    if (gold_pieces == gold) == (answer_pieces == answer):
        return False
    return canonical(gold_pieces) == canonical(answer_pieces)


def _drop_function_name(text: str) -> str:
    name = _FUNCTION_NAME.match(text)
    return text[name.end() :] if name else text


def _compare_trees(gold: str, answer: str, gold_tree: Node, answer_tree: Node) -> Match:
    rule = "value" if evaluate_exactly(gold_tree) is None else "exact"
    if same(gold_tree, answer_tree):
        return Match(True, rule)
    may_be_list = "," in gold and gold_tree.kind != "number"
    return Match(may_be_list and _is_same_list(gold, answer, gold_tree), rule)


def _is_same_list(gold: str, answer: str, gold_tree: Node) -> bool:
    """Whether they are the same list, where the gold's comma may separate items and not thousands."""
    gold_list = parse(gold, thousands=False)
    answer_list = parse(answer, thousands=False)
    if gold_list is None or answer_list is None:
        return False
    if gold_list.kind != "list" or gold_list == gold_tree:
        return False
    return same(gold_list, answer_list)


def _has_value(node: Node) -> bool:
    """Whether every number in it can be computed."""
    if node.kind in _STRUCTURES or is_only_words(node):
        return all(_has_value(part) for part in node.parts)
    number, _ = split_units(choose_sign(node, upper=True))
    if get_infinity_sign(node) or number is None or number.kind in _WITHOUT_NUMBER:
        return True
    try:
        return have_same_values(number, number)
    except _NO_VALUE:
        return False


def canonical(text: str) -> str:
    r"""Return the text without what never carries meaning; case counts in formulas and not in words.

    >>> canonical(r"$\text{Monday}$.") == canonical("monday"), canonical(r"x") == canonical("X")
    (True, False)
    """
    if "\\begin" in text:
        text = write_pieces(text)
    tokens = lex(text)
    if tokens is None and "\\begin" in text:
        return _canonical_cells(text)
    if tokens is None:
        return f"\0{' '.join(text.split())}"  # never the same as what has tokens
    if tokens and all(token.kind == "text" for token in tokens):
        return " ".join(token.text.strip(PUNCTUATION) for token in tokens).casefold()
    return "\0".join(_RELATIONS.get(token.text, token.text) for token in tokens)


def _canonical_cells(text: str) -> str:
    r"""Return the canonical texts of the cells of an environment, and what stands between them.

    >>> short = _canonical_cells(r"\begin{cases}x&x\le 0\\-x&x>0\end{cases}")
    >>> short == _canonical_cells(r"\begin{cases} x & x \leq 0 \\ -x & x > 0 \end{cases}")
    True
    """
    pieces: list[str] = []
    for number, piece in enumerate(_CELL_EDGE.split(text)):
        is_edge = number % 2 == 1
        pieces.append("".join(piece.split()) if is_edge else canonical(piece))
    return "\0".join(["", *pieces])
