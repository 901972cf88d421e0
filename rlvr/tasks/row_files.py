"""Read the rows of JSON, JSON Lines and Parquet files, also compressed ones.

To read another kind of file, add its reader to `_READERS`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvr.errors import UserError
from rlvr.tasks.arrow_rows import iterate_rows

# A place in its file, and the row there.   ("line 7", {"question": "2 + 2?", "answer": "4"})
PlacedRow = tuple[str, Any]

# How many rows of a table are Python's objects at a time.
BATCH_ROWS = 4096

_BOM = b"\xef\xbb\xbf"


def _open_zstd(path: Path) -> io.BufferedReader:
    """Open a file of Zstandard, which Python reads from version 3.14 on, and Arrow always."""
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


# What a file is compressed by, as the end of its name says.
_DECOMPRESSORS: Mapping[str, Callable[[Path], io.BufferedIOBase]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _open_zstd,
}

# Files of other kinds that come in people's way, and what to do with them.
_HINTS = {
    ".zip": "unpack it first",
    ".csv": "convert it: pandas.read_csv(…).to_parquet(…)",
    ".tsv": "convert it: pandas.read_csv(…, sep='\\t').to_parquet(…)",
    ".yaml": "convert it to JSON",
    ".arrow": "convert it: datasets.Dataset.from_file(…).to_parquet(…)",
}


def expand_path(path: str) -> Path:
    """Return a path with the folder of a user in place of `~`; raises UserError for no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user; write the folder out") from None


def read_stem(path: Path) -> str:
    """Return the name of a file without what says its kind and how it is compressed."""
    if path.suffix.lower() in _DECOMPRESSORS:
        path = path.with_suffix("")
    return path.stem


def read_rows(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a file with their places; raises UserError."""
    kind = path
    decompress = _DECOMPRESSORS.get(path.suffix.lower())
    if decompress is not None:
        kind = path.with_suffix("")
    reader = _READERS.get(kind.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: should end in {', '.join(_READERS)}{_find_hint(path)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; set path to another, or start where it lies")
    try:
        with (decompress or _open)(path) as file:
            yield from reader(file, path.name)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read: {reason}") from None


def _open(path: Path) -> io.BufferedIOBase:
    return path.open("rb")


def _find_hint(path: Path) -> str:
    """Return what to do with a file whose name says nothing that is read."""
    hint = _HINTS.get(path.suffix.lower())
    if hint is not None:
        return f"; {hint}"
    try:
        with path.open("rb") as file:
            begin = file.read(64).removeprefix(_BOM).lstrip()[:1]
    except (OSError, ValueError):
        return ""
    name = {b"{": f"{path.name}.jsonl", b"[": f"{path.name}.json"}.get(begin)
    return "" if name is None else f"; it looks as if it should be called {name}"


def _read_json(file: io.BufferedIOBase, name: str) -> Iterator[PlacedRow]:
    """Yield the items of a list, or the rows of JSON Lines, which some files of this name hold."""
    data = file.read().removeprefix(_BOM)
    if _is_json_lines(data):
        yield from _read_json_lines(io.BytesIO(data), name)
        return
    rows = _parse_json(data, name)
    if not isinstance(rows, list):
        raise UserError(f"{name}: should be a list of problems, not {type(rows).__name__}")
    for index, row in enumerate(rows):
        yield f"item {index}", row


def _is_json_lines(data: bytes) -> bool:
    """Return whether there is more than one line, of which the first is an object."""
    first, _, rest = data.strip().partition(b"\n")
    if not first.startswith(b"{") or not rest:
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _read_json_lines(file: io.BufferedIOBase, name: str) -> Iterator[PlacedRow]:
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(_BOM)
        if number == 1 and content.strip() == b"[":
            raise UserError(f"{name}: is one JSON list and no lines of JSON; call it .json")
        if content.strip():
            yield f"line {number}", _parse_json(content, f"{name}, line {number}")


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
    except ValueError:  # Python reads whole numbers up to a limit
        raise UserError(
            f"{where}: a whole number has too many digits; write it in quotes"
        ) from None


def _read_parquet(file: io.BufferedIOBase, name: str) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    index = 0
    if not file.seekable():
        file = io.BytesIO(file.read())
    try:
        # A table whose rows are Python's objects is many times as large as the file.
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS):
            for row in iterate_rows(pyarrow.Table.from_batches([batch])):
                yield f"row {index}", row
                index += 1
    except pyarrow.ArrowException as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"{name}: not a readable Parquet file: {first_line}") from None
    # A text that is no UTF-8, a date that Python does not have, a time zone that nobody knows.
    except (ValueError, KeyError) as error:
        raise UserError(f"{name}: a value cannot be read: {error}") from None


_READERS: Mapping[str, Callable[[io.BufferedIOBase, str], Iterator[PlacedRow]]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
    ".ndjson": _read_json_lines,
}

# What a data file is recognised by, also where a benchmark is asked for by its path.
DATA_SUFFIXES = tuple(_READERS)
