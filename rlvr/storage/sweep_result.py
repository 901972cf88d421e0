"""What `sweep.json` holds: the arms of a sweep beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rlvr.storage import fields
from rlvr.storage.estimate import Estimate, parse_estimate
from rlvr.storage.fields import Row, WrongShape
from rlvr.storage.records import dump_each, parse_each


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Accuracy of an arm's runs together at one step."""

    step: int
    """The step of the evaluations."""

    accuracy: Estimate
    """Mean over problems and seeds with its interval."""

    @classmethod
    def parse_row(cls, row: Row) -> CurvePoint:
        """Read an object of the file; raises WrongShape."""
        return cls(fields.read_int(row, "step"), Estimate.parse_row(row))

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return {"step": self.step, **self.accuracy.dump_row()}


@dataclass(frozen=True, slots=True)
class GainSplit:
    """A gain as its three parts, see `split_gain`."""

    form: float
    """What more well-formed answers brought."""

    content: float
    """What better answers in that form brought."""

    rest: float
    """What lies outside the form."""

    @classmethod
    def parse_row(cls, row: Row) -> GainSplit:
        """Read an object of the file; raises WrongShape."""
        return cls(**{name: fields.read_number(row, name) for name in cls.__slots__})

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """What the finished runs of an arm show together."""

    before: CurvePoint
    """Accuracy before the first step."""

    after: CurvePoint
    """Accuracy after the last step."""

    gain: Estimate
    """Change from before to after, paired by problem."""

    formatted: tuple[float, float]
    """Share of well-formed answers before and after."""

    accuracy_formatted: tuple[float | None, float | None]
    """Accuracy among these before and after; `pass@1_formatted` in the file."""

    gain_split: GainSplit
    """The gain as form, content and rest."""

    training_accuracy: float | None
    """Accuracy of the training rollouts of the last five steps."""

    curve: tuple[CurvePoint, ...]
    """Accuracy at each step that all runs evaluated."""

    difference: Estimate | None = None
    """Accuracy after training against the baseline's; None for the baseline itself."""

    @classmethod
    def parse_row(cls, row: Row) -> ArmFigures:
        """Read the figures of an arm; raises WrongShape."""
        return cls(
            before=CurvePoint.parse_row(fields.read_mapping(row, "before")),
            after=CurvePoint.parse_row(fields.read_mapping(row, "after")),
            gain=Estimate.parse_row(fields.read_mapping(row, "gain")),
            formatted=_parse_pair(row, "formatted"),
            accuracy_formatted=_parse_pair(row, "pass@1_formatted"),
            gain_split=GainSplit.parse_row(fields.read_mapping(row, "gain_split")),
            training_accuracy=fields.read_optional_number(row, "training_accuracy"),
            curve=tuple(CurvePoint.parse_row(point) for point in fields.read_list(row, "curve")),
            difference=parse_estimate(row, "difference"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the figures as the file has them."""
        row: dict[str, Any] = {
            "before": self.before.dump_row(),
            "after": self.after.dump_row(),
            "gain": self.gain.dump_row(),
            "formatted": list(self.formatted),
            "pass@1_formatted": list(self.accuracy_formatted),
            "gain_split": self.gain_split.dump_row(),
            "training_accuracy": self.training_accuracy,
            "curve": [point.dump_row() for point in self.curve],
        }
        if self.difference is not None:
            row["difference"] = self.difference.dump_row()
        return row


def _parse_pair(row: Row, key: str) -> tuple[Any, Any]:
    values = fields.read_list(row, key)
    if len(values) != 2:
        raise WrongShape(f"{key}: should be the shares before and after, not {values!r:.60}")
    return values[0], values[1]


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm of a sweep."""

    seeds: tuple[int, ...] = ()
    """The seeds whose runs are finished."""

    figures: ArmFigures | None = None
    """What these runs show; None where none is finished."""

    @classmethod
    def parse_row(cls, row: Row) -> ArmResult:
        """Read an arm of the file; raises WrongShape."""
        seeds = tuple(fields.read_list(row, "seeds"))
        return cls(seeds, ArmFigures.parse_row(row) if seeds else None)

    def dump_row(self) -> dict[str, Any]:
        """Return the arm as the file has it."""
        row: dict[str, Any] = {"seeds": list(self.seeds)}
        if self.figures is not None:
            row |= self.figures.dump_row()
        return row


@dataclass(frozen=True, slots=True)
class SweepResult:
    """`sweep.json`: the arms of a sweep beside each other."""

    name: str
    """Name of the sweep."""

    benchmark: str
    """The held-out set that the arms are compared on."""

    baseline: str
    """Name of the arm that the others are compared with."""

    arms: Mapping[str, ArmResult]
    """The arms by name, in the order of the sweep's file."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """Why the runs that are not finished are not, by the name of their folder."""

    @classmethod
    def parse_row(cls, row: Row) -> SweepResult:
        """Read the file; raises WrongShape."""
        return cls(
            name=fields.read_text(row, "name"),
            benchmark=fields.read_text(row, "benchmark"),
            baseline=fields.read_text(row, "baseline"),
            arms=parse_each(row, "arms", ArmResult),
            missing=fields.read_mapping(row, "missing"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return {
            "name": self.name,
            "benchmark": self.benchmark,
            "baseline": self.baseline,
            "arms": dump_each(self.arms),
            "missing": dict(self.missing),
        }
