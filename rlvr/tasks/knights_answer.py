"""Read the roles that an answer gives to each person."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rlvr.tasks.knights_puzzle import FILLER

MAX_ANSWER = 2000


_GOLD = re.compile(
    r"\s*(?:\(?[0-9]+[.):]*)?\s*(.+?)\s+is\s+an?\s+(knight|knave)\s*\.?\s*", re.IGNORECASE
)


_LIST_NUMBER = re.compile(r"(?:^|(?<=\s))\(?[0-9]{1,2}[.):]")


_BREAK = re.compile(r"[\n;,]|\.(?=\s|\)|$)")


_LEAD = re.compile(r"(?:(?:and|so|thus|hence|therefore|finally|while|but|then|that)\s+)+")


_ROLE = r"(?P<role>knight|knave)"


_SAYS = rf"\s*(?:is|:|=|->|→|—|-)\s*(?P<no>not\s+)?(?:(?:a|an|the)\s+)?{_ROLE}"


_BELONGS = rf"\s+(?:belongs\s+to|is\s+one\s+of|is\s+among)\s+the\s+{_ROLE}s"


_ONLY = rf"the\s+only\s+{_ROLE}\s+is\s+"


def gold_roles(answer: str) -> dict[str, bool] | None:
    """The assignment of a gold text, None where a line is not `(1) NAME is a knight`.

    >>> gold_roles("(1) Mary Ann is a knight\\n(2) O'Neil is a knave")
    {'Mary Ann': True, "O'Neil": False}
    """
    lines = [line for line in answer.splitlines() if line.strip()]
    matches = [_GOLD.fullmatch(line) for line in lines]
    roles = {match[1]: match[2].lower() == "knight" for match in matches if match}
    return roles if roles and len(roles) == len(lines) else None


def read_assignment(text: str, names: Sequence[str]) -> tuple[dict[str, bool] | None, str]:
    """Everybody's role as the text states it, else None and the reason.

    >>> read_assignment("Zoey: knight, Tom is not a knight", ["Zoey", "Tom"])
    ({'Zoey': True, 'Tom': False}, 'assignment')
    """
    if len(text) > MAX_ANSWER:
        return None, "too long"
    plain = {_plain(name): name for name in names}
    name = "(?P<name>" + "|".join(re.escape(n) for n in sorted(plain, key=len, reverse=True)) + ")"
    forms = [re.compile(form) for form in (name + _SAYS, name + _BELONGS, _ONLY + name)]
    roles: dict[str, bool] = {}
    for clause in _clauses(text, name):
        match = next((found for form in forms if (found := form.fullmatch(clause))), None)
        if not match:
            if FILLER.issuperset(clause.rstrip(":").split()):
                continue
            return None, "unclear clause"
        role = (match["role"] == "knight") != bool(match.groupdict().get("no"))
        said = {plain[match["name"]]: role}
        if clause.startswith("the only"):
            said |= {other: not role for other in names if other != plain[match["name"]]}
        if any(roles.get(who, is_knight) != is_knight for who, is_knight in said.items()):
            return None, "contradiction"
        roles |= said
    if len(roles) != len(names):
        return None, "somebody is missing"
    return {name: roles[name] for name in names}, "assignment"


def _plain(text: str) -> str:
    """One spelling for what looks the same: compatibility forms, case, apostrophes, dashes,
    emphasis.
    """
    text = (
        unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2013", "-").casefold()
    )
    return re.sub(r"[*_`#]+", "", text)


def _clauses(text: str, name: str) -> list[str]:
    text = _LIST_NUMBER.sub("\n", _plain(text))
    text = re.sub(rf"(?:\band\s|:)\s*(?={name}\b)", "\n", text)
    parts = (part.strip().strip("()[]-•.! ").strip() for part in _BREAK.split(text))
    return [
        clause
        for part in parts
        if (clause := _LEAD.sub("", part, count=1) if _LEAD.match(part) else part)
    ]
