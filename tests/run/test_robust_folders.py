"""Run folders that were touched by hand, opened twice or begun from other data cost one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.places import ROOT
from torch import Tensor

import rlvr
from rlvr.build.problems import Identities, read_sources
from rlvr.config import loader
from rlvr.errors import RunError, UserError
from rlvr.run import checkpoint, evaluate
from rlvr.run.folder import RunFolder
from rlvr.run.resume import check_position
from rlvr.storage.lock import lock_folder
from rlvr.types import Problem

TENSORS: list[tuple[str, Tensor]] = [("policy/body/weight", torch.arange(6.0))]
SOURCE = {"drawn": 4, "positions": [4], "last": {}, "problems": 7}


class Call:
    """Pickles as a call, which a restricted reader refuses and another would make."""

    def __reduce__(self) -> tuple[Any, ...]:
        return len, ((),)


def save(folder: Path, step: int, keep: int = 1) -> Path:
    position = {"step": step, "phase": "rl", "source": SOURCE}
    return checkpoint.save(folder, TENSORS, {"updates": step}, position, keep, None)


def digest_anew(path: Path) -> None:
    """Make the manifest fit, as one who changes a checkpoint on purpose does."""
    names = [name for name in json.loads((path / "manifest.json").read_text())]
    digests = {name: checkpoint._digest(path / name) for name in names}
    (path / "manifest.json").write_text(json.dumps(digests))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "checkpoints"
    save(path, 4)
    (path.parent / "recipe.yaml").write_text("{}")
    return path


# --- names beside checkpoints


@pytest.mark.parametrize("name", ["step-latest", "step-best", "step-000004.bak", "step-4", "step-"])
@pytest.mark.parametrize("kind", ["copy", "link", "file"])
def test_what_else_is_called_step_is_left_alone_and_counts_for_nothing(
    folder: Path, name: str, kind: str
) -> None:
    other = folder / name
    if kind == "copy":
        shutil.copytree(folder / "step-000004", other)
    elif kind == "link":
        other.symlink_to("step-000004")
    else:
        other.write_text("a note")
    assert save(folder, 6).is_dir()
    assert checkpoint.list_checkpoints(folder) == [folder / "step-000006"]
    latest, damaged = checkpoint.find_latest(folder)
    assert latest is not None
    assert (latest.position["step"], damaged) == (6, [])
    assert other.is_symlink() or other.exists()
    assert list(evaluate._find_checkpoints(folder.parent, "all")) == [0, 6]


def test_a_link_with_the_name_of_a_checkpoint_is_none(folder: Path) -> None:
    (folder / "step-000009").symlink_to("step-000004")
    save(folder, 6)
    assert checkpoint.list_checkpoints(folder) == [folder / "step-000006"]


def test_a_step_of_seven_digits_comes_after_one_of_six(folder: Path) -> None:
    save(folder, 999_999)
    save(folder, 1_000_000)
    assert checkpoint.list_checkpoints(folder) == [folder / "step-1000000"]


# --- what a checkpoint holds


def test_a_layout_that_names_another_function_is_refused(folder: Path) -> None:
    path = folder / "step-000004"
    assert set(checkpoint.tensors(path)) == {"policy/body/weight"}
    (path / ".metadata").write_bytes(pickle.dumps(Call()))
    digest_anew(path)
    with pytest.raises(RunError, match=r"step-000004: its layout asks for builtins\.len"):
        checkpoint.tensors(path)


@pytest.mark.parametrize("layout", [b"", b"no pickle", pickle.dumps({}), pickle.dumps(None)])
def test_a_layout_of_another_kind_is_refused(folder: Path, layout: bytes) -> None:
    path = folder / "step-000004"
    (path / ".metadata").write_bytes(layout)
    with pytest.raises(RunError, match=r"cannot read the checkpoint .*step-000004: "):
        checkpoint.policy_weights(path)


def test_an_evaluation_looks_at_the_digests_first(folder: Path) -> None:
    run = folder.parent
    assert list(evaluate._find_checkpoints(run, [4])) == [4]
    file = folder / "step-000004" / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for asked in ([4], "all"):
        with pytest.raises(UserError, match=r"step-000004: is damaged \(__0_0\.distcp has changed"):
            evaluate._find_checkpoints(run, asked)
    assert list(evaluate._find_checkpoints(run, [0])) == [0]


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", '{"learner.pt": "0"}', "{", ""])
def test_a_manifest_that_names_nothing_makes_no_whole_checkpoint(
    folder: Path, manifest: str
) -> None:
    save(folder, 6, keep=2)
    (folder / "step-000006" / "manifest.json").write_text(manifest)
    latest, damaged = checkpoint.find_latest(folder)
    assert latest is not None
    assert latest.position["step"] == 4
    assert len(damaged) == 1


@pytest.mark.parametrize(
    "position",
    [
        None,
        [],
        {},
        {"step": "4"},
        {"step": 4, "phase": "rl"},
        {"step": 4, "phase": 1, "source": SOURCE},
        {"step": 4, "phase": "rl", "source": {**SOURCE, "drawn": None}},
        {"step": 4, "phase": "rl", "source": {**SOURCE, "positions": 4}},
        {"step": 4, "phase": "rl", "source": {**SOURCE, "last": {"a": 0.5}}},
    ],
)
def test_a_position_of_another_shape_is_refused(folder: Path, position: object) -> None:
    path = folder / "step-000004"
    (path / "position.json").write_text(json.dumps(position))
    digest_anew(path)
    with pytest.raises((RunError, UserError), match=r"step-000004.*; remove "):
        latest, _ = checkpoint.find_latest(folder)
        assert latest is not None
        check_position(latest)


@pytest.mark.parametrize("learner", [[1], 3, Call()])
def test_a_learner_of_another_shape_is_refused(folder: Path, learner: object) -> None:
    path = folder / "step-000004"
    torch.save(learner, path / "learner.pt")
    digest_anew(path)
    with pytest.raises(RunError, match=r"cannot read the checkpoint .*step-000004: "):
        checkpoint.find_latest(folder)


# --- one process at a time


HOLD = """
import sys, time
from pathlib import Path
from rlvr.storage.lock import lock_folder
from rlvr.types import Problem
with lock_folder(Path(sys.argv[1]), "a run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.storage.lock.PATIENCE", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_locked_folder_is_refused_and_a_killed_process_leaves_it_free(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "r"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(20):
            with (
                pytest.raises(UserError, match=rf"a run is at work here \(process {holder.pid}\)"),
                lock_folder(place, "a run"),
            ):
                pass
        holder.kill()
        holder.wait()
    assert (place / ".lock").is_file()  # of the killed process, and held by none
    with lock_folder(place, "a run"):
        assert (place / ".lock").read_text() == str(os.getpid())
    assert not place.exists()


@pytest.mark.usefixtures("impatient")
def test_the_lock_goes_with_its_process_and_leaves_what_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with lock_folder(tmp_path, "a run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with lock_folder(tmp_path, "a sweep", stays=True):
        pass
    assert (tmp_path / ".lock").is_file()


def test_a_lock_that_was_removed_in_the_meantime_is_taken_anew(tmp_path: Path) -> None:
    with lock_folder(tmp_path, "a run") as first:
        old = os.fstat(first).st_ino
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").touch()
        with lock_folder(tmp_path, "a run") as second:
            assert os.fstat(second).st_ino != old


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_no_second_run_begins_in_a_folder_that_is_held(
    tmp_path: Path, tiny_model: Path, how: dict[str, bool]
) -> None:
    recipe = tiny.recipe(tiny_model, run={"name": "r", "folder": str(tmp_path), "steps": 0})
    run = tmp_path / "r"
    if how:
        run.mkdir()
        (run / "recipe.yaml").write_text(loader.dump(loader.load(recipe)))
        (run / "metrics.jsonl").touch()
    with (
        lock_folder(run, "a run"),
        pytest.raises(UserError, match=r"r: a run is at work here \(process \d+\)"),
    ):
        rlvr.train(recipe, **how)


@pytest.mark.usefixtures("impatient")
def test_no_second_evaluation_writes_into_a_folder_that_is_held(
    tmp_path: Path, tiny_model: Path
) -> None:
    row = {"name": "sums", "data": {**tiny.SUMS, "count": 2}}
    with (
        lock_folder(tmp_path / "out", "an evaluation"),
        pytest.raises(UserError, match=r"out: an evaluation is at work here"),
    ):
        rlvr.evaluate(str(tiny_model), [row], out=tmp_path / "out")


# --- what --overwrite deletes, and names


def make_run(path: Path) -> Path:
    for name in ("samples", "checkpoints", "model"):
        (path / name).mkdir(parents=True)
    for name in ("recipe.yaml", "metrics.jsonl", "evals.jsonl", "summary.json", "wandb_id"):
        (path / name).write_text("{}")
    return path


def test_overwrite_deletes_what_a_run_writes_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    (run / "thesis.txt").write_text("mine")
    (run / "checkpoints").rmdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "step-000002").mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    RunFolder(run).clear(overwrite=True)
    assert [path.name for path in run.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "disk" / "step-000002").is_dir()


def test_overwrite_refuses_a_folder_with_a_recipe_in_which_nothing_ran(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not a run folder, so not overwritten"):
        RunFolder(tmp_path).clear(overwrite=True)
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


BAD_NAMES = ["", " ", ".", "..", "../up", "/abs", "a/b", "a\nb", "a\x1b[2J", "a\0", "\ud800"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "n" * 201, "ä" * 101])
def test_a_name_of_which_no_file_can_be_called_is_refused(tiny_model: Path, name: str) -> None:
    recipe = tiny.recipe(tiny_model)
    with pytest.raises(UserError, match=r"run\.name: .*write another name") as refused:
        loader.load(recipe, {"run.name": name})
    assert str(refused.value).isprintable()
    row = {"name": name, "data": tiny.SUMS}
    for benchmarks in ([row], [{**row, "prompt": {"name": "raw"}}]):
        with pytest.raises(UserError, match=r"benchmark\.name: .*write another name"):
            rlvr.evaluate("no such model", benchmarks)


@pytest.mark.parametrize("name", ["r", "a-0", "..a", "Ünï cödé 数学", "n" * 200, "a\\b", "[red]"])
def test_other_names_stay(tiny_model: Path, name: str) -> None:
    assert loader.load(tiny.recipe(tiny_model), {"run.name": name}).run.name == name


# --- identity: a resume goes on with the same problems


ROWS: list[dict[str, Any]] = [
    {"question": f"What is {n + 3} + 4?", "answer": str(n + 7), "why": f"{n} + 7", "level": n}
    for n in range(6)
]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change(index: int, **keys: Any) -> list[dict[str, Any]]:
    return [{**row, **keys} if number == index else row for number, row in enumerate(ROWS)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """The recipe of a run of two steps over a file of rows, which is done."""
    place = tmp_path_factory.mktemp("begun")
    write_rows(place / "sums.jsonl", ROWS)
    columns = {"solution": "why", "level": "level"}
    data = {"name": "file", "path": str(place / "sums.jsonl"), "columns": columns}
    recipe = tiny.recipe(tiny_model, train=[{"data": data, "task": tiny.NUMBER}])
    recipe["run"] = {"name": "r", "folder": str(place), "steps": 2, "threads": 1}
    recipe["checkpoint"] = {"every": 1}
    rlvr.train(recipe)
    return recipe


def place_of(recipe: dict[str, Any]) -> Path:
    return Path(recipe["run"]["folder"])


CHANGES = {
    "a gold": (change(2, answer="99"), "problem 3, 'sums/2', has another"),
    "a question": (change(0, question="What is 4 + 3?"), "problem 1, 'sums/0', has another"),
    "a solution": (change(5, why="for a reason"), "problem 6, 'sums/5', has another"),
    "an entry of meta": (change(1, level=9), "problem 2, 'sums/1', has another"),
    "the order": (ROWS[::-1], "problem 1, 'sums/0', has another"),
    "one row more": ([*ROWS, ROWS[0]], "it has 7 problems and had 6"),
    "one row less": (ROWS[:-1], "it has 5 problems and had 6"),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_resume_with_other_rows_names_the_file_and_the_first_of_them(
    begun: dict[str, Any], changed: str
) -> None:
    rows, fault = CHANGES[changed]
    write_rows(place_of(begun) / "sums.jsonl", rows)
    with pytest.raises(UserError, match=r"are not those that the run was started") as refused:
        rlvr.train(begun, resume=True)
    assert str(place_of(begun) / "sums.jsonl") in str(refused.value)
    assert fault in str(refused.value)
    write_rows(place_of(begun) / "sums.jsonl", ROWS)


def test_a_resume_with_the_same_rows_written_otherwise_goes_on(begun: dict[str, Any]) -> None:
    rows = [dict(reversed(row.items())) for row in ROWS]
    write_rows(place_of(begun) / "sums.jsonl", rows)
    assert rlvr.train(begun, resume=True, run__steps=3)["steps"] == 3


def test_a_run_whose_checkpoints_or_samples_are_gone_is_not_resumed(
    begun: dict[str, Any], tmp_path: Path
) -> None:
    for name, fault in {
        "checkpoints": "the checkpoints are gone, and to begin anew would delete the records of",
        "samples": "is gone, and the summary compares with it",
    }.items():
        run = tmp_path / name / "r"
        shutil.copytree(place_of(begun) / "r", run)
        shutil.rmtree(run / name)
        before = (run / "metrics.jsonl").read_bytes()
        with pytest.raises(UserError, match=fault):
            rlvr.train(begun, resume=True, run__folder=str(run.parent))
        assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("kept", [0, 1, -1])
def test_a_run_whose_first_samples_are_cut_short_is_not_resumed(
    begun: dict[str, Any], tmp_path: Path, kept: int
) -> None:
    run = tmp_path / "cut" / "r"
    shutil.copytree(place_of(begun) / "r", run)
    (samples,) = run.glob("samples/eval-*-000000.jsonl")
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(lines[:kept]))
    with pytest.raises(UserError, match=r"samples where \d+ were counted"):
        rlvr.train(begun, resume=True, run__folder=str(run.parent))


def test_a_checkpoint_of_another_model_costs_one_line(
    begun: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(place_of(begun) / "r", tmp_path / "r")
    path = checkpoint.list_checkpoints(tmp_path / "r" / "checkpoints")[-1]
    position = json.loads((path / "position.json").read_text())
    shutil.rmtree(path)
    checkpoint.save(path.parent, TENSORS, {"updates": 1}, position, 1, None)
    with pytest.raises(UserError, match=r"does not fit the models and optimisers of this recipe"):
        rlvr.train(begun, resume=True, run__folder=str(tmp_path), run__steps=3)


# --- identity: two files that number their rows alike


def read_two(first: list[dict[str, Any]], second: list[dict[str, Any]], place: Path) -> list[Any]:
    """The problems of two files of one name in two folders, as the sources of one recipe."""
    sources: list[dict[str, Any]] = []
    for folder, rows in {"a": first, "b": second}.items():
        (place / folder).mkdir()
        write_rows(place / folder / "train.jsonl", rows)
        data = {"name": "file", "path": str(place / folder / "train.jsonl")}
        sources.append({"data": data, "task": tiny.NUMBER})
    recipe = loader.load(tiny.recipe(place, train=sources))
    return list(read_sources(recipe, None, 0)[0].problems)


def test_files_that_number_their_rows_alike_share_no_id(tmp_path: Path) -> None:
    first, second = read_two(ROWS[:3], ROWS[3:], tmp_path)
    assert [problem.id for problem in first] == ["train/0", "train/1", "train/2"]
    assert [problem.id for problem in second] == ["train/0~2", "train/1~2", "train/2~2"]


def test_a_row_that_two_files_share_keeps_its_id_and_one_other_row_parts_them(
    tmp_path: Path,
) -> None:
    first, second = read_two(ROWS[:3], ROWS[:3], tmp_path)
    assert [problem.id for problem in first] == [problem.id for problem in second]
    (tmp_path / "other").mkdir()
    first, second = read_two(ROWS[:3], [*ROWS[:2], ROWS[5]], tmp_path / "other")
    assert not {problem.id for problem in first} & {problem.id for problem in second}


def test_stages_that_read_files_of_one_name_share_no_id() -> None:
    identities = Identities()
    for text, expected in {"a": "train/0", "b": "train/0~2", "c": "train/0~3"}.items():
        problem = Problem("train/0", "math", text, "1")
        for _ in range(2):  # a stage may read again what another has read
            assert identities.tell_apart([problem])[0].id == expected
