"""What is trained: master weights beside a copy in the compute dtype, and the optimiser steps that
move them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlvr import models
from rlvr.batch import Pass, Tokens, passes
from rlvr.errors import RunError
from rlvr.metrics import Metrics
from rlvr.world import ALONE, World, whole

if TYPE_CHECKING:
    from collections.abc import Callable

# After so many updates in a row without a finite gradient the run stops.
BROKEN_IN_A_ROW = 3
# So many numbers are added at a time where a dtype has to be converted.
PIECE = 2**17


class Trained(ABC):
    """A module with master weights in its own dtype and arithmetic in `compute`.

    As in FSDP2's mixed precision, gradients of the compute copy are added up in the master's dtype.
    Where the dtypes agree the two are one, unless `offload` keeps the masters and with them the
    optimiser in the memory of the CPU. A parameter that needs no gradient has no master. With
    `shard` there is no copy: each rank of a world holds a part of every master, and FSDP2 gathers a
    layer in the compute dtype when it is used.
    """

    def __init__(
        self,
        module: Any,
        compute: torch.dtype,
        tokens_per_pass: int,
        *,
        offload: bool = False,
        shard: bool = False,
    ) -> None:
        self.module, self.tokens_per_pass = module.eval(), tokens_per_pass
        self.compute, self.offload, self.shard = compute, offload, shard
        self.packed, self.world = False, ALONE
        self.call: Callable[..., tuple[Tensor, ...]] = self.outputs_of
        self.dtype, self.device = next(module.parameters()).dtype, next(module.parameters()).device
        # of all that is counted or added up over tokens
        self.wide = torch.promote_types(self.dtype, torch.float32)
        self._name_parameters()
        self.separate = not shard and (
            compute is not self.dtype or (offload and self.device.type != "cpu")
        )
        home = torch.device("cpu") if offload else self.device
        if self.separate:
            self.master = [nn.Parameter(p.detach().clone().to(home)) for p in self.copies]
        if compute is not self.dtype and not shard:
            # buffers, such as those of rotary embeddings, keep their precision
            for parameter in module.parameters():
                parameter.data = parameter.data.to(compute)

    def _name_parameters(self) -> None:
        trainable = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        self.names, self.copies = [name for name, _ in trainable], [p for _, p in trainable]
        self.master = self.copies

    @abstractmethod
    def outputs_of(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        """What one forward pass says of its response tokens.   -> [t] each"""

    def join(self, world: World) -> None:
        """From here on passes are divided among the ranks of a world, and with `shard` the weights
        too.
        """
        self.world = world
        if self.shard:
            self.call = _sharded(self)
            self._name_parameters()

    def passes(self, sequences: Sequence[Tokens]) -> Iterator[Pass]:
        """This rank's passes over the sequences."""
        return passes(sequences, self.tokens_per_pass, self.packed, self.world, even=self.shard)

    def outputs(self, module: Any, part: Pass, field: str) -> Tensor:
        """A field of a module's output at the positions that predict the response tokens.   -> [t,
        …]
        """
        inputs = {
            "input_ids": part.input_ids.to(self.device),
            "position_ids": part.position_ids.to(self.device),
        }
        # for our attention, to which models hand on what is not theirs
        more = {"rows": part.rows} if part.rows else {}
        out = module(**inputs, **more, use_cache=False)
        return getattr(out, field)[part.row.to(self.device), part.column.to(self.device)]

    @torch.no_grad()
    def gathered(self, sequences: Sequence[Tokens], forward: Callable[[Pass], Tensor]) -> Tensor:
        """What `forward` says of all response tokens, without gradients, in the order of the
        samples.   -> [T, …]
        """
        lengths, found = [len(s.response) for s in sequences], dict[int, Tensor]()
        for part in self.passes(sequences):
            pieces = forward(part).split([lengths[i] for i in part.samples])
            found.update(zip(part.samples, pieces, strict=True))
        others = torch.zeros(max(lengths, default=0), device=self.device)
        parts = [found[i] if i in found else others[:length] for i, length in enumerate(lengths)]
        return self.world.add((torch.cat(parts) if parts else others).to(self.wide))

    def collect_gradients(self) -> None:
        """Add the gradients of the compute copy to the master's."""
        if self.separate:
            for master, parameter in zip(self.master, self.copies, strict=True):
                if parameter.grad is not None:
                    if master.grad is None:
                        master.grad = torch.zeros_like(master)
                    add_to(master.grad, parameter.grad)
                    parameter.grad = None

    def sum_gradients(self) -> None:
        """Add up the gradients of all ranks, which for sharded weights happened in the backward
        pass.
        """
        if self.shard:
            return
        have = self.world.sum(
            {n: 1.0 for n, p in zip(self.names, self.master, strict=True) if p.grad is not None}
        )
        for name, master in zip(self.names, self.master, strict=True):
            if name in have:
                master.grad = self.world.add(
                    torch.zeros_like(master) if master.grad is None else master.grad
                )

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the compute copy up to date with the master weights."""
        if self.separate:
            for parameter, master in zip(self.copies, self.master, strict=True):
                parameter.copy_(master)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Every master weight by name, sharded where the model is: what a checkpoint saves."""
        return (
            (name, master.detach()) for name, master in zip(self.names, self.master, strict=True)
        )

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over whole weights."""
        for name, master in zip(self.names, self.master, strict=True):
            fill(master, weights[name])
        self.publish()


class _Call(nn.Module):
    """A whole forward pass as a module: FSDP2 gathers the weights outside the layers around it."""

    def __init__(self, model: Trained) -> None:
        super().__init__()
        self.module, self.outputs_of = model.module, model.outputs_of

    def forward(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        # FSDP2 hangs its hooks on no view
        return tuple(out.clone() for out in self.outputs_of(part, *options))


def _sharded(model: Trained) -> nn.Module:
    """The model's forward pass with every weight split over the ranks; gradients are sums over
    them, as the losses are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    offload = model.offload and model.device.type != "cpu"
    how: dict[str, Any] = {
        "mesh": init_device_mesh(model.device.type, (model.world.size,)),
        "mp_policy": MixedPrecisionPolicy(model.compute, model.dtype, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
    }
    call = _Call(model)
    kinds = {
        kind
        for part in model.module.modules()
        for kind in getattr(part, "_no_split_modules", None) or ()
    }
    layers = [part for part in model.module.modules() if type(part).__name__ in kinds]
    for part in (*layers, call):
        sharded = fully_shard(part, reshard_after_forward=True, **how)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    return call


def add_to(total: Tensor, part: Tensor) -> None:
    """Add a tensor of another dtype; on a processor in pieces that stay in its cache once they are
    converted.
    """
    total, part = torch.atleast_1d(total), torch.atleast_1d(part.to(total.device))
    rows = PIECE * len(total) // max(1, total.numel()) if total.device.type == "cpu" else len(total)
    for mine, other in zip(total.split(max(1, rows)), part.split(max(1, rows)), strict=True):
        mine.add_(other)


def fill(target: Tensor, value: Tensor) -> None:
    """Write a tensor, whole or sharded alike, into one that may be sharded."""
    if hasattr(target, "full_tensor") and not hasattr(value, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        value = value.to(target.device, target.dtype)
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


def takes_rows(trained: Trained, body: Any, measure: Callable[[Sequence[Tokens]], Tensor]) -> bool:
    """Whether packed rows that share prompts give what plain ones give, and nothing like what two
    responses in a row give when the second sees the first; tried, since a model may ignore them.
    From then on it has the attention that takes them.
    """
    if not models.full_attention(body):
        return False
    known, spans = (
        len(body.get_input_embeddings().weight),
        (range(5, 21), range(21, 45), range(45, 25, -1)),
    )
    asked, one, other = (tuple(token % known for token in span) for span in spans)
    last = Tokens(other[:2], one[:12])
    own, trained.packed = body.config._attn_implementation, False
    tokens, mixed = (
        [Tokens(asked, one), Tokens(asked, other), last],
        measure([Tokens(asked, one + other), last]),
    )
    plain = measure(tokens)
    body.set_attn_implementation(models.ATTENTION)
    trained.packed = True
    apart, wrong = (
        (plain - found).reshape(len(plain), -1).norm(dim=1).mean()
        for found in (measure(tokens), mixed)
    )
    same = bool(apart < wrong * (0.3 if trained.compute is torch.bfloat16 else 1e-3))
    if not same:
        body.set_attn_implementation(own)
    return same


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
        return self.peak * self.schedule(
            min(1.0, (update - self.warmup) / max(1, self.total - self.warmup))
        )


class Updates:
    """The optimiser steps of one model; `count` includes the skipped ones. A later stage of a run
    has updates of its own over the same optimiser, with other settings.
    """

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
        """Clip by the global norm and step; without a finite gradient nothing moves, and RunError
        ends the third such update in a row.
        """
        rate = self.rate.at(self.count)
        self.count += 1
        self.model.sum_gradients()
        parameters = [p for p in self.model.master if p.grad is not None]
        norm = (
            float(whole(nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)))
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
        self.model.publish()
        self.count, self.broken = state["updates"], state["broken"]
