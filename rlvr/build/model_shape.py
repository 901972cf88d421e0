"""The sizes of a model, counted from its config.json without loading its classes or torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from rlvr.errors import UserError
from rlvr.models.locating import BUILT_IN, locate
from rlvr.models.quiet import quiet
from rlvr.resources import load_asset

# Hidden size, layers, heads, key heads, inner size, vocabulary and tied embeddings, by a pattern of
# the model's name.
FAMILIES: Mapping[str, list[Any]] = load_asset("build/families")


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that its memory depends on; `kv` is the width of all key heads."""

    parameters: int
    layers: int
    hidden: int
    kv: int
    inner: int
    vocabulary: int

    def count_activations(self, checkpointed: bool) -> int:
        """Return how many numbers a token leaves for the backward pass.

        In each layer these are fourteen of its hidden width (two norms, queries before and after
        rotation, attention, residuals), its keys and values, and four of its inner width. With
        checkpoints each layer leaves its input alone, and one layer at a time is computed again.
        """
        layer = 14 * self.hidden + 2 * self.kv + 4 * self.inner
        if checkpointed:
            return self.layers * self.hidden + layer
        return self.layers * layer


class DecoderConfig(BaseModel):
    """What config.json says of a dense decoder of the Llama family.

    The keys without a default differ between the families where a file leaves them out, so such a
    file is not one of these.
    """

    model_type: Literal["llama", "mistral", "qwen2", "qwen3"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_width(self) -> int:
        return self.head_size * self.num_key_value_heads

    def measure(self) -> Shape:
        return Shape(
            parameters=self.count_parameters(),
            layers=self.num_hidden_layers,
            hidden=self.hidden_size,
            kv=self.key_width,
            inner=self.intermediate_size,
            vocabulary=self.vocab_size,
        )

    def count_parameters(self) -> int:
        """Return what `sum(p.numel() for p in model.parameters())` would be."""
        embeddings = self.vocab_size * self.hidden_size
        if not self.tie_word_embeddings:
            embeddings *= 2
        norms = 2 * self.hidden_size
        layer = norms + self._count_attention() + self._count_mlp()
        return embeddings + self.num_hidden_layers * layer + self.hidden_size

    def _count_attention(self) -> int:
        """Count the four projections of a layer, with the biases and norms of its family."""
        query_width = self.head_size * self.num_attention_heads
        count = 2 * self.hidden_size * (query_width + self.key_width)
        input_biases = query_width + 2 * self.key_width
        if self.model_type == "qwen2":
            count += input_biases
        elif self.model_type != "mistral" and self.attention_bias:
            count += input_biases + self.hidden_size
        if self.model_type == "qwen3":
            count += 2 * self.head_size  # a norm of each query and key
        return count

    def _count_mlp(self) -> int:
        """Count the gated feed-forward part of a layer: gate, up, down."""
        count = 3 * self.hidden_size * self.intermediate_size
        if self.model_type == "llama" and self.mlp_bias:
            count += 2 * self.intermediate_size + self.hidden_size
        return count


def shape_of(name: str) -> Shape | None:
    """Return the sizes of a model from its configuration, or of its family where it is not on this machine.

    None for a stranger.
    """
    path = _find_config(name)
    if path is None:
        return _measure_family(name)
    return _read_shape(path) or _build_shape(path.parent) or _measure_family(name)


def _find_config(name: str) -> Path | None:
    """Return the config.json of a folder, or of a model of the hub that was downloaded before."""
    if name in BUILT_IN:  # its family is known, and to locate it may be to convert it
        return None
    try:
        place = locate(name)
    except UserError:
        return None
    if Path(place).is_dir():
        return Path(place) / "config.json"

    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):  # not the name of a repository
        cached = try_to_load_from_cache(place, "config.json")
        if isinstance(cached, str):
            return Path(cached)
    return None


def _read_shape(path: Path) -> Shape | None:
    """Return the sizes that a config.json states; None for an architecture that is not counted here."""
    try:
        config = DecoderConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    if config.model_type == "qwen3" and config.head_dim is None:
        return None
    return config.measure()


def _build_shape(folder: Path) -> Shape | None:
    """Return the sizes of any other architecture, from a model of transformers without weights.

    It takes seconds. None where transformers does not know the configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        kv=head_size * key_heads,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
    )


def _measure_family(name: str) -> Shape | None:
    """Return the sizes of the first family whose pattern fits the name."""
    for pattern, sizes in FAMILIES.items():
        if re.search(pattern, name):
            hidden, layers, heads, key_heads, inner, vocabulary, tied = sizes
            config = DecoderConfig(
                model_type="llama",
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=inner,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=key_heads,
                tie_word_embeddings=tied,
                attention_bias="Qwen" in name,
            )
            return config.measure()
    return None
