"""What is trained: master weights beside a copy in the compute dtype, and the optimiser steps that
move them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.models import attention
from rlvr.models.packing import Pass, Tokens, passes
from rlvr.models.sharding import shard_model
from rlvr.models.tensors import add_to, fill

if TYPE_CHECKING:
    from collections.abc import Callable


class TrainableModel(ABC):
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
        self.packed, self.world = False, SINGLE_PROCESS
        self.call: Callable[..., tuple[Tensor, ...]] = self.outputs_of
        self.dtype, self.device = next(module.parameters()).dtype, next(module.parameters()).device
        # of all that is counted or added up over tokens
        self.accum_dtype = torch.promote_types(self.dtype, torch.float32)
        self._name_parameters()
        self.has_master_copy = not shard and (
            compute is not self.dtype or (offload and self.device.type != "cpu")
        )
        home = torch.device("cpu") if offload else self.device
        if self.has_master_copy:
            self.master = [nn.Parameter(p.detach().clone().to(home)) for p in self.compute_params]
        if compute is not self.dtype and not shard:
            # buffers, such as those of rotary embeddings, keep their precision
            for parameter in module.parameters():
                parameter.data = parameter.data.to(compute)

    def _name_parameters(self) -> None:
        trainable = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        self.names, self.compute_params = [name for name, _ in trainable], [p for _, p in trainable]
        self.master = self.compute_params

    @abstractmethod
    def outputs_of(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        """What one forward pass says of its response tokens.   -> [t] each"""

    def distribute(self, world: World) -> None:
        """From here on passes are divided among the ranks of a world, and with `shard` the weights
        too.
        """
        self.world = world
        if self.shard:
            self.call = shard_model(
                self.module,
                self.outputs_of,
                size=world.size,
                device=self.device,
                compute=self.compute,
                offload=self.offload,
            )
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
        return self.world.all_reduce((torch.cat(parts) if parts else others).to(self.accum_dtype))

    def collect_gradients(self) -> None:
        """Add the gradients of the compute copy to the master's."""
        if self.has_master_copy:
            for master, parameter in zip(self.master, self.compute_params, strict=True):
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
        have = self.world.all_reduce_dict(
            {n: 1.0 for n, p in zip(self.names, self.master, strict=True) if p.grad is not None}
        )
        for name, master in zip(self.names, self.master, strict=True):
            if name in have:
                master.grad = self.world.all_reduce(
                    torch.zeros_like(master) if master.grad is None else master.grad
                )

    @torch.no_grad()
    def sync_compute_weights(self) -> None:
        """Bring the compute copy up to date with the master weights."""
        if self.has_master_copy:
            for parameter, master in zip(self.compute_params, self.master, strict=True):
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
        self.sync_compute_weights()


def takes_rows(
    trained: TrainableModel, body: Any, measure: Callable[[Sequence[Tokens]], Tensor]
) -> bool:
    """Whether packed rows that share prompts give what plain ones give, and nothing like what two
    responses in a row give when the second sees the first; tried, since a model may ignore them.
    From then on it has the attention that takes them.
    """
    if not attention.full_attention(body):
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
    body.set_attn_implementation(attention.ATTENTION)
    trained.packed = True
    apart, wrong = (
        (plain - found).reshape(len(plain), -1).norm(dim=1).mean()
        for found in (measure(tokens), mixed)
    )
    same = bool(apart < wrong * (0.3 if trained.compute is torch.bfloat16 else 1e-3))
    if not same:
        body.set_attn_implementation(own)
    return same
