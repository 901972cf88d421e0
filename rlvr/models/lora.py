"""Adapters (LoRA, Hu et al., 2021): added, merged where weights leave, off for the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr.distributed.world import full_tensor
from rlvr.errors import UserError, import_optional
from rlvr.models.packing import Tokens
from rlvr.models.trainable import TrainableModel


def add_lora(
    module: PreTrainedModel,
    *,
    rank: int,
    alpha: int,
    targets: str | Sequence[str],
    seed: int,
) -> None:
    """Put adapters on the named layers; only they train.

    Raises UserError where PEFT is missing, no layer matches, or a layer cannot be merged.
    """
    peft = import_optional("peft", "model.lora: needs the package peft; pip install peft")
    chosen = targets if isinstance(targets, str) else list(targets)
    torch.manual_seed(seed)  # PEFT draws the first matrix of each adapter from the global generator
    try:
        module.add_adapter(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen))
    except (ValueError, re.error) as error:  # `targets` may be a regular expression
        raise UserError(f"model.lora.targets: {str(error).splitlines()[0]}") from None
    embedding = module.get_input_embeddings()
    for name, layer in find_adapter_layers(module).items():
        if isinstance(layer.base_layer, nn.Embedding):
            raise UserError(
                f"model.lora.targets: '{name}' is an embedding, which adapters are not merged into"
            )
        if layer.base_layer.weight is embedding.weight:
            raise UserError(
                f"model.lora.targets: '{name}' shares its weights with the embedding; leave it out"
            )


def find_adapter_layers(module: nn.Module) -> dict[str, Any]:
    """Return the layers that carry an adapter, by name."""
    layers: dict[str, Any] = {}
    for name, layer in module.named_modules():
        if hasattr(layer, "base_layer"):
            layers[name] = layer
    return layers


def merge_adapters(model: TrainableModel) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight by the name that the plain model gives it, adapters added to their layers.

    One whole tensor at a time, which for a sharded model all ranks ask for together.
    """
    masters = dict(model.state())
    layers = find_adapter_layers(model.module)
    for name, parameter in model.module.named_parameters():
        layer_name, _, _ = name.partition(".base_layer.")
        in_adapted_layer = layer_name != name
        if in_adapted_layer and name == f"{layer_name}.base_layer.weight":
            layer = layers[layer_name]
            yield f"{layer_name}.weight", _merge_layer(layer_name, layer, parameter, masters)
        elif in_adapted_layer:
            yield name.replace(".base_layer", ""), parameter.detach()
        elif ".lora_" not in name:
            weight = masters[name] if name in masters else parameter.detach()
            yield name, full_tensor(weight)


def _merge_layer(name: str, layer: Any, weight: Tensor, masters: dict[str, Tensor]) -> Tensor:
    """Return the weight of a layer with its adapter, W + alpha / rank * B A."""
    down = masters[f"{name}.lora_A.default.weight"].to(weight.device)
    up = masters[f"{name}.lora_B.default.weight"].to(weight.device)
    delta = layer.scaling["default"] * (up @ down)
    if layer.fan_in_fan_out:  # the layers of GPT-2 lie transposed
        delta = delta.T
    return weight.detach().to(delta.dtype) + delta


class AdaptedPolicy(Protocol):
    """What the reference needs of a policy with adapters."""

    @property
    def module(self) -> PreTrainedModel: ...

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class WithoutAdapters:
    """The policy with its adapters switched off: the reference of a run that trains adapters."""

    policy: AdaptedPolicy

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor:
        """Return what Policy.logprobs does, of the model under the adapters.   -> [T]"""
        self.policy.module.disable_adapters()
        try:
            return self.policy.logprobs(sequences, temperature)
        finally:
            self.policy.module.enable_adapters()
