"""Write a model folder that transformers loads."""

from __future__ import annotations

import copy
from collections import deque
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from rlvr.errors import RunError
from rlvr.models.lora import find_adapter_layers
from rlvr.models.policy import Policy
from rlvr.models.quiet import quiet


def export(policy: Policy, folder: Path) -> None:
    """Write the master weights as a folder that `AutoModelForCausalLM.from_pretrained` loads.

    Rank 0 writes it. Raises RunError where the folder cannot be written.
    """
    if not policy.world.writes:
        # The other ranks take part in gathering sharded weights, and keep none of them.
        deque(policy.weights(), maxlen=0)
        return
    module = _make_plain_module(policy)
    parameters = dict(module.named_parameters())
    for name, weight in policy.weights():
        parameters[name].data = weight.cpu() if policy.shard else weight
    module.config.dtype = policy.dtype
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            module.save_pretrained(folder)
            policy.tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot save the model {folder}: {error}; what was saved before it stays"
        ) from error


def _make_plain_module(policy: Policy) -> PreTrainedModel:
    """Return a copy with its ties between weights, without adapters and shards.

    Where there are such, the copy is fresh, and all of its weights are written over.
    """
    module = policy.module
    if not find_adapter_layers(module) and not policy.shard:
        return copy.deepcopy(module)
    fresh: Any = type(module)(copy.deepcopy(module.config))
    # where a model's ends of text stand
    fresh.generation_config = copy.deepcopy(module.generation_config)
    if policy.shard:
        return fresh
    return fresh.to(next(module.parameters()).device)
