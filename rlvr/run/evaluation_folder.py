"""The folder of an evaluation: its settings, its samples as they come, its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlvr.config import merge
from rlvr.errors import UserError
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.jsonl import JsonLines, write_whole
from rlvr.storage.records import read_records
from rlvr.storage.sample_record import SampleRecord

SAMPLES = "samples.jsonl"
SETTINGS = "settings.json"
RESULTS = "results.json"
DIGESTED_BYTES = 1 << 20  # of the beginning and of the end of each file of weights


class SampleKey(NamedTuple):
    """What tells a sample of an evaluation from all others of its folder."""

    benchmark: str | None
    step: int
    seed: int | None
    problem: str
    index: int

    @staticmethod
    def of(sample: SampleRecord) -> SampleKey:
        return SampleKey(sample.benchmark, sample.step, sample.seed, sample.id, sample.index)


class EvaluationFolder:
    """The folder of an evaluation that is going on; every sample that it holds is `done`."""

    def __init__(self, path: Path) -> None:
        """Take up the samples of a folder whose settings have been checked."""
        self.path = path
        self.log = JsonLines(path / SAMPLES)  # which repairs a torn last line
        self.done: dict[SampleKey, SampleRecord] = {}
        for sample in read_records(path / SAMPLES, SampleRecord):
            self.done[SampleKey.of(sample)] = sample

    @staticmethod
    def open(path: Path, settings: Mapping[str, Any], overwrite: bool) -> EvaluationFolder:
        """Go on with the evaluation in a folder, or begin one there.

        Raises UserError where one with other settings lies there, or it cannot be read or written.
        """
        try:
            if overwrite:
                _delete_evaluation(path)
            _check_settings(path, settings)
            path.mkdir(parents=True, exist_ok=True)
            (path / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
            return EvaluationFolder(path)
        except OSError as error:
            place = error.filename or path
            raise UserError(f"{place}: {error.strerror or error}; choose another --out") from None
        except ValueError:
            raise UserError(
                f"{path / SETTINGS}: is not valid JSON; choose another --out, or --overwrite"
            ) from None

    def add(self, sample: SampleRecord) -> None:
        """Keep a sample; it is on the disk when this returns."""
        self.log.append(sample.dump_row())
        self.done[SampleKey.of(sample)] = sample

    def finish(self, results: Sequence[EvalRecord]) -> None:
        """Write the results and close the folder."""
        self.log.close()
        rows = [record.dump_row() for record in results]
        write_whole(self.path / RESULTS, json.dumps(rows, indent=1))


def _delete_evaluation(path: Path) -> None:
    for name in (SAMPLES, SETTINGS, RESULTS):
        (path / name).unlink(missing_ok=True)


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError where the samples of a folder are not those of such an evaluation."""
    file = path / SETTINGS
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        key = merge.find_difference(settings, before)
        if key is not None:
            fault = f"an evaluation with another '{key}' lies here"
            raise UserError(f"{path}: {fault}; choose another --out, or --overwrite")
    elif (path / SAMPLES).is_file():
        raise UserError(
            f"{path}: holds samples but no settings.json; choose another --out, or --overwrite"
        )


def digest_weights(folder: Path) -> str:
    """Return a digest of the names, sizes, beginnings and ends of a model's files.

    Of a hub id it is one of its name.
    """
    digest = hashlib.sha256(folder.name.encode())
    for pattern in ("*.safetensors", "*.bin", "*.json"):
        for path in sorted(folder.glob(pattern)):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(DIGESTED_BYTES))
                file.seek(max(0, size - DIGESTED_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]
