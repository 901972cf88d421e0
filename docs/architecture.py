"""The parts of `docs/architecture.md` that are made from the code: the map, the doors, the reading order.

`python docs/architecture.py` writes them between their marks; a test compares.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
ROOT = PAGE.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.doors import BASE, DOORS, PACKAGE  # noqa: E402 - the table of the tests

READING_ORDER = (
    "step.py",
    "types.py",
    "registry.py",
    "training/advantage.py",
    "training/loss.py",
    "tasks/knights.py",
    "build/run.py",
    "run/train.py",
    "run/loop.py",
)


def page() -> str:
    """Return the page with every marked part made anew."""
    text = PAGE.read_text(encoding="utf-8")
    parts: dict[str, Callable[[], str]] = {
        "reading order": reading_order,
        "map": map_of_rooms,
        "doors": table_of_doors,
    }
    for name, make in parts.items():
        begin, end = f"<!-- {name}, made by docs/architecture.py -->", f"<!-- end of {name} -->"
        before, mark, rest = text.partition(begin)
        _, closing, after = rest.partition(end)
        assert mark and closing, f"the marks of '{name}' are missing"
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def reading_order() -> str:
    lines = []
    for number, name in enumerate(READING_ORDER, start=1):
        lines.append(f"{number}. `rlvr/{name}`: {subject_of(PACKAGE / name)}")
    return "\n".join(lines)


def map_of_rooms() -> str:
    """Each room with its sentence, then its files with theirs; the files beside the rooms come first."""
    beside = [path for path in sorted(PACKAGE.glob("*.py")) if not path.stem.startswith("__")]
    lines = ["**Beside the rooms**", "", *(row(path) for path in beside)]
    for room in DOORS:
        folder = PACKAGE / room
        if not folder.is_dir():
            continue
        lines += ["", f"**`rlvr/{room}/`** {subject_of(folder / '__init__.py')}", ""]
        files = [path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
        lines += [row(path) for path in files]
    return "\n".join(lines)


def row(path: Path) -> str:
    return f"- `{path.relative_to(PACKAGE)}`: {subject_of(path)}"


def subject_of(path: Path) -> str:
    """Return the first sentence of a file's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0]


def table_of_doors() -> str:
    lines = ["| room | may import |", "|---|---|"]
    for room, below in DOORS.items():
        if not room.startswith("__"):
            lines.append(f"| `{room}` | {', '.join(f'`{name}`' for name in below) or 'no room'} |")
    free = ", ".join(f"`{name}.py`" for name in sorted(BASE))
    return "\n".join([*lines, "", f"Every room may import {free}, which import no room."])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
