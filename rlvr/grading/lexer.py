r"""LaTeX as tokens: spacing, layout and spellings are settled here.

All of it is linear scans. `$`, `\dfrac`, `\left(`, `\displaystyle`, thin spaces, currency signs and thousands
separators end here, and nothing that carries meaning does: what looks the same gets one spelling, and words are told
apart from letters that multiply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rlvr.grading.characters import write_as_latex
from rlvr.grading.notation import (
    COMMANDS,
    CURRENCY_SIGNS,
    FUNCTION_NAMES,
    FUNCTION_SPELLINGS,
    HIDDEN,
    IDEOGRAPHS,
    JOINING_WORDS,
    LAYOUT,
    SEPARATORS,
    SHORT_WORDS,
    STYLES,
    SYMBOL_WORDS,
    UNIT_WORDS,
)
from rlvr.grading.quantities import mark_dollars, spell_quantities
from rlvr.grading.systems import write_moduli, write_systems

_HIDDEN = re.compile(HIDDEN)

# One alternative for each way to write a token; the name of its last group says which one matched.
_TOKEN = re.compile(
    "|".join(
        (
            r"(?P<space>(?:\s|~)+)",
            r"\\begin *\{(?P<environment>(?:[pbvVB]|small)?matrix|array)\}(?: *\{[lrc| ]*\})?"
            r"(?P<body>.*?)\\end *\{(?P=environment)\}",
            rf"\\(?:{'|'.join(STYLES)}) *\{{(?P<styled>[^{{}}]*(?:(?<=\^)\{{-?[0-9]\}}[^{{}}]*)*)\}}",
            r"(?P<blackboard>\\mathbb *(?:\{[A-Z]\}|[A-Z]))",
            # An exponent is one only where no letter, digit or power follows: `2e3` but not `2e3x`.
            r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3}(?![0-9a-zA-Z^.]))?)",
            r"(?P<command>\\(?:[A-Za-z]+|.))",
            r"(?P<word>[A-Za-z]+)",
            rf"(?P<ideographs>[{IDEOGRAPHS}]+)",
            r"(?P<sign><=|>=|!=|==|\*\*|\.\.\.|[-+*/^_=<>(){}\[\]|!%,;:'°&¤€£¥₹₩₽])",
        )
    ),
    re.DOTALL,
)

_MATRIX_NAMES = {
    "array": "a",
    "matrix": "m",
    "pmatrix": "p",
    "bmatrix": "b",
    "vmatrix": "v",
    "Vmatrix": "V",
    "Bmatrix": "B",
    "smallmatrix": "small",
}

_DIGITS = frozenset("0123456789")

# Digits in groups of three, with what may stand between the groups.
_GROUP = r"(?:\{,\}|\\,|\\!,? ?|,\\! ?| |\\ |~|\\;|\\:)"
_GROUPED = re.compile(rf"[0-9]{{1,3}}(?:{_GROUP}[0-9]{{3}})+(?![0-9])(?:\.[0-9]+)?")

# A bare comma separates items in brackets, so it joins digits only outside of them.
_GROUPED_BY_COMMAS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?")
_NOT_DIGITS = re.compile(r"[^0-9.]")
_BRACKET_DEPTHS = {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}

# What only surrounds mathematics, and the height that a row of a matrix is given: `\\[2pt]`.
_DELIMITERS = re.compile(r"\\[()\[\]]|\$\$")
_ROW_SPACING = re.compile(r"\\\\ *\[[0-9. ]+[a-z]{2}\]")

# Every backslash written twice, as JSON writes it, and a command among them.
_DOUBLED = re.compile(r"(?:[^\\]|\\\\)++")
_DOUBLED_COMMAND = re.compile(r"\\\\[A-Za-z]{2}")

# A command that only lays out and the letters that a lost space glued to it: `\quadt`.
_GLUED = re.compile(
    r"\\(?:qquad|quad|displaystyle|textstyle|limits|nonumber|thinspace)(?=[A-Za-z])"
)

MIN_GLUED = len("\\quad")

# What text type may hold beside words: a number with what it counts, a number, a variable.
_COUNTED = re.compile(r"([0-9][0-9.,:]*) +([A-Za-z][A-Za-z ]*)")
_NUMERIC = re.compile(r"[-+]?[0-9][0-9., /%:]*")
_SPACE_IN_TEXT = re.compile(r"~|\\[ ,;:!]")
_CURRENCY = re.compile(f"[{''.join(CURRENCY_SIGNS)}]")
_PRICED = re.compile(rf"({'|'.join(CURRENCY_SIGNS.values())}) +([0-9][0-9.,]*)")
_PHRASE_EDGE = re.compile(r"(, and | and |,) *")
_PHRASE = re.compile(rf"[A-Za-z][A-Za-z .'-]*|[{IDEOGRAPHS}]+")
_CAPITALISED = re.compile(r"[A-Z][a-z]{2,}")
_ONE_LETTER_WORDS = frozenset("aAI")
_VARIABLES = frozenset("eidxyznk")


class Token(NamedTuple):
    """A piece of an expression; `spaced` says that a space stood before it.

    Its kind is number, letter, function, text, environment, separator or sign, and until `_resolve_words` also word.
    """

    kind: str
    text: str
    spaced: bool = False


def lex(text: str, *, thousands: bool = True) -> list[Token] | None:
    r"""Return the tokens of a text, None where a character is in no token.

    `thousands` reads `1,234` outside brackets as one number.

    >>> [token.text for token in lex(r"$\dfrac{1,000}{x}$")]
    ['\\frac', '{', '1000', '}', '{', 'x', '}']
    """
    if _HIDDEN.search(text):
        return None
    text = _normalise(text)
    tokens: list[Token] = []
    place = 0
    depth = 0
    spaced = False
    while place < len(text):
        grouped = _match_grouped(text, place, commas=thousands and not depth)
        if grouped:
            tokens.append(Token("number", _NOT_DIGITS.sub("", grouped[0]), spaced))
            place = grouped.end()
            spaced = False
            continue
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        new_tokens = _read_match(match, spaced)
        if new_tokens is None:
            return None
        place = match.end()
        tokens += new_tokens
        depth += _count_opened(new_tokens)
        # Space and layout give no token; either parts what stands on its sides.
        spaced = not new_tokens
    if len(tokens) == 1 and tokens[0].kind == "text":
        return _read_phrase(tokens[0])
    return _join_words(tokens) or _resolve_words(tokens)


def _normalise(text: str) -> str:
    """Return the text with one spelling of each character, and without what surrounds the mathematics."""
    if "\\\\" in text:
        if _DOUBLED_COMMAND.search(text) and _DOUBLED.fullmatch(text):
            text = text.replace("\\\\", "\\")
        text = write_systems(_ROW_SPACING.sub(r"\\\\", text))
    if "mod" in text:
        text = write_moduli(text)
    text = strip_punctuation(write_as_latex(text))
    if text.count("$") == 1:
        text = mark_dollars(text)
    # A dollar sign that is meant is set aside as ¤ before those that only delimit go.
    text = _DELIMITERS.sub(" ", text).replace("\\$", "¤")
    return spell_quantities(text.replace("$", " ").strip())


def strip_punctuation(text: str) -> str:
    r"""Return a text without the end of the sentence that it stands in.   5!. -> 5!"""
    end = len(text)
    while end and (text[end - 1] in ".,;:!\\" or text[end - 1].isspace()):
        # A bare `!` is a factorial, `\!` is a space.
        if text[end - 1] == "!" and text[end - 2 : end - 1] != "\\":
            break
        end -= 1
    return text[:end]


def _match_grouped(text: str, place: int, *, commas: bool) -> re.Match[str] | None:
    """Match a number whose digits stand in groups of three, where one begins here."""
    # The first character decides nearly always, and saves two matches for each token.
    if text[place] not in _DIGITS:
        return None
    if place and (text[place - 1].isdigit() or text[place - 1] == "."):
        return None
    grouped = _GROUPED.match(text, place)
    if grouped is None and commas:
        return _GROUPED_BY_COMMAS.match(text, place)
    return grouped


def _count_opened(tokens: Sequence[Token]) -> int:
    """Return 1 where a bracket opens, -1 where one closes, else 0."""
    if not tokens or tokens[0].kind != "sign":
        return 0
    return _BRACKET_DEPTHS.get(tokens[0].text, 0)


def _read_match(match: re.Match[str], spaced: bool) -> list[Token] | None:
    """Return the tokens that a match of `_TOKEN` stands for, None where it stands for none."""
    match match.lastgroup:
        case "space":
            return []
        case "sign":
            return _read_sign(match["sign"], spaced)
        case "number":
            return [Token("number", match["number"].replace("E", "e"), spaced)]
        case "command":
            return _read_command(match["command"], spaced)
        case "word":
            return [Token("word", match["word"], spaced)]
        case "ideographs":
            return [Token("text", match["ideographs"], spaced)]
        case "styled":
            return _read_styled(match["styled"], spaced)
        case "blackboard":
            letter = match["blackboard"].rstrip("}")[-1]
            return [Token("sign", f"\\mathbb{{{letter}}}", spaced)]
        case _:
            return [_read_matrix(match["environment"], match["body"], spaced)]


def _read_sign(sign: str, spaced: bool) -> list[Token] | None:
    if sign == "&":  # belongs into a matrix
        return None
    if sign in CURRENCY_SIGNS:
        return [Token("text", CURRENCY_SIGNS[sign], spaced)]
    if sign in SEPARATORS:
        return [Token("separator", ",", spaced)]
    return [Token("sign", sign, spaced)]


def _read_matrix(environment: str, body: str, spaced: bool) -> Token:
    """Return one token: its first line is a short name of the environment, its others are the cells."""
    return Token("environment", f"{_MATRIX_NAMES[environment]}\n{body}", spaced)


def _read_command(command: str, spaced: bool) -> list[Token]:
    if command in LAYOUT:
        return []
    glued = _GLUED.match(command) if len(command) > MIN_GLUED else None
    if glued:
        return [Token("word", command[glued.end() :], True)]
    command = COMMANDS.get(command, command)
    if command in CURRENCY_SIGNS:
        return [Token("text", CURRENCY_SIGNS[command], spaced)]
    if command in SEPARATORS:
        return [Token("separator", SEPARATORS[command], spaced)]
    name = command[1:]
    if name in FUNCTION_NAMES:
        return [_name_function(name, spaced)]
    if command == "i":
        return [Token("letter", command, spaced)]
    return [Token("sign", command, spaced)]


def _read_amount(digits: str) -> list[Token]:
    return lex(digits) or []


def _name_currency(sign: re.Match[str]) -> str:
    return f" {CURRENCY_SIGNS[sign[0]]} "


def _read_styled(content: str, spaced: bool) -> list[Token] | None:
    r"""Return what `\text{…}` holds: a joining word, a letter or number in text type, a function, else words."""
    content = _SPACE_IN_TEXT.sub(" ", _CURRENCY.sub(_name_currency, content))
    words = " ".join(content.split())
    if words.lower() in JOINING_WORDS:
        return [Token("separator", JOINING_WORDS[words.lower()], spaced)]
    if not words:
        return []
    if words in FUNCTION_NAMES:
        return [Token("function", FUNCTION_SPELLINGS.get(words, words), spaced)]
    if words in SYMBOL_WORDS and words.islower():
        return [Token("sign", SYMBOL_WORDS[words], spaced)]
    counted = _COUNTED.fullmatch(words)
    if counted:
        return [*_read_amount(counted[1]), Token("text", counted[2], True)]
    priced = _PRICED.fullmatch(words)
    if priced:
        return [Token("text", priced[1], spaced), *_read_amount(priced[2])]
    if words in _VARIABLES or _NUMERIC.fullmatch(words):
        return lex(words)
    return [Token("text", words, spaced)]


def _read_phrase(token: Token) -> list[Token]:
    r"""Return the words that are all of a text, of which commas and `and` part a list: `\text{Alice, Bob}`."""
    pieces = _PHRASE_EDGE.split(token.text)
    if len(pieces) == 1 or " or " in token.text:
        return [token]
    phrases: list[Token] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            phrases.append(Token("separator", JOINING_WORDS[piece.strip()], False))
        elif not _PHRASE.fullmatch(piece):
            return [token]
        else:
            phrases.append(Token("text", piece, True))
    return phrases


def _join_words(tokens: list[Token]) -> list[Token] | None:
    """Return words that are all of a text as one: `a cat`, `July 4`; None for anything else."""
    if len(tokens) < 2 or tokens[0].kind != "word" or not tokens[1].spaced:
        return None
    first, *others = tokens
    if first.text in _ONE_LETTER_WORDS:
        is_phrase = all(_is_plain_word(token) for token in others)
    else:
        is_phrase = _names_number(first, others)
    if not is_phrase:
        return None
    return [Token("text", " ".join(token.text for token in tokens), first.spaced)]


def _is_plain_word(token: Token) -> bool:
    """Whether letters stand alone and are no unit, function, symbol or joining word."""
    if token.kind != "word" or not token.spaced or token.text.lower() in UNIT_WORDS:
        return False
    return len(token.text) > 1 and _read_known_word(token) is None


def _names_number(word: Token, others: Sequence[Token]) -> bool:
    """Whether a word names the number behind it: `July 4`, `Room 12`."""
    if len(others) != 1 or others[0].kind != "number":
        return False
    return _CAPITALISED.fullmatch(word.text) is not None and _read_known_word(word) is None


def _name_function(word: str, spaced: bool) -> Token:
    """Return the token of a function by its one name; a root is a command, whose argument is read otherwise."""
    if word == "sqrt":
        return Token("sign", "\\sqrt", spaced)
    return Token("function", FUNCTION_SPELLINGS.get(word, word), spaced)


def _resolve_words(tokens: list[Token]) -> list[Token]:
    """Read runs of plain letters as functions, constants, joining words, text, or letters that multiply."""
    resolved: list[Token] = []
    # What letters mean shows in their neighbours, as they were before any was resolved.
    neighbours = zip([None, *tokens], tokens, [*tokens[1:], None], strict=False)
    for before, token, after in neighbours:
        if token.kind != "word":
            resolved.append(token)
            continue
        known = _read_known_word(token)
        if known:
            resolved.append(known)
        elif _is_text(token, before, after):
            _append_text(resolved, token)
        else:
            _append_letters(resolved, token)
    return resolved


def _read_known_word(token: Token) -> Token | None:
    """Return a word that means the same wherever it stands, None for any other."""
    word = token.text
    if word.lower() in ("and", "or"):
        return Token("separator", word.lower(), True)
    if word in FUNCTION_NAMES:
        return _name_function(word, token.spaced)
    if word in SYMBOL_WORDS:
        return Token("sign", SYMBOL_WORDS[word], token.spaced)
    return None


def _is_text(token: Token, before: Token | None, after: Token | None) -> bool:
    """Whether letters are a word: long enough, and not squeezed between signs as a product would be."""
    word = token.text
    if len(word) == 1:
        return False
    if word.lower() in UNIT_WORDS:
        return True
    if len(word) == 2:
        return _is_short_word(word, before, after)
    if before is not None and before.kind != "separator":
        follows_on = token.spaced and before.kind in ("number", "word", "text")
        if not follows_on:
            return False
    return after is None or after.kind in ("word", "separator", "text")


def _is_short_word(word: str, before: Token | None, after: Token | None) -> bool:
    """Whether two letters are a word: beside other words, or as the initials that are all of the answer."""
    if after is not None and after.kind == "word" and len(after.text) > 2:
        return True
    if before is not None and before.kind == "text":
        return True
    if before is not None or after is not None:
        return False
    return word.isupper() or word.lower() in SHORT_WORDS


def _append_text(resolved: list[Token], token: Token) -> None:
    """Append a word, to the text before it where only a space stands between them."""
    last = resolved[-1] if resolved else None
    if last and last.kind == "text" and token.spaced:
        resolved[-1] = Token("text", f"{last.text} {token.text}", last.spaced)
    else:
        resolved.append(Token("text", token.text, token.spaced))


def _append_letters(resolved: list[Token], token: Token) -> None:
    """Append the letters of a product, of which the first keeps the space before it."""
    spaced = token.spaced
    for letter in token.text:
        resolved.append(Token("letter", letter, spaced))
        spaced = False
