"""The plan of a sweep: one recipe, changed in one place for each arm, run with several seeds.

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

# What the sweep gives each run.
SET_BY_SWEEP = ("run.name", "run.folder", "run.seed")
# What may change between two starts.
CHANGEABLE = {"run.name", "run.folder", "run.threads", "checkpoint", "trackers"}
PLAN_FILE = "sweep.yaml"


def _read_empty(value: Any) -> Any:
    """Return {} for a key without a value, as YAML gives for `arm:`."""
    if value is None:
        return {}
    return value


Overrides = Annotated[dict[str, Any], BeforeValidator(_read_empty)]


class Sweep(Section):
    """A sweep file.

    `arms` are overrides of `recipe`, those of the baseline the ones that the others are compared
    with. `keep` says what stays of a finished run beside its records (results: neither model nor
    checkpoints).
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
    """One run of a sweep: an arm with a seed.

    `waits` are the folders of runs whose results its recipe reads.
    """

    arm: str
    seed: int
    path: Path
    recipe: Recipe
    waits: tuple[Path, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run has its summary, which is written last."""
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
        """Return the runs of an arm."""
        return [unit for unit in self.units if unit.arm == arm]

    @property
    def benchmark(self) -> str:
        """The held-out set that the arms are compared on."""
        return self.units[0].recipe.eval.sets[0].name


def read_plan(file: str | Path | Mapping[str, Any]) -> Plan:
    """Return the plan of a sweep, every recipe resolved and checked; raises UserError that names
    the file, arm and key.
    """
    where, content = merge.read(file, {"overrides": {}, "arms": {}}, kind="sweep")
    home = None
    if not isinstance(file, Mapping):
        home = Path(file).parent
    try:
        options = registry.validate(Sweep, content, "")
        _check_names(options)
        name = options.name or where
        baseline = _find_baseline(options)
        units = _plan_units(options, Path(options.folder) / name, home)
        _check_held_out(units, baseline)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Plan(
        file=str(file) if home is not None else where,
        name=name,
        folder=Path(options.folder) / name,
        sweep=options,
        baseline=baseline,
        units=tuple(units),
    )


def _check_names(options: Sweep) -> None:
    for arm in options.arms:
        if not re.fullmatch(r"\w[\w.+-]*", arm):
            raise UserError(
                f"arms.{arm}: the name becomes that of a folder; use letters, digits and _ . + - only"
            )
    if len(set(options.seeds)) < len(options.seeds):
        raise UserError("seeds: one of them stands there twice")


def _find_baseline(options: Sweep) -> str:
    """Return the arm that the others are compared with: the one that is named, or the first."""
    baseline = options.baseline or next(iter(options.arms))
    if baseline not in options.arms:
        raise UserError(f"baseline: no arm '{baseline}'{suggest(baseline, options.arms)}")
    return baseline


def _plan_units(options: Sweep, folder: Path, home: Path | None) -> list[Unit]:
    """Return the runs of a sweep in an order in which each finds what its recipe reads."""
    units: list[Unit] = []
    for arm in options.arms:
        for seed in options.seeds:
            units.append(_make_unit(options, arm, seed, folder, home))
    waiting = [_add_waits(unit, units, options) for unit in units]
    return _order(waiting)


def _make_unit(options: Sweep, arm: str, seed: int, folder: Path, home: Path | None) -> Unit:
    """Return the run of an arm with a seed, its recipe loaded; raises UserError."""
    changes = dict(options.arms[arm])
    source = changes.pop("recipe", options.recipe)
    if isinstance(source, str) and home and source.endswith((".yaml", ".yml")):
        source = home / source
    name = f"{arm}-{seed}"
    try:
        overrides: list[merge.Override] = []
        for key, value in (*flatten_overrides(options.overrides), *flatten_overrides(changes)):
            _check_is_free(key)
            overrides.append((key, _fill_seed(value, seed)))
        overrides.append(("run.seed", seed))
        overrides.append(("run.name", name))
        overrides.append(("run.folder", str(folder)))
        recipe = loader.load(source, overrides)
    except UserError as error:
        raise UserError(f"arms.{arm}: {error}") from None
    return Unit(arm, seed, folder / name, recipe)


def flatten_overrides(changes: Mapping[str, Any]) -> list[merge.Override]:
    """Return the overrides of an arm as dotted keys; sections may be written out."""
    return merge.flatten(merge.make_plain(changes), validation.collect_sections())


def _check_is_free(key: str) -> None:
    if key in SET_BY_SWEEP:
        raise UserError(
            f"{key}: the sweep sets it for each run; use its own keys seeds, name and folder"
        )


def _fill_seed(value: Any, seed: int) -> Any:
    """Return a value whose texts name the seed of the run where they said `{seed}`.

    _fill_seed({"seed": "{seed}", "history": "runs/full-{seed}"}, 2) ->
    {"seed": 2, "history": "runs/full-2"}
    """
    match value:
        case dict():
            return {key: _fill_seed(inner, seed) for key, inner in value.items()}
        case list():
            return [_fill_seed(inner, seed) for inner in value]
        case "{seed}":
            return seed
        case str():
            return value.replace("{seed}", str(seed))
    return value


def _add_waits(unit: Unit, units: Iterable[Unit], options: Sweep) -> Unit:
    """Return the unit with the runs of the sweep that its recipe names.

    Their results have to be there first.
    """
    mentioned: set[Path] = set()
    for text in _list_texts(unit.recipe.model_dump(mode="json", exclude={"run"})):
        mentioned.add(Path(text))
        mentioned.update(Path(text).parents)
    waits = tuple(other.path for other in units if other.path in mentioned)
    for model in plugins.list_models(unit.recipe).values():
        if Path(model) in waits and options.keep == "results":
            raise UserError(
                f"keep: 'results' deletes the model of '{model}', which arms.{unit.arm} starts from; keep model"
            )
    return replace(unit, waits=waits)


def _list_texts(value: Any) -> Iterator[str]:
    """Yield every text of a nested value, keys left out."""
    match value:
        case str():
            yield value
        case Mapping():
            for inner in value.values():
                yield from _list_texts(inner)
        case list():
            for inner in value:
                yield from _list_texts(inner)


def _order(units: Sequence[Unit]) -> list[Unit]:
    """Return the units in their order, each behind those that it waits for."""
    left = list(units)
    ordered: list[Unit] = []
    done: set[Path] = set()
    while left:
        ready = next((unit for unit in left if done.issuperset(unit.waits)), None)
        if ready is None:
            raise UserError(
                f"arms.{left[0].arm}: its recipe reads '{left[0].waits[0]}', which can only come after it"
            )
        left.remove(ready)
        ordered.append(ready)
        done.add(ready.path)
    return ordered


def _check_held_out(units: Sequence[Unit], baseline: str) -> None:
    """Raise UserError where the arms do not answer the same held-out problems in the same way.

    They would not compare problem by problem.
    """
    first = next(unit for unit in units if unit.arm == baseline)
    for unit in units:
        if not unit.recipe.eval.sets:
            raise UserError(
                f"arms.{unit.arm}: eval.sets: has no held-out set to compare the arms on; add one"
            )
        if unit.recipe.eval.sets[0] != first.recipe.eval.sets[0]:
            raise UserError(
                f"arms.{unit.arm}: eval.sets.0: is not that of '{baseline}', so the two do not compare"
            )
