"""What is trained: master weights beside a copy in the compute dtype, and the optimiser steps that move them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlvr.batch import Tokens
from rlvr.errors import RunError
from rlvr.layout import Pass, passes
from rlvr.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

# After so many updates in a row without a finite gradient the run stops.
BROKEN_IN_A_ROW = 3


class Trained:
    """A module with master weights in its own dtype and arithmetic in `compute`.

    As in FSDP2's mixed precision, gradients of the compute copy are added up in the master's dtype. Where the dtypes
    agree the two are one, unless `offload` keeps the masters and with them the optimiser in the memory of the CPU. A
    parameter that needs no gradient has no master.
    """

    def __init__(self, module: Any, compute: torch.dtype, tokens_per_pass: int, *, offload: bool = False) -> None:
        self.module, self.tokens_per_pass = module.eval(), tokens_per_pass
        self.shared_prompts = False
        self.dtype, self.device = next(module.parameters()).dtype, next(module.parameters()).device
        self.wide = torch.promote_types(self.dtype, torch.float32)  # of all that is counted or added up over tokens
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names, self.copies = [name for name, _ in trainable], [p for _, p in trainable]
        self.separate = compute is not self.dtype or (offload and self.device.type != "cpu")
        home = torch.device("cpu") if offload else self.device
        self.master = self.copies
        if self.separate:
            self.master = [nn.Parameter(p.detach().clone().to(home)) for p in self.copies]
        if compute is not self.dtype:
            for parameter in module.parameters():  # buffers, such as those of rotary embeddings, keep their precision
                parameter.data = parameter.data.to(compute)

    def passes(self, sequences: Sequence[Tokens]) -> Iterator[Pass]:
        return passes(sequences, self.tokens_per_pass, self.shared_prompts)

    def outputs(self, module: Any, part: Pass, field: str) -> Tensor:
        """A field of a module's output at the positions that predict the response tokens.   -> [t, …]"""
        mask = None if part.mask is None else part.mask.to(self.device)
        ids, positions = part.input_ids.to(self.device), part.position_ids.to(self.device)
        out = module(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
        return getattr(out, field)[part.row.to(self.device), part.column.to(self.device)]

    def gathered(self, sequences: Sequence[Tokens], forward: Callable[[Pass], Tensor]) -> Tensor:
        """What `forward` says of all response tokens, without gradients, in the order of the samples.   -> [T]"""
        found: dict[int, Tensor] = {}
        with torch.inference_mode():
            for part in self.passes(sequences):
                lengths = [len(sequences[i].response) for i in part.samples]
                found.update(zip(part.samples, forward(part).split(lengths), strict=True))
        joined = torch.cat([found[i] for i in range(len(sequences))]) if found else torch.empty(0, device=self.device)
        return joined.to(self.wide).clone()

    def collect_gradients(self) -> None:
        """Add the gradients of the compute copy to the master's."""
        if self.separate:
            for master, parameter in zip(self.master, self.copies, strict=True):
                if parameter.grad is not None:
                    grad = parameter.grad.to(master.device, self.dtype)
                    master.grad = grad if master.grad is None else master.grad.add_(grad)
                    parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the compute copy up to date with the master weights."""
        if self.separate:
            for parameter, master in zip(self.copies, self.master, strict=True):
                parameter.copy_(master)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Every master weight by name: what a checkpoint saves."""
        return ((name, master.detach()) for name, master in zip(self.names, self.master, strict=True))

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        for name, master in zip(self.names, self.master, strict=True):
            master.copy_(weights[name])
        self.publish()


def takes_shared_prompts(trained: Trained, measure: Callable[[Sequence[Tokens]], Tensor], tolerance: float) -> bool:
    """Whether rows that share a prompt give what plain rows give; tried, since a model may ignore such a mask."""
    tokens = [Tokens((5, 6, 7, 8), (9, 10, 11)), Tokens((5, 6, 7, 8), (12, 13))]
    trained.shared_prompts = False
    plain = measure(tokens)
    trained.shared_prompts = True
    return bool((plain - measure(tokens)).abs().max() < tolerance)


@dataclass(frozen=True, slots=True)
class Rate:
    """The learning rate of the n-th update: linear warm-up, then the schedule over the rest."""

    peak: float
    warmup: int
    total: int
    schedule: Callable[[float], float]

    def at(self, update: int) -> float:
        if update < self.warmup:
            return self.peak * (update + 1) / self.warmup
        return self.peak * self.schedule(min(1.0, (update - self.warmup) / max(1, self.total - self.warmup)))


class Updates:
    """The optimiser steps of one model; `count` includes the skipped ones. A later stage of a run has updates of its
    own over the same optimiser, with other settings."""

    def __init__(
        self,
        model: Trained,
        optimizer: torch.optim.Optimizer,
        rate: Rate,
        clip: float | None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.optimizer, self.rate, self.clip = model, optimizer, rate, clip
        self.settings = settings or {}
        self.count = self.broken = 0

    def step(self, prefix: str = "") -> Metrics:
        """Clip by the global norm and step; without a finite gradient nothing moves, and RunError ends the third such
        update in a row."""
        rate = self.rate.at(self.count)
        self.count += 1
        parameters = [p for p in self.model.master if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)) if parameters else 0.0
        finite = math.isfinite(norm)
        self.broken = 0 if finite else self.broken + 1
        if self.broken >= BROKEN_IN_A_ROW:
            raise RunError(
                f"{self.broken} updates in a row had no finite gradient; lower {prefix.replace('/', '.')}optimizer.lr"
            )
        if finite and parameters:
            for group in self.optimizer.param_groups:
                kept = group["lr"]  # torchao keeps the rate in a tensor, which its compiled step reads
                group.update(self.settings, lr=kept.fill_(rate) if isinstance(kept, Tensor) else rate)
            self.optimizer.step()
            self.model.publish()
        self.optimizer.zero_grad(set_to_none=True)
        return (
            Metrics.sum(**{f"{prefix}skipped_updates": float(not finite)})
            + Metrics.mean(f"{prefix}grad_norm", norm, 1)
            + Metrics.mean(f"{prefix}lr", rate, 1)
        )

    def carry(self, before: Updates) -> None:
        """Go on from the updates of the stage before."""
        self.count, self.broken = before.count, before.broken

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "updates": self.count, "broken": self.broken}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.count, self.broken = state["updates"], state["broken"]
