"""Split a model over the ranks with FSDP2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlvr.models.packing import Pass


class _WholeForward(nn.Module):
    """A whole forward pass as a module: FSDP2 gathers the weights outside the layers around it."""

    def __init__(
        self, module: nn.Module, compute_outputs: Callable[..., tuple[Tensor, ...]]
    ) -> None:
        super().__init__()
        self.module = module
        self.compute_outputs = compute_outputs

    def forward(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        # FSDP2 hangs its hooks on no view
        return tuple(out.clone() for out in self.compute_outputs(part, *options))


def shard_model(
    module: nn.Module,
    compute_outputs: Callable[..., tuple[Tensor, ...]],
    *,
    size: int,
    device: torch.device,
    compute: torch.dtype,
    offload: bool,
) -> nn.Module:
    """Split every weight over `size` ranks and return the forward pass as a module.

    Gradients are sums over the ranks, as the losses are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    to_cpu = offload and device.type != "cpu"
    dtype = next(module.parameters()).dtype
    mesh = init_device_mesh(device.type, (size,))
    precision = MixedPrecisionPolicy(compute, dtype, cast_forward_inputs=False)
    placement = CPUOffloadPolicy() if to_cpu else OffloadPolicy()
    full_pass = _WholeForward(module, compute_outputs)
    # Layers first: what is left of the weights belongs to the pass around them.
    for part in (*_find_layers(module), full_pass):
        sharded = fully_shard(
            part,
            reshard_after_forward=True,
            mesh=mesh,
            mp_policy=precision,
            offload_policy=placement,
        )
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    return full_pass


def _find_layers(module: nn.Module) -> list[nn.Module]:
    """Return the modules that transformers says must not be split: the decoder layers."""
    kinds: set[str] = set()
    for part in module.modules():
        kinds.update(getattr(part, "_no_split_modules", None) or ())
    return [part for part in module.modules() if type(part).__name__ in kinds]
