"""The doors of the house: which room may import which. `docs/architecture.md` and the tests read this table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "rlvr"
# Every room may import these files; they import no room.
BASE = {"errors", "foreign", "types", "seeds", "registry", "resources"}
# Lower rooms come first; a room imports only rooms above it in this table. Files beside the rooms are rooms of one.
DOORS: dict[str, tuple[str, ...]] = {
    "grading": (),
    "distributed": (),
    "storage": (),
    "config": (),
    "tasks": ("grading",),
    "metrics": ("distributed",),
    "models": ("distributed",),
    "kernels": (),
    "engines": ("kernels", "models"),
    "training": ("distributed", "metrics", "models"),
    "report": ("metrics", "storage"),
    "data": ("metrics", "storage", "tasks"),
    "rewards": ("grading", "metrics"),
    "rollouts": ("data", "distributed", "engines", "metrics", "rewards", "tasks"),
    "evaluation": (
        "config",
        "data",
        "distributed",
        "grading",
        "metrics",
        "report",
        "rollouts",
        "storage",
        "tasks",
    ),
    "step": ("data", "distributed", "metrics", "rewards", "rollouts", "training"),
    "cold_start": ("data", "models", "rollouts", "step", "training"),
    "build": (
        "cold_start",
        "config",
        "data",
        "distributed",
        "engines",
        "evaluation",
        "models",
        "rewards",
        "rollouts",
        "step",
        "tasks",
        "training",
    ),
    "run": (
        "build",
        "cold_start",
        "config",
        "data",
        "distributed",
        "evaluation",
        "metrics",
        "models",
        "report",
        "rollouts",
        "step",
        "storage",
        "tasks",
        "training",
    ),
    "sweeps": ("build", "config", "distributed", "metrics", "models", "report", "storage"),
    "cli": (
        "build",
        "config",
        "data",
        "distributed",
        "evaluation",
        "report",
        "run",
        "sweeps",
        "tasks",
    ),
    "__main__": ("cli", "distributed"),
    "__init__": ("config", "run", "sweeps"),
}
# What loads neither torch nor transformers: the whole of these rooms, and these files of others.
LIGHT_ROOMS = ("config", "tasks", "grading", "data", "rewards", "metrics", "storage", "report")
LIGHT_FILES = (
    "rlvr",
    "rlvr.types",
    "rlvr.registry",
    "rlvr.build.estimate",
    "rlvr.sweeps.planning",
    "rlvr.sweeps.table",
    "rlvr.evaluation.grade",
    "rlvr.evaluation.agreement",
    "rlvr.training.advantage",
    "rlvr.training.loss",
    "rlvr.training.reductions",
    "rlvr.training.corrections",
)


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the room of a file: its folder, or its own name beside the rooms."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def module_of(path: Path) -> str:
    """Return the dotted name of a file, `rlvr.training.loss`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each module of ours that a file imports, with the line.

    An import at the top, in a function and for types alone count alike. What is imported from a package may be a
    module of it: both names are given.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rlvr":
            yield str(node.module), node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "rlvr":
                    yield alias.name, node.lineno


def files_imported(path: Path) -> set[str]:
    """Return the modules with a file of their own that a file imports, rooms' empty `__init__` left out."""
    known = {module_of(source) for source in sources() if source.stem != "__init__"}
    return {name for name, _ in imports_of(path) if name in known}


def rooms_imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the rooms that a file imports, with the line."""
    rooms = {*DOORS, *BASE}
    for name, line in imports_of(path):
        parts = name.split(".")
        if len(parts) > 1 and parts[1] in rooms:
            yield parts[1], line
