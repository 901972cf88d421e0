"""Reinforcement learning with verifiable rewards for reasoning language models.

>>> import rlvr
>>> rlvr.load_recipe("demo", ["rollout.samples=4"]).rollout.samples
4
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rlvr.errors import RunError, UserError
from rlvr.types import (
    Context,
    Problem,
    Response,
    Reward,
    Rollout,
    Status,
    Verdict,
    VerifiedGroup,
)

if TYPE_CHECKING:
    from rlvr.config.loader import load as load_recipe
    from rlvr.registry import register
    from rlvr.run.evaluate import evaluate
    from rlvr.run.train import train
    from rlvr.sweeps.runner import sweep

__version__ = "0.1.0"
__all__ = [
    "Context",
    "Problem",
    "Response",
    "Reward",
    "Rollout",
    "RunError",
    "Status",
    "UserError",
    "Verdict",
    "VerifiedGroup",
    "__version__",
    "evaluate",
    "load_recipe",
    "register",
    "sweep",
    "train",
]

# Where the functions are that load pydantic or torch. No file or folder beside this one may have the
# name of a public function: importing `rlvr.train` as a module would put it in the function's place.
LAZY = {
    "evaluate": ("rlvr.run.evaluate", "evaluate"),
    "load_recipe": ("rlvr.config.loader", "load"),
    "register": ("rlvr.registry", "register"),
    "sweep": ("rlvr.sweeps.runner", "sweep"),
    "train": ("rlvr.run.train", "train"),
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for."""
    if name not in LAZY:
        raise AttributeError(f"module 'rlvr' has no attribute '{name}'")
    module, function = LAZY[name]
    return getattr(importlib.import_module(module), function)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
