"""LaTeX as tokens: spacing, layout and spellings are settled here."""

from __future__ import annotations

import re
from typing import NamedTuple

from rlvr.resources import asset

NOTATION = asset("grading/notation")


# Control, zero-width, bidirectional and unpaired characters: they can make two different answers
# look alike.
_FORBIDDEN = re.compile(NOTATION["hidden"])


_CHARACTERS = str.maketrans(
    {sign: text for text, signs in NOTATION["characters"].items() for sign in signs}
)


_LAYOUT = {*NOTATION["layout"].split(), "\\ ", "\\\n"}


_SAME = {
    other: command for command, others in NOTATION["commands"].items() for other in others.split()
}


_SEPARATORS, _JOINS, _SPELLED = (NOTATION[name] for name in ("separators", "joins", "spelled"))


FUNCTION_NAMES = frozenset(NOTATION["functions"].split())


_SYMBOL_WORDS: dict[str, str] = NOTATION["symbol_words"]


_STYLED = rf"\\(?:{'|'.join(NOTATION['styled'].split())})"


_TOKEN = re.compile(
    rf"(?P<space>(?:\s|~)+)"
    rf"|\\begin *\{{(?P<env>(?:[pbvVB]|small)?matrix|array)\}}(?: *\{{[lrc| ]*\}})?(?P<body>.*?)\\end *\{{(?P=env)\}}"
    rf"|{_STYLED} *\{{(?P<styled>[^{{}}]*)\}}"
    rf"|(?P<blackboard>\\mathbb *(?:\{{[A-Z]\}}|[A-Z]))"
    rf"|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,3}}(?![0-9a-zA-Z^.]))?)"
    rf"|(?P<command>\\(?:[A-Za-z]+|.))"
    rf"|(?P<word>[A-Za-z]+)"
    rf"|(?P<sign><=|>=|!=|==|\*\*|\.\.\.|[-+*/^_=<>(){{}}\[\]|!%,;:'°&¤])"
    rf"|(?P<drop>\$)",
    re.DOTALL,
)


# Digits in groups of three. A comma in brackets separates items, so it joins digits only outside of
# them.
_GROUP = r"(?:\{,\}|\\,|\\!,? ?|,\\! ?| |\\ |~|\\;|\\:)"


_GROUPED = re.compile(rf"[0-9]{{1,3}}(?:{_GROUP}[0-9]{{3}})+(?![0-9])(?:\.[0-9]+)?")


_COMMAS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?")


_DELIMITERS = re.compile(r"\\[()\[\]]|\$\$")


_ROW_SPACING = re.compile(r"\\\\ *\[[0-9. ]+[a-z]{2}\]")


_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]+")


_RAISED = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ", "+-0123456789n")


_NOT_DIGITS = re.compile(r"[^0-9.]")


_COUNTED = re.compile(r"([0-9][0-9.,]*) +([A-Za-z][A-Za-z ]*)")


_NUMERIC = re.compile(r"[-+]?[0-9][0-9., /%]*")


class Token(NamedTuple):
    """kind: number, letter, function, text, environment, separator, sign; `spaced` says that a
    space stood before.
    """

    kind: str
    text: str
    spaced: bool = False


def lex(text: str, *, thousands: bool = True) -> list[Token] | None:
    r"""The tokens of a text, None where a character is in no token.

    >>> [token.text for token in lex(r"$\dfrac{1,000}{x}$")]
    ['\\frac', '{', '1000', '}', '{', 'x', '}']
    """
    if _FORBIDDEN.search(text):
        return None
    text = _ROW_SPACING.sub(lambda _: "\\\\", text)
    text = _SUPERSCRIPT.sub(lambda run: f"^{{{run[0].translate(_RAISED)}}}", text)
    text = _outer(text.translate(_CHARACTERS))
    tokens: list[Token] = []
    place, spaced, depth = 0, False, 0
    while place < len(text):
        grouped = _GROUPED.match(text, place) or (
            _COMMAS.match(text, place) if thousands and not depth else None
        )
        if grouped and not (place and (text[place - 1].isdigit() or text[place - 1] == ".")):
            tokens.append(Token("number", _NOT_DIGITS.sub("", grouped[0]), spaced))
            place, spaced = grouped.end(), False
            continue
        match = _TOKEN.match(text, place)
        if not match:
            return None
        place = match.end()
        if match["space"] or match["drop"]:
            spaced = True
            continue
        new = _tokens_of(match, spaced)
        if new is None:
            return None
        if new and new[0].kind == "sign":
            depth += {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}.get(new[0].text, 0)
        spaced = not new
        tokens += new
    return _words_read(tokens)


def _outer(text: str) -> str:
    r"""Without math delimiters and the punctuation of the sentence around.   _outer(r"\(5\).") -> "5" """
    end = len(text)
    while end and (text[end - 1] in ".,;:!\\" or text[end - 1].isspace()):
        if text[end - 1] == "!" and text[end - 2 : end - 1] != "\\":
            break  # a factorial
        end -= 1
    return _DELIMITERS.sub(" ", text[:end]).replace("\\$", "¤").replace("$", " ").strip()


def _tokens_of(match: re.Match[str], spaced: bool) -> list[Token] | None:
    if match["number"]:
        return [Token("number", match["number"].replace("E", "e"), spaced)]
    if match["env"]:
        kind = match["env"].removesuffix("matrix") or "m"
        return [
            Token("environment", f"{'a' if kind == 'array' else kind}\n{match['body']}", spaced)
        ]
    if match["blackboard"]:
        return [Token("sign", f"\\mathbb{{{match['blackboard'].rstrip('}')[-1]}}}", spaced)]
    if match["styled"] is not None:
        return _styled(match["styled"], spaced)
    if match["command"]:
        return _command(match["command"], spaced)
    if match["word"]:
        return [Token("word", match["word"], spaced)]
    sign = match["sign"]
    if sign == "&":
        return None
    if sign == "¤":
        return [Token("text", "dollar", spaced)]
    return (
        [Token("separator", ",", spaced)] if sign in _SEPARATORS else [Token("sign", sign, spaced)]
    )


def _command(command: str, spaced: bool) -> list[Token]:
    if command in _LAYOUT:
        return []
    command = _SAME.get(command, command)
    if command in _SEPARATORS:
        return [Token("separator", _SEPARATORS[command], spaced)]
    name = command[1:]
    if name in FUNCTION_NAMES:
        return [_function(name, spaced)]
    return [Token("letter" if command == "i" else "sign", command, spaced)]


def _styled(content: str, spaced: bool) -> list[Token] | None:
    r"""What `\text{…}` holds: a joining word, a letter or number in text type, a function, else words."""
    words = " ".join(content.replace("¤", "dollar").replace("~", " ").replace("\\ ", " ").split())
    if words.lower() in _JOINS:
        return [Token("separator", _JOINS[words.lower()], spaced)]
    if not words:
        return []
    if words in FUNCTION_NAMES:
        return [Token("function", _SPELLED.get(words, words), spaced)]
    if words in _SYMBOL_WORDS and words.islower():
        return [Token("sign", _SYMBOL_WORDS[words], spaced)]
    counted = _COUNTED.fullmatch(words)
    if counted:
        return [*(lex(counted[1]) or []), Token("text", counted[2], True)]
    if words in ("e", "i", "d", "x", "y", "z", "n", "k") or _NUMERIC.fullmatch(words):
        return lex(words)
    return [Token("text", words, spaced)]


def _words_read(tokens: list[Token]) -> list[Token] | None:
    """Runs of plain letters as functions, constants, joining words, text, or letters that multiply."""
    read: list[Token] = []
    for place, token in enumerate(tokens):
        if token.kind != "word":
            read.append(token)
            continue
        before = tokens[place - 1] if place else None
        after = tokens[place + 1] if place + 1 < len(tokens) else None
        word = token.text
        if word.lower() in ("and", "or"):
            read.append(Token("separator", word.lower(), True))
        elif word in FUNCTION_NAMES:
            read.append(_function(word, token.spaced))
        elif word in _SYMBOL_WORDS:
            read.append(Token("sign", _SYMBOL_WORDS[word], token.spaced))
        elif _is_text(word, token.spaced, before, after):
            last = read[-1] if read else None
            if last and last.kind == "text" and token.spaced:
                read[-1] = Token("text", f"{last.text} {word}", last.spaced)
            else:
                read.append(Token("text", word, token.spaced))
        else:
            read += [
                Token("letter", letter, token.spaced and i == 0) for i, letter in enumerate(word)
            ]
    return read


def _function(word: str, spaced: bool) -> Token:
    return (
        Token("sign", "\\sqrt", spaced)
        if word == "sqrt"
        else Token("function", _SPELLED.get(word, word), spaced)
    )


def _is_text(word: str, spaced: bool, before: Token | None, after: Token | None) -> bool:
    """Whether letters are a word: long enough, and not squeezed between signs as a product would
    be.
    """
    if len(word) == 1:
        return False
    if word.lower() in UNIT_WORDS:
        return True
    if len(word) == 2:
        before_word = after is not None and after.kind == "word" and len(after.text) > 2
        after_text = before is not None and before.kind == "text"
        return before_word or after_text or (word.isupper() and before is None and after is None)
    apart = spaced and before is not None and before.kind in ("number", "word", "text")
    alone = before is None or before.kind == "separator" or apart
    return alone and (after is None or after.kind in ("word", "separator", "text"))


UNITS = NOTATION["units"] | dict.fromkeys(NOTATION["bare_units"].split(), "")


UNIT_SPELLINGS = {
    spelling: unit for unit, more in UNITS.items() for spelling in (unit, *more.split())
}


UNIT_WORDS = {s.lower() for s in UNIT_SPELLINGS if len(s) > 1} - set(
    NOTATION["only_in_text"].split()
)
