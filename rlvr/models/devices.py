"""What this machine computes with, found out without torch, which takes seconds to load."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import runpy
from pathlib import Path
from typing import Literal

from rlvr.errors import UserError

Device = Literal["cpu", "cuda"]


def choose_device(wanted: str, gpus: int) -> Device:
    """Return the kind of device to use where there are so many GPUs; `auto` takes one if it can.

    Raises UserError where there is none, or fewer than processes on this machine.
    """
    if wanted == "cuda" and gpus == 0:
        raise UserError("model.device: no CUDA device is available here; set model.device: cpu")
    if wanted == "cpu" or gpus == 0:
        return "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > gpus:
        raise UserError(
            f"--nproc: {processes} processes for {gpus} GPUs; start one a GPU, or set model.device: cpu"
        )
    return "cuda"


def count_gpus() -> int:
    """Return how many GPUs torch would find: none where it was built for processors alone."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return 0
    build = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    if build["hip"] is not None:
        # AMD's driver is asked in another way; torch knows it.
        import torch

        return torch.cuda.device_count()
    if build["cuda"] is None:
        return 0
    return _ask_cuda_driver()


def _ask_cuda_driver() -> int:
    """Return the number of devices that the driver shows to this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def has_fast_bf16() -> bool:
    """Return whether the processor multiplies bf16 natively (AVX-512 BF16), as torch would say."""
    try:
        description = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux; no Mac has these instructions
        return False
    return "avx512_bf16" in description.split()
