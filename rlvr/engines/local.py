"""The engine of this process, as a recipe names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlvr.registry import register

if TYPE_CHECKING:
    import torch

    from rlvr.engines.decoder import Decoder


@register("engine", "local")
def local(
    module: Any,
    tokenizer: Any,
    compute: torch.dtype,
    *,
    max_sequences: Annotated[int, Field(ge=1)] = 128,
) -> Decoder:
    """At most `max_sequences` responses are decoded at a time; more wait for the next wave."""
    from rlvr.engines.decoder import Decoder

    return Decoder(module, tokenizer, compute, max_sequences)
