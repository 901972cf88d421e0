"""The folder that a run leaves: where its parts lie, and whether it is free."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import RunError, UserError
from rlvr.storage.lock import LOCK_FILE

# All that a run and its trackers write, but for the lock, which this process holds.
PARTS = {
    "checkpoints",
    "evals.jsonl",
    "history.jsonl",
    "metrics.jsonl",
    "model",
    "problems.json",
    "recipe.yaml",
    "report.html",
    "samples",
    "summary.json",
    "tensorboard",
    "wandb",
    "wandb_id",
}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`runs/NAME/` and its parts."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One line for each step."""
        return self.path / "metrics.jsonl"

    @property
    def evals(self) -> Path:
        """One line for each benchmark of each evaluation."""
        return self.path / "evals.jsonl"

    @property
    def history(self) -> Path:
        """One line for each problem that a step visits."""
        return self.path / "history.jsonl"

    @property
    def samples(self) -> Path:
        """A file of rollouts for each step and each evaluation."""
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def locate_train_samples(self, step: int) -> Path:
        return self.samples / f"train-{step:06d}.jsonl"

    def locate_eval_samples(self, benchmark: str, step: int) -> Path:
        return self.samples / f"eval-{benchmark}-{step:06d}.jsonl"

    def check_free(self, overwrite: bool) -> None:
        """Raise UserError where a run lies here already and may not be overwritten."""
        existing = next(path for path in (self.path, *self.path.parents) if path.exists())
        if not existing.is_dir():
            raise UserError(
                f"{self.path}: '{existing}' is a file; choose another run.name or run.folder"
            )
        if self._is_empty() or self._is_only_begun():
            return
        if not overwrite:
            raise UserError(
                f"{self.path}: a run lies here already; add --resume to go on or --overwrite to replace it"
            )
        # a run has both from its start
        if not (self.recipe.is_file() and self.metrics.is_file()):
            raise UserError(
                f"{self.path}: not empty and not a run folder, so not overwritten; choose another run.name"
            )

    def _is_empty(self) -> bool:
        if not self.path.exists():
            return True
        return all(path.name == LOCK_FILE for path in self.path.iterdir())

    def _is_only_begun(self) -> bool:
        """Return whether a run was killed here before it had its recipe.

        There is nothing then but what a run makes first, and empty.
        """
        made_first = {
            LOCK_FILE,
            self.samples.name,
            self.checkpoints.name,
            ".recipe.yaml.unfinished",
        }
        logs = {self.metrics.name, self.evals.name, self.history.name}
        for path in self.path.rglob("*"):
            is_empty_log = path.name in logs and not path.stat().st_size
            if path.name not in made_first and not is_empty_log:
                return False
        return True

    def clear(self, overwrite: bool) -> None:
        """Delete what a run writes; what else lies here stays. Raises UserError as `check_free`."""
        self.check_free(overwrite)
        if not self.path.exists():
            return
        for path in list(self.path.iterdir()):
            if path.name in PARTS or path.name.endswith(".unfinished"):
                _delete(path)

    def make(self) -> None:
        """Make the folder with its folders; raises RunError."""
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror}") from error


def _delete(path: Path) -> None:
    """Delete a file or a folder; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
