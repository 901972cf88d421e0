"""Knights and Knaves: statements, their truth table, and the puzzle as text.

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
from collections.abc import Sequence
from typing import Any

from rlvr.resources import load_asset

Statement = list[Any]

_WORDS = load_asset("tasks/wordings")["knights"]
NAMES: list[str] = _WORDS["names"]
FILLER = frozenset(_WORDS["filler"].split())
_SPEECH: list[str] = _WORDS["speech"]

_OPENING = "On an island everyone is either a knight, who always tells the truth, or a knave, who always lies."
_QUESTION = "Who is a knight and who is a knave?"
_WORDING = {
    "not": "not {0}",
    "and": "{0} and {1}",
    "or": "{0} or {1}",
    "if": "if {0}, then {1}",
    "iff": "{0} exactly when {1}",
}

FORMS = ("leaf", "not", "and", "or", "if", "iff")
_ROLES = ("knight", "knave")


def draw_statements(
    roles: Sequence[bool], forms: Sequence[str], rng: random.Random
) -> list[Statement]:
    """Draw a random statement of everybody, true where the speaker is a knight, else false."""
    people = len(roles)
    world = _encode_world(roles)
    statements: list[Statement] = []
    for speaker, is_knight in enumerate(roles):
        statement = draw_statement(speaker, people, forms, rng)
        while _is_true(statement, world, people) != is_knight:
            statement = draw_statement(speaker, people, forms, rng)
        statements.append(statement)
    return statements


def draw_statement(
    speaker: int, people: int, forms: Sequence[str], rng: random.Random
) -> Statement:
    """Draw a random statement of the speaker; never "I am a knave", which nobody can say."""
    form = rng.choice(forms)
    if form == "leaf":
        return _draw_claim(speaker, people, "knight", rng)
    if form == "not":
        return ["not", _draw_claim(speaker, people, "knave", rng)]
    statement: Statement = [form]
    for person in rng.sample(range(people), 2):
        statement.append([rng.choice(_ROLES), person])
    return statement


def _draw_claim(speaker: int, people: int, of_oneself: str, rng: random.Random) -> Statement:
    """Draw the role of somebody, which is `of_oneself` where that is the speaker."""
    person = rng.randrange(people)
    if person == speaker:
        return [of_oneself, person]
    return [rng.choice(_ROLES), person]


@functools.cache
def get_knight_table(person: int, people: int) -> int:
    """Return the worlds in which the person is a knight, as bits.   get_knight_table(0, 2) -> 0b0011"""
    table = 0
    for world in range(2**people):
        if decode_world(world, people)[person]:
            table |= 1 << world
    return table


def build_truth_table(statement: Statement, people: int) -> int:
    """Return the worlds in which the statement is true, as bits.

    build_truth_table(["knave", 0], 2) -> 0b1100
    """
    every_world = (1 << 2**people) - 1
    form, *parts = statement
    if form == "knight":
        return get_knight_table(parts[0], people)
    if form == "knave":
        return every_world & ~get_knight_table(parts[0], people)
    tables = [build_truth_table(part, people) for part in parts]
    match form:
        case "not":
            return every_world & ~tables[0]
        case "and":
            return tables[0] & tables[1]
        case "or":
            return tables[0] | tables[1]
        case "if":
            return every_world & (~tables[0] | tables[1])
        case "iff":
            return every_world & ~(tables[0] ^ tables[1])
    raise KeyError(form)


def find_solutions(statements: Sequence[Statement]) -> list[int]:
    """Return all worlds in which exactly the knights' statements are true, out of every world."""
    people = len(statements)
    fitting = (1 << 2**people) - 1
    for person, statement in enumerate(statements):
        fitting &= ~(get_knight_table(person, people) ^ build_truth_table(statement, people))
    return [world for world in range(2**people) if fitting >> world & 1]


def decode_world(world: int, people: int) -> list[bool]:
    """Return who is a knight in that world.   decode_world(1, 2) -> [True, False]"""
    return [not world >> (people - 1 - person) & 1 for person in range(people)]


def _encode_world(roles: Sequence[bool]) -> int:
    """Return the number of the world with these roles.   _encode_world([True, False]) -> 1"""
    world = 0
    for is_knight in roles:
        world = 2 * world + (not is_knight)
    return world


def _is_true(statement: Statement, world: int, people: int) -> bool:
    return bool(build_truth_table(statement, people) >> world & 1)


def name_role(is_knight: bool) -> str:
    """Return the word for a role."""
    return "knight" if is_knight else "knave"


def word_puzzle(names: Sequence[str], statements: Sequence[Statement], rng: random.Random) -> str:
    """Return the puzzle in words, ending in its question."""
    sentences = [_OPENING, f"You meet {', '.join(names[:-1])} and {names[-1]}."]
    for name, statement in zip(names, statements, strict=True):
        text = word_statement(statement, names)
        capitalised = text[0].upper() + text[1:]
        speech = rng.choice(_SPEECH)
        sentences.append(speech.format(name=name, text=text, Text=capitalised))
    sentences.append(_QUESTION)
    return " ".join(sentences)


def word_statement(statement: Statement, names: Sequence[str]) -> str:
    """Return a statement in words.

    word_statement(["not", ["knave", 0]], ["Ida"]) -> "Ida is not a knave"
    """
    form, *parts = statement
    if form in _ROLES:
        return f"{names[parts[0]]} is a {form}"
    if form == "not":
        role, person = parts[0]
        return f"{names[person]} is not a {role}"
    return _WORDING[form].format(*(word_statement(part, names) for part in parts))


def word_answer(names: Sequence[str], roles: Sequence[bool]) -> str:
    """Return the answer, one numbered line for each person.

    It reads "(1) Zoey is a knight\\n(2) Oliver is a knave".
    """
    lines: list[str] = []
    for number, (name, is_knight) in enumerate(zip(names, roles, strict=True), start=1):
        lines.append(f"({number}) {name} is a {name_role(is_knight)}")
    return "\n".join(lines)


def work_out(names: Sequence[str], statements: Sequence[Statement], *, every_world: bool) -> str:
    """Return each world up to the first speaker who does not fit it.

    So every clause can be checked by itself. It ends with the world that fits, unless every world
    is wanted.

    >>> work_out(["Ida", "Tom"], [["and", ["knave", 1], ["knight", 0]], ["not", ["knave", 1]]], every_world=False)
    'Ida knight, Tom knight: Ida says false and true, false, no. Ida knight, Tom knave: Ida says true and true, true, \
Tom says not true, false, yes.'
    """
    lines: list[str] = []
    for world in range(2 ** len(names)):
        line, fits = _try_world(world, names, statements)
        lines.append(line)
        if fits and not every_world:
            break
    return " ".join(lines)


def _try_world(
    world: int, names: Sequence[str], statements: Sequence[Statement]
) -> tuple[str, bool]:
    """Return the line of a world, and whether all statements fit it."""
    people = len(names)
    roles = decode_world(world, people)
    pairs = zip(names, roles, strict=True)
    head = ", ".join(f"{name} {name_role(is_knight)}" for name, is_knight in pairs)
    clauses: list[str] = []
    for name, is_knight, statement in zip(names, roles, statements, strict=True):
        clauses.append(f"{name} says {_evaluate(statement, world, people)}")
        if _is_true(statement, world, people) != is_knight:
            return f"{head}: {', '.join(clauses)}, no.", False
    return f"{head}: {', '.join(clauses)}, yes.", True


def _evaluate(statement: Statement, world: int, people: int) -> str:
    """Return the truth of each leaf in the statement's own wording, then that of the statement.

    It reads "false or true, true".
    """
    truth = str(_is_true(statement, world, people)).lower()
    form, *parts = statement
    if form in _ROLES:
        return truth
    leaves = [_evaluate(part, world, people) for part in parts]
    return f"{_WORDING[form].format(*leaves)}, {truth}"
