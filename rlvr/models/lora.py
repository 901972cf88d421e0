"""Adapters (LoRA, Hu et al., 2021): added, merged where weights leave, switched off for the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr.distributed.world import full_tensor
from rlvr.errors import UserError, import_optional
from rlvr.models.packing import Tokens


def add_lora(
    module: Any, *, rank: int, alpha: int, targets: str | Sequence[str], seed: int
) -> None:
    """Put adapters on the named layers; only they train. Raises UserError where PEFT is missing or
    no layer matches.
    """
    peft = import_optional("peft", "model.lora: needs the package peft; pip install peft")
    chosen = targets if isinstance(targets, str) else list(targets)
    torch.manual_seed(seed)  # PEFT draws the first matrix of each adapter from the global generator
    try:
        module.add_adapter(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen))
    except (ValueError, re.error) as error:  # `targets` may be a regular expression
        raise UserError(f"model.lora.targets: {str(error).splitlines()[0]}") from None
    embedding = module.get_input_embeddings()
    for name, layer in adapter_weights(module).items():
        if isinstance(layer.base_layer, torch.nn.Embedding):
            raise UserError(
                f"model.lora.targets: '{name}' is an embedding, which adapters are not merged into"
            )
        if layer.base_layer.weight is embedding.weight:
            raise UserError(
                f"model.lora.targets: '{name}' shares its weights with the embedding; leave it out"
            )


def adapter_weights(module: Any) -> dict[str, Any]:
    """The layers that carry an adapter, by name."""
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "base_layer")}


def merged_weights(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the policy by the name that the plain model gives it, adapters added to their
    layers; one whole tensor at a time, which for a sharded policy all ranks ask for together.
    """
    masters = dict(policy.state())
    layers = adapter_weights(policy.module)
    for name, parameter in policy.module.named_parameters():
        layer, _, _ = name.partition(".base_layer.")
        if layer == name and ".lora_" not in name:
            yield name, full_tensor(masters.get(name, parameter.detach()))
        elif name == f"{layer}.base_layer.weight":
            down, up = (
                masters[f"{layer}.lora_{k}.default.weight"].to(parameter.device) for k in "AB"
            )
            delta = layers[layer].scaling["default"] * (up @ down)
            # the layers of GPT-2 lie transposed
            delta = delta.T if layers[layer].fan_in_fan_out else delta
            yield f"{layer}.weight", (parameter.detach().to(delta.dtype) + delta)
        elif layer != name:
            yield name.replace(".base_layer", ""), parameter.detach()


@dataclass(frozen=True, slots=True)
class WithoutAdapters:
    """The policy with its adapters switched off: the reference of a run that trains adapters."""

    policy: Any

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor:
        """As Policy.logprobs, of the model under the adapters.   -> [T]"""
        self.policy.module.disable_adapters()
        try:
            return self.policy.logprobs(sequences, temperature)
        finally:
            self.policy.module.enable_adapters()
