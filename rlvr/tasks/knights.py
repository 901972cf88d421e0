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
from collections.abc import Sequence
from typing import Literal

from rlvr.errors import UserError
from rlvr.registry import register
from rlvr.seeds import TrainOrTest, key_of, side_of
from rlvr.tasks.knights_answer import gold_roles, read_assignment
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

from rlvr.grading.extract import cut_at_end_of_turn, strip_thinking
from rlvr.grading.tags import check_tags

Form = Literal["leaf", "not", "and", "or", "if", "iff"]


TRIES = 5000  # so many draws in a row without a new puzzle end the search


ALL_WORLDS_UP_TO = 3  # more people make 16 worlds and more, too long to list all of them


_ANSWER_TAG = re.compile(r"</?answer>")


@register("data", "knights")
def knights(
    *, people: int | tuple[int, ...] = 3, count: int = 1000, seed: int = 0, split: TrainOrTest = "train",
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
    split: TrainOrTest,
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
    text = cut_at_end_of_turn(response.text)
    prefilled = response.prefill.rstrip().endswith("<think>")
    formatted = check_tags(
        text, prefilled=prefilled, truncated=response.truncated, min_think=min_think
    ).ok
    tail = strip_thinking(text, response.prefill)
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
