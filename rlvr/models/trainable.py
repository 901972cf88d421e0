"""A model that is trained: master weights beside a copy in the compute dtype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.models.packing import Pass, Sharing, Tokens, split_into_passes
from rlvr.models.sharding import shard_model
from rlvr.models.tensors import add_to, fill


class TrainableModel(ABC):
    """A module with master weights in its own dtype and arithmetic in `compute`.

    As in FSDP2's mixed precision, gradients of the compute copy are added up in the master's dtype.
    Where the dtypes agree the two are one, unless `offload` keeps the masters and with them the
    optimiser in the memory of the CPU. A parameter that needs no gradient has no master. With
    `shard` there is no copy: each rank of a world holds a part of every master, and FSDP2 gathers a
    layer in the compute dtype when it is used.
    """

    # A module of torch; Policy and ValueModel say which.
    module: nn.Module
    names: list[str]
    # The parameters that are trained, in the order of `names`: as the module computes with them,
    # and as the optimiser moves them.
    compute_params: list[nn.Parameter]
    master: list[nn.Parameter]

    def __init__(
        self,
        module: nn.Module,
        compute: torch.dtype,
        tokens_per_pass: int,
        *,
        offload: bool = False,
        shard: bool = False,
    ) -> None:
        self.module = module.eval()
        self.compute = compute
        self.tokens_per_pass = tokens_per_pass
        self.offload = offload
        self.shard = shard
        self.packed: Sharing | None = None  # what packed rows share; None for padded rows
        self.world = SINGLE_PROCESS
        self.run_pass: Callable[..., tuple[Tensor, ...]] = self.compute_outputs
        any_parameter = next(module.parameters())
        self.dtype = any_parameter.dtype
        self.device = any_parameter.device
        # of all that is counted or added up over tokens
        self.accum_dtype = torch.promote_types(self.dtype, torch.float32)
        self._list_parameters()
        moved = offload and self.device.type != "cpu"
        self.has_master_copy = not shard and (compute is not self.dtype or moved)
        if self.has_master_copy:
            self._copy_masters()
        if compute is not self.dtype and not shard:
            # buffers, such as those of rotary embeddings, keep their precision
            for parameter in module.parameters():
                parameter.data = parameter.data.to(compute)

    def _list_parameters(self) -> None:
        self.names = []
        self.compute_params = []
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                self.names.append(name)
                self.compute_params.append(parameter)
        self.master = self.compute_params

    def _copy_masters(self) -> None:
        home = torch.device("cpu") if self.offload else self.device
        self.master = []
        for parameter in self.compute_params:
            self.master.append(nn.Parameter(parameter.detach().clone().to(home)))

    @abstractmethod
    def compute_outputs(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        """Return what one forward pass computes for the tokens that it predicts.   -> [u] each"""

    def distribute(self, world: World) -> None:
        """Divide passes among the ranks of a world from here on, and with `shard` weights too."""
        self.world = world
        if self.shard:
            self.run_pass = shard_model(
                self.module,
                self.compute_outputs,
                size=world.size,
                device=self.device,
                compute=self.compute,
                offload=self.offload,
            )
            # FSDP2 has replaced every parameter by a sharded one.
            self._list_parameters()

    def passes(self, sequences: Sequence[Tokens]) -> Iterator[Pass]:
        """Yield this rank's passes over the sequences."""
        return split_into_passes(
            sequences,
            self.tokens_per_pass,
            self.packed,
            self.world,
            even=self.shard,
        )

    def read_outputs(self, module: nn.Module, part: Pass, field: str) -> Tensor:
        """Run a module and return a field of its output where response tokens are predicted.

        -> [u, …]
        """
        inputs: dict[str, Any] = {
            "input_ids": part.input_ids.to(self.device),
            "position_ids": part.position_ids.to(self.device),
            "use_cache": False,
        }
        if part.rows:
            # for our attention, to which models hand on what is not theirs
            inputs["rows"] = part.rows
        out = module(**inputs)
        return getattr(out, field)[part.row.to(self.device), part.column.to(self.device)]

    def run(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        """Run one pass and return what it computes for its response tokens.   -> [t] each"""
        source = part.source.to(self.device)
        return tuple(output[source] for output in self.run_pass(part, *options))

    @torch.no_grad()
    def evaluate_tokens(
        self, sequences: Sequence[Tokens], forward: Callable[[Pass], Tensor]
    ) -> Tensor:
        """Return what `forward` computes for all response tokens, in the order of the samples.

        Nothing here has a gradient.   -> [T, …]
        """
        lengths = [len(tokens.response) for tokens in sequences]
        values_of_sample: dict[int, Tensor] = {}
        for part in self.passes(sequences):
            values = forward(part).split([lengths[sample] for sample in part.samples])
            values_of_sample.update(zip(part.samples, values, strict=True))
        # Samples of other ranks are zero here, so that the sum over ranks has all of them.
        zeros = torch.zeros(max(lengths, default=0), device=self.device)
        ordered: list[Tensor] = []
        for sample, length in enumerate(lengths):
            if sample in values_of_sample:
                ordered.append(values_of_sample[sample])
            else:
                ordered.append(zeros[:length])
        values = torch.cat(ordered) if ordered else zeros
        return self.world.all_reduce(values.to(self.accum_dtype))

    def collect_gradients(self) -> None:
        """Add the gradients of the compute copy to the master's."""
        if not self.has_master_copy:
            return
        for master, parameter in zip(self.master, self.compute_params, strict=True):
            if parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.to(master.device, master.dtype, copy=True)
            else:
                add_to(master.grad, parameter.grad)
            parameter.grad = None

    def sum_gradients(self) -> None:
        """Add up the gradients of all ranks.

        For sharded weights that happened in the backward pass.
        """
        if self.shard:
            return
        with_gradient: dict[str, float] = {}
        for name, master in zip(self.names, self.master, strict=True):
            if master.grad is not None:
                with_gradient[name] = 1.0
        # A rank without a pass has no gradients, and still takes part in every exchange.
        present = self.world.all_reduce_dict(with_gradient)
        for name, master in zip(self.names, self.master, strict=True):
            if name in present:
                if master.grad is None:
                    master.grad = torch.zeros_like(master)
                master.grad = self.world.all_reduce(master.grad)

    @torch.no_grad()
    def sync_compute_weights(self) -> None:
        """Bring the compute copy up to date with the master weights."""
        if self.has_master_copy:
            for parameter, master in zip(self.compute_params, self.master, strict=True):
                parameter.copy_(master)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every master weight by name, sharded where the model is, as a checkpoint saves it."""
        for name, master in zip(self.names, self.master, strict=True):
            yield name, master.detach()

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over whole weights."""
        for name, master in zip(self.names, self.master, strict=True):
            fill(master, weights[name])
        self.sync_compute_weights()
