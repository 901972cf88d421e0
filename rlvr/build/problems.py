"""Read the problems that a recipe names."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlvr import registry
from rlvr.build.binding import bind_plugin
from rlvr.config.schema import AdaptiveConfig, EvalSetConfig, Recipe, SourceConfig
from rlvr.data.gate import RejectedGold, check_golds
from rlvr.data.sources import AdaptiveSampling, Sources
from rlvr.errors import UserError
from rlvr.tasks.given import read_given
from rlvr.types import Problem

# What a problem asks and what is right, which two of one id have to share.
Content = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Identities:
    """The ids of the problems of all sources and stages of a run, each of one problem alone."""

    known: dict[str, Content] = field(default_factory=dict[str, Content])

    def tell_apart(self, problems: Sequence[Problem]) -> tuple[Problem, ...]:
        """Return the problems of a source with ids that no other problem has.

        They are those of the source where that is so, and end in `~2`, `~3` … where another source
        gave one of them to another problem: two files of one name number their rows alike.
        """
        for number in itertools.count(1):
            named = _number_ids(problems, number)
            if all(self._is_free(problem) for problem in named):
                self.known.update((problem.id, _read_content(problem)) for problem in named)
                return named
        raise AssertionError("the numbers do not end")

    def _is_free(self, problem: Problem) -> bool:
        content = _read_content(problem)
        return self.known.get(problem.id) in (None, content)


def _number_ids(problems: Sequence[Problem], number: int) -> tuple[Problem, ...]:
    if number == 1:
        return tuple(problems)
    return tuple(replace(problem, id=f"{problem.id}~{number}") for problem in problems)


def _read_content(problem: Problem) -> Content:
    return problem.question, problem.answer, problem.solution


def read_sources(
    recipe: Recipe,
    given: Sequence[Problem] | None,
    seed: int,
    identities: Identities | None = None,
) -> tuple[Sources, tuple[RejectedGold, ...]]:
    """Return the training problems to draw from, and those whose gold did not pass the gate.

    `given` takes the place of the first source's; `identities` are shared by the stages of a run.
    Raises UserError.
    """
    rows = _read_rows(recipe, given, identities or Identities())
    passed: list[tuple[Problem, ...]] = []
    rejected: list[RejectedGold] = []
    for row in rows:
        problems, refused = check_golds(row, recipe.verify.gate)
        passed.append(problems)
        rejected += refused
    for number, problems in enumerate(passed):
        if not problems:
            raise UserError(_explain_empty(rows[number], number))
    selected: list[tuple[Problem, ...]] = []
    for source, problems in zip(recipe.train, passed, strict=True):
        select = bind_plugin("select", source.select)
        selected.append(tuple(select(problems)))
    sources = Sources(
        problems=tuple(selected),
        weights=tuple(source.weight for source in recipe.train),
        seed=seed,
        given=tuple(source.order == "given" for source in recipe.train),
        resting=tuple(_adapt(source.adaptive) for source in recipe.train),
    )
    return sources, tuple(rejected)


def _read_rows(
    recipe: Recipe, given: Sequence[Problem] | None, identities: Identities
) -> list[tuple[Problem, ...]]:
    """Return the problems of each source, no two of which have one id."""
    rows = [read_problems(source, f"train.{i}") for i, source in enumerate(recipe.train)]
    if given is not None:
        rows[0] = tuple(given)
    return [identities.tell_apart(row) for row in rows]


def _explain_empty(problems: Sequence[Problem], number: int) -> str:
    """Say why the gate left none of these problems."""
    reason = "row has a gold"
    if any(problem.answer.strip() for problem in problems):
        reason = "gold can be compared"
    return f"train.{number}: no problem is left, since no {reason}; mend the data, or try verify.gate=mark"


def _adapt(options: AdaptiveConfig | None) -> AdaptiveSampling | None:
    if options is None:
        return None
    return AdaptiveSampling(low=options.low, high=options.high, cooldown=options.cooldown)


def read_problems(row: SourceConfig | EvalSetConfig, where: str) -> tuple[Problem, ...]:
    """Return the problems of a source or held-out set, each with the task that its row names.

    Raises UserError for a problem without an answer, unless it is one to train on: the gate drops
    those and says so, while a held-out set has to be complete.
    """
    problems = _read_data(row, f"{where}.data")
    checked = problems
    if isinstance(row, SourceConfig):
        checked = [problem for problem in problems if problem.answer.strip()]
    check_problems(checked, f"{where}.data")
    if isinstance(row, EvalSetConfig):
        problems = problems[: row.limit]
    if row.task is None:
        for task in {problem.task for problem in problems}:
            registry.find("task", task, f"{where}.data")
        return tuple(problems)
    task = row.task.name
    return tuple(replace(problem, task=task) for problem in problems)


def _read_data(row: SourceConfig | EvalSetConfig, where: str) -> Sequence[Problem]:
    """Return what the data plug-in of a row gives; raises UserError where that is nothing."""
    assert row.data is not None
    try:
        problems = read_given(bind_plugin("data", row.data), row.data.name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not problems:
        raise UserError(f"{where}: '{row.data.name}' gave no problem")
    return problems


def check_problems(problems: Sequence[Problem], where: str) -> None:
    """Refuse problems without an answer and ids that occur twice; raises UserError."""
    for problem in problems:
        if not problem.answer.strip():
            raise UserError(f"{where}: problem '{problem.id}' has no answer to verify against")
    names = [problem.id for problem in problems]
    twice = _find_repeated(names)
    if twice is not None:
        raise UserError(f"{where}: the id '{twice}' of a problem occurs twice")


def _find_repeated(names: Sequence[str]) -> str | None:
    """Return the first name that occurs again."""
    counts = Counter(names)
    for name, count in counts.items():
        if count > 1:
            return name
    return None
