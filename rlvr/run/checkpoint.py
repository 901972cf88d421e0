"""Checkpoints that a crash cannot hurt: written aside, checked by digest, and moved into place in
one step.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.errors import RunError

Named = Iterable[tuple[str, Tensor]]


Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved beside the tensors: the learner's state, and the position of the run."""

    path: Path
    learner: dict[str, Any]
    position: dict[str, Any]


def save(
    folder: Path,
    tensors: Named,
    learner: Facts,
    position: Facts,
    keep: int,
    best: int | None,
    world: World = SINGLE_PROCESS,
) -> Path:
    """Write `folder/step-N`, of which the last `keep` and that of the step `best` stay; raises
    RunError where the disk refuses, leaving the older ones. Each rank writes its part of the
    tensors, and of those that all ranks hold alike a share.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_parts

    target, aside = folder / f"step-{position['step']:06d}", folder / ".unfinished"
    try:
        world.broadcast(lambda: _begin(aside, learner, position))
        with _alone_or_not():
            writer, alone = FileSystemWriter(aside), world.size == 1
            save_parts(
                dict(tensors), storage_writer=writer, process_group=world.group, no_dist=alone
            )
        files = sorted(aside.iterdir())
        digests = world.all_gather([_digest(path) for path in world.local_shard(files)])
        world.broadcast(
            lambda: _complete(
                aside, target, {path.name: d for path, d in zip(files, digests, strict=True)}
            )
        )
    except (OSError, RuntimeError, CheckpointException) as error:
        if world.writes:
            shutil.rmtree(aside, ignore_errors=True)
        last = max(list_checkpoints(folder), default=None)
        rest = f"the last good one is {last}" if last else "there is no earlier one"
        raise RunError(f"cannot save the checkpoint {target}: {_cause(error)}; {rest}") from error
    for old in sorted(list_checkpoints(folder))[:-keep] if world.writes else ():
        if best is None or old.name != f"step-{best:06d}":
            shutil.rmtree(old)
    return target


class Saver:
    """Saves the checkpoints of a run; in the `background` a thread writes a copy while the next
    steps are made, one checkpoint at a time.
    """

    def __init__(self, folder: Path, keep: int, world: World, background: bool) -> None:
        self.folder, self.keep = folder, keep
        self.world = world.new_group() if background else world
        self.thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self.writing: Future[Path] | None = None

    def __call__(self, tensors: Named, learner: Facts, position: Facts, best: int | None) -> None:
        """As `save`; in the background what went wrong is raised by `check`, the next call, `wait`
        or `close`.
        """
        self.wait()
        if self.thread is None:
            save(self.folder, tensors, learner, position, self.keep, best, self.world)
            return
        # Of what all ranks hold alike, each copies a share.
        rank, size, whole = self.world.rank, self.world.size, io.BytesIO()
        own = [
            (name, t)
            for i, (name, t) in enumerate(tensors)
            if hasattr(t, "full_tensor") or i % size == rank
        ]
        copies = [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in own]
        torch.save(dict(learner), whole)  # states of eight bits cannot be copied otherwise
        kept = torch.load(io.BytesIO(whole.getvalue()), "cpu", weights_only=True)
        self.writing = self.thread.submit(
            save, self.folder, copies, kept, position, self.keep, best, self.world
        )

    def check(self) -> None:
        """Raises what went wrong in the background, where that is known by now."""
        if self.writing and self.writing.done():
            self.wait()

    def wait(self) -> None:
        """Until what was asked for is on the disk."""
        if self.writing:
            error = self.writing.exception()
            self.writing = None
            if error:
                raise error

    def close(self) -> None:
        """The last checkpoint is written to its end, also where the run fails."""
        if self.thread:
            self.thread.shutdown()
            self.wait()


def _begin(aside: Path, learner: Facts, position: Facts) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    torch.save(dict(learner), aside / "learner.pt")
    (aside / "position.json").write_text(json.dumps(position), encoding="utf-8")


def _complete(aside: Path, target: Path, digests: Mapping[str, str]) -> None:
    (aside / "manifest.json").write_text(json.dumps(digests), encoding="utf-8")
    for path in (*aside.iterdir(), aside):
        _flush(path)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    _flush(target.parent)


def _cause(error: BaseException) -> str:
    """The first line of what went wrong, on whichever rank it did."""
    failures: Mapping[int, tuple[BaseException, Any]] = getattr(error, "failures", {})
    first = next((failure for failure, _ in failures.values()), error)
    return str(first).splitlines()[0]


def policy_weights(path: Path) -> dict[str, Tensor]:
    """The policy's master weights of a checkpoint by their names in the model."""
    named = {
        re.fullmatch("policy/(.*)/weight", name): tensor for name, tensor in tensors(path).items()
    }
    return {name[1]: tensor for name, tensor in named.items() if name}


def tensors(
    path: Path, like: Callable[[str], Tensor] = lambda name: torch.empty(0)
) -> dict[str, Tensor]:
    """The saved tensors by name. One of the shape of `like(name)` is laid out as that is: on its
    device, and each rank reads its own part where it is sharded. The number of processes need not
    be that of the save.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader, found = FileSystemReader(path), dict[str, Any]()
    for name, kept in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(kept, TensorStorageMetadata)
        model, dtype = like(name), kept.properties.dtype
        if model.shape == kept.size:
            found[name] = torch.empty_like(model, dtype=dtype, requires_grad=False)
        else:  # the count of steps
            found[name] = torch.empty(kept.size, dtype=dtype, device=model.device)
    with _alone_or_not():
        load(found, storage_reader=reader, no_dist=not dist.is_initialized())
    return found


@contextmanager
def _alone_or_not() -> Iterator[None]:
    """Without the warning that torch gives wherever a single process saves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def find_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are whole, and a line for each newer one that is damaged."""
    damaged: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        fault = _fault(path)
        if fault is None:
            position = json.loads((path / "position.json").read_text(encoding="utf-8"))
            learner = torch.load(path / "learner.pt", weights_only=True)
            return Checkpoint(path, learner, position), damaged
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


def save_weights(folder: Path, weights: Named, world: World = SINGLE_PROCESS) -> None:
    """Whole weights alone, under a name of their own; when this returns, every rank can read them."""
    if world.writes:
        _write_weights(folder, weights)
    else:
        deque(weights, maxlen=0)
    world.broadcast(lambda: None)  # wait for rank 0


def _write_weights(folder: Path, weights: Named) -> None:
    """On the disk and moved into place in one step."""
    aside = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in weights},
            aside / "weights.safetensors",
        )
        _complete(aside, folder, {})
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(f"cannot save {folder}: {error}; what was saved before it stays") from error


def load_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / "weights.safetensors")
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot read {folder}: {error}") from error
