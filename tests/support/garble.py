"""Run folders with something wrong in one file, and the commands that read them: what a fuzzer draws.

    python tests/support/garble.py [--commands 2000] [--resumes 100] [--seed 0]

asks that many commands about folders that were garbled one by one, resumes that many garbled runs
of the tiny model, and prints those that ended in a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rlvr.cli.main import main as run_command
from support import fake_run, tiny

WRONG_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, "", "x", "1", [], [1], ["x", None], {}, {"a": 1}, [[[]]], float("nan"),
    float("inf"), "\x00", "\ud800", "nan", {"value": {"value": []}}, [0.1, "b"], "\x1b[31m",
)  # fmt: skip

# Whole texts in place of a file.
TEXTS: tuple[bytes, ...] = (
    b"", b"\n", b"null", b"[]", b"{}", b"7", b'"x"', b"\x00\x00\x00", b"\xff\xfe{\x00", b"{", b"[1, 2", b"{}\n{}\n",
    b"[]\n[]\n", b"null\nnull\n", b"\xef\xbb\xbf{}", b"a: b: c", b"- 1\n- 2\n", b"1" * 5000, b"[" * 500, b"NaN\n",
    b'{"step": "x"}\n', b'{"step": 1}\n', b'{"step": 1, "step": 2}\n',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one command on one garbled folder."""

    arguments: tuple[str, ...]
    garbled: str
    status: int | None
    message: str
    trace: str = ""


def make_folders(place: Path) -> None:
    """Write the folders that are garbled: two runs, one that was killed, an evaluation and a sweep."""
    fake_run.healthy(place / "run", steps=10)
    fake_run.hacked(place / "other", steps=10)
    fake_run.unfinished(place / "killed", steps=15)
    evaluation = place / "evaluation"
    evaluation.mkdir()
    samples = []
    for line in (place / "run/samples/eval-heldout-000010.jsonl").read_text().splitlines():
        samples.append(json.dumps({"benchmark": "heldout", "seed": 0, **json.loads(line)}))
    (evaluation / "samples.jsonl").write_text("\n".join(samples) + "\n")
    last = (place / "run/evals.jsonl").read_text().splitlines()[-1]
    (evaluation / "results.json").write_text(f"[{last}]")


def find_files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


Garbler = Callable[[random.Random, Path], str]


def cut_short(draw: random.Random, path: Path) -> str:
    """Keep a part of the bytes, as a full disk does."""
    content = path.read_bytes()
    count = draw.randrange(len(content) + 1)
    path.write_bytes(content[:count])
    return f"cut at {count}"


def replace_text(draw: random.Random, path: Path) -> str:
    number = draw.randrange(len(TEXTS))
    path.write_bytes(TEXTS[number])
    return f"text {number}"


def insert_bytes(draw: random.Random, path: Path) -> str:
    """Put bytes that are no UTF-8, or a NUL, somewhere."""
    content = path.read_bytes()
    place = draw.randrange(len(content) + 1)
    what = draw.choice([b"\xff", b"\x00", b"\r", b"\xe2\x80\xa8", b"{", b"\n"])
    path.write_bytes(content[:place] + what + content[place:])
    return f"{what!r} at {place}"


def remove_file(_draw: random.Random, path: Path) -> str:
    path.unlink()
    return "removed"


def make_folder(_draw: random.Random, path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "a folder"


def change_value(draw: random.Random, path: Path) -> str:
    """Put a value of another kind in place of one, or leave a key out."""
    lines = path.read_text().splitlines()
    whole = path.suffix == ".json"
    number = 0 if whole else draw.randrange(len(lines))
    try:
        row = json.loads("\n".join(lines) if whole else lines[number])
    except ValueError:
        return replace_text(draw, path)
    spots = list(_list_spots(row))
    if not spots:
        return replace_text(draw, path)
    holder, key = draw.choice(spots)
    if draw.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
        what = f"line {number}: no {key}"
    else:
        holder[key] = draw.choice(WRONG_VALUES)
        what = f"line {number}: {key} = {holder[key]!r}"
    text = json.dumps(row)
    path.write_text(
        text if whole else "\n".join([*lines[:number], text, *lines[number + 1 :]]) + "\n"
    )
    return what


def _list_spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place of a value: its dict or list, and the key."""
    keys: Sequence[Any] = ()
    if isinstance(value, dict):
        keys = list(value)
    if isinstance(value, list):
        keys = range(len(value))
    for key in keys:
        yield value, key
        yield from _list_spots(value[key])


GARBLERS: tuple[tuple[Garbler, int], ...] = (
    (change_value, 10),
    (cut_short, 3),
    (replace_text, 4),
    (insert_bytes, 2),
    (remove_file, 1),
    (make_folder, 1),
)


def draw_commands(draw: random.Random, folder: str) -> list[tuple[str, ...]]:
    """Return commands that read the folder with this name."""
    if folder == "evaluation":
        return [("report", folder), ("report", folder, "run"), ("grade", f"{folder}/samples.jsonl")]
    method = draw.choice(["historical_variance", "lim", "pass_rate", "random", "uncertainty"])
    return [
        ("report", folder),
        ("report", folder, "other" if folder != "other" else "run", "--out", "both.html"),
        ("select", folder, "--method", method),
        ("select", f"{folder}/history.jsonl", "--method", method),
        ("show", f"{folder}/recipe.yaml"),
        ("audit", folder),
    ]


def ask(arguments: Sequence[str], garbled: str) -> Outcome:
    """Run one command in this process and say what became of it."""
    said: list[str] = []
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            status = run_command(list(arguments), said.append)
    except SystemExit as end:
        return Outcome(tuple(arguments), garbled, int(end.code or 0), "exit")
    # Anything else is what the fuzzer looks for.
    except Exception:
        return Outcome(tuple(arguments), garbled, None, "", traceback.format_exc())
    return Outcome(tuple(arguments), garbled, status, "\n".join(said))


def fuzz(place: Path, commands: int, seed: int, *, audit: bool = True) -> Iterator[Outcome]:
    """Yield what becomes of so many commands, each about a folder in which one file was garbled."""
    draw = random.Random(seed)
    whole = place / "whole"
    make_folders(whole)
    names = [str(path.relative_to(whole)) for path in find_files(whole)]
    garblers = [garbler for garbler, _ in GARBLERS]
    weights = [weight for _, weight in GARBLERS]
    garbled = place / "garbled"
    before = Path.cwd()
    for _ in range(commands):
        shutil.rmtree(garbled, ignore_errors=True)
        shutil.copytree(whole, garbled)
        name = _draw_name(draw, names)
        garbler = draw.choices(garblers, weights)[0]
        what = f"{name}: {garbler(draw, garbled / name)}"
        choices = draw_commands(draw, name.split("/")[0])
        if not audit:
            choices = [choice for choice in choices if choice[0] != "audit"]
        os.chdir(garbled)
        try:
            yield ask(draw.choice(choices), what)
        finally:
            os.chdir(before)


def fuzz_resumes(place: Path, resumes: int, seed: int) -> Iterator[Outcome]:
    """Yield what becomes of runs of the tiny model that are resumed after one of their files was garbled."""
    draw = random.Random(seed)
    recipe = tiny.recipe(tiny.save(place / "tiny"), checkpoint={"every": 1, "keep": 2})
    recipe["run"] = {**recipe["run"], "name": "run", "steps": 2, "folder": "runs"}  # type: ignore[dict-item]
    whole = place / "whole"
    whole.mkdir()
    (whole / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = Path.cwd()
    os.chdir(whole)
    first = ask(("train", "recipe.yaml"), "nothing")
    os.chdir(before)
    assert first.status == 0, first
    runs = whole / "runs"
    names = [str(path.relative_to(runs)) for path in find_files(runs)]
    garbled = place / "garbled"
    for _ in range(resumes):
        shutil.rmtree(garbled, ignore_errors=True)
        shutil.copytree(whole, garbled)
        name = draw.choice([name for name in names if not name.endswith(".html")])
        garbler = draw.choices([g for g, _ in GARBLERS], [w for _, w in GARBLERS])[0]
        if garbler is change_value and not name.endswith((".json", ".jsonl")):
            garbler = insert_bytes
        what = f"{name}: {garbler(draw, garbled / 'runs' / name)}"
        os.chdir(garbled)
        try:
            yield ask(("train", "recipe.yaml", "run.steps=3", "--resume"), what)
        finally:
            os.chdir(before)


def _draw_name(draw: random.Random, names: Sequence[str]) -> str:
    """Return a file: those of samples are many, and count as one kind."""
    samples = [name for name in names if "/samples/" in name]
    others = [name for name in names if "/samples/" not in name]
    return draw.choice(samples if draw.random() < 0.25 else others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=2000)
    parser.add_argument("--resumes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folders = Path(place)
        show_outcomes("commands", fuzz(folders / "read", options.commands, options.seed))
        show_outcomes("resumes", fuzz_resumes(folders / "resumed", options.resumes, options.seed))


def show_outcomes(what: str, outcomes: Iterable[Outcome]) -> None:
    """Print how often commands ended in which status, and each traceback."""
    statuses: dict[str, int] = {}
    for outcome in outcomes:
        status = "traceback" if outcome.status is None else str(outcome.status)
        statuses[status] = statuses.get(status, 0) + 1
        if outcome.status is None:
            print(outcome.arguments, outcome.garbled)
            print(*outcome.trace.splitlines()[-4:], sep="\n    ")
    print(what, dict(sorted(statuses.items())))


if __name__ == "__main__":
    main()
