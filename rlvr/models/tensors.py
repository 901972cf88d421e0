"""Small operations on tensors of other dtypes, other lengths or several ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# So many numbers are added at a time where a dtype has to be converted.
PIECE = 2**17


def add_to(total: Tensor, part: Tensor) -> None:
    """Add a tensor of another dtype in place.

    On a processor it is added in pieces that stay in its cache once they are converted.
    """
    total = torch.atleast_1d(total)
    part = torch.atleast_1d(part.to(total.device))
    rows = len(total)
    if total.device.type == "cpu":
        numbers = max(1, total.numel())
        rows = PIECE * len(total) // numbers
    rows = max(1, rows)
    total_pieces = total.split(rows)
    part_pieces = part.split(rows)
    for total_piece, part_piece in zip(total_pieces, part_pieces, strict=True):
        total_piece.add_(part_piece)


def fill(target: Tensor, value: Tensor) -> None:
    """Write a tensor, whole or sharded alike, into one that may be sharded."""
    if hasattr(target, "full_tensor") and not hasattr(value, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        value = value.to(target.device, target.dtype)
        # Every rank has the whole value, so nobody needs to send it.
        value = distribute_tensor(
            value,
            target.device_mesh,
            target.placements,
            src_data_rank=None,
        )
    target.copy_(value)


def pad_left(rows: Iterable[Sequence[int] | Tensor], filler: int) -> Tensor:
    """Return rows of ids as one tensor, the shorter filled up at the front.   [n] rows -> [n, L]"""
    tensors = [torch.as_tensor(row) for row in rows]
    return pad_sequence(
        tensors,
        batch_first=True,
        padding_value=filler,
        padding_side="left",
    )
