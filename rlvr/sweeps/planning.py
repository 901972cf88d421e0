"""The arms of an experiment: one recipe, changed in one place for each arm, run with several seeds,
told in one table.

A sweep is read and checked whole, then its runs are trained in processes of their own. Whatever is
known of a run is read from its folder, so the table can be made again at any time, and a sweep that
was killed goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rlvr import registry
from rlvr.config import loader, merge, plugins, validation
from rlvr.config.schema import Recipe, Section
from rlvr.errors import UserError, suggest

Overrides = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


OWN = ("run.name", "run.folder", "run.seed")  # what the sweep gives each run


# what may change between two starts
FREE = {"run.name", "run.folder", "run.threads", "checkpoint", "trackers"}


LOCK, PLAN = ".lock", "sweep.yaml"


class Sweep(Section):
    """A sweep file: `arms` are overrides of `recipe`, those of the baseline the ones that the
    others are compared with; `keep` says what stays of a finished run beside its records (results:
    neither model nor checkpoints).
    """

    recipe: str
    name: str | None = None
    folder: str = "runs"
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2), min_length=1)
    overrides: Overrides = Field(default_factory=dict)
    arms: dict[str, Overrides] = Field(default=..., min_length=1)
    baseline: str | None = None
    keep: Literal["all", "model", "results"] = "all"


@dataclass(frozen=True, slots=True)
class Unit:
    """One run of a sweep: an arm with a seed; `waits` are the folders of runs whose results its
    recipe reads.
    """

    arm: str
    seed: int
    path: Path
    recipe: Recipe
    waits: tuple[Path, ...] = ()

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").is_file()

    @property
    def log(self) -> Path:
        """What the process of the run said on standard error."""
        return self.path.parent / "logs" / f"{self.path.name}.log"


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep with the whole recipe of every run."""

    file: str
    name: str
    folder: Path
    sweep: Sweep
    baseline: str
    units: tuple[Unit, ...]

    def of(self, arm: str) -> list[Unit]:
        return [unit for unit in self.units if unit.arm == arm]

    @property
    def benchmark(self) -> str:
        """The held-out set that the arms are compared on."""
        return self.units[0].recipe.eval.sets[0].name


def read(file: str | Path | Mapping[str, Any]) -> Plan:
    """The plan of a sweep, every recipe resolved and checked; raises UserError that names the file,
    arm and key.
    """
    where, found = merge.read(file, {"overrides": {}, "arms": {}}, kind="sweep")
    try:
        options = registry.validate(Sweep, found, "")
        baseline = _check_names(options)
        name, home = options.name or where, None if isinstance(file, Mapping) else Path(file).parent
        folder = Path(options.folder) / name
        units = [
            _unit(options, arm, seed, folder, home)
            for arm in options.arms
            for seed in options.seeds
        ]
        units = _ordered([_waiting(unit, units, options) for unit in units])
        _check_held_out(units, baseline)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Plan(
        str(file) if home is not None else where, name, folder, options, baseline, tuple(units)
    )


def _check_names(options: Sweep) -> str:
    """The baseline, where all names fit."""
    for arm in options.arms:
        if not re.fullmatch(r"\w[\w.+-]*", arm):
            raise UserError(
                f"arms.{arm}: the name becomes that of a folder; use letters, digits and _ . + - only"
            )
    if len(set(options.seeds)) < len(options.seeds):
        raise UserError("seeds: one of them stands there twice")
    baseline = options.baseline or next(iter(options.arms))
    if baseline not in options.arms:
        raise UserError(f"baseline: no arm '{baseline}'{suggest(baseline, options.arms)}")
    return baseline


def _unit(options: Sweep, arm: str, seed: int, folder: Path, home: Path | None) -> Unit:
    changes = dict(options.arms[arm])
    source = changes.pop("recipe", options.recipe)
    if isinstance(source, str) and home and source.endswith((".yaml", ".yml")):
        source = home / source
    try:
        given = [pair for part in (options.overrides, changes) for pair in overrides_of(part)]
        own = next((key for key, _ in given if key in OWN), None)
        if own:
            raise UserError(
                f"{own}: the sweep sets it for each run; use its own keys seeds, name and folder"
            )
        name = f"{arm}-{seed}"
        mine = [("run.seed", seed), ("run.name", name), ("run.folder", str(folder))]
        loaded = loader.load(
            source, [*((key, _filled(value, seed)) for key, value in given), *mine]
        )
    except UserError as error:
        raise UserError(f"arms.{arm}: {error}") from None
    return Unit(arm, seed, folder / name, loaded)


def overrides_of(changes: Mapping[str, Any]) -> list[merge.Override]:
    """The overrides of an arm as dotted keys; sections may be written out."""
    return merge.flatten(merge.make_plain(changes), validation.collect_sections())


def _filled(value: Any, seed: int) -> Any:
    """`{seed}` in texts is the seed of the run.   _filled({"seed": "{seed}"}, 2) -> {"seed": 2}"""
    if isinstance(value, dict):
        return {key: _filled(inner, seed) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, seed) for inner in value]
    if not isinstance(value, str) or "{seed}" not in value:
        return value
    return seed if value == "{seed}" else value.replace("{seed}", str(seed))


def _waiting(unit: Unit, units: Iterable[Unit], options: Sweep) -> Unit:
    """The unit with the runs of the sweep that its recipe names: their results have to be there
    first.
    """
    named = {Path(text) for text in _texts(unit.recipe.model_dump(mode="json", exclude={"run"}))}
    inside = {place for path in named for place in (path, *path.parents)}
    waits = tuple(other.path for other in units if other.path in inside)
    lost = next(
        (name for name in plugins.list_models(unit.recipe).values() if Path(name) in waits), None
    )
    if lost and options.keep == "results":
        raise UserError(
            f"keep: 'results' deletes the model of '{lost}', which arms.{unit.arm} starts from; keep model"
        )
    return replace(unit, waits=waits)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _ordered(units: Sequence[Unit]) -> list[Unit]:
    """Units in their order, each behind those that it waits for."""
    left, found = list(units), []
    while left:
        done = {unit.path for unit in found}
        ready = next((unit for unit in left if done.issuperset(unit.waits)), None)
        if ready is None:
            raise UserError(
                f"arms.{left[0].arm}: its recipe reads '{left[0].waits[0]}', which can only come after it"
            )
        left.remove(ready)
        found.append(ready)
    return found


def _check_held_out(units: Sequence[Unit], baseline: str) -> None:
    """All arms answer the same held-out problems in the same way, or they do not compare problem by
    problem.
    """
    one = next(unit for unit in units if unit.arm == baseline)
    for unit in units:
        if not unit.recipe.eval.sets:
            raise UserError(
                f"arms.{unit.arm}: eval.sets: has no held-out set to compare the arms on; add one"
            )
        if unit.recipe.eval.sets[0] != one.recipe.eval.sets[0]:
            raise UserError(
                f"arms.{unit.arm}: eval.sets.0: is not that of '{baseline}', so the two do not compare"
            )
