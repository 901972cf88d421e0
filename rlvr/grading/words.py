"""Answers that are words or letters of a choice."""

from __future__ import annotations

from collections.abc import Callable

from rlvr.grading.tree import Node

PUNCTUATION = "()[].:!\"' "  # that may stand around words

_CHOICES = frozenset("ABCDEFGH")


def compare_words(gold: Node, answer: Node) -> bool | None:
    """Compare words and letters of a choice without regard to case; words never equal a formula.

    None where neither is words or where the other rules know more.
    """
    same_letter = _compare_letters(gold, answer)
    if same_letter is not None:
        return same_letter
    gold_words = read_words(gold)
    answer_words = read_words(answer)
    if gold_words is None and answer_words is None:
        return None
    # A short word without \text was read as letters that multiply.
    gold_words = gold_words or _spell(gold)
    answer_words = answer_words or _spell(answer)
    if gold_words is None or answer_words is None:
        if {gold.kind, answer.kind} & {"list", "relation"}:
            return None
        return False
    return gold_words.casefold() == answer_words.casefold()


def _compare_letters(gold: Node, answer: Node) -> bool | None:
    """Compare a symbol with one letter; of a choice the case does not count."""
    if "symbol" not in (gold.kind, answer.kind):
        return None
    gold_text = read_words(gold) or gold.name
    answer_text = read_words(answer) or answer.name
    gold_is_choice = gold.name in _CHOICES
    is_same_letter = gold_text.casefold() == answer_text.casefold()
    if len(gold_text) == len(answer_text) == 1:
        return gold_text == answer_text or (gold_is_choice and is_same_letter)
    if gold.kind == "symbol" and gold_is_choice and answer.kind in ("symbol", "text"):
        return is_same_letter
    return None


def read_words(node: Node) -> str | None:
    """Return the words of an answer that is only words, None for any other."""
    if node.kind == "text":
        return node.name.strip(PUNCTUATION)
    return _join_factors(node, " ", read_words)


def _spell(node: Node) -> str | None:
    r"""Return a formula as the words that it was meant for, None where it is none: `no`, `point B`."""
    letters = _read_letters(node)
    if letters is not None:
        return letters
    if node.kind == "mul" and read_words(node.parts[0]):
        return _join_factors(node, " ", _read_word)
    return None


def _read_word(node: Node) -> str | None:
    """Return words, or one letter that stands among them as a word."""
    if node.kind == "symbol":
        return node.name
    return read_words(node)


def _read_letters(node: Node) -> str | None:
    """Return plain letters side by side as the word that they spell, None for anything else."""
    if node.kind == "symbol":
        return node.name
    if node.kind == "constant" and len(node.name) == 1:  # e and i
        return node.name
    return _join_factors(node, "", _read_letters)


def _join_factors(node: Node, separator: str, read: Callable[[Node], str | None]) -> str | None:
    """Return the texts of the factors of a product, None where one of them has none."""
    if node.kind != "mul":
        return None
    texts: list[str] = []
    for factor in node.parts:
        text = read(factor)
        if text is None:
            return None
        if text:
            texts.append(text)
    return separator.join(texts)


def is_only_words(node: Node) -> bool:
    """Whether no part is a number or a variable."""
    if node.kind in ("mul", "neg"):
        return all(is_only_words(part) for part in node.parts)
    return node.kind == "text"
