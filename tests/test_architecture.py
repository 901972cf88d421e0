"""The doors between the rooms, checked on the syntax tree of every file, and the map that shows them."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from support import doors
from support.doors import BASE, DOORS, PACKAGE

LIGHT = sorted(
    {*doors.LIGHT_FILES}
    | {
        doors.module_of(path)
        for path in doors.sources()
        if doors.room_of(path) in doors.LIGHT_ROOMS and path.stem != "__init__"
    }
)


@pytest.mark.parametrize("path", doors.sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = doors.room_of(path)
    allowed = BASE if room in BASE else {*DOORS[room], *BASE, room}
    imported = doors.rooms_imported(path)
    assert [
        f"{path.name}:{line} imports {other}" for other, line in imported if other not in allowed
    ] == []


def test_the_table_of_doors_has_no_circle() -> None:
    above: set[str] = set()
    for room, below in DOORS.items():
        late = set(below) - above
        assert not late, f"{room} may import {late}, which come after it"
        above.add(room)


def test_every_room_stands_in_the_table_and_every_door_is_used() -> None:
    used: dict[str, set[str]] = {}
    for path in doors.sources():
        used.setdefault(doors.room_of(path), set()).update(
            room for room, _ in doors.rooms_imported(path)
        )
    assert used.keys() == {*DOORS, *BASE}
    closed = {room: set(below) - used[room] for room, below in DOORS.items()}
    assert {room: unused for room, unused in closed.items() if unused} == {}


def test_no_file_imports_itself_through_others() -> None:
    graph = {doors.module_of(path): doors.files_imported(path) for path in doors.sources()}
    for module, imported in graph.items():
        imported.discard(module)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" -> ".join(reversed(circle.args[1])))


def test_the_light_rooms_load_neither_torch_nor_transformers() -> None:
    """All in one process: what one of them loads is there for the next, so each is asked in turn."""
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({name!r})\n"
        f"heavy = {{'torch', 'transformers', 'pyarrow', 'scipy'}} & sys.modules.keys()\n"
        f"assert not heavy, f'{name} loads {{heavy}}'\n"
        for name in LIGHT
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_room_says_in_two_sentences_what_it_is_and_what_it_imports(room: str) -> None:
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1, "a room's __init__ holds nothing but its docstring"
    text = " ".join((ast.get_docstring(tree) or "").split())
    names = " and ".join(filter(None, [", ".join(DOORS[room][:-1]), *DOORS[room][-1:]]))
    sentence, imports = text.partition(" Imports ")[::2]
    assert imports == f"{names or 'no room'}."
    assert sentence.count(". ") == 0 and sentence.endswith(".")


def test_few_files_stand_beside_the_rooms() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 10


def test_the_map_is_what_the_rooms_say() -> None:
    show = "import runpy; print(runpy.run_path('docs/architecture.py')['page'](), end='')"
    made = subprocess.run(
        [sys.executable, "-c", show], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == made.stdout, "make it anew: python docs/architecture.py"
