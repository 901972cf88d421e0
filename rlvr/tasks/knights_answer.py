"""Read the roles that an answer gives to each person."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from rlvr.grading.characters import unify_characters
from rlvr.tasks.knights_puzzle import FILLER

MAX_ANSWER = 2000

_GOLD = re.compile(
    r"\s*(?:\(?[0-9]+[.):]*)?\s*(.+?)\s+is\s+an?\s+(knight|knave)\s*\.?\s*", re.IGNORECASE
)

# Where one clause ends and the next begins.
_LIST_NUMBER = re.compile(r"(?:^|(?<=[\s;,]))\(?[0-9]{1,2}[.):]")
_BREAK = re.compile(r"[\n;,]|\.(?=\s|\)|$)")
_LEAD = re.compile(r"(?:(?:and|so|thus|hence|therefore|finally|while|but|then|that)\s+)+")
# White space inside a claim, where no clause can end: before its verb, and behind words that need another.
_BEFORE_VERB = re.compile(r"\s+(?=(?:is|belongs)\s)")
_BEHIND_WORD = re.compile(r"(?<=\s)(is|an?|the|not|to|of|among|one|only|belongs)\s+")
_SPACES = re.compile(r"[^\S\n]+")
_EMPHASIS = re.compile(r"[*_`#]+")

# What a clause may say of a name.
_ROLE = r"(?P<role>knight|knave)"
_SAYS = rf"\s*(?:is|:|=|->|→|—|-)\s*(?P<no>not\s+)?(?:(?:a|an|the)\s+)?{_ROLE}"
_BELONGS = rf"\s+(?:belongs\s+to|is\s+one\s+of|is\s+among)\s+the\s+{_ROLE}s"
_ONLY = rf"the\s+only\s+{_ROLE}\s+is\s+"


def read_gold_roles(answer: str) -> dict[str, bool] | None:
    """Return the assignment of a gold text, None where a line is not `(1) NAME is a knight`.

    >>> read_gold_roles("(1) Mary Ann is a knight\\n(2) O'Neil is a knave")
    {'Mary Ann': True, "O'Neil": False}
    """
    roles: dict[str, bool] = {}
    lines = [line for line in answer.splitlines() if line.strip()]
    for line in lines:
        match = _GOLD.fullmatch(line)
        if match:
            roles[match[1]] = match[2].lower() == "knight"
    # Fewer roles than lines: a line says something else, or a name stands twice.
    return roles if roles and len(roles) == len(lines) else None


def read_assignment(text: str, names: Sequence[str]) -> tuple[dict[str, bool] | None, str]:
    """Return everybody's role as the text states it, else None and the reason.

    >>> read_assignment("Zoey: knight, Tom is not a knight", ["Zoey", "Tom"])
    ({'Zoey': True, 'Tom': False}, 'assignment')
    """
    if len(text) > MAX_ANSWER:
        return None, "too long"
    spellings = {_normalise(name): name for name in names}
    name = _build_name_pattern(spellings)
    forms = [re.compile(form) for form in (name + _SAYS, name + _BELONGS, _ONLY + name)]
    roles: dict[str, bool] = {}
    for clause in _split_clauses(text, name):
        match = _match_any(forms, clause)
        if match is None:
            if FILLER.issuperset(clause.rstrip(":").split()):
                continue
            return None, "unclear clause"
        stated = _read_stated(match, spellings, names)
        if _contradicts(stated, roles):
            return None, "contradiction"
        roles |= stated
    if len(roles) != len(names):
        return None, "somebody is missing"
    return {name: roles[name] for name in names}, "assignment"


def _normalise(text: str) -> str:
    """Return one spelling for what looks the same.

    Compatibility forms, case, apostrophes, dashes and emphasis are unified.
    """
    text = unicodedata.normalize("NFKC", unify_characters(text))
    text = text.replace("\u2019", "'").replace("\u2013", "-")
    return _EMPHASIS.sub("", _SPACES.sub(" ", text.casefold()))


def _build_name_pattern(names: Mapping[str, str]) -> str:
    """Return the pattern of any of the names, the longest first: "Mary Ann" before "Mary"."""
    longest_first = sorted(names, key=len, reverse=True)
    return "(?P<name>" + "|".join(map(re.escape, longest_first)) + ")"


def _split_clauses(text: str, name: str) -> list[str]:
    """Return the clauses of a text, without list numbers, brackets and leading conjunctions."""
    text = _BEFORE_VERB.sub(" ", _normalise(text))
    text = _BEHIND_WORD.sub(r"\1 ", text)
    text = _LIST_NUMBER.sub("\n", text)
    text = re.sub(rf"(?:\band\s|:)\s*(?={name}\b)", "\n", text)
    clauses: list[str] = []
    for part in _BREAK.split(text):
        clause = part.strip().strip("()[]-•.! ").strip()
        lead = _LEAD.match(clause)
        if lead:
            clause = clause[lead.end() :]
        if clause:
            clauses.append(clause)
    return clauses


def _match_any(forms: Sequence[re.Pattern[str]], clause: str) -> re.Match[str] | None:
    for form in forms:
        match = form.fullmatch(clause)
        if match:
            return match
    return None


def _read_stated(
    match: re.Match[str], spellings: Mapping[str, str], names: Sequence[str]
) -> dict[str, bool]:
    """Return the roles that a clause states: of one person, or of all by naming the only one."""
    name = spellings[match["name"]]
    is_negated = bool(match.groupdict().get("no"))
    is_knight = (match["role"] == "knight") != is_negated
    stated = {name: is_knight}
    if match.string.startswith("the only"):
        for other in names:
            if other != name:
                stated[other] = not is_knight
    return stated


def _contradicts(stated: Mapping[str, bool], roles: Mapping[str, bool]) -> bool:
    return any(name in roles and roles[name] != role for name, role in stated.items())
