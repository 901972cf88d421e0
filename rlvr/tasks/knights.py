"""Data and task "knights": Knights and Knaves puzzles, and the check of a full assignment in `<answer>` tags."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from rlvr.errors import UserError
from rlvr.grading.extract import after_thinking, check_tags, final_turn
from rlvr.registry import register
from rlvr.seeds import key_of, uniform
from rlvr.tasks.knights_puzzle import (
    FORMS,
    NAMES,
    answer_text,
    draw_statements,
    puzzle_text,
    roles_of,
    solutions,
    worked_out,
)
from rlvr.types import Problem, Response, Status, Verdict

MAX_ANSWER = 2000

_GOLD = re.compile(r"\s*(?:\(?[0-9]+[.):]*)?\s*(.+?)\s+is\s+an?\s+(knight|knave)\s*\.?\s*", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"(?:^|(?<=\s))\(?[0-9]{1,2}[.):]")
_BREAK = re.compile(r"[\n;,]|\.(?=\s|\)|$)")
_LEAD = re.compile(r"(?:(?:and|so|thus|hence|therefore|finally|while|but|then|that)\s+)+")
_ROLE = r"(?P<role>knight|knave)"
_SAYS = rf"\s*(?:is|:|=|->|→|—|-)\s*(?P<no>not\s+)?(?:(?:a|an|the)\s+)?{_ROLE}"
_BELONGS = rf"\s+(?:belongs\s+to|is\s+one\s+of|is\s+among)\s+the\s+{_ROLE}s"
_ONLY = rf"the\s+only\s+{_ROLE}\s+is\s+"
_FILLER = frozenset(
    """a all and answer answers are as assignment based conclude conclusion conclusions final finally follows have hence
    here i identities identity in inhabitants is islanders it my of on our people persons puzzle reasoning result roles
    so solution that the their therefore these this thus to we""".split()
)


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
            if _FILLER.issuperset(clause.rstrip(":").split()):
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
    """One spelling for what looks the same: compatibility forms, case, apostrophes, dashes, emphasis."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2013", "-").casefold()
    return re.sub(r"[*_`#]+", "", text)


def _clauses(text: str, name: str) -> list[str]:
    text = _LIST_NUMBER.sub("\n", _plain(text))
    text = re.sub(rf"(?:\band\s|:)\s*(?={name}\b)", "\n", text)
    parts = (part.strip().strip("()[]-•.! ").strip() for part in _BREAK.split(text))
    return [clause for part in parts if (clause := _LEAD.sub("", part, count=1) if _LEAD.match(part) else part)]


Split = Literal["train", "test"]
Form = Literal["leaf", "not", "and", "or", "if", "iff"]

TEST_SHARE = 0.25
TRIES = 5000  # so many draws in a row without a new puzzle end the search
ALL_WORLDS_UP_TO = 3  # more people make 16 worlds and more, too long to list all of them

_ANSWER_TAG = re.compile(r"</?answer>")


@register("data", "knights")
def knights(
    *, people: int | tuple[int, ...] = 3, count: int = 1000, seed: int = 0, split: Split = "train",
    forms: tuple[Form, ...] = FORMS, working: Literal["all", "first"] = "all",
) -> list[Problem]:  # fmt: skip
    """Distinct puzzles with exactly one solution, the numbers of people taken in turn; splits never share a puzzle.

    All assignments are equally likely, so that no constant answer is right more often than by chance. `forms` are the
    kinds of statement ("leaf" is "Zoey is a knave"); two people need "iff", or "and" with "or" or "if".
    `working` says whether a written solution goes through all worlds or ends at the first that fits; with more than
    three people it always ends there.
    """
    sizes = (people,) if isinstance(people, int) else people
    if not sizes or not all(2 <= size <= 8 for size in sizes):
        raise UserError(f"knights: people should be 2 to 8, not {people}")
    rng = random.Random(key_of("knights", seed, split))  # noqa: S311 - no secret
    seen: set[str] = set()
    return [
        _new(sizes[i % len(sizes)], split, forms, seen, rng, f"knights/{split}/{seed}/{i}", working == "all")
        for i in range(count)
    ]


def _new(
    people: int, split: Split, forms: Sequence[str], seen: set[str], rng: random.Random, name: str, every_world: bool
) -> Problem:
    roles = roles_of(rng.randrange(2**people), people)  # drawn first: else some would be rarer than others
    for _ in range(TRIES):
        names: list[str] = rng.sample(NAMES, people)
        statements = draw_statements(roles, forms, rng)
        key = f"{names} {statements}"
        if len(solutions(statements)) == 1 and key not in seen and split_of(key) == split:
            seen.add(key)
            meta = {"people": people, "names": names, "roles": roles, "statements": statements,
                    "category": f"people={people}"}  # fmt: skip
            text = solution_text(names, statements, roles, every_world=every_world)
            return Problem(name, "knights", puzzle_text(names, statements, rng), answer_text(names, roles), meta, text)
    raise UserError(
        f"knights: no further puzzle of {people} people with forms {', '.join(forms)} found in split '{split}'; "
        "count is too many or forms too few"
    )


def solution_text(names: list[str], statements: list[list], roles: list[bool], *, every_world: bool) -> str:
    """The written solution with both tags, for supervised steps."""
    every_world = every_world and len(names) <= ALL_WORLDS_UP_TO
    thinking = worked_out(names, statements, every_world=every_world)
    return f"<think>{thinking}</think><answer>{answer_text(names, roles)}</answer>"


def split_of(key: str) -> Split:
    """The split of a puzzle, by the hash of its names and statements."""
    return "test" if uniform("knights-split", key) < TEST_SHARE else "train"


@register("task", "knights")
def check_knights(problem: Problem, response: Response, *, min_think: int = 0) -> Verdict:
    """Compare the assignment in the one `<answer>` after the thinking with the gold; `min_think` counts words.

    >>> problem = Problem("p", "knights", "…", "(1) Zoey is a knight\\n(2) Tom is a knave")
    >>> check_knights(problem, Response("<think>x</think><answer>Zoey: knight, Tom: knave</answer>")).answer
    'Zoey: knight, Tom: knave'
    """
    gold = _gold(problem)
    text = final_turn(response.text)
    prefilled = response.prefill.rstrip().endswith("<think>")
    formatted = check_tags(text, prefilled=prefilled, truncated=response.truncated, min_think=min_think).ok
    tail = after_thinking(text, response.prefill)
    tags = list(_ANSWER_TAG.finditer(tail))
    if not tags or (len(tags) == 1 and tags[0][0] == "<answer>"):
        return Verdict(Status.TRUNCATED if response.truncated else Status.NO_ANSWER, None, formatted, "no answer")
    if [tag[0] for tag in tags] != ["<answer>", "</answer>"]:
        return Verdict(Status.UNPARSEABLE, None, formatted, "several answers")
    said, rule = read_assignment(tail[tags[0].end() : tags[1].start()], list(gold))
    if said is None:
        return Verdict(Status.UNPARSEABLE, None, formatted, rule)
    answer = ", ".join(f"{name}: {'knight' if role else 'knave'}" for name, role in said.items())
    return Verdict(Status.CORRECT if said == gold else Status.WRONG, answer, formatted, rule)


def _gold(problem: Problem) -> dict[str, bool]:
    if "names" in problem.meta and "roles" in problem.meta:
        return {name: bool(role) for name, role in zip(problem.meta["names"], problem.meta["roles"], strict=True)}
    gold = gold_roles(problem.answer)
    if gold is None:
        raise UserError(f"problem {problem.id}: answer should be lines such as '(1) Zoey is a knight'")
    return gold
