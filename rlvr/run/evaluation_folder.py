"""The folder of an evaluation: its settings, its samples as they come, its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.config import merge
from rlvr.errors import UserError
from rlvr.storage.jsonl import JsonLines, write_whole


def digest_weights(folder: Path) -> str:
    """A digest of the names, sizes, beginnings and ends of a model's files; of a hub id its name."""
    digest = hashlib.sha256(folder.name.encode())
    for path in (
        sorted(folder.glob("*.safetensors"))
        + sorted(folder.glob("*.bin"))
        + sorted(folder.glob("*.json"))
    ):
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode() + file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


class Folder:
    """The folder of an evaluation: its settings, its samples as they come, and its results."""

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        self.path, self.samples = path, path / "samples.jsonl"
        kept = path / "settings.json"
        try:
            if overwrite:
                for name in ("samples.jsonl", "settings.json", "results.json"):
                    (path / name).unlink(missing_ok=True)
            if kept.is_file():
                key = merge.find_difference(settings, json.loads(kept.read_text(encoding="utf-8")))
                if key is not None:
                    fault = f"an evaluation with another '{key}' lies here"
                    raise UserError(f"{path}: {fault}; choose another --out, or --overwrite")
            elif self.samples.is_file():
                raise UserError(
                    f"{path}: holds samples but no settings.json; choose another --out, or --overwrite"
                )
            path.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(settings, indent=1), encoding="utf-8")
            self.log = JsonLines(self.samples)  # which repairs a torn last line
            self.done: dict[tuple[Any, ...], dict[str, Any]] = {
                self._key(r): r for r in JsonLines.read(self.samples)
            }
        except OSError as error:
            raise UserError(
                f"{error.filename or path}: {error.strerror or error}; choose another --out"
            ) from None
        except ValueError:
            raise UserError(
                f"{kept}: is not valid JSON; choose another --out, or --overwrite"
            ) from None

    @staticmethod
    def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("benchmark", "step", "seed", "id", "index"))

    def add(self, row: dict[str, Any]) -> None:
        """Keep a sample; it is on the disk when this returns."""
        self.log.append(row)
        self.done[self._key(row)] = row

    def finish(self, results: Sequence[Mapping[str, Any]]) -> None:
        self.log.close()
        write_whole(self.path / "results.json", json.dumps(results, indent=1))
