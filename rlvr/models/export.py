"""Write a model folder that transformers loads."""

from __future__ import annotations

import copy
from collections import deque
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlvr.errors import RunError
from rlvr.models.loading import quiet
from rlvr.models.lora import adapter_weights


def export(policy: Any, folder: Path) -> None:
    """The policy's master weights as a folder that `AutoModelForCausalLM.from_pretrained` loads;
    rank 0 writes it.
    """
    if not policy.world.writes:
        deque(policy.weights(), maxlen=0)
        return
    module = _plain(policy)
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


def _plain(policy: Any) -> Any:
    """A copy with its ties between weights; without adapters and shards, whose whole is written
    over it.
    """
    module = policy.module
    if not adapter_weights(module) and not policy.shard:
        return copy.deepcopy(module)
    fresh = type(module)(copy.deepcopy(module.config))
    # where a model's ends of text stand
    fresh.generation_config = copy.deepcopy(module.generation_config)
    return fresh if policy.shard else fresh.to(next(module.parameters()).device)
