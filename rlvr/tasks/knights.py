"""Data and task "knights": Knights and Knaves puzzles, and the check of a full assignment.

The assignment stands in `<answer>` tags. What a statement is, and how a puzzle is solved and
worded, stands in `knights_puzzle.py`; how an answer is read in `knights_answer.py`.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from rlvr.errors import UserError
from rlvr.grading.extract import cut_at_end_of_turn, leaves_thinking_open, strip_thinking
from rlvr.grading.tags import check_tags
from rlvr.registry import register
from rlvr.seeds import TrainOrTest, key_of, side_of
from rlvr.tasks.answer_forms import get_unanswered_status
from rlvr.tasks.knights_answer import read_assignment, read_gold_roles
from rlvr.tasks.knights_puzzle import (
    FORMS,
    NAMES,
    Statement,
    decode_world,
    draw_statements,
    find_solutions,
    name_role,
    word_answer,
    word_puzzle,
    work_out,
)
from rlvr.types import Problem, Response, Status, Verdict

Form = Literal["leaf", "not", "and", "or", "if", "iff"]

# So many draws in a row without a new puzzle end the search.
TRIES = 5000

# More people make 16 worlds and more, too long to list all of them.
ALL_WORLDS_UP_TO = 3

_ANSWER_TAG = re.compile(r"</?answer>")

split_of = functools.partial(side_of, "knights-split")  # of the names and statements of a puzzle


@register("data", "knights")
def knights(
    *,
    people: int | tuple[int, ...] = 3,
    count: Annotated[int, Field(ge=1)] = 1000,
    seed: int = 0,
    split: TrainOrTest = "train",
    forms: tuple[Form, ...] = FORMS,
    working: Literal["all", "first"] = "all",
) -> list[Problem]:
    """Make distinct puzzles with exactly one solution, the numbers of people taken in turn; splits
    never share a puzzle.

    All assignments are equally likely, so that no constant answer is right more often than by
    chance. `forms` are the kinds of statement ("leaf" is "Zoey is a knave"); two people need "iff",
    or "and" with "or" or "if". `working` says whether a written solution goes through all worlds or
    ends at the first that fits; with more than three people it always ends there.
    """
    sizes = (people,) if isinstance(people, int) else people
    if not sizes or not all(2 <= size <= 8 for size in sizes):
        raise UserError(f"knights: people should be 2 to 8, not {people}")
    if not forms:
        raise UserError(f"knights: forms should name at least one of {', '.join(FORMS)}")
    rng = random.Random(key_of("knights", seed, split))  # noqa: S311 - no secret
    known: set[str] = set()
    problems: list[Problem] = []
    for index in range(count):
        size = sizes[index % len(sizes)]
        names, statements, roles = _draw_puzzle(size, split, forms, known, rng)
        every_world = working == "all"
        problems.append(
            Problem(
                id=f"knights/{split}/{seed}/{index}",
                task="knights",
                question=word_puzzle(names, statements, rng),
                answer=word_answer(names, roles),
                meta={
                    "people": size,
                    "names": names,
                    "roles": roles,
                    "statements": statements,
                    "category": f"people={size}",
                },
                solution=write_solution(names, statements, roles, every_world=every_world),
            )
        )
    return problems


def _draw_puzzle(
    people: int, split: TrainOrTest, forms: Sequence[str], known: set[str], rng: random.Random
) -> tuple[list[str], list[Statement], list[bool]]:
    """Draw names, statements and roles of a puzzle that is not known yet, and note it as known."""
    # The roles are drawn first: else some would be rarer than others.
    roles = decode_world(rng.randrange(2**people), people)
    for _ in range(TRIES):
        names = rng.sample(NAMES, people)
        statements = draw_statements(roles, forms, rng)
        key = f"{names} {statements}"
        if len(find_solutions(statements)) != 1 or key in known:
            continue
        if split_of(key) == split:
            known.add(key)
            return names, statements, roles
    raise UserError(
        f"knights: no further puzzle of {people} people with forms {', '.join(forms)} found in split '{split}'; "
        "count is too many or forms too few"
    )


def write_solution(
    names: Sequence[str],
    statements: Sequence[Statement],
    roles: Sequence[bool],
    *,
    every_world: bool,
) -> str:
    """Return the written solution with both tags, for supervised steps."""
    every_world = every_world and len(names) <= ALL_WORLDS_UP_TO
    thinking = work_out(names, statements, every_world=every_world)
    return f"<think>{thinking}</think><answer>{word_answer(names, roles)}</answer>"


@register("task", "knights")
def check_knights(problem: Problem, response: Response, *, min_think: int = 0) -> Verdict:
    """Compare the assignment in the one `<answer>` after the thinking with the gold; `min_think`
    counts words.

    >>> problem = Problem("p", "knights", "…", "(1) Zoey is a knight\\n(2) Tom is a knave")
    >>> check_knights(problem, Response("<think>x</think><answer>Zoey: knight, Tom: knave</answer>")).answer
    'Zoey: knight, Tom: knave'
    """
    gold = _read_gold(problem)
    text = cut_at_end_of_turn(response.text)
    formatted = check_tags(
        text,
        prefilled=leaves_thinking_open(response.prefill),
        truncated=response.truncated,
        min_think=min_think,
    ).ok
    tail = strip_thinking(text, response.prefill)
    tags = list(_ANSWER_TAG.finditer(tail))
    tag_names = [tag[0] for tag in tags]
    if tag_names in ([], ["<answer>"]):
        return Verdict(get_unanswered_status(response), None, formatted, "no answer")
    if tag_names != ["<answer>", "</answer>"]:
        return Verdict(Status.UNPARSEABLE, None, formatted, "several answers")
    opening, closing = tags
    roles, rule = read_assignment(tail[opening.end() : closing.start()], list(gold))
    if roles is None:
        return Verdict(Status.UNPARSEABLE, None, formatted, rule)
    answer = ", ".join(f"{name}: {name_role(role)}" for name, role in roles.items())
    status = Status.CORRECT if roles == gold else Status.WRONG
    return Verdict(status, answer, formatted, rule)


def _read_gold(problem: Problem) -> dict[str, bool]:
    """Return who is a knight, by the meta of a generated puzzle or by the text of its answer."""
    meta = problem.meta
    if "names" in meta and "roles" in meta:
        return dict(zip(meta["names"], map(bool, meta["roles"]), strict=True))
    gold = read_gold_roles(problem.answer)
    if gold is None:
        raise UserError(
            f"problem {problem.id}: answer should be lines such as '(1) Zoey is a knight'"
        )
    return gold
