"""Trackers: where records go beside the JSON Lines of the run folder, where a recipe names them.

A tracker is registered with `@register("tracker", name)`. It is called with the run's name, its
configuration and its folder, its keyword-only parameters come from the recipe, and it answers `log`
and `close`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from rlvr.errors import import_optional
from rlvr.registry import register
from rlvr.storage.jsonl import replace_non_finite

Kind = Literal["step", "eval"]


class Tracker(Protocol):
    """What receives every record of a run: one `step` record a step, one `eval` record a benchmark."""

    def log(self, record: Mapping[str, Any], kind: Kind) -> None: ...

    def close(self) -> None: ...


def flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a nested record with paths as names.

    >>> dict(flatten({"reward": 1, "reward_parts": {"answer": 0.5}, "ci95": [0, 1], "phase": "rl"}))
    {'reward': 1.0, 'reward_parts/answer': 0.5, 'ci95/0': 0.0, 'ci95/1': 1.0}
    """
    for key, value in record.items():
        if isinstance(value, list | tuple):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


@register("tracker", "wandb")
class Wandb:
    """Weights & Biases; a resumed run goes on in the same page."""

    def __init__(
        self,
        run_name: str,
        config: Mapping[str, Any],
        folder: Path,
        *,
        project: str = "rlvr",
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        wandb = _import_extra("wandb", "wandb")
        id_file = Path(folder) / "wandb_id"
        known_id = None
        if id_file.exists():
            known_id = id_file.read_text().strip()
        self._run = wandb.init(
            project=project,
            entity=entity,
            name=run_name,
            id=known_id,
            resume="allow",
            config=dict(config),
            dir=str(folder),
            mode=mode,
        )
        id_file.write_text(f"{self._run.id}\n")
        # Our own axis: wandb's must not go back, and a resumed run repeats the steps after its
        # checkpoint.
        self._run.define_metric("*", step_metric="step")

    def log(self, record: Mapping[str, Any], kind: Kind) -> None:
        self._run.log({"step": record["step"], **_name_metrics(record, kind)})

    def close(self) -> None:
        self._run.finish()


@register("tracker", "tensorboard")
class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def __init__(self, run_name: str, config: Mapping[str, Any], folder: Path) -> None:
        module = _import_extra("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(log_dir=str(Path(folder) / "tensorboard"))
        text = json.dumps(replace_non_finite(config), indent=2, default=str)
        indented = text.replace("\n", "\n    ")  # Markdown shows it as it stands
        self._writer.add_text(run_name, f"    {indented}")

    def log(self, record: Mapping[str, Any], kind: Kind) -> None:
        for name, value in _name_metrics(record, kind).items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _name_metrics(record: Mapping[str, Any], kind: Kind) -> dict[str, float]:
    """Return the numbers of a record under names that tell training from each benchmark."""
    prefix = "train/"
    if kind == "eval":
        prefix = f"eval/{record['benchmark']}/"
    measured = {key: value for key, value in record.items() if key != "step"}
    return dict(flatten(measured, prefix))


def _import_extra(module: str, extra: str) -> Any:
    """Return a module of one of our extras; raises UserError that says how to install it."""
    fault = f"tracker '{extra}' cannot be loaded ({{error}}): pip install 'rlvr[{extra}]'"
    return import_optional(module, fault)
