"""Find out whether a model takes packed rows: some ignore where their rows end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.models.attention import ATTENTION, has_full_attention
from rlvr.models.packing import Sharing, Tokens
from rlvr.models.trainable import TrainableModel

# Packed rows may differ from plain ones by this share of what a mix-up of two responses changes.
TOLERANCE = 1e-3
BF16_TOLERANCE = 0.3


def probe_packing(
    model: TrainableModel, body: PreTrainedModel, measure: Callable[[Sequence[Tokens]], Tensor]
) -> bool:
    """Return whether packed rows that share prompts give what plain ones give.

    They must also be far from what two responses in a row give when the second sees the first. It
    is tried, since a model may ignore its rows. The model is afterwards as it was.

    measure: what the model computes for all response tokens   -> [T, …]
    """
    if not has_full_attention(body):
        return False
    embedding: Any = body.get_input_embeddings()
    vocabulary = len(embedding.weight)
    prompt = tuple(token % vocabulary for token in range(5, 21))
    first = tuple(token % vocabulary for token in range(21, 45))
    second = tuple(token % vocabulary for token in range(45, 25, -1))
    # A row of its own behind the shared one, so that a mix-up of rows shows as well.
    neighbour = Tokens(second[:2], first[:12])
    separate = [Tokens(prompt, first), Tokens(prompt, second), neighbour]
    mixed_up = [Tokens(prompt, first + second), neighbour]

    wrong = measure(mixed_up)
    plain = measure(separate)
    with _trial(model, body):
        packed = measure(separate)
    tolerance = BF16_TOLERANCE if model.compute is torch.bfloat16 else TOLERANCE
    return bool(_mean_distance(plain, packed) < _mean_distance(plain, wrong) * tolerance)


def use_packed_attention(model: TrainableModel, body: PreTrainedModel) -> None:
    """Give the model the attention that takes packed rows, and passes of such rows."""
    body.set_attn_implementation(ATTENTION)
    on_processor = model.device.type == "cpu"
    model.packed = Sharing.PREFIXES if on_processor else Sharing.PROMPTS


@contextmanager
def _trial(model: TrainableModel, body: PreTrainedModel) -> Iterator[None]:
    """Let the model have packed rows for a while."""
    attention_before: Any = body.config._attn_implementation
    packed_before = model.packed
    use_packed_attention(model, body)
    try:
        yield
    finally:
        body.set_attn_implementation(attention_before)
        model.packed = packed_before


def _mean_distance(values: Tensor, others: Tensor) -> Tensor:
    """Return the mean over tokens of the distance of their values.   [T, …] twice -> []"""
    return (values - others).reshape(len(values), -1).norm(dim=1).mean()
