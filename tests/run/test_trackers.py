"""JSON Lines survive crashes and full disks; trackers receive flat numbers under stable names."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rlvr.errors import RunError, UserError
from rlvr.registry import find
from rlvr.run.trackers import flatten
from rlvr.storage.jsonl import JsonLines

STEP = {
    "step": 3,
    "phase": "rl",
    "reward": 0.5,
    "reward_parts": {"answer": 0.4},
    "kl": None,
    "loss": float("nan"),
}
EVAL = {
    "step": 3,
    "benchmark": "heldout",
    "metrics": {"pass@1": 0.25},
    "ci95": {"pass@1": [0.2, 0.3]},
}


def test_append_then_read_gives_the_records_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 1, "text": "café\u2028line"})
        lines.append({"step": 2, "loss": float("nan"), "more": [float("inf"), {"x": 1.5}]})
        assert JsonLines.read(path)[1] == {"step": 2, "loss": None, "more": [None, {"x": 1.5}]}
    assert JsonLines.read(path)[0]["text"] == "café\u2028line"


@pytest.mark.parametrize(
    "tail", ['{"step": 3, "rew', '{"step": 3, "rew\n', '{"text": "caf\u00e9', "\0\0\0"]
)
def test_a_half_written_last_line_is_dropped_and_appending_goes_on(
    tmp_path: Path, tail: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + tail.encode()[: len(tail)])
    assert [r["step"] for r in JsonLines.read(path)] == [1, 2]
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 3})
    assert [r["step"] for r in JsonLines.read(path)] == [1, 2, 3]


def test_a_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}')
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 2})
    assert [r["step"] for r in JsonLines.read(path)] == [1, 2]


@pytest.mark.parametrize("bad", ['{"step": 2', "[1, 2]", "null", "\xff"])
def test_a_broken_line_in_the_middle_names_file_and_line(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bad.encode("latin-1") + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"m\.jsonl, line 2: ") as error:
        JsonLines.read(path)
    assert "\n" not in str(error.value)


def test_cut_keeps_what_is_asked_for_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(5)) + '{"ste')
    JsonLines.cut(path, lambda record: record["step"] <= 2)
    assert [r["step"] for r in JsonLines.read(path)] == [0, 1, 2]
    JsonLines.cut(tmp_path / "absent.jsonl", lambda record: True)
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_failed_rewrite_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(TypeError):
        JsonLines.write(path, [{"step": 2}, {"step": object()}])
    assert path.read_text() == '{"step": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_full_disk_leaves_whole_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.jsonl"
    lines = JsonLines(path)
    lines.append({"step": 1})

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(
            RunError, match=r"cannot write .*m\.jsonl: No space left on device; what was saved"
        ):
            lines.append({"step": 2})
    assert path.read_text() == '{"step": 1}\n'
    lines.append({"step": 2})
    assert [r["step"] for r in JsonLines.read(path)] == [1, 2]


def test_flatten_keeps_finite_numbers_only() -> None:
    assert dict(flatten(STEP)) == {"step": 3.0, "reward": 0.5, "reward_parts/answer": 0.4}


class Recorder:
    """Stands in for the run of wandb."""

    id = "abc123"

    def __init__(self) -> None:
        self.init: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int | None]] = []
        self.finished = False

    def start(self, **options: Any) -> Recorder:
        self.init = options
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axis = (name, step_metric)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


def tracker(name: str, folder: Path, **params: Any) -> Any:
    return find("tracker", name, "run.trackers").bind(params, "run.trackers")(
        "demo", {"steps": 3}, folder
    )


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def test_wandb_gets_flat_records_and_goes_on_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Recorder()
    fake(monkeypatch, "wandb", init=run.start)
    first = tracker("wandb", tmp_path, project="p", entity="me")
    assert (run.init["project"], run.init["entity"], run.init["name"], run.init["id"]) == (
        "p",
        "me",
        "demo",
        None,
    )
    first.log(STEP, "step")
    first.log(EVAL, "eval")
    first.close()
    assert run.logged[0][0] == {"step": 3, "train/reward": 0.5, "train/reward_parts/answer": 0.4}
    assert run.logged[1][0]["eval/heldout/metrics/pass@1"] == 0.25
    assert run.finished
    tracker("wandb", tmp_path)
    assert run.init["id"] == "abc123"


def test_tensorboard_gets_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(
        add_scalar=lambda *scalar: scalars.append(scalar),
        add_text=lambda *_: None,
        flush=lambda: None,
        close=lambda: None,
    )
    for name in ("torch", "torch.utils"):
        fake(monkeypatch, name, __path__=[])
    fake(monkeypatch, "torch.utils.tensorboard", SummaryWriter=lambda log_dir: writer)
    made = tracker("tensorboard", tmp_path)
    made.log(STEP, "step")
    made.close()
    assert scalars == [("train/reward", 0.5, 3), ("train/reward_parts/answer", 0.4, 3)]


def test_tensorboard_writes_an_event_file(tmp_path: Path) -> None:
    pytest.importorskip("torch.utils.tensorboard", exc_type=ImportError)
    made = tracker("tensorboard", tmp_path)
    made.log(STEP, "step")
    made.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'rlvr\[{name}\]'"):
        tracker(name, tmp_path)


def test_a_misspelt_parameter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'project'"):
        tracker("wandb", tmp_path, projct="x")
