"""rlvr: reinforcement learning with verifiable rewards for reasoning language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rlvr.errors import RunError, UserError
from rlvr.registry import register

if TYPE_CHECKING:
    from rlvr.run.evaluate import evaluate
    from rlvr.run.train import train
    from rlvr.sweeps.runner import sweep

__version__ = "0.1.0"
__all__ = ["RunError", "UserError", "__version__", "evaluate", "register", "sweep", "train"]


HOME = {"train": "rlvr.run.train", "evaluate": "rlvr.run.evaluate", "sweep": "rlvr.sweeps.runner"}


def __getattr__(name: str) -> Any:
    """What loads torch is imported when it is first asked for."""
    if name not in HOME:
        raise AttributeError(f"module 'rlvr' has no attribute '{name}'")
    return getattr(importlib.import_module(HOME[name]), name)
