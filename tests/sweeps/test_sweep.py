"""Sweeps: what is refused before anything starts, that a killed one goes on, and what its table
says.

The sweeps of these tests are trained by a process that is forked from a server with torch loaded,
and so are its runs (`Forked` stands for `subprocess.Popen`), which spares each of them the seconds
of that import. One test has real processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from support import tiny

import rlvr
from rlvr import resources
from rlvr.cli import main as cli
from rlvr.distributed.lifetime import end_with_parent
from rlvr.errors import RunError, UserError
from rlvr.metrics.statistics import estimate_crossed_interval
from rlvr.sweeps import inputs, planning, processes

ROOT = Path(__file__).parents[2]
PLUGINS = '''
import hashlib
import os
import signal
import time

from rlvr.types import Reward, Status, Verdict


def odd(problem, response):
    """Right about half the time and well-formed as often, by problem and text, whatever the tiny model says."""
    total = int(hashlib.sha256(f"{problem.question} {response.text}".encode()).hexdigest()[:6], 16)
    right = Status.CORRECT if total % 2 else Status.WRONG
    return Verdict(right, str(total), total % 3 > 0, "odd")


def digits(group, context, *, arm: str = ""):
    """The share of digits, which the tiny model earns often. TEST_STRIKE is arm, seed, step, sign and whom it hits."""
    strike = os.environ.get("TEST_STRIKE", "").split()
    if strike[:3] == [arm, str(context.seed), str(context.step)]:
        os.kill(os.getppid() if strike[4] == "sweep" else os.getpid(), int(strike[3]))
        time.sleep(3.0 if int(strike[3]) == signal.SIGKILL else 0.5)
    time.sleep(float(os.environ.get("TEST_PAUSE", 0)))
    texts = [member.rollout.text for member in group.members]
    return [Reward(sum(c.isdigit() for c in text) / (1 + len(text)), {}) for text in texts]


def broken(group, context):
    raise ValueError("this reward is broken")
'''


class Forked:
    """As much of `subprocess.Popen` as a sweep uses, by a fork in place of a new program."""

    open_ends: list[int] = []

    def __init__(
        self,
        words: Sequence[str],
        stdin: int,
        stdout: Any,
        stderr: Any,
        env: Any,
        pass_fds: Any,
        process_group: int,
    ) -> None:
        ours, end = os.pipe()
        self.open_ends.append(end)
        self.stdin, self.returncode = SimpleNamespace(close=lambda: self._close(end)), None
        self.pid = os.fork()
        if self.pid == 0:
            for each in self.open_ends:
                os.close(each)
            os.setpgid(0, process_group)
            os.dup2(ours, 0)
            os.dup2(stderr.fileno(), 2)
            os.dup2(stdout.fileno() if stdout else 1, 1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = 1
            sys.argv = ["rlvr", *words[3:]]
            os.environ |= env
            try:
                end_with_parent()
                sys.exit(cli.main(sys.argv[1:]))
            except SystemExit as stop:
                status = int(stop.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.close(ours)

    def _close(self, end: int) -> None:
        self.open_ends.remove(end)
        os.close(end)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, sign: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def in_process(
    *words: str, cwd: Path, env: dict[str, str] | None = None, kill_before_write: int = 0
) -> Ended:
    """`rlvr …` in a process of its own, killed just before its n-th change to the file system where
    that is asked.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["rlvr.run.train", "rlvr.report.run_page", "transformers.models.llama", "tiny"]
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    try:
        process = context.Process(
            target=_main, args=(words, str(cwd), env or {}, kill_before_write)
        )
        process.start()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    process.join(300)
    assert process.exitcode is not None, "the sweep did not end"
    return Ended(process.exitcode, (cwd / "out.txt").read_text(), (cwd / "err.txt").read_text())


def _main(words: Sequence[str], cwd: str, env: dict[str, str], kill_at: int) -> None:
    os.chdir(cwd)
    os.environ |= env | {"COLUMNS": "100"}
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    processes.subprocess = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE)  # type: ignore[assignment]
    if kill_at:
        _strike_before_write(kill_at)
    status = cli.main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _strike_before_write(kill_at: int) -> None:
    """SIGKILL for this process, not for those that it forks, just before its n-th change below
    `runs`.
    """
    mine, seen = os.getpid(), []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        opened = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        moved = event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
        if (opened or moved) and os.getpid() == mine and str(args[0]).startswith("runs"):
            seen.append(event)
            if len(seen) == kill_at:
                os.kill(mine, signal.SIGKILL)

    sys.addaudithook(hook)


@dataclass(frozen=True)
class Place:
    """A folder with the tiny model, a recipe and a sweep of two arms and two seeds."""

    path: Path

    @staticmethod
    def make(path: Path, model: Path, **changes: Any) -> Place:
        path.mkdir(parents=True, exist_ok=True)
        (path / "plugins.py").write_text(PLUGINS)
        base = tiny.recipe(model, optimizer={"lr": 1e-2}, reward={"name": "plugins.py:digits"})
        base["run"] = {"steps": 3, "threads": 1}
        base["checkpoint"] = {"every": 1}
        base["eval"]["every"] = 2  # type: ignore[index]
        base["eval"]["sets"][0]["task"] = "plugins.py:odd"  # type: ignore[index]
        (path / "base.yaml").write_text(yaml.safe_dump(base))
        options = {
            "recipe": "base.yaml",
            "seeds": [0, 1],
            "keep": "results",
            "arms": {
                "a": {"reward.0.arm": "a"},
                "b": {"reward.0.arm": "b", "rollout": {"temperature": 1.5}},
            },
        }
        (path / "two.yaml").write_text(yaml.safe_dump(options | changes, sort_keys=False))
        return Place(path)

    @property
    def folder(self) -> Path:
        return self.path / "runs" / "two"

    def sweep(self, *words: str, **how: Any) -> Ended:
        return in_process("sweep", "two.yaml", *words, cwd=self.path, **how)

    def finished(self) -> dict[str, tuple[int, bytes]]:
        """Every file of every finished run, as its time of change and its contents."""
        runs = [path.parent for path in self.folder.glob("*/summary.json")]
        files = [file for run in runs for file in sorted(run.rglob("*")) if file.is_file()]
        return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    def table(self) -> list[str]:
        return [
            (self.folder / name).read_text() for name in ("table.md", "sweep.json", "sweep.html")
        ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    """The sweep that nothing disturbed."""
    place = Place.make(tmp_path_factory.mktemp("whole"), tiny_model)
    ended = place.sweep()
    assert ended.status == 0, ended.err
    assert ended.err == ""
    return place


def test_the_table_holds_the_figures_of_the_run_folders(whole: Place) -> None:
    """Computed again from the samples, without the code of the table."""
    found = json.loads((whole.folder / "sweep.json").read_text())
    right = {}
    for name in ("a-0", "a-1", "b-0", "b-1"):
        for step in (0, 3):
            lines = (
                (whole.folder / name / f"samples/eval-heldout-{step:06d}.jsonl")
                .read_text()
                .splitlines()
            )
            right[name, step] = [json.loads(line)["status"] == "correct" for line in lines]
    after = {arm: np.array([right[f"{arm}-{seed}", 3] for seed in (0, 1)], float).T for arm in "ab"}
    before = np.array([right["a-0", 0], right["a-1", 0]], float).T
    assert found["arms"]["a"]["seeds"] == [0, 1]
    assert found["arms"]["a"]["after"]["pass@1"] == pytest.approx(after["a"].mean())
    assert found["arms"]["a"]["gain"]["pass@1"] == pytest.approx((after["a"] - before).mean())
    assert "difference" not in found["arms"]["a"]
    change = after["b"] - after["a"]
    assert change.any() and (after["a"] - before).any(), (
        "the arms do not differ, so the test shows nothing"
    )
    assert found["arms"]["b"]["difference"]["pass@1"] == pytest.approx(change.mean())
    assert found["arms"]["b"]["difference"]["ci95"] == pytest.approx(
        estimate_crossed_interval(change)
    )
    assert [point["step"] for point in found["arms"]["b"]["curve"]] == [0, 2, 3]


def test_what_is_not_to_stay_of_a_run_is_deleted(whole: Place) -> None:
    for run in whole.folder.glob("[ab]-*"):
        kept = {path.name for path in run.iterdir()}
        assert {"recipe.yaml", "summary.json", "history.jsonl", "report.html", "samples"} <= kept
        assert not kept & {"model", "checkpoints"}


def test_the_table_is_made_again_without_training(
    whole: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before, runs = whole.table(), whole.finished()
    for name in ("table.md", "sweep.json", "sweep.html"):
        (whole.folder / name).unlink()
    with contextlib.chdir(whole.path):
        assert cli.main(["sweep", "two.yaml", "--table"]) == 0
    assert whole.table() == before
    assert whole.finished() == runs
    assert "against a" in capsys.readouterr().out


def test_a_finished_sweep_is_refused_and_with_resume_runs_nothing(whole: Place) -> None:
    runs = whole.finished()
    refused = whole.sweep()
    assert refused.status == 2
    assert refused.err == (
        "rlvr: runs/two: a sweep lies here already; add --resume to go on or --overwrite to replace it\n"
    )
    assert whole.sweep("--resume").status == 0
    assert whole.finished() == runs


# Where the sweep is struck, one after the other: before its n-th change of a file; in a step of a
# run, by a signal to the sweep or to the run.
STRIKES: list[tuple[int | str, int]] = [
    (2, -signal.SIGKILL),
    (5, -signal.SIGKILL),
    (f"a 0 1 {int(signal.SIGKILL)} sweep", -signal.SIGKILL),
    (8, -signal.SIGKILL),
    (13, -signal.SIGKILL),
    (f"a 1 1 {int(signal.SIGINT)} sweep", 130),
    (f"b 0 2 {int(signal.SIGKILL)} sweep", -signal.SIGKILL),
    (f"b 1 0 {int(signal.SIGKILL)} run", 1),
]


def test_a_sweep_killed_anywhere_resumes_without_running_a_finished_run_again(
    whole: Place, tmp_path: Path, tiny_model: Path
) -> None:
    place, done, reached = Place.make(tmp_path / "struck", tiny_model), {}, []
    for number, (strike, status) in enumerate(STRIKES):
        how = (
            {"env": {"TEST_STRIKE": strike}}
            if isinstance(strike, str)
            else {"kill_before_write": strike}
        )
        there = number > 0 and (place.folder / "sweep.yaml").exists()
        ended = place.sweep(*(["--resume"] if there else []), **how)
        assert ended.status == status, (strike, ended)
        if status == 130:
            last = ended.err.strip().splitlines()[-1]
            assert last.endswith("go on with: rlvr sweep two.yaml --resume")
        found = place.finished()
        assert {name: found[name] for name in done} == done, (
            f"a finished run was changed after {strike}"
        )
        done = found
        reached.append(len({Path(name).relative_to(place.folder).parts[0] for name in done}))
    assert place.sweep("--resume").status == 0
    found = place.finished()
    assert {name: found[name] for name in done} == done
    assert place.table() == whole.table()
    assert reached[-1] >= 2, f"the strikes came too early to show anything: {reached}"
    assert len(set(reached)) >= 3, reached


def test_side_by_side_gives_the_same_table(whole: Place, tmp_path: Path, tiny_model: Path) -> None:
    place = Place.make(tmp_path / "parallel", tiny_model)
    ended = place.sweep("--parallel", "2")
    assert ended.status == 0, ended.err
    assert place.table() == whole.table()
    starts = [line for line in ended.out.splitlines() if "starts" in line or "finished" in line]
    assert "starts" in starts[1] and "starts" in starts[2], starts


@pytest.mark.slow
def test_the_runs_of_a_killed_sweep_end_with_it(
    whole: Place, tmp_path: Path, tiny_model: Path
) -> None:
    """Real processes: the run is gone when its sweep is, and lets go of the folder."""
    place = Place.make(tmp_path / "real", tiny_model)
    env = os.environ | {"PYTHONPATH": str(ROOT), "TEST_PAUSE": "0.5", "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "rlvr", "sweep", "two.yaml"]
    process = subprocess.Popen(
        words, cwd=place.path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    log, until = place.folder / "a-0" / "metrics.jsonl", time.monotonic() + 240
    while (
        not (log.exists() and log.read_text())
        and process.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.02)
    process.kill()
    _, err = process.communicate()
    assert log.exists(), err
    with (place.folder / ".lock").open() as lock:
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.1)
        else:
            pytest.fail("the run goes on without its sweep")
    assert not (place.folder / "a-0" / "summary.json").exists()
    ended = place.sweep("--resume")
    assert ended.status == 0, ended.err
    assert "a-0: goes on" in ended.out
    assert place.table() == whole.table()


def test_an_arm_that_fails_does_not_lose_the_others(tmp_path: Path, tiny_model: Path) -> None:
    chosen = {"name": "historical_variance", "history": "runs/two/bad-{seed}", "top": 1}
    place = Place.make(
        tmp_path,
        tiny_model,
        seeds=[0],
        arms={
            "bad": {"reward": "plugins.py:broken"},
            "needs": {"train.0.select": chosen},
            "good": {},
        },
        baseline="good",
    )
    ended = place.sweep()
    assert ended.status == 1
    assert ended.err == "rlvr: 2 of 3 runs failed: bad-0, needs-0; the others are in the table\n"
    found = json.loads((place.folder / "sweep.json").read_text())
    assert found["arms"]["good"]["seeds"] == [0]
    assert "this reward is broken" in found["missing"]["bad-0"]
    assert found["missing"]["needs-0"] == "not started, since it needs bad-0"
    assert "this reward is broken" in (place.folder / "sweep.html").read_text()
    assert "- bad-0 is not finished: " in (place.folder / "table.md").read_text()
    runs = place.finished()
    assert place.sweep("--resume").status == 1
    assert place.finished() == runs


def test_a_run_waits_for_the_one_whose_history_it_selects_from(
    tmp_path: Path, tiny_model: Path
) -> None:
    """The chosen problem is the first of the ranking of the full run, in whatever order the arms
    stand.
    """
    from rlvr.data.rankings import rank_problems

    chosen = {"name": "historical_variance", "history": "runs/two/full-{seed}", "top": 1}
    arms_ = {
        "chosen": {"train.0.select": chosen},
        "full": {"run.steps": 6, "train.0.data.count": 4},
    }
    place = Place.make(
        tmp_path, tiny_model, seeds=[3], arms=arms_, overrides={"train.0.data.count": 4}
    )
    ended = place.sweep()
    assert ended.status == 0, ended.err
    assert ended.out.index("full-3: starts") < ended.out.index("chosen-3: starts")
    asked = {
        json.loads(line)["id"]
        for line in (place.folder / "chosen-3/history.jsonl").read_text().splitlines()
    }
    first = rank_problems(place.folder / "full-3", "historical_variance", {}, top=1)[0]
    assert asked == {first.id}


# --- what is refused before anything starts
# ---------------------------------------------------------------------------

SELF = {"name": "historical_variance", "history": "runs/two/b-0", "top": 1}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no recipe": (
        {"recipe": "demmo"},
        "two: arms.a: unknown recipe 'demmo' (did you mean 'demo'?)",
    ),
    "a key of the sweep": ({"seed": [0]}, "two: seed: unknown key (did you mean 'seeds'?)"),
    "no arm": ({"arms": {}}, "two: arms: "),
    "a key of an arm": (
        {"arms": {"b": {"rollout.sample": 3}}},
        "two: arms.b: base: rollout.sample: unknown key",
    ),
    "a value of an arm": (
        {"arms": {"b": {"optimizer": {"lr": "x"}}}},
        "two: arms.b: base: optimizer.lr: should be",
    ),
    "a plug-in of an arm": (
        {"arms": {"b": {"reward": "randon"}}},
        "two: arms.b: base: reward.0.name: unknown reward",
    ),
    "a run's own key": (
        {"arms": {"b": {"run": {"seed": 4}}}},
        "two: arms.b: run.seed: the sweep sets it",
    ),
    "an overrides key": (
        {"overrides": {"run.name": "x"}},
        "two: arms.a: run.name: the sweep sets it",
    ),
    "the baseline": ({"baseline": "c"}, "two: baseline: no arm 'c'"),
    "a name": ({"arms": {"a/b": {}}}, "two: arms.a/b: the name becomes that of a folder"),
    "a seed twice": ({"seeds": [1, 1]}, "two: seeds: one of them stands there twice"),
    "no seed": ({"seeds": []}, "two: seeds: should not be empty"),
    "what to keep": ({"keep": "nothing"}, "two: keep: should be"),
    "no held-out set": (
        {"overrides": {"eval.sets": []}},
        "two: arms.a: eval.sets: has no held-out set",
    ),
    "other held-out sets": (
        {"arms": {"a": {}, "b": {"eval.sets.0.data.count": 9}}},
        "two: arms.b: eval.sets.0: is not that of 'a', so the two do not compare",
    ),
    "data": (
        {"arms": {"b": {"train.0.data.count": 10**9}}},
        "two: arms.b: train.0.data: arithmetic: count=",
    ),
    "a file": (
        {"arms": {"b": {"train.0.data": {"name": "file", "path": "no.jsonl"}}}},
        "two: arms.b: train.0.data: ",
    ),
    "a selection": (
        {"arms": {"b": {"train.0.select": {"name": "ids", "ids": ["x"]}}}},
        "two: arms.b: select.ids: no problem 'x'",
    ),
    "a history": (
        {"arms": {"b": {"train.0.select": {"name": "lim", "history": "runs/other"}}}},
        "two: arms.b: runs/other: no such file",
    ),
    "a model": (
        {"arms": {"b": {"model.name": "no_model"}}},
        "two: arms.b: model.name: no folder and no built-in",
    ),
    "itself": (
        {"arms": {"b": {"train.0.select": SELF}}},
        "two: arms.b: its recipe reads 'runs/two/b-0', which can",
    ),
    "a deleted model": (
        {"arms": {"a": {}, "b": {"model.name": "runs/two/a-0"}}},
        "two: keep: 'results' deletes the model of 'runs/two/a-0', which arms.b starts from; keep model",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_refused_in_one_line_before_anything_starts(
    what: str,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes, wanted = MISTAKES[what]
    place = Place.make(tmp_path, tiny_model, **changes)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "two.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rlvr: {wanted}"), err
    assert err.count("\n") == 1
    assert not place.folder.exists()


def test_a_changed_arm_is_refused(whole: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole.path)
    options = yaml.safe_load((whole.path / "two.yaml").read_text())
    options["arms"]["b"]["optimizer.lr"] = 0.5
    (whole.path / "changed.yaml").write_text(
        yaml.safe_dump(options | {"name": "two"}, sort_keys=False)
    )
    for given in ({"resume": True}, {"table": True}):
        with pytest.raises(
            UserError, match=r"arms\.b: runs/two/b-0 was trained with another 'optimizer\.lr'"
        ):
            rlvr.sweep("changed.yaml", **given)


def test_what_a_folder_may_not_hold(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.make(tmp_path, tiny_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlvr.storage.lock.PATIENCE", 0.0)
    place.folder.mkdir(parents=True)
    with (place.folder / ".lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            UserError, match=r"runs/two: a sweep is at work here \(process 4711\); wait, or stop it"
        ):
            rlvr.sweep("two.yaml")
    (place.folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and not the folder of a sweep"):
        rlvr.sweep("two.yaml", overwrite=True)
    assert (place.folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("given", [{"parallel": 0}, {"resume": True, "overwrite": True}])
def test_options_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--"):
        rlvr.sweep("one_shot_terms_small", **given)


def test_a_run_folder_of_something_else_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "a-0").mkdir()
    (tmp_path / "a-0" / "notes.txt").write_text("mine")
    unit = planning.Unit("a", 0, tmp_path / "a-0", SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"holds notes\.txt but no recipe\.yaml"):
        processes.clear_remains(unit)
    assert (tmp_path / "a-0" / "notes.txt").exists()


# --- the shipped sweeps
# -----------------------------------------------------------------------------------------------


def differences(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    """All dotted keys that differ, also those inside of lists."""

    def leaves(value: Any, at: str) -> dict[str, Any]:
        rows = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else None
        )
        if rows is None:
            return {at: value}
        return {at: None} | {
            k: v for key, inner in rows for k, v in leaves(inner, f"{at}.{key}".strip(".")).items()
        }

    one, other = leaves(before, ""), leaves(now, "")
    return {
        key
        for key in {**one, **other}
        if key not in one or key not in other or one[key] != other[key]
    }


@pytest.mark.parametrize("name", resources.list_shipped("sweep"))
def test_the_arms_of_a_shipped_sweep_differ_from_the_baseline_in_what_they_claim(name: str) -> None:
    plan = planning.read_plan(name)
    base = {
        unit.seed: unit.recipe.model_dump(mode="json", exclude={"run"})
        for unit in plan.of(plan.baseline)
    }
    assert len(plan.units) == len(plan.sweep.arms) * len(plan.sweep.seeds)
    assert len(plan.sweep.seeds) >= 3
    for unit in plan.units:
        if unit.arm == plan.baseline:
            continue
        claimed = [key for key, _ in planning.flatten_overrides(plan.sweep.arms[unit.arm])]
        found = differences(base[unit.seed], unit.recipe.model_dump(mode="json", exclude={"run"}))
        for key in claimed:
            assert any(one == key or one.startswith(f"{key}.") for one in found), (
                f"{unit.path.name} changes no {key}"
            )
        stray = [
            one
            for one in found
            if not any(one == key or one.startswith(f"{key}.") for key in claimed)
        ]
        rows = [one for one in stray if not any(key.startswith(f"{one}.") for key in claimed)]
        assert not [one for one in rows if not re.match(r"reward\.\d", one)], (
            f"{unit.path.name} also changes {rows}"
        )


@pytest.mark.parametrize(
    "name", [name for name in resources.list_shipped("sweep") if not name.endswith("_small")]
)
def test_a_shipped_sweep_has_a_small_twin_with_the_same_arms(name: str) -> None:
    whole, small = planning.read_plan(name), planning.read_plan(f"{name}_small")
    assert list(whole.sweep.arms) == list(small.sweep.arms)
    assert small.baseline == whole.baseline
    assert {unit.recipe.model.name for unit in small.units} == {"smollm2-135m-instruct"}
    known: dict[str, Any] = {}
    for unit in small.units:
        inputs.check_sources(unit.recipe, known, selects=not unit.waits)


def test_the_experiment_selects_from_the_full_run_of_the_same_seed() -> None:
    plan = planning.read_plan("one_shot_experiment_small")
    for unit in plan.units:
        waits = (
            [] if unit.arm in ("full", "random_problem") else [plan.folder / f"full-{unit.seed}"]
        )
        assert list(unit.waits) == waits
    random = {unit.seed: unit.recipe.train[0].select.params for unit in plan.of("random_problem")}
    assert random == {seed: {"take": 1, "seed": seed} for seed in (0, 1, 2)}


def test_the_ablation_of_the_paper_has_its_terms() -> None:
    rows = {arm: [] for arm in planning.read_plan("one_shot_terms").sweep.arms}
    for unit in planning.read_plan("one_shot_terms").units:
        terms = [term.name for term in unit.recipe.loss.terms]
        rows[unit.arm] = [
            *terms,
            unit.recipe.optimizer.weight_decay,
            unit.recipe.train[0].select.params.get("answer"),
        ]
    assert rows == {
        "all": ["clip", "kl", "entropy", 0.01, None],
        "policy": ["clip", 0.0, None],
        "policy_wd": ["clip", 0.01, None],
        "policy_wd_kl": ["clip", "kl", 0.01, None],
        "kl_entropy": ["kl", "entropy", 0.01, None],
        "entropy": ["entropy", 0.0, None],
        "wrong_guessable": ["clip", "kl", "entropy", 0.01, "4"],
        "wrong_unguessable": ["clip", "kl", "entropy", 0.01, "929725"],
    }


def test_a_wrong_label_takes_the_place_of_the_gold() -> None:
    from rlvr.data.selection import by_id
    from rlvr.types import Problem

    problems = [Problem("a", "math", "7 + 8?", "15"), Problem("b", "math", "1 + 1?", "2")]
    assert [(p.id, p.answer) for p in by_id(problems, ids=("a",), answer="16", repeat=(2,))] == [
        ("a", "16")
    ] * 2
    assert problems[0].answer == "15"


def test_a_run_does_not_start_from_its_own_folder(tmp_path: Path, tiny_model: Path) -> None:
    """With --overwrite the weights that it starts from would be deleted."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("{}")
    for name in (run, run / "model"):
        made = tiny.recipe(tiny_model, model={"name": str(name)})
        made["run"] = {"name": "mine", "folder": str(tmp_path / "runs")}
        with pytest.raises(
            UserError,
            match=r"^model\.name: .* is the folder of this very run .*; choose another run\.name$",
        ):
            rlvr.train(made, overwrite=True)
    assert (run / "recipe.yaml").exists()


def test_the_command_to_go_on_is_a_command() -> None:
    options = cli.parse(shlex.split("sweep two.yaml --parallel 2 --resume"))
    assert (options.file, options.parallel, options.resume, options.table) == (
        "two.yaml",
        2,
        True,
        False,
    )
