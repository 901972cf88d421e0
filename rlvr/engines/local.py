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
    drafts: Annotated[int, Field(ge=0, le=15)] = 7,
) -> Decoder:
    """At most `max_sequences` responses are decoded at a time; more wait for the next wave. Up to
    `drafts` tokens are guessed ahead where that saves time; no sample depends on it.
    """
    # Recipes are checked without torch, which the decoder loads.
    from rlvr.engines.decoder import Decoder

    return Decoder(module, tokenizer, compute, max_sequences, drafts)
