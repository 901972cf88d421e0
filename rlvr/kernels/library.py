"""The compiled file: made once by the C compiler of this machine, found again by what it was made of."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from ctypes import POINTER, Structure, c_float, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("transformer.c")
# What the source is written in; the result does not depend on the machine that compiles it.
FLAGS = (
    "-std=c11",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-ffp-contract=off",
    "-mtune=native",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx512bf16",
    "-mavx512vnni",
    "-mfma",
)
COMPILE_SECONDS = 120.0


class Linear(Structure):
    """As in transformer.c, as are those below."""

    _fields_ = [
        ("packed", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int32),
        ("inputs", c_int32),
        ("bits", c_int32),
    ]


class Layer(Structure):
    _fields_ = [
        ("input_norm", c_void_p),
        ("output_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("qkv", Linear),
        ("out", Linear),
        ("gate_up", Linear),
        ("down", Linear),
    ]


class Model(Structure):
    _fields_ = [
        ("layers", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("key_heads", c_int32),
        ("head_size", c_int32),
        ("inner", c_int32),
        ("eps", c_float),
        ("attention_scale", c_float),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("layer", POINTER(Layer)),
        ("head", Linear),
    ]


class Pass(Structure):
    _fields_ = [
        ("rows", c_int32),
        ("outputs", c_int32),
        ("table_width", c_int32),
        ("most_tokens", c_int32),
        ("token", c_void_p),
        ("position", c_void_p),
        ("branch", c_void_p),
        ("table", c_void_p),
        ("output", c_void_p),
        ("page", c_void_p),
        ("logits", c_void_p),
        ("scratch", c_void_p),
        ("threads", c_int32),
    ]


@functools.cache
def load_library() -> Any | None:
    """Return the compiled functions; None where the processor or a compiler for them is missing."""
    if not _has_instructions():
        return None
    try:
        path = _find_or_compile()
    except (OSError, subprocess.SubprocessError):
        return None
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.run_pass.argtypes = [POINTER(Model), POINTER(Pass)]
    library.run_pass.restype = None
    library.scratch_size.argtypes = [POINTER(Model), c_int32, c_int32, c_int32]
    library.scratch_size.restype = c_size_t
    library.pack.argtypes = [POINTER(Linear), c_void_p, c_int32, c_int32, c_int32]
    library.pack.restype = None
    library.packed_size.argtypes = [POINTER(Linear)]
    library.packed_size.restype = c_size_t
    return library


def _has_instructions() -> bool:
    return torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_vnni_supported()


def _find_or_compile() -> Path | None:
    """Return the file of this source; None where there is no compiler to make it."""
    content = SOURCE.read_bytes() + " ".join(FLAGS).encode()
    path = _get_folder() / f"transformer-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may compile at once; each puts a whole file in place.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = str(Path(folder, path.name))
        command = [compiler, *FLAGS, "-shared", str(SOURCE), "-o", made, "-lm"]
        subprocess.run(  # noqa: S603 - a source of ours
            command, check=True, capture_output=True, timeout=COMPILE_SECONDS
        )
        os.replace(made, path)
    return path


def _get_folder() -> Path:
    """Return the user's folder for what can be made again."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home, "rlvr").expanduser()


if __name__ == "__main__":
    found = "compiled" if load_library() is not None else "not compiled; PyTorch does their work"
    print(f"  kernels for AVX-512: {found}")
