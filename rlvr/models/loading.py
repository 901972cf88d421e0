"""Load models of transformers in the dtype and on the device that a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from rlvr.errors import UserError
from rlvr.models.devices import choose_device
from rlvr.models.locating import locate
from rlvr.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlvr.models.policy import Policy


def load(
    name: str, dtype: torch.dtype, where: str = "model.name"
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return the causal language model in `dtype` and its tokenizer.

    Raises UserError in one line where there is none.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    location = locate(name, where)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(location)
            model = AutoModelForCausalLM.from_pretrained(location, dtype=dtype)
    except (OSError, ValueError, ImportError, TypeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{where}: cannot load '{name}': {lines[0]}") from None
    if tokenizer.chat_template is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{where}: the tokenizer of '{name}' has neither a chat template nor an end-of-text token"
        )
    return model, tokenizer


def check_tokens(tokenizer: PreTrainedTokenizerBase, policy: Policy, name: str, where: str) -> None:
    """Refuse a second model to which the policy's token ids mean something else."""
    if not policy.tokenizer.get_vocab().items() <= tokenizer.get_vocab().items():
        raise UserError(
            f"{where}: '{name}' has other tokens than the policy; choose a model with the same tokenizer"
        )


def checkpoint_layers(module: PreTrainedModel) -> None:
    """Recompute each layer's activations in the backward pass."""
    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in module.modules():
        # Only layers in training recompute. Dropout inside them stays off, since it has a switch of
        # its own.
        if hasattr(layer, "gradient_checkpointing"):
            layer.training = True


def compute_dtype(wanted: str, master: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of the arithmetic.

    `auto` is bf16 on hardware that multiplies it natively, else the dtype of the weights.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if master is not torch.float32:
        return master
    has_bf16 = torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bf16 else master


def device_of(wanted: str) -> torch.device:
    """Return the device of a recipe; `auto` is the GPU where there is one.

    Raises UserError where there is none, or fewer than processes on this machine.
    """
    return torch.device(choose_device(wanted, torch.cuda.device_count()))
