"""What `summary.json` holds: what a finished run says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.storage import fields
from rlvr.storage.estimate import Estimate, parse_estimate
from rlvr.storage.fields import Row
from rlvr.storage.records import dump_each, parse_each


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """What a run changed on one benchmark."""

    before: Estimate | None = None
    """Accuracy before the first step."""

    after: Estimate | None = None
    """Accuracy after the last step."""

    gain: Estimate | None = None
    """Change from before to after, paired by problem."""

    after_cold_start: Estimate | None = None
    """Accuracy after the cold start; None in a run without one."""

    gain_over_cold_start: Estimate | None = None
    """Change from the end of the cold start to after, paired by problem."""

    @classmethod
    def parse_row(cls, row: Row) -> BeforeAfter:
        """Read an object of the file; raises WrongShape."""
        return cls(**{name: parse_estimate(row, name) for name in cls.__slots__})

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it; what is None is left out."""
        row = {}
        for name in self.__slots__:
            estimate = getattr(self, name)
            if estimate is not None:
                row[name] = estimate.dump_row()
        return row


@dataclass(frozen=True, slots=True)
class BestStep:
    """The step with the highest accuracy on `checkpoint.best`."""

    benchmark: str
    """The held-out set that decides."""

    step: int
    """The first of the steps with the highest accuracy."""

    accuracy: float
    """Its accuracy; `pass@1` in the file."""

    checkpoint: str | None
    """Its checkpoint within the run folder; None where none was saved."""

    @classmethod
    def parse_row(cls, row: Row) -> BestStep:
        """Read an object of the file; raises WrongShape."""
        return cls(
            benchmark=fields.read_text(row, "benchmark"),
            step=fields.read_int(row, "step"),
            accuracy=fields.read_number(row, "pass@1"),
            checkpoint=fields.read_optional_text(row, "checkpoint"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return {
            "benchmark": self.benchmark,
            "step": self.step,
            "pass@1": self.accuracy,
            "checkpoint": self.checkpoint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`summary.json`: what a finished run says of itself."""

    recipe: str = ""
    """Name of the run."""

    model: str = ""
    """The model that was trained, as the recipe names it."""

    steps: int = 0
    """Number of steps, those of the cold start among them."""

    seconds: float = 0.0
    """Seconds of all steps and evaluations."""

    response_tokens: float = 0.0
    """Tokens of all training responses."""

    evals: Mapping[str, BeforeAfter] = field(default_factory=dict)
    """What the run changed on each benchmark."""

    hardware: str = ""
    """The processor or accelerator, and the threads."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and of libraries."""

    finished: bool = False
    """Whether the last step was reached."""

    best: BestStep | None = None
    """The best step; None where the recipe names no benchmark for it."""

    @classmethod
    def parse_row(cls, row: Row) -> Summary:
        """Read the file; raises WrongShape."""
        best = fields.read_mapping(row, "best")
        return cls(
            recipe=fields.read_text(row, "recipe"),
            model=fields.read_text(row, "model"),
            steps=fields.read_count(row, "steps"),
            seconds=fields.read_number(row, "seconds"),
            response_tokens=fields.read_number(row, "response_tokens"),
            evals=parse_each(row, "evals", BeforeAfter),
            hardware=fields.read_text(row, "hardware"),
            versions=fields.read_mapping(row, "versions"),
            finished=fields.read_flag(row, "finished"),
            best=BestStep.parse_row(best) if best else None,
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        row: dict[str, Any] = {
            "recipe": self.recipe,
            "model": self.model,
            "steps": self.steps,
            "seconds": self.seconds,
            "response_tokens": self.response_tokens,
            "evals": dump_each(self.evals),
            "hardware": self.hardware,
            "versions": dict(self.versions),
            "finished": self.finished,
        }
        if self.best is not None:
            row["best"] = self.best.dump_row()
        return row
