"""A run that was stopped or killed and resumed is the run that was never disturbed, bit for bit.

Runs happen in processes of their own, so that they can be killed. To keep that cheap they are
forked from a server that has loaded torch and transformers once (`in_process`); one test starts
`python -m rlvr` itself.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import tiny
from support.processes import (
    PLUGINS,
    ROOT,
    Ended,
    assert_same,
    facts,
    in_process,
    rows,
)

SOURCE = {"data": {"name": "arithmetic", "kinds": ["add"], "levels": [1], "count": 16}}
HELD_OUT = {
    "name": "heldout",
    "data": {"name": "arithmetic", "kinds": ["add"], "levels": [1], "count": 4, "split": "test"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several updates": {"learn": {"epochs": 2, "minibatches": 2, "tokens_per_pass": 64}},
    "cold start": {"cold_start": {"steps": 3, "problems": 4}},
    "reference": {"loss": {"terms": ["clip", {"name": "kl", "coef": 0.5}]}},
    "reference after a cold start": {
        "cold_start": {"steps": 3, "problems": 4},
        "loss": {"terms": ["clip", {"name": "kl", "coef": 0.5}]},
    },
    "five problems": {"train": [{**SOURCE, "data": {**SOURCE["data"], "count": 5}}]},
    "two sources": {
        "train": [
            {**SOURCE, "weight": 2.0},
            {"data": {"name": "arithmetic", "kinds": ["mul"], "count": 3}},
        ]
    },
    "refilled": {"gather": {"name": "refill", "max_attempts": 3}, "filter": ["no_signal"]},
    "schedule": {
        "optimizer": {"lr": 1e-2, "schedule": {"name": "cosine", "final": 0.1}, "warmup": 2}
    },
    "bfloat16": {"model": {"compute": "bfloat16"}},
    "saved in the background": {"checkpoint": {"every": 1, "background": True}},
}


@dataclass(frozen=True)
class Place:
    """A folder with the tiny model, the plug-ins, one recipe for each variant, and the undisturbed
    runs.
    """

    path: Path
    model: Path
    cache: dict[str, int]

    def recipe(self, variant: str) -> Path:
        """A recipe of six steps with a checkpoint after every second."""
        sections: dict[str, Any] = {
            "optimizer": {"lr": 1e-2},
            "checkpoint": {"every": 2},
            "reward": f"{self.path / 'plugins.py'}:digits",
            "train": [SOURCE],
            "eval": {"max_tokens": 4, "every": 3, "second_verifier": False, "sets": [HELD_OUT]},
            **VARIANTS[variant],
        }
        tree = tiny.recipe(self.model, **sections)
        tree["model"] = {
            "name": str(self.model),
            "compute": "float32",
            **VARIANTS[variant].get("model", {}),
        }
        tree["run"] = {"steps": 6, "seed": 0, "folder": "runs", "threads": 1}
        path = self.path / f"{variant.replace(' ', '_')}.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    def train(self, variant: str, name: str, *words: str, **how: Any) -> Ended:
        return in_process(
            "train", str(self.recipe(variant)), f"run.name={name}", *words, cwd=self.path, **how
        )

    def stop(
        self, variant: str, name: str, step: int, sign: int = signal.SIGINT, *words: str
    ) -> Ended:
        """Train until a signal comes right after the records of a step."""
        tracker = f"trackers=[{{name: '{self.path / 'plugins.py'}:Stop', step: {step}, sign: {int(sign)}}}]"
        return self.train(variant, name, tracker, *words)

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    def whole(self, variant: str, *words: str) -> Path:
        """The run that nothing disturbed; made once."""
        name = "_".join(
            ["whole", variant.replace(" ", "_"), *(word.replace("=", "-") for word in words)]
        )
        if name not in self.cache:
            ended = self.train(variant, name, *words)
            assert ended.status == 0, ended.err
            self.cache[name] = ended.writes
        return self.run(name)

    def writes(self, variant: str) -> int:
        """How often the undisturbed run changed the file system."""
        return self.cache[self.whole(variant).name]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    path = tmp_path_factory.mktemp("resume")
    (path / "plugins.py").write_text(PLUGINS)
    (path / "runs").mkdir()  # making it would be a change of files in the first run alone
    return Place(path, tiny_model, {})


def resume(place: Place, variant: str, name: str, *words: str) -> Ended:
    ended = place.train(variant, name, "--resume", *words)
    assert ended.status == 0, ended.err
    return ended


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_undisturbed_run_learns_so_that_a_resume_has_something_to_lose(
    place: Place, variant: str
) -> None:
    run = place.whole(variant)
    metrics = rows(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    assert sum(row["grad_norm"] > 0 for row in metrics) >= len(metrics) - 1
    assert (run / "model" / "model.safetensors").read_bytes() != (
        place.model / "model.safetensors"
    ).read_bytes()
    history = rows(run / "history.jsonl")
    assert {row["step"] for row in history} == {
        row["step"] for row in metrics if row["phase"] == "rl"
    }


# The step after which Ctrl-C comes: with a checkpoint, without one, and in the cold start or at its
# end.
STOPS = {
    "plain": [1, 2, 6],
    "several updates": [3],
    "cold start": [1, 3],
    "reference": [3],
    "reference after a cold start": [2, 3, 7],
    "five problems": [3],
    "two sources": [3],
    "refilled": [3],
    "schedule": [1],
    "bfloat16": [3],
    "saved in the background": [3, 6],
}


@pytest.mark.parametrize(
    ("variant", "step"), [(name, step) for name, steps in STOPS.items() for step in steps]
)
def test_resume_after_ctrl_c_equals_the_undisturbed_run(
    place: Place, variant: str, step: int
) -> None:
    name = f"stopped_{variant.replace(' ', '_')}_{step}"
    ended = place.stop(variant, name, step)
    assert ended.status == 130, ended.err
    assert f"step {step}" in ended.err
    assert "--resume" in ended.err
    assert rows(place.run(name) / "metrics.jsonl")[-1]["step"] == step
    assert not (place.run(name) / "summary.json").exists()
    assert f"step {step}" in resume(place, variant, name).out
    assert_same(place.run(name), place.whole(variant))


def test_resume_after_ctrl_c_with_no_checkpoints_asked_for(place: Place) -> None:
    assert place.stop("plain", "unsaved", 3, signal.SIGINT, "checkpoint.every=0").status == 130
    resume(place, "plain", "unsaved", "checkpoint.every=0")
    assert_same(place.run("unsaved"), place.whole("plain"))


def test_resume_may_be_stopped_again_and_again(place: Place) -> None:
    assert place.stop("plain", "again", 1).status == 130
    for step in (2, 3, 5):
        assert place.stop("plain", "again", step, signal.SIGINT, "--resume").status == 130
    resume(place, "plain", "again")
    assert_same(place.run("again"), place.whole("plain"))


def test_the_command_that_ctrl_c_prints_resumes_the_run(place: Place) -> None:
    stopped = place.stop("plain", "copied text", 3)
    words = shlex.split(stopped.err.strip().splitlines()[-1].partition("rlvr train ")[2])
    assert "--resume" in words
    kept = [word for word in words if not word.startswith("trackers=")]
    assert len(kept) == len(words) - 1, "the override of the trackers is one word of the shell"
    ended = in_process("train", *kept, cwd=place.path)
    assert ended.status == 0, ended.err
    assert_same(place.run("copied text"), place.whole("plain"))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_resume_after_a_kill_between_two_steps_equals_the_undisturbed_run(
    place: Place, step: int
) -> None:
    name = f"killed_{step}"
    assert place.stop("plain", name, step, signal.SIGKILL).status == -signal.SIGKILL
    said = resume(place, "plain", name).out
    saved = (step - 1) // 2 * 2
    assert (f"step {saved}" if saved else "from its beginning") in said
    assert_same(place.run(name), place.whole("plain"))


@pytest.mark.parametrize(
    ("variant", "step"),
    [("plain", 0), ("plain", 3), ("reference after a cold start", 5), ("refilled", 3)],
)
def test_resume_after_a_kill_in_the_middle_of_a_step_equals_the_undisturbed_run(
    place: Place, variant: str, step: int
) -> None:
    name = f"killed_in_{variant.replace(' ', '_')}_{step}"
    assert (
        place.train(variant, name, env={"TEST_KILL_IN_STEP": str(step)}).status == -signal.SIGKILL
    )
    resume(place, variant, name)
    assert_same(place.run(name), place.whole(variant))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.37, 0.44, 0.5, 0.6, 0.8, 1.0])
def test_resume_after_a_kill_at_any_change_of_a_file_equals_the_undisturbed_run(
    place: Place, share: float
) -> None:
    name, write = f"killed_at_{share}", max(1, round(share * place.writes("plain")))
    assert place.train("plain", name, kill_before_write=write).status == -signal.SIGKILL
    if (place.run(name) / "recipe.yaml").exists():
        resume(place, "plain", name)
    else:
        assert place.train("plain", name, "--overwrite").status == 0
    assert_same(place.run(name), place.whole("plain"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.9])
def test_resume_after_a_kill_beside_a_save_in_the_background_equals_the_undisturbed_run(
    place: Place, share: float
) -> None:
    variant = "saved in the background"
    name, write = f"killed_beside_{share}", max(1, round(share * place.writes(variant)))
    assert place.train(variant, name, kill_before_write=write).status == -signal.SIGKILL
    resume(place, variant, name)
    assert_same(place.run(name), place.whole(variant))


@pytest.mark.parametrize("write", range(1, 9))
def test_resume_or_a_new_start_goes_on_after_a_kill_at_each_of_the_first_changes(
    place: Place, write: int
) -> None:
    """A run that was killed before it had its recipe is no obstacle to one of the same name."""
    name = f"begun_{write}"
    assert place.train("plain", name, kill_before_write=write).status == -signal.SIGKILL
    begun = (place.run(name) / "recipe.yaml").exists()
    ended = place.train("plain", name, *(["--resume"] if begun else []), "run.steps=1")
    assert ended.status == 0, ended.err


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_resume_after_a_kill_of_the_resumed_run_equals_the_undisturbed_run(
    place: Place, share: float
) -> None:
    name = f"killed_twice_{share}"
    variant = "reference after a cold start"
    assert place.stop(variant, name, 6, signal.SIGKILL).status == -signal.SIGKILL
    write = max(1, round(share * place.writes(variant) / 2))
    assert place.train(variant, name, "--resume", kill_before_write=write).status == -signal.SIGKILL
    resume(place, variant, name)
    assert_same(place.run(name), place.whole(variant))


def test_resume_after_a_kill_that_left_half_a_line_and_half_a_checkpoint(place: Place) -> None:
    assert place.stop("plain", "halves", 3, signal.SIGKILL).status == -signal.SIGKILL
    run = place.run("halves")
    for name in ("metrics.jsonl", "history.jsonl", "evals.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 4, "rew')
    half = run / "checkpoints" / ".unfinished"
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(b"half")
    (run / "samples" / ".train-000004.jsonl.unfinished").write_text('{"step": 4')
    resume(place, "plain", "halves")
    assert_same(run, place.whole("plain"))


def test_resume_repeats_and_skips_no_problem(place: Place) -> None:
    """Against the order of the data itself, not against another run."""
    from rlvr.build.problems import read_problems
    from rlvr.config import loader as recipe
    from rlvr.data.sources import Sources

    variant = "five problems"
    place.stop(variant, "order", 3)
    resume(place, variant, "order")
    resolved = recipe.load(place.recipe(variant))
    sources = Sources((read_problems(resolved.train[0], "train.0"),), (1.0,), 0)
    state, wanted = sources.start(), []
    for step in range(1, 7):
        draws, state = sources.draw(state, 2)
        wanted += [(step, draw.problem.id) for draw in draws]
    history = [(row["step"], row["id"]) for row in rows(place.run("order") / "history.jsonl")]
    assert history == wanted
    ids = [name for _, name in history]
    assert len(set(ids[:5])) == 5
    assert set(ids[5:10]) == set(ids[:5])


@pytest.mark.parametrize("finished", [True, False])
def test_resume_with_more_steps_goes_on(place: Place, finished: bool) -> None:
    name = f"extended_{finished}"
    ended = place.train("plain", name, "run.steps=4") if finished else place.stop("plain", name, 3)
    assert ended.status == (0 if finished else 130)
    resume(place, "plain", name, "run.steps=8")
    found, wanted = facts(place.run(name)), facts(place.whole("plain", "run.steps=8"))
    for part in ("metrics", "history", "weights"):
        assert found[part] == wanted[part], part
    assert found["summary"]["steps"] == 8
    at = [row["step"] for row in wanted["evals"]]
    assert [row for row in found["evals"] if row["step"] in at] == wanted["evals"]


def test_resume_of_a_finished_run_with_more_steps_repeats_none(place: Place) -> None:
    """Also where no checkpoint was asked for on the way: the finished run is where the longer one
    goes on.
    """
    assert place.train("plain", "finished", "run.steps=3", "checkpoint.every=0").status == 0
    before = (place.run("finished") / "metrics.jsonl").read_bytes()
    resume(place, "plain", "finished", "run.steps=5", "checkpoint.every=0")
    assert (place.run("finished") / "metrics.jsonl").read_bytes().startswith(before)


def test_resume_of_a_finished_run_trains_nothing_again(place: Place) -> None:
    assert place.train("plain", "done").status == 0
    before = (place.run("done") / "metrics.jsonl").read_bytes()
    resume(place, "plain", "done")
    assert (place.run("done") / "metrics.jsonl").read_bytes() == before
    assert_same(place.run("done"), place.whole("plain"))


def test_resume_with_fewer_steps_than_were_done_says_so_or_ends_there(place: Place) -> None:
    assert place.stop("plain", "fewer", 4).status == 130
    before = (place.run("fewer") / "metrics.jsonl").read_bytes()
    ended = place.train("plain", "fewer", "--resume", "run.steps=2")
    assert "Traceback" not in ended.err
    assert ended.status in (0, 2)
    assert (
        "run.steps" in ended.err
        if ended.status == 2
        else json.loads((place.run("fewer") / "summary.json").read_text())
    )
    if ended.status == 2:
        assert (place.run("fewer") / "metrics.jsonl").read_bytes() == before


def test_resume_of_a_moved_run_folder_goes_on(place: Place) -> None:
    place.stop("plain", "moved", 3)
    shutil.move(place.run("moved"), place.path / "elsewhere")
    resume(place, "plain", "elsewhere", f"run.folder={place.path}")
    found, wanted = facts(place.path / "elsewhere"), facts(place.whole("plain"))
    assert found["metrics"] == wanted["metrics"]
    assert found["weights"] == wanted["weights"]


def test_resume_after_ctrl_c_in_a_real_shell(place: Place) -> None:
    """`python -m rlvr`, a signal from outside, and the exit status that a shell sees."""
    words = [sys.executable, "-m", "rlvr", "train", str(place.recipe("plain")), "run.name=shell"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TEST_PAUSE": "0.1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        words, cwd=place.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log, until = place.run("shell") / "metrics.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 2) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert err.count("\n") == 1
    assert "stopping after this step" in out
    step = rows(log)[-1]["step"]
    assert 2 <= step < 6
    assert f"step {step}" in resume(place, "plain", "shell").out
    assert_same(place.run("shell"), place.whole("plain"))


def test_a_second_ctrl_c_stops_at_once_and_the_run_can_be_resumed(place: Place) -> None:
    tracker = f"'{place.path / 'plugins.py'}:Stop'"
    twice = f"trackers=[{{name: {tracker}, step: 3}}, {{name: {tracker}, step: 3}}]"
    ended = place.train("plain", "twice", twice)
    assert ended.status == 130
    assert ended.err.count("\n") == 1
    assert "step 2" in resume(place, "plain", "twice").out
    assert_same(place.run("twice"), place.whole("plain"))
