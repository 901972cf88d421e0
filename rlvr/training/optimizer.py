"""The optimiser steps of one model, at a learning rate that follows a schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
        """Return the learning rate of an update, which are counted from 0."""
        if update < self.warmup:
            return self.peak * (update + 1) / self.warmup
        scheduled = max(1, self.total - self.warmup)
        progress = min(1.0, (update - self.warmup) / scheduled)
        return self.peak * self.schedule(progress)


class OptimizerStepper:
    """The optimiser steps of one model; `count` includes the skipped ones.

    A later stage of a run has a stepper of its own over the same optimiser, with other settings.
    """

    def __init__(
        self,
        model: TrainableModel,
        optimizer: torch.optim.Optimizer,
        schedule: LrSchedule,
        clip: float | None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.settings = settings or {}
        self.count = 0
        self.broken = 0  # updates in a row without a finite gradient

    def step(self, prefix: str = "") -> Metrics:
        """Clip by the global norm and step; without a finite gradient nothing moves, and RunError
        ends the third such update in a row.
        """
        rate = self.schedule.at(self.count)
        self.count += 1
        self.model.sum_gradients()
        parameters = [p for p in self.model.master if p.grad is not None]
        norm = self._clip_gradients(parameters)
        is_finite = math.isfinite(norm)
        self._count_broken(is_finite, prefix)
        if is_finite and parameters:
            self._set_rate(rate)
            self.optimizer.step()
            self.model.sync_compute_weights()
        self.optimizer.zero_grad(set_to_none=True)
        metrics = Metrics.sum(**{f"{prefix}skipped_updates": float(not is_finite)})
        metrics += Metrics.mean(f"{prefix}grad_norm", norm, 1)
        return metrics + Metrics.mean(f"{prefix}lr", rate, 1)

    def _clip_gradients(self, parameters: Sequence[Tensor]) -> float:
        """Scale the gradients down to the limit and return their norm before that."""
        if not parameters:
            return 0.0
        norm = nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)
        return float(full_tensor(norm))

    def _count_broken(self, is_finite: bool, prefix: str) -> None:
        """Raise RunError where too many updates in a row had no finite gradient."""
        if is_finite:
            self.broken = 0
            return
        self.broken += 1
        if self.broken >= BROKEN_IN_A_ROW:
            raise RunError(
                f"{self.broken} updates in a row had no finite gradient; lower {prefix.replace('/', '.')}optimizer.lr"
            )

    def _set_rate(self, rate: float) -> None:
        """Give the optimiser the rate and the settings of this stage."""
        for group in self.optimizer.param_groups:
            current = group["lr"]
            group.update(self.settings)
            if isinstance(current, Tensor):
                # torchao keeps the rate in a tensor, which its compiled step reads
                group["lr"] = current.fill_(rate)
            else:
                group["lr"] = rate

    def carry(self, before: OptimizerStepper) -> None:
        """Go on from the updates of the stage before."""
        self.count = before.count
        self.broken = before.broken

    def saved(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every master weight and what AdamW keeps of it, as `NAME/weight`, `NAME/exp_avg`
        and so on.
        """
        for name, master in zip(self.model.names, self.model.master, strict=True):
            yield f"{name}/weight", master.detach()
            if self._has_plain_states and master in self.optimizer.state:
                for key, tensor in self.optimizer.state[master].items():
                    yield f"{name}/{key}", tensor

    @property
    def _has_plain_states(self) -> bool:
        """Whether the optimiser's states are ordinary tensors, as those of eight bits are not."""
        return type(self.optimizer) is torch.optim.AdamW

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the tensors."""
        state: dict[str, Any] = {"updates": self.count, "broken": self.broken}
        if not self._has_plain_states:
            state["optimizer"] = self.optimizer.state_dict()
        return state

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `saved` and `state` gave."""
        by_weight: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            name, _, key = path.rpartition("/")
            by_weight.setdefault(name, {})[key] = tensor
        for name, master in zip(self.model.names, self.model.master, strict=True):
            saved = by_weight[name]
            fill(master, saved.pop("weight"))
            if saved:
                self.optimizer.state[master] = saved
        if not self._has_plain_states:
            self.optimizer.load_state_dict(state["optimizer"])
        self.model.sync_compute_weights()
        self.count = state["updates"]
        self.broken = state["broken"]
