"""A share with its interval, as the files of evaluations hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.storage import fields
from rlvr.storage.fields import Row, WrongShape, keep_finite


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share, or a change of one, with its interval."""

    value: float
    """The share or the change, 0 to 1; `pass@1` in the files."""

    ci95: Sequence[float] | None = None
    """Low and high end of the 95 % interval; None where none was computed."""

    n: int | None = None
    """Number of problems; None where the line does not say."""

    @classmethod
    def parse_row(cls, row: Row) -> Estimate:
        """Read an object of a line; `pass@1` has to be there. Raises WrongShape."""
        value = keep_finite(fields.read_optional_number(row, "pass@1"))
        if value is None:
            raise WrongShape("has no 'pass@1'")
        return cls(
            value=value,
            ci95=fields.read_interval(row, "ci95"),
            n=fields.read_optional_int(row, "n"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the files have it."""
        row: dict[str, Any] = {"pass@1": self.value}
        if self.ci95 is not None:
            row["ci95"] = list(self.ci95)
        if self.n is not None:
            row["n"] = self.n
        return row


def parse_estimate(row: Row, key: str) -> Estimate | None:
    """Read an estimate that may be absent, or empty where nothing could be compared."""
    estimate = fields.read_mapping(row, key)
    if estimate.get("pass@1") is None:
        return None
    return Estimate.parse_row(estimate)
