"""Files that survive a crash: JSON Lines that grow, and files that are replaced at one stroke."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlvr.errors import RunError, UserError


class JsonLines:
    """A file of one JSON object a line; a record is on the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
            self._drop_broken_tail()
        except OSError as error:
            raise _explain_refusal(self.path, error) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record.

        Where the disk refuses, the file is left as it was and RunError is raised.
        """
        data = encode(record)
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(data):  # an unbuffered write may be short
                written += self._file.write(data[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            raise _explain_refusal(self.path, error) from error

    def close(self) -> None:
        self._file.close()

    def _drop_broken_tail(self) -> None:
        """Make the file end in a whole line.

        Else the next record would melt into half of another.
        """
        self._file.seek(0)
        data = self._file.readall() or b""
        body = data.rstrip()
        if not body:
            return
        start_of_last = body.rfind(b"\n") + 1
        if _parse(body[start_of_last:]) is None:
            self._file.truncate(start_of_last)
        elif not data.endswith(b"\n"):
            self._file.write(b"\n")

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Return all records; raises UserError for a broken line.

        A half-written last line is passed over.
        """
        return [record for _, record in JsonLines.read_numbered(path)]

    @staticmethod
    def read_numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield all records with the numbers of their lines, from 1; raises UserError as `read`."""
        try:
            lines = Path(path).read_bytes().rstrip().split(b"\n")
        except IsADirectoryError:
            raise UserError(f"{path}: is a folder where a file should be; move it away") from None
        for number, line in enumerate(lines, start=1):
            record = _parse(line)
            if record is not None:
                yield number, record
            elif line.strip() and number < len(lines):
                raise UserError(
                    f"{path}, line {number}: is not a JSON object; repair or remove the line"
                )

    @staticmethod
    def write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace the file by these records at one stroke; raises RunError."""
        write_whole(path, b"".join(map(encode, records)))

    @staticmethod
    def cut(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keep only the records that `keep` approves; a file that is not there stays so."""
        if Path(path).exists():
            JsonLines.write(path, filter(keep, JsonLines.read(path)))


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file at one stroke: a crash leaves the old or the new one; raises RunError.

    What is behind a link is replaced, not the link; into a device or pipe it is written.
    """
    data = content
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    try:
        target = Path(path)
        if target.is_symlink():
            target = target.resolve()
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(target, data)
    except OSError as error:
        raise _explain_refusal(Path(path), error) from error
    except (RuntimeError, ValueError) as error:  # a circle of links, a name with NUL in it
        raise RunError(f"cannot write {path}: {error}") from error


def _replace_file(target: Path, data: bytes) -> None:
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except OSError:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            unfinished.unlink(missing_ok=True)
        raise


def _explain_refusal(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror}; what was saved before it stays")


def encode(record: Mapping[str, Any]) -> bytes:
    """Return one JSON line; NaN and infinities become null because JSON has no word for them.

    >>> encode({"step": 1, "loss": float("nan")})
    b'{"step": 1, "loss": null}\\n'
    """
    text = json.dumps(replace_non_finite(record), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace") + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line, None where it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # JSON and UTF-8 errors, numbers of too many digits
        return None
    return record if isinstance(record, dict) else None


def replace_non_finite(value: Any) -> Any:
    """Return the value with None in place of every NaN and infinity, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return value
