"""Rows of .json, .jsonl and .parquet files, each with the place that a message about it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr.errors import UserError


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Pairs of a place and a row.   ("line 7", {"question": "2 + 2?", "answer": "4"})"""
    readers = {".json": _json, ".jsonl": _lines, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"{path}: should end in {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _parsed(line, f"{path.name}, line {number}")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parsed(path.read_bytes(), path.name)
    if not isinstance(rows, list):
        raise UserError(f"{path.name}: should be a list of problems, not {type(rows).__name__}")
    yield from ((f"item {index}", row) for index, row in enumerate(rows))


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if data.count(b"\n") > 1 else f"column {error.colno}"
        raise UserError(f"{where}: not valid JSON: {error.msg} ({place})") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: nested too deeply") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path.name}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    yield from ((f"row {index}", row) for index, row in enumerate(table.to_pylist()))
