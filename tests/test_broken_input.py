"""What goes wrong outside the code costs one line (status 2 for input, 1 for a failure) and nothing
that was saved.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import tiny
from support.processes import Ended, assert_same, in_process, rows

import rlvr
from rlvr.cli import main as cli
from rlvr.distributed.world import SINGLE_PROCESS
from rlvr.errors import RunError, UserError
from rlvr.run import checkpoint

PLUGINS = '''
import math
import os
import resource
from pathlib import Path

from rlvr.types import Reward, Status, Verdict


def is_broken():
    """The file beside this one says what is broken, until the user mends it by removing the file."""
    path = Path(__file__).with_name("broken")
    return path.read_text() if path.exists() else ""


def digits(group, context):
    texts = [member.rollout.text for member in group.members]
    values = [Reward(sum(c.isdigit() for c in text) / (1 + len(text)), {}) for text in texts]
    return spoil(values) if context.step >= 3 else values


def spoil(values):
    broken = is_broken()
    if broken == "raises":
        raise KeyError("no such answer")
    if broken == "NaN":
        return [Reward(math.nan, {}), *values[1:]]
    if broken == "infinite":
        return [*values[1:], Reward(-math.inf, {})]
    if broken == "too few":
        return values[1:]
    if broken == "too many":
        return [*values, *values]
    if broken == "nothing":
        return None
    if broken == "words":
        return ["good" for _ in values]
    if broken == "a value that is a word":
        return [Reward("good", {}) for _ in values]
    return values


def single(response, ground_truth):
    if is_broken() == "raises":
        raise KeyError("no such answer")
    broken = {"NaN": math.nan, "words": "good", "nothing": None}
    return broken.get(is_broken(), sum(c.isdigit() for c in response) / (1 + len(response)))


def numbers(group, context):
    return [len(member.rollout.text) for member in group.members]


def judge(problem, response, *, raise_on: str = ""):
    """Right where a digit is in the text; breaks on texts with a letter of `raise_on`."""
    if set(raise_on) & set(response.text):
        raise RuntimeError("the judge has left the building")
    right = any(c.isdigit() for c in response.text)
    return Verdict(Status.CORRECT if right else Status.WRONG, response.text, True, "digit")


class Disk:
    """From a step's records on no file may grow beyond `size` bytes, or beyond the present size of the file `of`."""

    def __init__(self, run_name, config, folder, *, step: int, size: int = 0, of: str | None = None):
        self.step, self.size, self.of, self.folder = step, size, of, Path(folder)

    def log(self, record, kind):
        if kind == "step" and record["step"] == self.step and is_broken() == "disk":
            size = (self.folder / self.of).stat().st_size if self.of else 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def close(self):
        pass

class Block:
    """A folder stands where a file should be written."""

    def __init__(self, run_name, config, folder, *, name_of_file: str):
        (Path(folder) / name_of_file).mkdir(exist_ok=True)

    def log(self, record, kind):
        pass

    def close(self):
        pass
'''

NUMBER = {"name": "math", "extract": ["number"]}


@dataclass
class Shell:
    """`rlvr train r.yaml …` in this process, in a folder of its own."""

    path: Path
    model: Path
    capsys: pytest.CaptureFixture[str]

    def recipe(self, **sections: Any) -> dict[str, Any]:
        """A recipe of five steps with a checkpoint after every second."""
        name = sections.pop("model_name", self.model)
        tree = {
            **tiny.recipe(self.model),
            "model": {"name": str(name), "compute": "float32"},
            "run": {"name": "r", "steps": 5, "folder": "runs", "threads": 1},
            "checkpoint": {"every": 2, "keep": 2},
            "reward": self.plugin("digits"),
            "optimizer": {"lr": 1e-2},
            **sections,
        }
        (self.path / "r.yaml").write_text(yaml.safe_dump(tree))
        return tree

    def plugin(self, name: str) -> str:
        return f"{self.path / 'plugins.py'}:{name}"

    def train(self, *words: str, **sections: Any) -> Ended:
        self.recipe(**sections)
        self.capsys.readouterr()
        status = cli.main(["train", "r.yaml", *words])
        said = self.capsys.readouterr()
        return Ended(status, said.out, said.err)

    def apart(self, *words: str, **sections: Any) -> Ended:
        """The same in a process of its own, which may fill its disk."""
        self.recipe(**sections)
        return in_process("train", "r.yaml", *words, cwd=self.path)

    def refused(self, *words: str, **sections: Any) -> str:
        """The one line of a command that must end with status 2."""
        return one_line(self.train(*words, **sections), 2)

    def broken(self, how: str | None) -> None:
        path = self.path / "broken"
        path.unlink(missing_ok=True)
        if how:
            path.write_text(how)

    @property
    def run(self) -> Path:
        return self.path / "runs" / "r"

    def steps(self) -> list[int]:
        return [row["step"] for row in rows(self.run / "metrics.jsonl")]

    def file(
        self, content: str | bytes, name: str = "data.jsonl", **options: Any
    ) -> list[dict[str, Any]]:
        """A training source that reads a file with this content."""
        path = self.path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [{"data": {"name": "file", "path": str(path), **options}, "task": NUMBER}]


def one_line(ended: Ended, status: int) -> str:
    """What a failed command said, if it said one line and ended as it should."""
    assert ended.status == status, (ended.status, ended.err)
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("rlvr: ")
    return ended.err


@pytest.fixture
def shell(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins.py").write_text(PLUGINS)
    return Shell(tmp_path, tiny_model, capsys)


def copied(shell: Shell, change: Callable[[Path], Any]) -> Path:
    """The tiny model with something broken in it."""
    folder = shell.path / "model"
    shutil.copytree(shell.model, folder)
    change(folder)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# --- models
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere/at/all", ["nowhere/at/all"]),
        ("smollm2-135m-instrct", ["did you mean 'smollm2-135m-instruct'"]),
        ("/no/such/folder", ["/no/such/folder"]),
        ("nobody-here/no-such-model", ["nobody-here/no-such-model"]),
    ],
)
def test_a_missing_model_is_refused(shell: Shell, name: str, words: list[str]) -> None:
    said = shell.refused(model_name=name)
    assert "model.name" in said
    assert all(word in said for word in words)


MODELS: dict[str, Callable[[Path], Any]] = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config cut": lambda folder: cut(folder / "config.json"),
    "config is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "unknown architecture": lambda folder: (folder / "config.json").write_text(
        '{"model_type": "nonsense"}'
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut": lambda folder: cut(folder / "model.safetensors"),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "no tokenizer": lambda folder: [
        (folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")
    ],
    "tokenizer cut": lambda folder: cut(folder / "tokenizer.json"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_folder_that_holds_no_whole_model_is_refused(shell: Shell, case: str) -> None:
    folder = copied(shell, MODELS[case])
    said = shell.refused(model_name=folder)
    assert "model.name" in said
    assert str(folder) in said


def test_a_chat_prompt_for_a_model_without_a_chat_template_is_refused(shell: Shell) -> None:
    folder = copied(shell, lambda folder: (folder / "chat_template.jinja").unlink())
    said = shell.refused(model_name=folder)
    assert "prompt" in said
    assert "plain" in said
    train = [{**shell.recipe()["train"][0], "prompt": "plain"}]
    held_out = [{**shell.recipe()["eval"]["sets"][0], "prompt": "plain"}]
    assert (
        shell.train(
            "--overwrite",
            model_name=folder,
            train=train,
            eval={"sets": held_out, "max_tokens": 4, "second_verifier": False},
        ).status
        == 0
    )


def test_a_gpu_that_is_not_there_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "model.device" in shell.refused(model={"name": str(shell.model), "device": "cuda"})


# --- data
# -----------------------------------------------------------------------------------------------------------

FINE = '{"id": "a", "question": "What is 1 + 1?", "answer": "2"}\n'
LINES: dict[str, tuple[str | bytes, list[str]]] = {
    "half-written": (FINE + '{"id": "b", "question": "What is 2 +', ["data.jsonl", "line 2"]),
    "half-written in the middle": (FINE + '{"id": "b", "questi\n' + FINE, ["data.jsonl", "line 2"]),
    "unreadable": (
        FINE.encode() + b'{"question": "\xff\xfe", "answer": "2"}\n',
        ["data.jsonl", "line 2"],
    ),
    "a list": (FINE + "[1, 2]\n", ["data.jsonl", "line 2"]),
    "after an empty line": (FINE + "\n\nnull\n", ["data.jsonl", "line 4"]),
    "no answer": (
        FINE + '{"id": "b", "question": "What is 2 + 2?"}\n',
        ["data.jsonl", "line 2", "answer"],
    ),
    "an empty answer": (
        FINE + '{"id": "b", "question": "2 + 2?", "answer": " "}\n',
        ["data.jsonl", "line 2", "answer"],
    ),
    "an answer that is null": (
        FINE + '{"id": "b", "question": "2 + 2?", "answer": null}\n',
        ["data.jsonl", "line 2", "answer"],
    ),
    "an empty question": (
        FINE + '{"id": "b", "question": "", "answer": "4"}\n',
        ["data.jsonl", "line 2", "question"],
    ),
    "the same id twice": (FINE + FINE, ["data.jsonl", "line 2", "'a'"]),
    "no line": ("", ["data.jsonl"]),
}


@pytest.mark.parametrize("where", ["train", "eval"])
@pytest.mark.parametrize("case", LINES)
def test_a_broken_line_of_data_is_refused_with_file_and_line(
    shell: Shell, case: str, where: str
) -> None:
    content, words = LINES[case]
    source = shell.file(content)
    said = shell.refused(
        **(
            {"train": source}
            if where == "train"
            else {"eval": {"sets": [{"name": "held", **source[0]}]}}
        )
    )
    assert all(word in said for word in words), said


def test_a_missing_data_file_is_refused(shell: Shell) -> None:
    assert "nowhere.jsonl" in shell.refused(
        train=[{"data": {"name": "file", "path": "nowhere.jsonl"}}]
    )


def test_a_data_set_that_is_a_folder_is_refused(shell: Shell) -> None:
    (shell.path / "folder.jsonl").mkdir()
    assert "folder.jsonl" in shell.refused(
        train=[{"data": {"name": "file", "path": "folder.jsonl"}}]
    )


def test_a_problem_of_an_unknown_task_is_refused_before_it_is_trained_on(shell: Shell) -> None:
    source = shell.file(FINE, task="mathh")
    del source[0]["task"]
    assert "did you mean 'math'" in shell.refused(train=source)


@pytest.mark.parametrize("where", ["train", "eval"])
def test_a_prompt_longer_than_the_limit_is_refused_before_the_run_begins(
    shell: Shell, where: str
) -> None:
    source = shell.file(
        FINE + json.dumps({"id": "long one", "question": "1" * 80, "answer": "2"}) + "\n"
    )
    sections = (
        {"train": source}
        if where == "train"
        else {"eval": {"sets": [{"name": "held", **source[0]}]}}
    )
    said = shell.refused("rollout.max_prompt_tokens=60", **sections)
    assert all(word in said for word in ("max_prompt_tokens", "'long one'", "81", "60")), said
    assert not (shell.run / "metrics.jsonl").exists() or not shell.steps()


def test_a_cold_start_without_solutions_is_refused(shell: Shell) -> None:
    said = shell.refused(train=shell.file(FINE), cold_start={"steps": 2})
    assert "cold_start" in said
    assert "'a'" in said


BROKEN_PROBLEMS: dict[str, Sequence[Any]] = {
    "none": [],
    "no answer": [("What is 1 + 1?", "")],
    "no answer key": [{"question": "What is 1 + 1?"}],
    "three parts": [("What is 1 + 1?", "2", "easy")],
    "a text": ["What is 1 + 1?"],
    "the same id twice": [
        {"id": "a", "question": "q", "answer": "1"},
        {"id": "a", "question": "r", "answer": "2"},
    ],
}


@pytest.mark.parametrize("case", BROKEN_PROBLEMS)
def test_broken_problems_from_python_are_refused(shell: Shell, case: str) -> None:
    with pytest.raises(UserError) as caught:
        rlvr.train(shell.recipe(), problems=BROKEN_PROBLEMS[case])
    assert "\n" not in str(caught.value)
    assert "problem" in str(caught.value)


# --- run folders
# ----------------------------------------------------------------------------------------------------


def test_an_existing_run_is_refused_without_resume_or_overwrite(shell: Shell) -> None:
    assert shell.train("run.steps=1").status == 0
    before = {path: path.read_bytes() for path in shell.run.rglob("*") if path.is_file()}
    said = shell.refused("run.steps=1")
    assert "--resume" in said
    assert "--overwrite" in said
    assert str(Path("runs/r")) in said
    assert {path: path.read_bytes() for path in shell.run.rglob("*") if path.is_file()} == before


def test_overwrite_starts_afresh(shell: Shell) -> None:
    assert shell.train("run.steps=3").status == 0
    assert shell.train("--overwrite", "run.steps=1").status == 0
    assert shell.steps() == [1]
    assert not list((shell.run / "samples").glob("train-000002*"))


def test_resume_without_a_run_is_refused(shell: Shell) -> None:
    said = shell.refused("--resume")
    assert "--resume" in said
    assert not shell.run.exists()


def test_overwrite_does_not_touch_a_folder_that_is_no_run(shell: Shell) -> None:
    (shell.run / "photos").mkdir(parents=True)
    (shell.run / "photos" / "one.jpg").write_text("precious")
    assert "not a run" in shell.refused("--overwrite")
    assert (shell.run / "photos" / "one.jpg").read_text() == "precious"
    assert [path.name for path in shell.run.iterdir()] == ["photos"]


@pytest.mark.parametrize("words", [[], ["--overwrite"], ["--resume"]])
def test_a_run_folder_that_is_a_file_is_refused(shell: Shell, words: list[str]) -> None:
    shell.run.parent.mkdir()
    shell.run.write_text("precious")
    assert str(Path("runs/r")) in shell.refused(*words)
    assert shell.run.read_text() == "precious"


BAD_INPUT: dict[str, dict[str, Any]] = {
    "model": {"model_name": "/no/such/folder"},
    "data": {"train": [{"data": {"name": "file", "path": "nowhere.jsonl"}}]},
    "prompt": {"rollout": {"max_prompt_tokens": 2}},
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_overwrite_with_bad_input_leaves_the_old_run_alone(shell: Shell, case: str) -> None:
    assert shell.train("run.steps=2").status == 0
    before = (shell.run / "metrics.jsonl").read_bytes()
    shell.refused("--overwrite", **BAD_INPUT[case])
    assert (shell.run / "metrics.jsonl").read_bytes() == before
    assert (shell.run / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("case", BAD_INPUT)
def test_after_bad_input_the_mended_command_works_as_it_is(shell: Shell, case: str) -> None:
    shell.refused(**BAD_INPUT[case])
    assert shell.train("run.steps=1").status == 0


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "rollout": ({"rollout": {"problems": 2, "samples": 2, "max_tokens": 6}}, "rollout"),
    "rate": ({"optimizer": {"lr": 1e-4}}, "optimizer"),
    "data": ({"train": [{"data": {"name": "arithmetic", "count": 3}, "task": NUMBER}]}, "train"),
    "seed": ({"run": {"name": "r", "steps": 5, "folder": "runs", "threads": 1, "seed": 1}}, "seed"),
    "cold start": ({"cold_start": {"steps": 2}}, "cold_start"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_resume_with_a_changed_recipe_is_refused(shell: Shell, case: str) -> None:
    changed, named = CHANGED[case]
    assert shell.train("run.steps=3").status == 0
    before = (shell.run / "metrics.jsonl").read_bytes()
    said = shell.refused("--resume", **changed)
    assert named in said
    assert (shell.run / "metrics.jsonl").read_bytes() == before


def test_resume_with_changed_held_out_sets_is_refused_or_works(shell: Shell) -> None:
    assert shell.train("run.steps=3").status == 0
    other = {
        "max_tokens": 4,
        "second_verifier": False,
        "sets": [{**tiny.recipe(shell.model)["eval"]["sets"][0], "name": "other"}],
    }
    ended = shell.train("--resume", eval=other)
    assert ended.status in (0, 2)
    if ended.status == 2:
        assert "eval" in one_line(ended, 2)


def test_resume_of_a_run_whose_recipe_is_cut_short_is_refused(shell: Shell) -> None:
    assert shell.train("run.steps=3").status == 0
    (shell.run / "recipe.yaml").write_text("run: {name: r, ste")
    assert "recipe.yaml" in shell.refused("--resume")


def test_resume_and_overwrite_together_are_refused(shell: Shell) -> None:
    assert shell.train("run.steps=1").status == 0
    before = (shell.run / "metrics.jsonl").read_bytes()
    said = shell.refused("--resume", "--overwrite")
    assert "--resume" in said
    assert (shell.run / "metrics.jsonl").read_bytes() == before


# --- rewards and verifiers
# ------------------------------------------------------------------------------------------

REWARDS = [
    "raises",
    "NaN",
    "infinite",
    "too few",
    "too many",
    "nothing",
    "words",
    "a value that is a word",
]


@pytest.mark.parametrize("how", REWARDS)
def test_a_broken_group_reward_ends_the_run_which_is_resumed_when_it_is_mended(
    shell: Shell, how: str
) -> None:
    assert shell.train("run.name=whole").status == 0
    shell.broken(how)
    said = one_line(shell.train(), 1)
    assert "'digits'" in said
    assert {
        "raises": "KeyError",
        "NaN": "nan",
        "infinite": "-inf",
        "too few": "3",
        "too many": "8",
    }.get(how, "") in said
    assert shell.steps() == [1, 2, 3]
    assert [path.name for path in checkpoint.list_checkpoints(shell.run / "checkpoints")] == [
        "step-000002"
    ]
    shell.broken(None)
    ended = shell.train("--resume")
    assert ended.status == 0, ended.err
    assert "step 2" in ended.out
    assert_same(shell.run, shell.run.with_name("whole"))


@pytest.mark.parametrize("how", ["raises", "NaN", "nothing", "words"])
def test_a_broken_reward_of_one_response_ends_the_run_in_one_line(shell: Shell, how: str) -> None:
    shell.broken(how)
    said = one_line(shell.train(reward=shell.plugin("single")), 1)
    assert "'single'" in said
    assert "arithmetic/train/0/" in said
    shell.broken(None)
    assert shell.train("--resume", "run.steps=1", reward=shell.plugin("single")).status == 0


def test_a_group_reward_may_return_plain_numbers(shell: Shell) -> None:
    ended = shell.train("run.steps=1", reward=shell.plugin("numbers"))
    assert ended.status == 0, ended.err
    metrics = rows(shell.run / "metrics.jsonl")[0]
    assert metrics["reward"] > 0
    assert metrics["reward_parts"] == {"numbers": metrics["reward"]}


def test_a_broken_reward_from_python_raises_run_error_with_its_name(shell: Shell) -> None:
    def my_own(response: str) -> float:
        raise RuntimeError("out of luck")

    with pytest.raises(RunError, match=r"my_own.*RuntimeError: out of luck"):
        rlvr.train(shell.recipe(), reward=my_own)


def judged(shell: Shell, raise_on: str) -> dict[str, Any]:
    """A source and a reward that pays for the verdicts of a verifier that raises on some texts;
    nothing held out.
    """
    task = {"name": shell.plugin("judge"), "raise_on": raise_on}
    return {
        "train": [{**tiny.recipe(shell.model)["train"][0], "task": task}],
        "reward": "correct",
        "eval": {},
    }


def test_a_verifier_that_raises_is_counted_and_masked_out_of_its_group(shell: Shell) -> None:
    ended = shell.train("verify.stop_above=1.0", **judged(shell, "0123456789"))
    assert ended.status == 0, ended.err
    metrics, history = rows(shell.run / "metrics.jsonl"), rows(shell.run / "history.jsonl")
    samples = [
        row for path in sorted((shell.run / "samples").glob("train-*")) for row in rows(path)
    ]
    failed = [row for row in samples if row["status"] == "error"]
    assert 0 < len(failed) < len(samples)
    assert len(samples) == 5 * 8, "samples/ holds every rollout"
    assert all(row["advantage"] is None for row in failed)
    assert all("RuntimeError" in row["rule"] for row in failed)
    assert sum(row["verdicts"].get("error", 0) for row in metrics) == len(failed)
    assert sum(row["n"] for row in history) == len(samples) - len(failed), (
        "a failure of the verifier is no visit"
    )
    assert {row["accuracy"] for row in metrics if "accuracy" in row} == {0.0}


def test_a_verifier_that_raises_may_count_as_wrong(shell: Shell) -> None:
    ended = shell.train(
        "verify.stop_above=1.0", "verify.error=wrong", **judged(shell, "0123456789")
    )
    assert ended.status == 0, ended.err
    assert sum(row["n"] for row in rows(shell.run / "history.jsonl")) == 5 * 8
    assert sum(row["verdicts"].get("error", 0) for row in rows(shell.run / "metrics.jsonl")) > 0


def test_a_step_whose_every_verdict_failed_trains_nothing_and_the_run_goes_on(shell: Shell) -> None:
    ended = shell.train("verify.stop_above=1.0", **judged(shell, tiny.CHARACTERS))
    assert ended.status == 0, ended.err
    metrics = rows(shell.run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5]
    assert all(row["grad_norm"] == 0 for row in metrics)


def test_a_verifier_that_raises_too_often_stops_the_run(shell: Shell) -> None:
    said = one_line(shell.train("verify.stop_above=0.1", **judged(shell, "0123456789")), 1)
    assert "verify.stop_above" in said
    assert "RuntimeError: the judge has left the building" in said
    assert "of 8" in said


def test_an_evaluation_whose_verifier_raises_says_so(shell: Shell) -> None:
    """A failure of ours is never scored as a wrong answer in silence."""
    held_out = {
        **tiny.recipe(shell.model)["eval"]["sets"][0],
        "task": {"name": shell.plugin("judge"), "raise_on": tiny.CHARACTERS},
    }
    ended = shell.train(
        "run.steps=1", eval={"max_tokens": 4, "second_verifier": False, "sets": [held_out]}
    )
    if ended.status == 0:
        counts = rows(shell.run / "evals.jsonl")[0]["counts"]
        assert counts.get("error") == 8 or counts.get("errors") == 8
    else:
        assert "RuntimeError" in one_line(ended, 1)


# --- checkpoints
# ----------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def saved(tmp_path: Path, steps: Sequence[int] = (2, 4)) -> Path:
    import torch

    for step in steps:
        weights, learner = (
            {"w": torch.full((64,), float(step))},
            {"updates": step, "moments": torch.ones(64)},
        )
        checkpoint.save(
            tmp_path, weights.items(), learner, {"step": step}, keep=len(steps), best=None
        )
    return tmp_path


@pytest.mark.parametrize(
    "name", ["__0_0.distcp", ".metadata", "learner.pt", "position.json", "manifest.json"]
)
@pytest.mark.parametrize(
    "damage",
    [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")],
    ids=["cut", "flipped", "gone", "empty"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    tmp_path: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    folder = saved(tmp_path)
    damage(folder / "step-000004" / name)
    found, lines = checkpoint.find_latest(folder)
    assert found is not None
    assert found.position == {"step": 2}
    assert found.learner["updates"] == 2
    assert checkpoint.tensors(found.path)["w"].tolist() == [2.0] * 64
    assert len(lines) == 1
    assert "step-000004" in lines[0]
    assert "damaged" in lines[0]


def test_a_whole_checkpoint_is_taken_without_a_word(tmp_path: Path) -> None:
    found, lines = checkpoint.find_latest(saved(tmp_path))
    assert found is not None
    assert found.position == {"step": 4}
    assert lines == []


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(
    shell: Shell, damage: Callable[[Path], Any]
) -> None:
    shell.broken(None)
    assert shell.train("run.name=whole").status == 0
    assert shell.train().status == 0
    assert [path.name for path in checkpoint.list_checkpoints(shell.run / "checkpoints")] == [
        "step-000004",
        "step-000005",
    ]
    damage(checkpoint.list_checkpoints(shell.run / "checkpoints")[1] / "__0_0.distcp")
    ended = shell.train("--resume")
    assert ended.status == 0, ended.err
    assert "step-000005 is damaged" in " ".join(ended.out.split())
    assert "step 4" in ended.out
    assert_same(shell.run, shell.run.with_name("whole"))


def test_a_run_starts_from_its_beginning_where_every_checkpoint_is_damaged(shell: Shell) -> None:
    assert shell.train("run.name=whole").status == 0
    assert shell.train().status == 0
    for path in checkpoint.list_checkpoints(shell.run / "checkpoints"):
        flip(path / "learner.pt")
    ended = shell.train("--resume")
    assert ended.status == 0, ended.err
    said = " ".join(ended.out.split())
    assert "damaged" in said
    assert "beginning" in said
    assert "no checkpoint yet" not in said, "there are checkpoints, and none is whole"
    assert_same(shell.run, shell.run.with_name("whole"))


def test_a_damaged_checkpoint_does_not_push_out_the_good_ones_that_follow(shell: Shell) -> None:
    """The damaged one is of a later step than those that the resumed run saves."""
    shell.broken(None)
    assert shell.train("checkpoint.keep=1").status == 0
    for path in checkpoint.list_checkpoints(shell.run / "checkpoints"):
        flip(path / "__0_0.distcp")
    shell.broken("raises")
    one_line(shell.train("--resume", "checkpoint.keep=1"), 1)
    shell.broken(None)
    ended = shell.train("--resume", "checkpoint.keep=1")
    assert ended.status == 0, ended.err
    assert "resumed after step 2" in ended.out
    assert shell.steps() == [1, 2, 3, 4, 5]


def test_the_last_checkpoints_are_kept_and_no_others(tmp_path: Path) -> None:
    import torch

    for step in range(1, 6):
        checkpoint.save(
            tmp_path, {"w": torch.ones(2)}.items(), {}, {"step": step}, keep=2, best=None
        )
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == [
        "step-000004",
        "step-000005",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000005"]


def test_a_checkpoint_in_the_background_is_of_the_moment_when_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    begin, go = checkpoint._begin, threading.Event()
    monkeypatch.setattr(checkpoint, "_begin", lambda *given: (go.wait(30), begin(*given)))
    saver = checkpoint.Saver(tmp_path, 2, SINGLE_PROCESS, background=True)
    weight, learner = torch.ones(2), {"moments": torch.ones(2)}
    saver([("w", weight)], learner, {"step": 1}, None)
    weight.fill_(2.0)  # the next update
    learner["moments"].fill_(2.0)
    assert checkpoint.list_checkpoints(tmp_path) == []
    go.set()
    saver([("w", weight)], learner, {"step": 2}, None)
    saver.close()
    first, second = checkpoint.list_checkpoints(tmp_path)
    assert checkpoint.tensors(first)["w"].tolist() == [1.0, 1.0]
    assert torch.load(first / "learner.pt")["moments"].tolist() == [1.0, 1.0]
    assert checkpoint.tensors(second)["w"].tolist() == [2.0, 2.0]


def test_what_fails_in_the_background_is_raised_by_the_next_checkpoint(tmp_path: Path) -> None:
    import torch

    saver = checkpoint.Saver(tmp_path, 1, SINGLE_PROCESS, background=True)
    saver([("w", torch.ones(2))], {}, {"step": 1}, None)
    saver.wait()
    (tmp_path / ".unfinished").write_text("a file where a folder has to be made")
    saver([("w", torch.ones(2))], {}, {"step": 2}, None)
    with pytest.raises(
        RunError, match=r"^cannot save the checkpoint .*the last good one is .*step-000001"
    ):
        saver([("w", torch.ones(2))], {}, {"step": 3}, None)
    saver.close()


def test_a_damaged_reference_is_named_in_one_line_or_made_again(shell: Shell) -> None:
    sections = {
        "cold_start": {"steps": 2, "problems": 2},
        "loss": {"terms": ["clip", {"name": "kl", "coef": 0.1}]},
    }
    assert shell.train(**sections).status == 0
    cut(shell.run / "checkpoints" / "reference-000002" / "weights.safetensors")
    ended = shell.train("--resume", "run.steps=7", **sections)
    assert ended.status in (0, 1)
    if ended.status:
        assert "reference" in one_line(ended, 1)


# --- a full disk
# ----------------------------------------------------------------------------------------------------

# What fills the disk after a step's records, and what the one line must name.
FULL: dict[str, tuple[dict[str, Any], list[str]]] = {
    "checkpoint": ({"step": 3, "size": 30_000}, ["checkpoint", "step-000004", "step-000002"]),
    "metrics": ({"step": 3, "size": 10, "of": "metrics.jsonl"}, ["metrics.jsonl"]),
    "history": ({"step": 3, "size": 10, "of": "history.jsonl"}, ["runs"]),
    "last checkpoint": ({"step": 5, "size": 30_000}, ["checkpoint", "step-000005", "step-000004"]),
}


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_ends_the_run_in_one_line_and_leaves_what_was_saved(
    shell: Shell, case: str
) -> None:
    options, words = FULL[case]
    small = {
        "rollout": {"problems": 1, "samples": 2, "max_tokens": 3},
        "checkpoint": {"every": 2, "keep": 1},
    }
    sections = {**small, "trackers": [{"name": shell.plugin("Disk"), **options}]}
    assert shell.apart("run.name=whole", **sections).status == 0
    shell.broken("disk")
    said = one_line(shell.apart(**sections), 1)
    assert all(word in said for word in words), said
    good, damaged = checkpoint.find_latest(shell.run / "checkpoints")
    assert good is not None
    assert not damaged
    assert good.position["step"] == (2 if options["step"] == 3 else 4)
    assert shell.steps()[: options["step"]] == list(range(1, options["step"] + 1))
    shell.broken(None)
    ended = shell.apart("--resume", **sections)
    assert ended.status == 0, ended.err
    assert_same(shell.run, shell.run.with_name("whole"))


def test_a_report_that_cannot_be_written_is_a_failure_of_the_run_and_not_of_its_input(
    shell: Shell,
) -> None:
    said = one_line(
        shell.train(trackers=[{"name": shell.plugin("Block"), "name_of_file": "report.html"}]), 1
    )
    assert "report.html" in said
    assert json.loads((shell.run / "summary.json").read_text())["steps"] == 5
    assert (shell.run / "model" / "model.safetensors").exists()


def test_a_disk_that_is_full_from_the_beginning_gives_one_line(shell: Shell) -> None:
    shell.recipe()
    ended = in_process("train", "r.yaml", cwd=shell.path, largest_file=100)
    assert "runs" in one_line(ended, 1)


def test_a_full_disk_while_the_reference_is_saved_gives_one_line(shell: Shell) -> None:
    sections = {
        "cold_start": {"steps": 2, "problems": 2},
        "loss": {"terms": ["clip", {"name": "kl", "coef": 0.1}]},
        "trackers": [{"name": shell.plugin("Disk"), "step": 2, "size": 30_000}],
        "checkpoint": {"every": 0},
    }
    shell.broken("disk")
    said = one_line(shell.apart(**sections), 1)
    assert "reference" in said
    shell.broken(None)
    assert shell.apart("--resume", **sections).status == 0


def test_a_run_folder_that_may_not_be_written_gives_one_line(shell: Shell) -> None:
    shell.path.joinpath("runs").write_text("a file where the folder should be")
    assert "runs" in shell.refused()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_without_a_byte_left_keeps_the_last_good_checkpoint(shell: Shell) -> None:
    """A real file system of one megabyte, which refuses in other ways than a limit on the size of a
    file.
    """
    import subprocess

    disk = shell.path / "runs"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        said = one_line(shell.apart("checkpoint.keep=9", "checkpoint.every=1"), 1)
        assert "checkpoint" in said
        assert "No space left" in said
        good, damaged = checkpoint.find_latest(shell.run / "checkpoints")
        assert good is not None
        assert not damaged
        assert str(good.path.name) in said
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        ended = shell.apart("--resume", "checkpoint.keep=9", "checkpoint.every=1")
        assert ended.status == 0, ended.err
        assert f"resumed after step {good.position['step']}" in ended.out
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
