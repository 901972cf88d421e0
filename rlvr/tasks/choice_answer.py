"""The letter that an answer to a multiple-choice question names, and the options that the question lists."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass

from rlvr.grading.compare import canonical
from rlvr.grading.parser import parse

MAX_OPTION = 1000  # characters of an answer that is compared with what the options say
MAX_NESTED_STYLES = 3
MAX_LINE = 200  # characters behind a stated letter that may take it back

_STYLED = re.compile(
    r"\\{1,2}(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|it|sf)|mbox|boldsymbol|bm|rm|bf) *"
    r"\{(?P<content>[^{}]*)\}"
)
_SPACE = re.compile(r"\\q?quad\b|\\[ ,;:!]|[~$*\s]|\\[()\[\]]")
_SPACE_IN_LINE = re.compile(r"\\q?quad\b|\\[ ,;:!]|[~$*]")

# A letter that begins an answer, after what may introduce it.
_FIRST = re.compile(
    r"(?:(?i:(?:the |my )?(?:correct |final )?(?:answer|option|choice)(?: is)?|I (?:choose|pick|select))\W{1,4})?"
    r"[\"'(\[{ ]*(?P<letter>[A-Za-z])(?![A-Za-z])"
)
_STATED = re.compile(
    r"(?:(?i:answer|(?:correct|right) (?:option|choice))\W{0,4}(?i:is|:)\W{0,4}(?:option |choice )?"
    r"|答案(?:应?[是为选])?|(?<!不)[故应]选)"
    r"\W{0,4}(?P<letter>[A-Z])(?![A-Za-z])"
)
_NOTHING = " )].}:,;\"'"
_DELIMITED = re.compile(r" *(?:[)\]}][ )\]}.:,]*|[.:]|,(?= )|-(?= +[A-Za-z]{2}))")
_WORDS = re.compile(r" +[A-Za-z]{2}[A-Za-z ,'-]*")
_ARTICLES = frozenset("AI")  # letters that are words of their own

# What makes the letter before it a variable.
_FORMULA = re.compile(
    r"[ )\]}]*(?:[=+^_<>/|!]|- *[0-9]|\\(?:cdot|times|cup|cap|in|to|[lgn]eq?|approx|subset\w*)\b)"
)

# Further letters: at once behind the first, or each with its own mark. The pronoun is none of them.
_LETTER = r"[\s(\[]*[A-HJ-Z](?![A-Za-z'])"
_JOINED = re.compile(
    rf"[ )\].]*(?:(?:[,;/&|-]|\\&|and\b|or\b|[或和与及]) ?)+{_LETTER}|(?:[ )\].]*{_LETTER})+\W*$"
)
_ALTERNATIVE = re.compile(rf"\bor\b{_LETTER}|[或和与及]{_LETTER}|[,;/&] *\([A-Z]\)")
_MARKED = re.compile(rf"\([A-Z]\)|(?<![A-Za-z])[A-Z]\) |\b(?:and|or)\b{_LETTER}\W*$")

_OPTION = re.compile(r"^[ \t]*\(?(?P<letter>[A-Z])[.):][ \t]+(?P<text>\S.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Choice:
    """The letter that was named, the first where there are several."""

    letter: str
    is_only: bool = True


def read_choice(answer: str, options: Mapping[str, str]) -> Choice | None:
    r"""Return the choice that an answer is, None where it is words or mathematics.

    >>> read_choice(r"\text{(b) blue}", {}).letter, read_choice("a cat", {}), read_choice("A or B", {}).is_only
    ('B', None, False)
    """
    plain = " ".join(
        _strip_styles(answer).split()
    )  # so that no run of spaces is looked through twice
    first = _FIRST.match(plain)
    if first is None:
        return _match_options(answer, plain, options)
    letter = first["letter"]
    rest = plain[first.end() :]
    if _is_only_letter(letter.upper(), rest, options):
        return Choice(letter.upper())
    option = _match_options(answer, plain, options)
    if option is not None:
        return option
    if _JOINED.match(rest) or _MARKED.search(rest):
        return Choice(letter.upper(), is_only=False)
    if _is_labelled(letter, rest):
        return Choice(letter.upper())
    return None


def find_stated(text: str) -> Choice | None:
    """Return the last choice that follows "the answer is".   find_stated("Answer: **D**").letter -> "D" """
    plain = _strip_styles(text, _SPACE_IN_LINE)
    stated = None
    for match in _STATED.finditer(plain):
        stated = match
    if stated is None:
        return None
    rest = plain[stated.end() : stated.end() + MAX_LINE].partition("\n")[0]
    if _FORMULA.match(rest):
        return None
    is_only = not _JOINED.match(rest) and not _ALTERNATIVE.search(rest)
    return Choice(stated["letter"], is_only)


def read_options(question: str) -> dict[str, str]:
    r"""Return what the options of a question say, by their letters; nothing where none are listed in order.

    >>> read_options("Which?\nA. red\nB. blue")
    {'A': 'red', 'B': 'blue'}
    """
    listed = _OPTION.findall(question)
    options: dict[str, str] = {}
    for letter, text in listed:
        if letter == "A":
            options = {}  # the last list is the one that is asked about
        if letter != string.ascii_uppercase[len(options)]:
            return {}
        options[letter] = text.strip()
    return options if len(options) > 1 else {}


def _strip_styles(text: str, space: re.Pattern[str] = _SPACE) -> str:
    """Return the text without commands of type and layout; a letter in type of its own is marked as one."""
    for _ in range(MAX_NESTED_STYLES):
        if "\\" not in text:
            break
        text = _STYLED.sub(_strip_style, text)
    return space.sub(" ", text).strip(" ")


def _strip_style(styled: re.Match[str]) -> str:
    content = styled["content"]
    letter = content.strip()
    if len(letter) == 1 and letter.isalpha():
        return f"({letter})"
    return content


def _is_only_letter(letter: str, rest: str, options: Mapping[str, str]) -> bool:
    """Whether nothing but punctuation follows a letter, or what its option says."""
    said = rest.lstrip(_NOTHING)
    if not said:
        return True
    option = options.get(letter)
    return option is not None and _say_the_same(said, option)


def _is_labelled(letter: str, rest: str) -> bool:
    """Whether a letter is set apart from the words behind it, as `(B) blue`, or no word itself, as in `B blue`."""
    if _FORMULA.match(rest):
        return False
    if _DELIMITED.match(rest):
        return True
    return letter.isupper() and letter not in _ARTICLES and _WORDS.match(rest) is not None


def _match_options(answer: str, plain: str, options: Mapping[str, str]) -> Choice | None:
    """Return the one option that says what the answer does."""
    if len(answer) > MAX_OPTION:
        return None
    letters: list[str] = []
    for letter, option in options.items():
        if _say_the_same(plain, option) or _say_the_same(answer, option):
            letters.append(letter)
    if len(letters) != 1:
        return None
    return Choice(letters[0])


def _say_the_same(text: str, option: str) -> bool:
    """Whether two texts are the same words, or the same formula in another layout."""
    words = _fold(text)
    if words and words == _fold(option):
        return True
    formula = canonical(text)
    if formula and formula == canonical(option):
        return True
    tree = parse(text)
    return tree is not None and tree == parse(option)


def _fold(text: str) -> str:
    return " ".join(_strip_styles(text).casefold().split()).strip(" .,;:!\"'")
