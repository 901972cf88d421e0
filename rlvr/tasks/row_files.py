"""Read the rows of JSON, JSON Lines and Parquet files.

To read another kind of file, add its reader to `_READERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvr.errors import UserError

# A place in its file, and the row there.   ("line 7", {"question": "2 + 2?", "answer": "4"})
PlacedRow = tuple[str, Any]


def read_rows(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a file with their places; raises UserError."""
    if path.suffix not in _READERS:
        raise UserError(f"{path}: should end in {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; set path to another, or start where it lies")
    try:
        yield from _READERS[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_json(path: Path) -> Iterator[PlacedRow]:
    rows = _parse_json(path.read_bytes(), path.name)
    if not isinstance(rows, list):
        raise UserError(f"{path.name}: should be a list of problems, not {type(rows).__name__}")
    for index, row in enumerate(rows):
        yield f"item {index}", row


def _read_json_lines(path: Path) -> Iterator[PlacedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _parse_json(line, f"{path.name}, line {number}")


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        place = f"column {error.colno}"
        if data.count(b"\n") > 1:
            place = f"line {error.lineno}, {place}"
        raise UserError(f"{where}: not valid JSON: {error.msg} ({place})") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: nested too deeply") from None


def _read_parquet(path: Path) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"{path.name}: not a readable Parquet file: {first_line}") from None
    for index, row in enumerate(table.to_pylist()):
        yield f"row {index}", row


_READERS: Mapping[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
