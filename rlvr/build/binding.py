"""Bind a plug-in of a recipe to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlvr import registry
from rlvr.config.schema import Spec


def bind_plugin(kind: str, spec: Spec) -> Callable[..., Any]:
    """Return the function of that kind with the recipe's parameters fixed; raises UserError."""
    return registry.find(kind, spec.name, kind).bind(spec.params, kind)
