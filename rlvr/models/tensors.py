"""Add to and fill tensors of another dtype or of several ranks."""

from __future__ import annotations

import torch
from torch import Tensor

# So many numbers are added at a time where a dtype has to be converted.
PIECE = 2**17


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
