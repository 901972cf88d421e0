"""What a line of `history.jsonl` holds: a problem visited in a step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rlvr.storage import fields
from rlvr.storage.fields import Row


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """One line of `history.jsonl`: a problem visited in a step."""

    step: int
    """The step that drew the problem."""

    id: str
    """Identity of the problem."""

    accuracy: float
    """Share of its samples that are right."""

    n: int
    """Number of its samples."""

    @classmethod
    def parse_row(cls, row: Row) -> HistoryRecord:
        """Read a line; raises WrongShape."""
        return cls(
            step=fields.read_int(row, "step"),
            id=fields.read_text(row, "id"),
            accuracy=fields.read_number(row, "accuracy"),
            n=fields.read_count(row, "n"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the line as the file has it."""
        return asdict(self)
