"""Data "arithmetic": generated one-step and two-step problems, plain and in words, graded in three
levels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from rlvr.errors import UserError
from rlvr.registry import register
from rlvr.resources import load_asset
from rlvr.seeds import TrainOrTest, key_of, side_of
from rlvr.types import Problem

Kind = Literal["add", "sub", "mul", "div", "two_step", "word", "word_two_step"]


Level = Literal[1, 2, 3]


SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


TRIES = 600  # so many draws in a row without a new question: the cell is taken for exhausted


_NUMBERS = load_asset("tasks/arithmetic")


RANGES, TERMS, FACTORS, FORMS = (_NUMBERS[part] for part in ("ranges", "terms", "factors", "forms"))


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
    count: int = 1000,
    seed: int = 0,
    split: TrainOrTest = "train",
) -> list[Problem]:
    """Distinct problems, a function of the arguments alone; a question belongs to one split
    whatever the seed.

    >>> arithmetic(kinds=("add",), levels=(1,), count=1)[0].question
    'What is 6 + 3?'
    """
    rng = random.Random(key_of("arithmetic", seed, split))  # noqa: S311 - no secret
    cells = [(kind, level) for kind in dict.fromkeys(kinds) for level in dict.fromkeys(levels)]
    found: dict[str, Problem] = {}
    while len(found) < count:
        if not cells:
            have = f"kinds {', '.join(kinds)} at levels {', '.join(map(str, levels))} have only {len(found)}"
            raise UserError(
                f"arithmetic: count={count} is too many: {have} questions in split '{split}'"
            )
        cell = rng.choice(cells)
        exercise = _new(cell, split, found, rng)
        if exercise is None:
            cells.remove(cell)
        else:
            found[exercise.question] = _problem(
                exercise, cell, f"arithmetic/{split}/{seed}/{len(found)}"
            )
    return list(found.values())


split_of = partial(side_of, "arithmetic-split")  # of a question


def _new(
    cell: tuple[str, int], split: TrainOrTest, known: dict[str, Problem], rng: random.Random
) -> Exercise | None:
    for _ in range(TRIES):
        exercise = _draw(*cell, rng)
        if exercise and exercise.question not in known and split_of(exercise.question) == split:
            return exercise
    return None


def _problem(exercise: Exercise, cell: tuple[str, int], name: str) -> Problem:
    kind, level = cell
    solution = f"{'. '.join(exercise.steps)}. The answer is \\boxed{{{exercise.value}}}."
    meta = {"kind": kind, "level": level, "category": kind}
    return Problem(name, "math", exercise.question, str(exercise.value), meta, solution)


def _draw(kind: str, level: int, rng: random.Random) -> Exercise | None:
    """One exercise of that kind and level, or None where the numbers drawn do not fit."""
    if kind in SIGNS:
        a, b = _operands(SIGNS[kind], level, rng)
        value = _apply(a, SIGNS[kind], b)
        text = f"{a} {SIGNS[kind]} {b}"
        return (
            None
            if value < 0 and level < 3
            else Exercise(f"What is {text}?", (f"{text} = {value}",), value)
        )
    if kind == "word":
        sign, wording = rng.choice(ONE_STEP)
        a, b = _operands(sign, level, rng)
        value = _apply(a, sign, b)
        question = _fill(wording, rng, a=a, b=b)
        return (
            None
            if value < 0 or min(a, b) < 2
            else Exercise(question, (f"{a} {sign} {b} = {value}",), value)
        )
    form, wording = (
        rng.choice(TWO_STEP) if kind == "word_two_step" else (rng.choice(list(FORMS)), "")
    )
    return _two_step(form, wording, level, rng)


def _two_step(form: str, wording: str, level: int, rng: random.Random) -> Exercise | None:
    first, second = FORMS[form]
    factors = {letter for step in FORMS[form] if "*" in step for letter in step}
    values = {name: rng.randint(*(FACTORS if name in factors else TERMS)[level]) for name in "abc"}
    if form == "(a + b) * c":  # the sum is the factor here, so its terms may be small
        values |= {name: rng.randint(*FACTORS[level]) for name in "ab"}
    middle, one = _work(first, values)
    value, two = _work(second, values | {"r": middle})
    if min(middle, value) < 0 or (wording and min(values.values()) < 2):
        return None
    text = "".join(str(values.get(letter, letter)) for letter in form)
    return Exercise(
        _fill(wording, rng, **values) if wording else f"What is {text}?", (one, two), value
    )


def _work(step: str, values: dict[str, int]) -> tuple[int, str]:
    """The value of a step and its line.   _work("a + r", {"a": 3, "r": 8}) -> (11, "3 + 8 = 11")"""
    left, sign, right = step.split()
    value = _apply(values[left], sign, values[right])
    return value, f"{values[left]} {sign} {values[right]} = {value}"


def _operands(sign: str, level: int, rng: random.Random) -> tuple[int, int]:
    first, second = (rng.randint(*bounds) for bounds in RANGES[sign][level])
    return (first * second, second) if sign == "/" else (first, second)


def _apply(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]


def _fill(wording: str, rng: random.Random, **numbers: int) -> str:
    name, other = rng.sample(NAMES, 2)
    return wording.format(n=name, m=other, o=rng.choice(THINGS), **numbers)


_WORDS = load_asset("tasks/wordings")


NAMES, THINGS, ONE_STEP, TWO_STEP = (
    _WORDS[part] for part in ("names", "things", "one_step", "two_step")
)
