"""Problems and models of all runs of a sweep, read before the first of them starts."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr import registry
from rlvr.config import plugins, staging
from rlvr.config.schema import EvalSetConfig, Recipe, SourceConfig
from rlvr.errors import UserError
from rlvr.sweeps.planning import Plan
from rlvr.types import Problem

ProblemsByRow = dict[str, Sequence[Problem]]


def check_inputs(plan: Plan) -> None:
    """Read every problem and find every model that is there already, once; raises UserError.

    What comes from a run of the sweep itself is checked when that run is done.
    """
    from rlvr.models.locating import locate

    known: ProblemsByRow = {}
    located: set[str] = set()
    for unit in plan.units:
        try:
            for part in staging.split_stages(unit.recipe):
                check_sources(part, known, selects=not unit.waits)
            for key, name in plugins.list_models(unit.recipe).items():
                if name not in located and not unit.waits:
                    locate(name, key)
                    located.add(name)
        except UserError as error:
            raise UserError(f"{plan.name}: arms.{unit.arm}: {error}") from None


def check_sources(part: Recipe, known: ProblemsByRow, *, selects: bool) -> None:
    """Read the problems of a recipe that are not known, and select from them where that can be
    done now.
    """
    for number, source in enumerate(part.train):
        problems = _read_once(source, f"train.{number}", known)
        if selects:
            rule = registry.find("select", source.select.name, "select")
            rule.bind(source.select.params, "select")(problems)
    for number, held_out in enumerate(part.eval.sets):
        _read_once(held_out, f"eval.sets.{number}", known)


def _read_once(
    row: SourceConfig | EvalSetConfig,
    where: str,
    known: ProblemsByRow,
) -> Sequence[Problem]:
    """Return the problems of a row; rows with the same data and task are read once."""
    from rlvr.build.problems import read_problems

    section, _, _ = where.rpartition(".")
    key = f"{section} {row.data} {row.task}"
    if key not in known:
        known[key] = read_problems(row, where)
    return known[key]
