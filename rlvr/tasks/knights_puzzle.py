"""Knights and Knaves: statements, their truth table, and the puzzle as text."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

from rlvr.resources import load_asset

Statement = list[Any]


_WORDS = load_asset("tasks/wordings")["knights"]


NAMES, _SPEECH, FILLER = _WORDS["names"], _WORDS["speech"], frozenset(_WORDS["filler"].split())


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
