"""The files that come with the package: recipes, sweeps and tables beside the code that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).parent
FOLDERS = {"recipe": PACKAGE / "recipes", "sweep": PACKAGE / "recipes" / "sweeps"}


def shipped(kind: str = "recipe") -> list[str]:
    """The names of the recipes (or sweeps) that come with the package."""
    return sorted(path.stem for path in FOLDERS[kind].glob("*.yaml"))


def asset(name: str) -> Any:
    """What a YAML file of the package says that is data of the code beside it: words, signs,
    published sets.
    """
    return yaml.safe_load((PACKAGE / f"{name}.yaml").read_text("utf-8"))
