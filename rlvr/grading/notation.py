"""Tables of `notation.yaml`: how one thing is written in mathematics and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rlvr.resources import load_asset


def map_to_canonical(table: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the one spelling for each of the other spellings.

    >>> map_to_canonical({"<=": ["le", "leq"], "pi": "p"})
    {'le': '<=', 'leq': '<=', 'p': 'pi'}
    """
    canonical: dict[str, str] = {}
    for spelling, others in table.items():
        for other in others:
            canonical[other] = spelling
    return canonical


def split_values(table: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the table with each text of words as a list of them."""
    return {name: words.split() for name, words in table.items()}


_TABLES = load_asset("grading/notation")

# Signs and commands that have one canonical spelling.
CHARACTERS = str.maketrans(map_to_canonical(_TABLES["characters"]))
PUNCTUATION_FORMS = map_to_canonical(_TABLES["punctuation"])
COMMANDS = map_to_canonical(split_values(_TABLES["commands"]))
RELATIONS = map_to_canonical(split_values(_TABLES["relations"]))
SET_OPERATIONS = map_to_canonical(split_values(_TABLES["set_operations"]))

# Commands that only lay out, and regular expressions of commands that set a group in another type.
LAYOUT = frozenset({*_TABLES["layout"].split(), "\\ ", "\\\n"})
STYLES: list[str] = _TABLES["styled"].split()

# A regular expression of control, zero-width, bidirectional and unpaired characters: they can make
# two different answers look alike.
HIDDEN: str = _TABLES["hidden"]

# Ranges of characters that are words without spaces between them, as in a class of a regular expression.
IDEOGRAPHS: str = _TABLES["ideographs"]

# Words of two letters that no product looks like.
SHORT_WORDS = frozenset(_TABLES["short_words"].split())

# What separates items, as a sign or a command and as the words of a text.
SEPARATORS: dict[str, str] = _TABLES["separators"]
JOINING_WORDS: dict[str, str] = _TABLES["joins"]

# Names of functions, symbols and constants.
FUNCTION_NAMES = frozenset(_TABLES["functions"].split())
FUNCTION_SPELLINGS: dict[str, str] = _TABLES["spelled"]
SYMBOL_WORDS: dict[str, str] = _TABLES["symbol_words"]
GREEK = frozenset(_TABLES["greek"].split())
OPENERS = frozenset(_TABLES["openers"].split())

# Units of measure. A word of `only_in_text` is as often a word or a product as a unit.
_UNITS = split_values(_TABLES["units"]) | {unit: [] for unit in _TABLES["bare_units"].split()}
UNIT_SPELLINGS = map_to_canonical({unit: [unit, *others] for unit, others in _UNITS.items()})
UNIT_WORDS = {spelling.lower() for spelling in UNIT_SPELLINGS if len(spelling) > 1}
UNIT_WORDS -= set(_TABLES["only_in_text"].split())
NEVER_UNITS = frozenset(_TABLES["never_units"].split())
NEVER_IDEOGRAPHS = frozenset(_TABLES["never_ideographs"].split())
NEVER_COUNTED = frozenset(_TABLES["never_counted"].split())

# The unit of each sign of a currency, and the codes that stand before or behind a number.
CURRENCY_SIGNS: dict[str, str] = _TABLES["currency_signs"]
CURRENCY_CODES: list[str] = _TABLES["currency_codes"].split()
