"""The house itself: its size, what its prose promises, and which way its imports go."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import shape

import rlvr
from rlvr import resources
from rlvr.cli import main as cli
from rlvr.config import loader
from rlvr.sweeps import planning

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "rlvr").rglob("*.py"))
# Functions above complexity 10, each of which says why.
COMPLEX: set[str] = set()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_fit_a_screen(path: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 >= 60]
    assert not long


def test_the_code_has_the_shape_that_agents_md_asks_for() -> None:
    """The limits of "Size" in AGENTS.md; `make size` prints the figures."""
    shapes = dict(shape.rows(shape.rooms_of()))
    whole = shapes["all"]
    assert whole.density <= 8.5
    assert {room: found.density for room, found in shapes.items() if found.density > 10} == {}
    assert whole.per_hundred(whole.comprehensions) <= 3
    assert whole.per_hundred(whole.conditionals) <= 2
    assert whole.per_hundred(whole.tuple_assignments) <= 0.3
    assert set(whole.complex) <= COMPLEX
    assert whole.verbs >= 0.6 * whole.functions


def test_the_measure_of_the_shape_sees_what_it_counts() -> None:
    function = ast.parse("def f(x):\n    return [a if a and b or c else d for a in x if a]").body[0]
    assert shape.complexity_of(function) == 1 + 2 + 1 + 1 + 1
    assert shape.is_tuple_assignment(ast.parse("a, b = 1, 2").body[0])
    assert shape.is_tuple_assignment(ast.parse("a = b = 1").body[0])
    assert not shape.is_tuple_assignment(ast.parse("a, b = pair").body[0])
    assert shape.begins_with_a_verb("_read_lines") and not shape.begins_with_a_verb("rows")


@pytest.mark.parametrize(
    "module",
    [
        "types",
        "tasks.math",
        "tasks.knights",
        "tasks.arithmetic",
        "grading.extract",
        "grading.compare",
        "rewards.functions",
        "evaluation.agreement",
        "data.selection",
        "rollouts.gather",
        "config.loader",
        "training.loss",
    ],
)
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import sys, rlvr.{module}; print(*[m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        == ""
    )


def test_broad_exceptions_stand_only_at_the_boundaries() -> None:
    found = {p.name for p in SOURCES if re.search(r"except Exception\b|except:", p.read_text())}
    assert found <= {
        "foreign.py",
        "judge.py",
        "adapters.py",
        "files.py",
        "gym_worker.py",
        "worker.py",
        "math_verify.py",
    }


def commands() -> list[list[str]]:
    blocks = [b for page in PAGES for b in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)]
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "make"], ids=" ".join)
def test_every_make_command_of_the_pages_is_a_target(words: list[str]) -> None:
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("words", [w for w in commands() if w[0] != "make"], ids=" ".join)
def test_every_rlvr_command_of_the_pages_is_understood(words: list[str]) -> None:
    assert words[0] == ".venv/bin/rlvr"
    options = cli.parse(words[1:])
    if hasattr(options, "recipe"):
        loader.load(options.recipe, options.overrides)
    if words[1] == "sweep":
        planning.read_plan(options.file)


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}
    monkeypatch.setattr(
        rlvr, "train", lambda name, **given: called.update(given, name=name), raising=False
    )
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(compile(block, "README.md", "exec"), {})
    loader.load(called["name"], {"run.name": called["run__name"]})
    assert called["reward"]("it is 15", "15") > called["reward"]("it is 16", "15")


def test_the_yaml_of_the_readme_is_a_recipe() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        loader.load(yaml.safe_load(block))


def test_every_shipped_recipe_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in resources.list_shipped() if f"`{name}`" not in text] == []


def test_every_shipped_sweep_is_in_its_page_which_has_a_sweep() -> None:
    text = (ROOT / "docs" / "sweeps.md").read_text()
    assert [name for name in resources.list_shipped("sweep") if f"`{name}`" not in text] == []
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert blocks
    for block in blocks:
        planning.read_plan(yaml.safe_load(block))


def test_the_files_that_contributing_names_exist() -> None:
    names = re.findall(
        r"`(rlvr/[a-z_/]+\.(?:py|yaml)|rlvr/[a-z_/]+/|tests/[a-z_]+\.py)`",
        (ROOT / "CONTRIBUTING.md").read_text(),
    )
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_reference_page_is_what_the_code_says() -> None:
    """In a process of its own, since other tests register plug-ins."""
    show = "import runpy; print(runpy.run_path('docs/reference.py')['page'](), end='')"
    made = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True
    )
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == made.stdout, "make it anew: python docs/reference.py"
