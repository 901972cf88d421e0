"""Data "arithmetic": generated one-step and two-step problems, plain and in words.

They are graded in three levels. A problem of a seed is the same only as long as no number of the
tables moves, the order of the forms included, and no random number is drawn at another moment.
"""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, get_args

from pydantic import Field

from rlvr.errors import UserError
from rlvr.registry import register
from rlvr.resources import load_asset
from rlvr.seeds import TrainOrTest, key_of, side_of
from rlvr.types import Problem

Kind = Literal["add", "sub", "mul", "div", "two_step", "word", "word_two_step"]
Level = Literal[1, 2, 3]
Bounds = tuple[int, int]  # the least and the greatest

SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}

# So many draws in a row without a new question: the cell is taken for exhausted.
TRIES = 600

# The hardest level, at which a difference may be negative.
HARDEST = 3

# The two operands of each sign, disjoint between levels; those of "/" are quotient and divisor.
RANGES: dict[str, dict[int, tuple[Bounds, Bounds]]] = {
    "+": {
        1: ((1, 9), (1, 9)),
        2: ((10, 30), (2, 30)),
        3: ((31, 99), (11, 99)),
    },
    "-": {
        1: ((1, 10), (1, 10)),
        2: ((11, 30), (2, 30)),
        3: ((31, 99), (11, 99)),
    },
    "*": {
        1: ((1, 9), (1, 5)),
        2: ((2, 12), (6, 12)),
        3: ((13, 99), (2, 9)),
    },
    "/": {
        1: ((1, 9), (2, 5)),
        2: ((2, 12), (6, 12)),
        3: ((13, 99), (2, 9)),
    },
}

# The numbers of a two-step expression: those that are added or taken off, and those that are
# multiplied.
TERMS: dict[int, Bounds] = {1: (1, 9), 2: (10, 30), 3: (31, 99)}
FACTORS: dict[int, Bounds] = {1: (2, 5), 2: (2, 9), 3: (4, 12)}

# How a two-step expression is worked out: the first step, then the second with its result r.
FORMS = {
    "a + b * c": ("b * c", "a + r"),
    "a * b + c": ("a * b", "r + c"),
    "a * b - c": ("a * b", "r - c"),
    "(a - b) + c": ("a - b", "r + c"),
    "(a + b) - c": ("a + b", "r - c"),
    "a - (b + c)": ("b + c", "a - r"),
    "(a + b) * c": ("a + b", "r * c"),
}

_WORDS = load_asset("tasks/wordings")
NAMES: list[str] = _WORDS["names"]
THINGS: list[str] = _WORDS["things"]
ONE_STEP: list[tuple[str, str]] = _WORDS["one_step"]  # sign and wording
TWO_STEP: list[tuple[str, str]] = _WORDS["two_step"]  # form and wording

split_of = partial(side_of, "arithmetic-split")  # of a question


@dataclass(frozen=True, slots=True)
class Exercise:
    """A question with its working.   Exercise("What is 7 + 8?", ("7 + 8 = 15",), 15)"""

    question: str
    steps: tuple[str, ...]
    value: int


@register("data", "arithmetic")
def arithmetic(
    *,
    kinds: tuple[Kind, ...] = get_args(Kind),
    levels: tuple[Level, ...] = (1, 2, 3),
    count: Annotated[int, Field(ge=1)] = 1000,
    seed: int = 0,
    split: TrainOrTest = "train",
) -> list[Problem]:
    """Make distinct problems, a function of the arguments alone; a question belongs to one split
    whatever the seed.

    >>> arithmetic(kinds=("add",), levels=(1,), count=1)[0].question
    'What is 6 + 3?'
    """
    rng = random.Random(key_of("arithmetic", seed, split))  # noqa: S311 - no secret
    cells = [(kind, level) for kind in dict.fromkeys(kinds) for level in dict.fromkeys(levels)]
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        if not cells:
            have = f"kinds {', '.join(kinds)} at levels {', '.join(map(str, levels))} have only {len(problems)}"
            raise UserError(
                f"arithmetic: count={count} is too many: {have} questions in split '{split}'"
            )
        kind, level = rng.choice(cells)
        exercise = _draw_new(kind, level, split, problems, rng)
        if exercise is None:
            cells.remove((kind, level))
            continue
        name = f"arithmetic/{split}/{seed}/{len(problems)}"
        problems[exercise.question] = _make_problem(exercise, kind, level, name)
    return list(problems.values())


def _draw_new(
    kind: str, level: int, split: TrainOrTest, known: Container[str], rng: random.Random
) -> Exercise | None:
    """Return an exercise of that split with a new question, None where none was drawn."""
    for _ in range(TRIES):
        exercise = _draw(kind, level, rng)
        if exercise is None or exercise.question in known:
            continue
        if split_of(exercise.question) == split:
            return exercise
    return None


def _make_problem(exercise: Exercise, kind: str, level: int, name: str) -> Problem:
    working = ". ".join(exercise.steps)
    return Problem(
        id=name,
        task="math",
        question=exercise.question,
        answer=str(exercise.value),
        meta={"kind": kind, "level": level, "category": kind},
        solution=f"{working}. The answer is \\boxed{{{exercise.value}}}.",
    )


def _draw(kind: str, level: int, rng: random.Random) -> Exercise | None:
    """Draw one exercise of that kind and level, None where the numbers drawn do not fit."""
    if kind in SIGNS:
        return _draw_plain(SIGNS[kind], level, rng)
    if kind == "word":
        return _draw_word(level, rng)
    if kind == "word_two_step":
        form, wording = rng.choice(TWO_STEP)
        return _draw_two_step(form, wording, level, rng)
    return _draw_two_step(rng.choice(list(FORMS)), "", level, rng)


def _draw_plain(sign: str, level: int, rng: random.Random) -> Exercise | None:
    a, b = _draw_operands(sign, level, rng)
    value = _apply(a, sign, b)
    if value < 0 and level < HARDEST:
        return None
    text = f"{a} {sign} {b}"
    return Exercise(f"What is {text}?", (f"{text} = {value}",), value)


def _draw_word(level: int, rng: random.Random) -> Exercise | None:
    sign, wording = rng.choice(ONE_STEP)
    a, b = _draw_operands(sign, level, rng)
    value = _apply(a, sign, b)
    # The words are drawn before the numbers are refused; seeds depend on it.
    question = _fill(wording, rng, {"a": a, "b": b})
    if value < 0 or min(a, b) < 2:
        return None
    return Exercise(question, (f"{a} {sign} {b} = {value}",), value)


def _draw_two_step(form: str, wording: str, level: int, rng: random.Random) -> Exercise | None:
    """Draw an exercise of a form, in words where there is a wording."""
    first, second = FORMS[form]
    values = _draw_values(form, level, rng)
    middle, first_line = _work(first, values)
    value, second_line = _work(second, values | {"r": middle})
    if min(middle, value) < 0:
        return None
    if not wording:
        text = "".join(str(values.get(letter, letter)) for letter in form)
        return Exercise(f"What is {text}?", (first_line, second_line), value)
    if min(values.values()) < 2:
        return None
    return Exercise(_fill(wording, rng, values), (first_line, second_line), value)


def _draw_values(form: str, level: int, rng: random.Random) -> dict[str, int]:
    """Draw the numbers a, b and c of a form."""
    factors: set[str] = set()
    for step in FORMS[form]:
        if "*" in step:
            factors.update(step)
    values: dict[str, int] = {}
    for name in "abc":
        bounds = FACTORS if name in factors else TERMS
        values[name] = rng.randint(*bounds[level])
    if form == "(a + b) * c":  # the sum is the factor here, so its terms may be small
        for name in "ab":
            values[name] = rng.randint(*FACTORS[level])
    return values


def _work(step: str, values: dict[str, int]) -> tuple[int, str]:
    """Return the value of a step and its line.

    >>> _work("a + r", {"a": 3, "r": 8})
    (11, '3 + 8 = 11')
    """
    left, sign, right = step.split()
    value = _apply(values[left], sign, values[right])
    return value, f"{values[left]} {sign} {values[right]} = {value}"


def _draw_operands(sign: str, level: int, rng: random.Random) -> tuple[int, int]:
    first_bounds, second_bounds = RANGES[sign][level]
    first = rng.randint(*first_bounds)
    second = rng.randint(*second_bounds)
    if sign == "/":
        return first * second, second
    return first, second


def _apply(a: int, sign: str, b: int) -> int:
    match sign:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case _:
            return a // b


def _fill(wording: str, rng: random.Random, numbers: dict[str, int]) -> str:
    """Return a wording with names, things and numbers."""
    name, other = rng.sample(NAMES, 2)
    return wording.format(n=name, m=other, o=rng.choice(THINGS), **numbers)
