"""The engine of this process, as a recipe names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rlvr.registry import register

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlvr.engines.decoder import Decoder


# How many tokens are guessed at most in bf16, in which oneDNN gives a row the same bits in any company.
BF16_DRAFTS = 7


@register("engine", "local")
def local(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    compute: torch.dtype,
    *,
    max_sequences: Annotated[int, Field(ge=1)] = 128,
    drafts: Annotated[int, Field(ge=0, le=15)] | None = None,
    compiled: bool = True,
    weights: Literal["compute", "int8"] = "compute",
) -> Decoder:
    """At most `max_sequences` responses are decoded at a time; more wait for the next wave. Up to
    `drafts` tokens are guessed ahead where that saves time: None is 7 in bf16 and 0 elsewhere, where
    a guess may change the last digit of a log-probability, but no token. `compiled` runs the passes of
    Llama-like models in bf16 by compiled code, where processor and compiler allow it; with
    `weights` int8 that multiplies whole numbers of 8 bits, at about twice the speed, for rollouts
    and not for evaluations.
    """
    # Recipes are checked without torch, which the decoder loads.
    import torch

    from rlvr.engines.decoder import Decoder
    from rlvr.engines.packed_linear import has_fast_product

    if drafts is None:
        is_exact = compute is torch.bfloat16 and has_fast_product(compute, module.device)
        drafts = BF16_DRAFTS if is_exact else 0
    return Decoder(
        module,
        tokenizer,
        compute,
        max_sequences,
        drafts,
        compiled=compiled,
        quantised=weights == "int8",
    )
