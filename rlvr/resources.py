"""The files that come with the package: recipes, sweeps and tables beside the code that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
FOLDERS = {"recipe": PACKAGE / "recipes", "sweep": PACKAGE / "recipes" / "sweeps"}


def list_shipped(kind: str = "recipe") -> list[str]:
    """Return the names of the recipes (or sweeps) that come with the package."""
    return sorted(path.stem for path in FOLDERS[kind].glob("*.yaml"))


def load_asset(name: str) -> Any:
    """Return what a YAML file of the package holds that is data of the code beside it.

    Such as words, signs and published sets.
    """
    import yaml

    text = (PACKAGE / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
