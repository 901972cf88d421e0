"""Read and write the lines of the files of a run, whatever they hold.

Every type has one writer, `dump_row`, whose keys and order are those of the file, and one reader,
`parse_row`, which raises WrongShape. `read_records` reads a whole file and says which line is wrong.
Keys that a reader does not know are passed over; keys that a line lacks have the defaults that the
fields name. Each file of a run has a file beside this one, named after what a line of it is. Imports
no room.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from rlvr.errors import UserError
from rlvr.storage import fields
from rlvr.storage.fields import Row, WrongShape
from rlvr.storage.jsonl import JsonLines


class Record(Protocol):
    """What every line of a file is read as."""

    @classmethod
    def parse_row(cls, row: Row) -> Self: ...

    def dump_row(self) -> dict[str, Any]: ...


RecordType = TypeVar("RecordType", bound=Record)


def read_records(path: Path, kind: type[RecordType]) -> list[RecordType]:
    """Read a file of one record a line, such as `read_records(run / "evals.jsonl", EvalRecord)`.

    A half-written last line is passed over. Raises UserError with file and line for another shape.
    """
    records = []
    for number, row in JsonLines.read_numbered(path):
        try:
            records.append(kind.parse_row(row))
        except WrongShape as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return records


def parse_each(row: Row, key: str, kind: type[RecordType]) -> dict[str, RecordType]:
    """Read the objects of an object under `key`; raises WrongShape."""
    objects = fields.read_mapping(row, key)
    return {name: kind.parse_row(fields.read_mapping(objects, name)) for name in objects}


def dump_each(records: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """Return the objects of an object as the file has them."""
    return {name: record.dump_row() for name, record in records.items()}
