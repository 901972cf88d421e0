"""The engine of this process, as a recipe names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlvr.registry import register

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlvr.engines.decoder import Decoder


@register("engine", "local")
def local(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    compute: torch.dtype,
    *,
    max_sequences: Annotated[int, Field(ge=1)] = 128,
) -> Decoder:
    """At most `max_sequences` responses are decoded at a time; more wait for the next wave."""
    # Recipes are checked without torch, which the decoder loads.
    from rlvr.engines.decoder import Decoder

    return Decoder(module, tokenizer, compute, max_sequences)
