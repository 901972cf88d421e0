"""Load models of transformers in the dtype and on the device that a recipe asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from rlvr.errors import UserError
from rlvr.models.devices import choose_device
from rlvr.models.locating import locate
from rlvr.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlvr.models.policy import Policy


# What transformers raises over a folder that holds no model, or a configuration that none has.
UNUSABLE = (
    OSError,
    ValueError,
    ImportError,
    TypeError,
    RuntimeError,
    SafetensorError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    StrictDataclassError,
)


def load(
    name: str, dtype: torch.dtype, where: str = "model.name", *, with_head: bool = True
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return the causal language model in `dtype` and its tokenizer.

    Python files that a model brings along are never run. Raises UserError in one line where there is
    no model, or where its weights do not have the names of its class: what is missing would be
    random numbers. Without `with_head` those of the body alone are looked at.
    """
    from transformers import AutoModelForCausalLM

    location = locate(name, where)
    tokenizer = load_tokenizer(name, where)
    try:
        with quiet():
            # A pair, where the loading info is asked for; the annotation of transformers has the model alone.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                location, dtype=dtype, trust_remote_code=False, output_loading_info=True
            )
    except UNUSABLE as error:
        raise UserError(f"{where}: cannot load '{name}': {_explain(error)}") from None
    model, names = loaded
    prefix = "" if with_head else f"{model.base_model_prefix}."
    fault = find_weight_fault(names, prefix)
    if fault is not None:
        raise UserError(
            f"{where}: the weights of '{name}' are not those of its config.json: {fault}"
        )
    _say_whether_head_is_tied(model)
    return model, tokenizer


def _say_whether_head_is_tied(model: PreTrainedModel) -> None:
    """Write into the configuration that a head has weights of its own, where a file says otherwise.

    transformers (5.23) leaves a head as it was saved, whatever `tie_word_embeddings` says; a copy
    made from that configuration, a shard or an engine would tie it and lose it.
    """
    head = model.get_output_embeddings()
    if head is None or head.weight is model.get_input_embeddings().weight:
        return
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False


def load_tokenizer(name: str, where: str = "model.name") -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model alone; raises UserError where there is none that can be used."""
    from transformers import AutoTokenizer

    location = locate(name, where)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    except UNUSABLE as error:
        raise UserError(f"{where}: cannot load '{name}': {_explain(error)}") from None
    if tokenizer.chat_template is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{where}: the tokenizer of '{name}' has neither a chat template nor an end-of-text token"
        )
    return tokenizer


def _explain(error: Exception) -> str:
    """Return in one line why transformers did not load a model."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "trust_remote_code" in str(error):
        return "it needs Python code of its own (auto_map), which is never run here"
    if isinstance(error, StrictDataclassError):
        return f"its config.json: {lines[-1].strip()}"
    if isinstance(error, LookupError | AttributeError | ArithmeticError):
        # Such an error names a value and not what is wrong with it.
        return f"its config.json is of no model ({type(error).__name__}: {lines[0]})"
    return lines[0]


def find_weight_fault(names: Mapping[str, Collection[Any]], prefix: str = "") -> str | None:
    """Return which weights a file lacks or has too many, None where it has those of the model.

    `names` is what transformers says of a loading: a head that is tied to the embedding is not among
    the missing. Only names that begin with `prefix` may be missing or unexpected.
    """
    missing = sorted(key for key in names["missing_keys"] if key.startswith(prefix))
    if missing:
        return f"{len(missing)} are missing, such as {missing[0]}{_name_other(names)}"
    unexpected = sorted(key for key in names["unexpected_keys"] if key.startswith(prefix))
    if unexpected:
        return f"{len(unexpected)} have no place in it, such as {unexpected[0]}"
    return None


def _name_other(names: Mapping[str, Collection[Any]]) -> str:
    """Say what stands in the file instead of what is missing."""
    others = sorted(names["unexpected_keys"])
    return f"; the file has {others[0]} instead" if others else ""


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
