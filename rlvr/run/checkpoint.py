"""Checkpoints that a crash cannot hurt.

They are written aside, checked by digest, and moved into place in one step.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
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
from rlvr.storage import fields
from rlvr.storage.fields import WrongShape

NamedTensors = Iterable[tuple[str, Tensor]]
Facts = Mapping[str, Any]
# What the reading of a file of another kind raises.
UNREADABLE = (OSError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError)
NEEDED_FILES = {".metadata", "learner.pt", "position.json"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved beside the tensors: the learner's state, and the position of the run."""

    path: Path
    learner: dict[str, Any]
    position: dict[str, Any]


def save(
    folder: Path,
    tensors: NamedTensors,
    learner: Facts,
    position: Facts,
    keep: int,
    best: int | None,
    world: World = SINGLE_PROCESS,
) -> Path:
    """Write `folder/step-N`, of which the last `keep` and that of the step `best` stay.

    Each rank writes its part of the tensors, and of those that all ranks hold alike a share. Raises
    RunError where the disk refuses, leaving the older ones.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    target = folder / f"step-{position['step']:06d}"
    aside = folder / ".unfinished"
    try:
        world.broadcast(lambda: _begin(aside, learner, position))
        _write_tensors(aside, tensors, world)
        digests = _digest_files(aside, world)
        world.broadcast(lambda: _complete(aside, target, digests))
    except (OSError, RuntimeError, CheckpointException) as error:
        if world.writes:
            shutil.rmtree(aside, ignore_errors=True)
        raise _describe_failure(folder, target, error) from error
    if world.writes:
        _delete_older(folder, keep, best)
    return target


def _begin(aside: Path, learner: Facts, position: Facts) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    torch.save(dict(learner), aside / "learner.pt")
    (aside / "position.json").write_text(json.dumps(position), encoding="utf-8")


def _write_tensors(aside: Path, tensors: NamedTensors, world: World) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_parts

    with _no_single_process_warning():
        save_parts(
            dict(tensors),
            storage_writer=FileSystemWriter(aside),
            process_group=world.group,
            no_dist=world.size == 1,
        )


def _digest_files(folder: Path, world: World) -> dict[str, str]:
    """Return the digest of every file by its name; each rank reads a share of them."""
    files = sorted(folder.iterdir())
    digests = world.all_gather([_digest(path) for path in world.local_shard(files)])
    names = [path.name for path in files]
    return dict(zip(names, digests, strict=True))


def _complete(aside: Path, target: Path, digests: Mapping[str, str]) -> None:
    """Write the manifest and move the folder into place once all of it is on the disk."""
    (aside / "manifest.json").write_text(json.dumps(digests), encoding="utf-8")
    for path in (*aside.iterdir(), aside):
        _flush(path)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    _flush(target.parent)


def _describe_failure(folder: Path, target: Path, error: BaseException) -> RunError:
    last = next(reversed(list_checkpoints(folder)), None)
    remains = "there is no earlier one"
    if last is not None:
        remains = f"the last good one is {last}"
    return RunError(f"cannot save the checkpoint {target}: {_find_cause(error)}; {remains}")


def _find_cause(error: BaseException) -> str:
    """Return the first line of what went wrong, on whichever rank it did."""
    failures: Mapping[int, tuple[BaseException, Any]] = getattr(error, "failures", {})
    first, _ = next(iter(failures.values()), (error, None))
    return next(iter(str(first).splitlines()), type(first).__name__)


def _delete_older(folder: Path, keep: int, best: int | None) -> None:
    """Delete all checkpoints but the last `keep` and that of the step `best`."""
    for path in list_checkpoints(folder)[:-keep]:
        is_best = best is not None and path.name == f"step-{best:06d}"
        if not is_best:
            shutil.rmtree(path)


class Saver:
    """Saves the checkpoints of a run.

    In the `background` a thread writes a copy while the next steps are made, one checkpoint at a
    time.
    """

    def __init__(self, folder: Path, keep: int, world: World, background: bool) -> None:
        self.folder = folder
        self.keep = keep
        self.world = world
        self.thread: ThreadPoolExecutor | None = None
        self.writing: Future[Path] | None = None
        if background:
            self.world = world.new_group()
            self.thread = ThreadPoolExecutor(1, "checkpoint")

    def __call__(
        self,
        tensors: NamedTensors,
        learner: Facts,
        position: Facts,
        best: int | None,
    ) -> None:
        """Save a checkpoint as `save` does.

        In the background what went wrong is raised by `check`, the next call, `wait` or `close`.
        """
        self.wait()
        if self.thread is None:
            save(self.folder, tensors, learner, position, self.keep, best, self.world)
            return
        self.writing = self.thread.submit(
            save,
            self.folder,
            self._copy_tensors(tensors),
            _copy_facts(learner),
            position,
            self.keep,
            best,
            self.world,
        )

    def _copy_tensors(self, tensors: NamedTensors) -> list[tuple[str, Tensor]]:
        """Return this rank's part of the tensors, in memory that no update writes to."""
        copies: list[tuple[str, Tensor]] = []
        for index, (name, tensor) in enumerate(tensors):
            is_sharded = hasattr(tensor, "full_tensor")
            # of what all ranks hold alike, each copies a share
            if is_sharded or index % self.world.size == self.world.rank:
                copies.append((name, tensor.detach().to("cpu", copy=True)))
        return copies

    def check(self) -> None:
        """Raise what went wrong in the background, where that is known by now."""
        if self.writing and self.writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until what was asked for is on the disk; raise what went wrong."""
        if self.writing is None:
            return
        error = self.writing.exception()
        self.writing = None
        if error:
            raise error

    def close(self) -> None:
        """Write the last checkpoint to its end, also where the run fails."""
        if self.thread:
            self.thread.shutdown()
            self.wait()


def _copy_facts(facts: Facts) -> dict[str, Any]:
    """Return a copy by way of torch's file format; states of eight bits cannot be copied
    otherwise.
    """
    buffer = io.BytesIO()
    torch.save(dict(facts), buffer)
    buffer.seek(0)
    return torch.load(buffer, "cpu", weights_only=True)


def policy_weights(path: Path) -> dict[str, Tensor]:
    """Return the policy's master weights of a checkpoint by their names in the model."""
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors(path).items():
        match = re.fullmatch("policy/(.*)/weight", name)
        if match:
            weights[match[1]] = tensor
    return weights


def _no_model(name: str) -> Tensor:
    """Return a tensor whose shape no saved one has."""
    return torch.empty(0)


def tensors(path: Path, like: Callable[[str], Tensor] = _no_model) -> dict[str, Tensor]:
    """Return the saved tensors by name.

    One of the shape of `like(name)` is laid out as that is: on its device, and each rank reads its
    own part where it is sharded. The number of processes need not be that of the save. Raises
    RunError where they cannot be read.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict_loader import load

    from rlvr.run.checkpoint_layout import LayoutReader

    reader = LayoutReader(path)
    with _explain_unreadable(path):
        layout = reader.read_tensor_layout()
    loaded: dict[str, Any] = {}
    for name, stored in layout.items():
        model = like(name)
        dtype = stored.properties.dtype
        if model.shape == stored.size:
            loaded[name] = torch.empty_like(model, dtype=dtype, requires_grad=False)
        else:  # the count of steps
            loaded[name] = torch.empty(stored.size, dtype=dtype, device=model.device)
    with _explain_unreadable(path), _no_single_process_warning():
        load(loaded, storage_reader=reader, no_dist=not dist.is_initialized())
    return loaded


@contextmanager
def _explain_unreadable(path: Path) -> Iterator[None]:
    """Raise RunError for whatever the reading of a damaged file raises."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (*UNREADABLE, CheckpointException) as error:
        raise _refuse_reading(path, error) from error


@contextmanager
def _no_single_process_warning() -> Iterator[None]:
    """Silence the warning that torch gives wherever a single process saves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first.

    What else lies beside them, such as a copy or a link with a name of the user's, is none.
    """
    found = [path for path in folder.glob("step-*") if _is_checkpoint(path)]
    return sorted(found, key=step_of)


def _is_checkpoint(path: Path) -> bool:
    is_named = re.fullmatch("step-[0-9]{6,}", path.name) is not None
    return is_named and path.is_dir() and not path.is_symlink()


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, or of other weights, by the number that ends its name."""
    return int(path.name.rpartition("-")[2])


def find_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose files are whole, and a line for each newer one that is
    damaged.
    """
    damaged: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        fault = find_fault(path)
        if fault is None:
            return _read(path), damaged
        damaged.append(f"the checkpoint {path} is damaged ({fault}); using the one before it")
    return None, damaged


def _read(path: Path) -> Checkpoint:
    """Read what lies beside the tensors; raises RunError where it is of another shape."""
    try:
        learner = torch.load(path / "learner.pt", weights_only=True)
        position = json.loads((path / "position.json").read_text(encoding="utf-8"))
        if not isinstance(learner, dict):
            raise WrongShape("learner.pt is no state of a learner")
        if not isinstance(position, dict):
            raise WrongShape("position.json is no object")
        fields.read_int(position, "step")
    except (*UNREADABLE, RuntimeError) as error:
        raise _refuse_reading(path, error) from None
    return Checkpoint(path, learner, position)


def _refuse_reading(path: Path, error: BaseException) -> RunError:
    return RunError(
        f"cannot read the checkpoint {path}: {_find_cause(error)}; remove it, and an earlier one is taken"
    )


def find_fault(path: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint; None where they are as written."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest.keys() >= NEEDED_FILES:
            return "its manifest.json does not name its files"
        changed = [name for name, digest in manifest.items() if _digest(path / name) != digest]
    except (OSError, ValueError) as error:
        return str(error)
    if changed:
        return f"{changed[0]} has changed"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_weights(folder: Path, weights: NamedTensors, world: World = SINGLE_PROCESS) -> None:
    """Save whole weights alone in a folder; when this returns, every rank can read them."""
    if world.writes:
        _write_weights(folder, weights)
    else:
        deque(weights, maxlen=0)  # gathering sharded weights takes every rank
    world.broadcast(lambda: None)  # wait for rank 0


def _write_weights(folder: Path, weights: NamedTensors) -> None:
    """Write the weights to the disk and move them into place in one step."""
    aside = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights}
    try:
        aside.mkdir(parents=True)
        save_file(tensors, aside / "weights.safetensors")
        _complete(aside, folder, {})
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(f"cannot save {folder}: {error}; what was saved before it stays") from error


def load_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / "weights.safetensors")
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot read {folder}: {error}") from error
