"""rlvr: reinforcement learning with verifiable rewards for reasoning language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlvr.errors import RunError, UserError
from rlvr.registry import register

if TYPE_CHECKING:
    from rlvr.arms import sweep
    from rlvr.held_out import evaluate
    from rlvr.run import train

__version__ = "0.1.0"
__all__ = ["RunError", "UserError", "__version__", "evaluate", "register", "sweep", "train"]


def __getattr__(name: str) -> Any:
    """What loads torch is imported when it is first asked for."""
    if name == "train":
        from rlvr.run import train

        return train
    if name == "evaluate":
        from rlvr.held_out import evaluate

        return evaluate
    if name == "sweep":
        from rlvr.arms import sweep

        return sweep
    raise AttributeError(f"module 'rlvr' has no attribute '{name}'")
