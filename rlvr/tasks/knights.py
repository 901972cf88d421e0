"""Data and task "knights": Knights and Knaves puzzles, and the check of a full assignment in
`<answer>` tags.

A statement is a nested list, so that it can be stored as JSON: ["knight", i], ["knave", i], ["not",
s], ["and", s, t], ["or", s, t], ["if", s, t], ["iff", s, t]. Operators stand over leaves only, as
in the puzzles of Logic-RL.

A truth table is one integer with a bit for each of the 2^n worlds, so a puzzle is solved by a few
bit operations over all worlds at once. World 0 is all knights; the last person's role changes
fastest.
"""

from __future__ import annotations

import functools
import random
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from rlvr.errors import UserError
from rlvr.grading.extract import after_thinking, check_tags, final_turn
from rlvr.registry import register
from rlvr.seeds import Split, key_of, side_of
from rlvr.tree import asset
from rlvr.types import Problem, Response, Status, Verdict

Statement = list[Any]

_WORDS = asset("wordings")["knights"]
NAMES, _SPEECH, _FILLER = _WORDS["names"], _WORDS["speech"], frozenset(_WORDS["filler"].split())

_OPENING = "On an island everyone is either a knight, who always tells the truth, or a knave, who always lies."
_QUESTION = "Who is a knight and who is a knave?"
_WORDING = {
    "and": "{0} and {1}",
    "or": "{0} or {1}",
    "if": "if {0}, then {1}",
    "iff": "{0} exactly when {1}",
}


FORMS = ("leaf", "not", "and", "or", "if", "iff")


def draw_statements(
    roles: Sequence[bool], forms: Sequence[str], rng: random.Random
) -> list[Statement]:
    """A random statement of everybody, true where the speaker is a knight and false where he is a
    knave.
    """
    people, world = (
        len(roles),
        sum(1 << (len(roles) - 1 - i) for i, knight in enumerate(roles) if not knight),
    )
    statements = []
    for speaker, knight in enumerate(roles):
        statement = draw_statement(speaker, people, forms, rng)
        while bool(truth_table(statement, people) >> world & 1) != knight:
            statement = draw_statement(speaker, people, forms, rng)
        statements.append(statement)
    return statements


def draw_statement(
    speaker: int, people: int, forms: Sequence[str], rng: random.Random
) -> Statement:
    """A random statement of the speaker; never "I am a knave", which nobody can say."""
    form = rng.choice(forms)
    if form in ("leaf", "not"):
        person, of_oneself = rng.randrange(people), "knight" if form == "leaf" else "knave"
        claim = [of_oneself if person == speaker else rng.choice(("knight", "knave")), person]
        return claim if form == "leaf" else ["not", claim]
    about = rng.sample(range(people), 2)
    return [form, *([rng.choice(("knight", "knave")), person] for person in about)]


@functools.cache
def knight_table(person: int, people: int) -> int:
    """The worlds in which the person is a knight, as bits.   knight_table(0, 2) -> 0b0011"""
    return sum(1 << world for world in range(2**people) if not world >> (people - 1 - person) & 1)


def truth_table(statement: Statement, people: int) -> int:
    """The worlds in which the statement is true, as bits.   truth_table(["knave", 0], 2) -> 0b1100"""
    every = (1 << 2**people) - 1
    form, *parts = statement
    if form in ("knight", "knave"):
        table = knight_table(parts[0], people)
        return table if form == "knight" else every & ~table
    tables = [truth_table(part, people) for part in parts]
    if form == "not":
        return every & ~tables[0]
    first, second = tables
    options = {
        "and": first & second,
        "or": first | second,
        "if": ~first | second,
        "iff": ~(first ^ second),
    }
    return every & options[form]


def solutions(statements: Sequence[Statement]) -> list[int]:
    """All worlds in which exactly the knights' statements are true, by search over every world."""
    people = len(statements)
    fitting = (1 << 2**people) - 1
    for person, statement in enumerate(statements):
        fitting &= ~(knight_table(person, people) ^ truth_table(statement, people))
    return [world for world in range(2**people) if fitting >> world & 1]


def roles_of(world: int, people: int) -> list[bool]:
    """Who is a knight in that world.   roles_of(1, 2) -> [True, False]"""
    return [not world >> (people - 1 - person) & 1 for person in range(people)]


def puzzle_text(names: Sequence[str], statements: Sequence[Statement], rng: random.Random) -> str:
    """The whole puzzle in words, ending in its question."""
    meet = f"You meet {', '.join(names[:-1])} and {names[-1]}."
    said = []
    for name, statement in zip(names, statements, strict=True):
        text = statement_text(statement, names)
        said.append(
            rng.choice(_SPEECH).format(name=name, text=text, Text=text[0].upper() + text[1:])
        )
    return " ".join([_OPENING, meet, *said, _QUESTION])


def statement_text(statement: Statement, names: Sequence[str]) -> str:
    """A statement in words.   statement_text(["not", ["knave", 0]], ["Ida"]) -> "Ida is not a
    knave"
    """
    form, *parts = statement
    if form in ("knight", "knave"):
        return f"{names[parts[0]]} is a {form}"
    if form == "not":
        return f"{names[parts[0][1]]} is not a {parts[0][0]}"
    return _WORDING[form].format(*(statement_text(part, names) for part in parts))


def answer_text(names: Sequence[str], roles: Sequence[bool]) -> str:
    """The answer, one numbered line for each person.   -> "(1) Zoey is a knight\\n(2) Oliver is a
    knave"
    """
    pairs = zip(names, roles, strict=True)
    return "\n".join(
        f"({i}) {name} is a {'knight' if role else 'knave'}"
        for i, (name, role) in enumerate(pairs, 1)
    )


def worked_out(names: Sequence[str], statements: Sequence[Statement], *, every_world: bool) -> str:
    """Each world up to the first speaker who does not fit it, so that every clause can be checked
    by itself.

    It ends with the world that fits, unless every world is wanted.

    >>> worked_out(["Ida", "Tom"], [["and", ["knave", 1], ["knight", 0]], ["not", ["knave", 1]]], every_world=False)
    'Ida knight, Tom knight: Ida says false and true, false, no. Ida knight, Tom knave: Ida says true and true, true, \
Tom says not true, false, yes.'
    """
    people, lines = len(names), []
    for world in range(2**people):
        line, fits = _world_line(world, names, statements)
        lines.append(line)
        if fits and not every_world:
            break
    return " ".join(lines)


def _world_line(
    world: int, names: Sequence[str], statements: Sequence[Statement]
) -> tuple[str, bool]:
    roles, said = roles_of(world, len(names)), []
    head = ", ".join(
        f"{name} {'knight' if role else 'knave'}" for name, role in zip(names, roles, strict=True)
    )
    for name, role, statement in zip(names, roles, statements, strict=True):
        true = bool(truth_table(statement, len(names)) >> world & 1)
        said.append(f"{name} says {_evaluated(statement, world, len(names))}")
        if true != role:
            return f"{head}: {', '.join(said)}, no.", False
    return f"{head}: {', '.join(said)}, yes.", True


def _evaluated(statement: Statement, world: int, people: int) -> str:
    """The truth of each leaf in the statement's own wording, then that of the whole.   -> "false or
    true, true"
    """
    value = "true" if truth_table(statement, people) >> world & 1 else "false"
    form, *parts = statement
    if form in ("knight", "knave"):
        return value
    leaves = (_evaluated(part, world, people) for part in parts)
    return f"{'not {0}' if form == 'not' else _WORDING[form]}, {value}".format(*leaves)


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


Form = Literal["leaf", "not", "and", "or", "if", "iff"]

TRIES = 5000  # so many draws in a row without a new puzzle end the search
ALL_WORLDS_UP_TO = 3  # more people make 16 worlds and more, too long to list all of them

_ANSWER_TAG = re.compile(r"</?answer>")


@register("data", "knights")
def knights(
    *, people: int | tuple[int, ...] = 3, count: int = 1000, seed: int = 0, split: Split = "train",
    forms: tuple[Form, ...] = FORMS, working: Literal["all", "first"] = "all",
) -> list[Problem]:  # fmt: skip
    """Distinct puzzles with exactly one solution, the numbers of people taken in turn; splits never
    share a puzzle.

    All assignments are equally likely, so that no constant answer is right more often than by
    chance. `forms` are the kinds of statement ("leaf" is "Zoey is a knave"); two people need "iff",
    or "and" with "or" or "if". `working` says whether a written solution goes through all worlds or
    ends at the first that fits; with more than three people it always ends there.
    """
    sizes = (people,) if isinstance(people, int) else people
    if not sizes or not all(2 <= size <= 8 for size in sizes):
        raise UserError(f"knights: people should be 2 to 8, not {people}")
    rng = random.Random(key_of("knights", seed, split))  # noqa: S311 - no secret
    seen: set[str] = set()
    return [
        _new(
            sizes[i % len(sizes)],
            split,
            forms,
            seen,
            rng,
            f"knights/{split}/{seed}/{i}",
            working == "all",
        )
        for i in range(count)
    ]


def _new(
    people: int,
    split: Split,
    forms: Sequence[str],
    seen: set[str],
    rng: random.Random,
    name: str,
    every_world: bool,
) -> Problem:
    # drawn first: else some would be rarer than others
    roles = roles_of(rng.randrange(2**people), people)
    for _ in range(TRIES):
        names: list[str] = rng.sample(NAMES, people)
        statements = draw_statements(roles, forms, rng)
        key = f"{names} {statements}"
        if len(solutions(statements)) == 1 and key not in seen and split_of(key) == split:
            seen.add(key)
            meta = {"people": people, "names": names, "roles": roles, "statements": statements,
                    "category": f"people={people}"}  # fmt: skip
            text = solution_text(names, statements, roles, every_world=every_world)
            return Problem(
                name,
                "knights",
                puzzle_text(names, statements, rng),
                answer_text(names, roles),
                meta,
                text,
            )
    raise UserError(
        f"knights: no further puzzle of {people} people with forms {', '.join(forms)} found in split '{split}'; "
        "count is too many or forms too few"
    )


def solution_text(
    names: list[str], statements: list[list], roles: list[bool], *, every_world: bool
) -> str:
    """The written solution with both tags, for supervised steps."""
    every_world = every_world and len(names) <= ALL_WORLDS_UP_TO
    thinking = worked_out(names, statements, every_world=every_world)
    return f"<think>{thinking}</think><answer>{answer_text(names, roles)}</answer>"


split_of = functools.partial(side_of, "knights-split")  # of the names and statements of a puzzle


@register("task", "knights")
def check_knights(problem: Problem, response: Response, *, min_think: int = 0) -> Verdict:
    """Compare the assignment in the one `<answer>` after the thinking with the gold; `min_think`
    counts words.

    >>> problem = Problem("p", "knights", "…", "(1) Zoey is a knight\\n(2) Tom is a knave")
    >>> check_knights(problem, Response("<think>x</think><answer>Zoey: knight, Tom: knave</answer>")).answer
    'Zoey: knight, Tom: knave'
    """
    gold = _gold(problem)
    text = final_turn(response.text)
    prefilled = response.prefill.rstrip().endswith("<think>")
    formatted = check_tags(
        text, prefilled=prefilled, truncated=response.truncated, min_think=min_think
    ).ok
    tail = after_thinking(text, response.prefill)
    tags = list(_ANSWER_TAG.finditer(tail))
    if not tags or (len(tags) == 1 and tags[0][0] == "<answer>"):
        return Verdict(
            Status.TRUNCATED if response.truncated else Status.NO_ANSWER,
            None,
            formatted,
            "no answer",
        )
    if [tag[0] for tag in tags] != ["<answer>", "</answer>"]:
        return Verdict(Status.UNPARSEABLE, None, formatted, "several answers")
    said, rule = read_assignment(tail[tags[0].end() : tags[1].start()], list(gold))
    if said is None:
        return Verdict(Status.UNPARSEABLE, None, formatted, rule)
    answer = ", ".join(f"{name}: {'knight' if role else 'knave'}" for name, role in said.items())
    return Verdict(Status.CORRECT if said == gold else Status.WRONG, answer, formatted, rule)


def _gold(problem: Problem) -> dict[str, bool]:
    if "names" in problem.meta and "roles" in problem.meta:
        return {
            name: bool(role)
            for name, role in zip(problem.meta["names"], problem.meta["roles"], strict=True)
        }
    gold = gold_roles(problem.answer)
    if gold is None:
        raise UserError(
            f"problem {problem.id}: answer should be lines such as '(1) Zoey is a knight'"
        )
    return gold
