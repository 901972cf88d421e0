"""The optimiser steps of one model and their learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlvr.distributed.world import full_tensor
from rlvr.errors import RunError
from rlvr.metrics.mergeable import Metrics
from rlvr.models.tensors import fill
from rlvr.models.trainable import TrainableModel

if TYPE_CHECKING:
    from collections.abc import Callable


# After so many updates in a row without a finite gradient the run stops.
BROKEN_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class LrSchedule:
    """The learning rate of the n-th update: linear warm-up, then the schedule over the rest."""

    peak: float
    warmup: int
    total: int
    schedule: Callable[[float], float]

    def at(self, update: int) -> float:
        if update < self.warmup:
            return self.peak * (update + 1) / self.warmup
        return self.peak * self.schedule(
            min(1.0, (update - self.warmup) / max(1, self.total - self.warmup))
        )


class OptimizerStepper:
    """The optimiser steps of one model; `count` includes the skipped ones. A later stage of a run
    has updates of its own over the same optimiser, with other settings.
    """

    def __init__(
        self,
        model: TrainableModel,
        optimizer: torch.optim.Optimizer,
        rate: LrSchedule,
        clip: float | None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.optimizer, self.rate, self.clip = model, optimizer, rate, clip
        self.settings = settings or {}
        self.count = self.broken = 0

    def step(self, prefix: str = "") -> Metrics:
        """Clip by the global norm and step; without a finite gradient nothing moves, and RunError
        ends the third such update in a row.
        """
        rate = self.rate.at(self.count)
        self.count += 1
        self.model.sum_gradients()
        parameters = [p for p in self.model.master if p.grad is not None]
        norm = (
            float(full_tensor(nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)))
            if parameters
            else 0.0
        )
        finite = math.isfinite(norm)
        self.broken = 0 if finite else self.broken + 1
        if self.broken >= BROKEN_IN_A_ROW:
            raise RunError(
                f"{self.broken} updates in a row had no finite gradient; lower {prefix.replace('/', '.')}optimizer.lr"
            )
        if finite and parameters:
            for group in self.optimizer.param_groups:
                # torchao keeps the rate in a tensor, which its compiled step reads
                kept = group["lr"]
                group.update(
                    self.settings, lr=kept.fill_(rate) if isinstance(kept, Tensor) else rate
                )
            self.optimizer.step()
            self.model.sync_compute_weights()
        self.optimizer.zero_grad(set_to_none=True)
        return (
            Metrics.sum(**{f"{prefix}skipped_updates": float(not finite)})
            + Metrics.mean(f"{prefix}grad_norm", norm, 1)
            + Metrics.mean(f"{prefix}lr", rate, 1)
        )

    def carry(self, before: OptimizerStepper) -> None:
        """Go on from the updates of the stage before."""
        self.count, self.broken = before.count, before.broken

    def saved(self) -> Iterator[tuple[str, Tensor]]:
        """Every master weight and what AdamW keeps of it, as `NAME/weight`, `NAME/exp_avg` and so
        on.
        """
        for name, master in zip(self.model.names, self.model.master, strict=True):
            yield f"{name}/weight", master.detach()
            yield from ((f"{name}/{what}", tensor) for what, tensor in self._states(master).items())

    def _states(self, master: Tensor) -> Mapping[str, Tensor]:
        return self.optimizer.state.get(master, {}) if self._plain else {}

    @property
    def _plain(self) -> bool:
        """Whether the optimiser's states are ordinary tensors, as those of eight bits are not."""
        return type(self.optimizer) is torch.optim.AdamW

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors."""
        others = {} if self._plain else {"optimizer": self.optimizer.state_dict()}
        return {**others, "updates": self.count, "broken": self.broken}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `saved` and `state` gave."""
        kept: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, what = key.rpartition("/")
            kept.setdefault(name, {})[what] = tensor
        for name, master in zip(self.model.names, self.model.master, strict=True):
            fill(master, kept[name].pop("weight"))
            if kept[name]:
                self.optimizer.state[master] = kept[name]
        if not self._plain:
            self.optimizer.load_state_dict(state["optimizer"])
        self.model.sync_compute_weights()
        self.count, self.broken = state["updates"], state["broken"]
