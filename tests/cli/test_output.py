"""What commands write: never over their input, a device or a link, and no control codes on the terminal."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console
from support.fake_run import healthy

from rlvr.cli import main as cli
from rlvr.errors import RunError
from rlvr.run.display import tabulate_evals
from rlvr.run.progress import Progress
from rlvr.storage.estimate import Estimate
from rlvr.storage.jsonl import JsonLines, write_whole
from rlvr.storage.summary import BeforeAfter, Summary

ROOT = Path(__file__).resolve().parents[2]
LINE = json.dumps({"gold": "5", "prediction": "\\boxed{5}"}) + "\n"


@pytest.mark.parametrize("kind", ["itself", "link", "hard link"])
@pytest.mark.parametrize("command", ["grade", "audit"])
def test_a_command_never_writes_over_its_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(LINE)
    out = file
    if kind != "itself":
        out = tmp_path / "other.jsonl"
        (os.symlink if kind == "link" else os.link)(file, out)
    assert cli.main([command, str(file), "--out", str(out)]) == 2
    assert "is the input itself; name another file" in capsys.readouterr().err
    assert file.read_text() == LINE


def test_select_never_writes_over_the_history(tmp_path: Path) -> None:
    healthy(tmp_path / "demo")
    history = tmp_path / "demo" / "history.jsonl"
    before = history.read_bytes()
    for source in (tmp_path / "demo", history):
        words = ["select", str(source), "--method", "lim", "--out", str(history)]
        assert cli.main(words) == 2
    assert history.read_bytes() == before


def test_a_file_may_be_graded_into_another_that_is_there(tmp_path: Path) -> None:
    file, out = tmp_path / "answers.jsonl", tmp_path / "out.jsonl"
    for path in (file, out):
        path.write_text(LINE)
    assert cli.main(["grade", str(file), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["correct"]


def test_what_stands_behind_a_link_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.html", tmp_path / "link.html"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, "page")
    reader.join(10)
    assert seen == [b"page"] and pipe.is_fifo()


def test_a_device_stays_a_device() -> None:
    write_whole(Path(os.devnull), "page")
    assert Path(os.devnull).is_char_device()


def test_a_disk_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing is refused, so is removing what was begun."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunError, match="Read-only file system"):
        write_whole(tmp_path / "page.html", "page")
    with pytest.raises(RunError, match="Read-only file system"):
        JsonLines(tmp_path / "a.jsonl")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_what_the_disk_refuses_any_command_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "runs/r")

    monkeypatch.setattr("rlvr.evaluation.agreement.audit_responses", refuse)
    assert cli.main(["audit", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"rlvr: runs/r: {os.strerror(number)}")


@pytest.mark.parametrize(
    "words",
    [["data", "arithmetic", "--count", "20000"], ["show", "demo"], ["grade", "answers.jsonl"]],
)
def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "answers.jsonl").write_text(LINE * 3000)
    code = "import sys; from rlvr.cli.main import main; sys.exit(main(sys.argv[1:]))"
    started = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert started.stdout and started.stderr
    started.stdout.close()
    assert (started.stderr.read(), started.wait(60)) == (b"", 0)


CODES = "\x1b[31m\x9b\u202e\x07"


def test_no_control_code_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": CODES, "question": "q", "answer": "1"}] * 2
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["eval", "m", "--benchmarks", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "e")]
    assert cli.main(words) == 2
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"id": CODES, "gold": "\\(" + CODES, "prediction": "x"})
    )
    assert cli.main(["audit", str(tmp_path / "b.jsonl"), "--out", str(tmp_path / "p.html")]) == 0
    printed = capsys.readouterr()
    assert not set(CODES.replace("[31m", "")) & set(printed.out + printed.err)
    assert "occurs twice" in printed.err


@pytest.mark.parametrize("name", ["[/b]", "[red]", "\x1b[31mx", "[link=x]y"])
def test_names_are_shown_as_they_are(name: str) -> None:
    out = io.StringIO()
    shown = Console(file=out, width=100)
    change = BeforeAfter(after=Estimate(0.5, (0.4, 0.6), 8))
    progress = Progress(name, 1, shown)
    progress.summary(Summary(recipe="r", steps=1, seconds=1.0, evals={name: change}), Path("r"))
    visible = name.replace("\x1b", " ").strip()
    assert out.getvalue().count(visible) == 2 and "\x1b" not in out.getvalue()
    assert tabulate_evals(name, {name: change}, str).row_count == 1


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0c"])
def test_a_letter_that_some_take_for_a_line_end_cuts_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], letter: str
) -> None:
    row = {"id": "a", "gold": "5", "prediction": f"one{letter}\\boxed{{5}}"}
    file = tmp_path / "a.jsonl"
    lines = [json.dumps(row | {"id": name}, ensure_ascii=False) for name in "ab"]
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert cli.main(["audit", str(file), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.startswith("2 responses to 2 problems, 2 judged correct")
