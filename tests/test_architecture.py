"""The doors between the rooms: which folder may import which, checked on the syntax tree of every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "rlvr"

# Every room may import these files; they import no room.
BASE = {"errors", "types", "seeds", "registry", "resources"}
# room -> rooms it may import. Lower rooms first; a room imports only rooms above it in this table.
ALLOWED = {
    "grading": set(),
    "distributed": set(),
    "storage": set(),
    "config": set(),
    "tasks": {"grading"},
    "metrics": {"distributed"},
    "models": {"distributed"},
    "engines": {"models"},
    "training": {"distributed", "metrics", "models"},
    "report": {"metrics", "storage"},
    "data": {"metrics", "storage", "tasks"},
    "rewards": {"grading", "metrics"},
    "rollouts": {"data", "distributed", "engines", "metrics", "rewards", "tasks"},
    "evaluation": {
        "config",
        "data",
        "distributed",
        "grading",
        "metrics",
        "report",
        "rollouts",
        "storage",
        "tasks",
    },
    "step": {"data", "distributed", "metrics", "rewards", "rollouts", "training"},
    "cold_start": {"data", "models", "rollouts", "step", "training"},
    "build": {
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
    },
    "run": {
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
        "training",
    },
    "sweeps": {"build", "config", "distributed", "metrics", "models", "report", "storage"},
    "cli": {
        "build",
        "config",
        "data",
        "distributed",
        "evaluation",
        "report",
        "run",
        "sweeps",
        "tasks",
    },
    "__main__": {"cli", "distributed"},
    "__init__": {"run", "sweeps"},
}
WITHOUT_TORCH = [
    "rlvr",
    "rlvr.types",
    "rlvr.config.loader",
    "rlvr.tasks.math",
    "rlvr.tasks.knights",
    "rlvr.grading.compare",
    "rlvr.data.sources",
    "rlvr.data.prompts",
    "rlvr.data.selection",
    "rlvr.metrics.statistics",
    "rlvr.metrics.mergeable",
    "rlvr.storage.run_data",
    "rlvr.report.run_page",
    "rlvr.rewards.functions",
    "rlvr.rewards.rewarder",
    "rlvr.sweeps.planning",
    "rlvr.sweeps.table",
    "rlvr.evaluation.grade",
    "rlvr.evaluation.agreement",
    "rlvr.training.advantage",
    "rlvr.training.loss",
    "rlvr.training.reductions",
    "rlvr.training.corrections",
]


def room_of(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports_of(path: Path) -> list[tuple[str, int]]:
    """The rooms that a file imports, wherever the import stands: at the top, in a function, for types alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rlvr":
            parts = node.module.split(".")
            found += [
                (parts[1] if len(parts) > 1 else alias.name, node.lineno) for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            found += [
                (a.name.split(".")[1], node.lineno)
                for a in node.names
                if a.name.startswith("rlvr.")
            ]
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    allowed = BASE if room in BASE else ALLOWED[room] | BASE | {room}
    wrong = [
        f"{path.name}:{line} imports {other}"
        for other, line in imports_of(path)
        if other not in allowed
    ]
    assert not wrong


def test_the_table_has_no_circle() -> None:
    done: set[str] = set()
    for room, below in ALLOWED.items():
        late = below - done
        assert not late, f"{room} may import {late}, which come after it"
        done.add(room)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_a_light_room_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules or 'transformers' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
