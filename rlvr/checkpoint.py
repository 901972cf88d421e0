"""Checkpoints that a crash cannot hurt: written aside, checked by digest, and moved into place in one step."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvr.errors import RunError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved: weights by name, the learner's state, and the position of the run."""

    path: Path
    weights: dict[str, Tensor]
    learner: dict[str, Any]
    position: dict[str, Any]


def save(
    folder: Path,
    weights: Iterable[tuple[str, Tensor]],
    learner: Mapping[str, Any],
    position: Mapping[str, Any],
    keep: int,
    best: int | None = None,
) -> Path:
    """Write `folder/step-N`, of which the last `keep` and that of the step `best` stay; raises RunError where the disk
    refuses, leaving the older ones."""
    target, aside = folder / f"step-{position['step']:06d}", folder / ".unfinished"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights}, aside / "weights.safetensors")
        kept = io.BytesIO()
        torch.save(dict(learner), kept)
        (aside / "learner.pt").write_bytes(kept.getbuffer())
        (aside / "position.json").write_text(json.dumps(position), encoding="utf-8")
        digests = {path.name: _digest(path) for path in sorted(aside.iterdir())}
        (aside / "manifest.json").write_text(json.dumps(digests), encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _flush(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        last = max(saved(folder), default=None)
        rest = f"the last good one is {last}" if last else "there is no earlier one"
        raise RunError(f"cannot save the checkpoint {target}: {str(error).splitlines()[0]}; {rest}") from error
    for old in saved(folder)[:-keep]:
        if best is None or old.name != f"step-{best:06d}":
            shutil.rmtree(old)
    return target


def saved(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are whole, and a line for each newer one that is damaged."""
    damaged: list[str] = []
    for path in reversed(saved(folder)):
        fault = _fault(path)
        if fault is None:
            position = json.loads((path / "position.json").read_text(encoding="utf-8"))
            learner = torch.load(path / "learner.pt", weights_only=True)
            return Checkpoint(path, load_file(path / "weights.safetensors"), learner, position), damaged
        damaged.append(f"the checkpoint {path} is damaged ({fault}); using the one before it")
    return None, damaged


def _fault(path: Path) -> str | None:
    try:
        digests = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        changed = [name for name, digest in digests.items() if _digest(path / name) != digest]
    except (OSError, ValueError) as error:
        return str(error)
    return f"{changed[0]} has changed" if changed else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_weights(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Weights alone, under a name of their own, on the disk and moved into place in one step."""
    aside = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights}, aside / "weights.safetensors")
        for path in (aside / "weights.safetensors", aside):
            _flush(path)
        aside.rename(folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(f"cannot save {folder}: {error}; what was saved before it stays") from error


def load_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / "weights.safetensors")
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot read {folder}: {error}") from error
