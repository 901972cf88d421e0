"""Grading files, the gate for golds, the controls before training, and the audit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny

import rlvr
from rlvr.cli import main as cli
from rlvr.data.controls import CONTROLS, check_controls, score_controls
from rlvr.data.gate import check_golds
from rlvr.errors import UserError
from rlvr.evaluation.agreement import audit_responses, describe_audit, write_page
from rlvr.evaluation.grade import grade
from rlvr.registry import find
from rlvr.tasks.arithmetic import arithmetic
from rlvr.tasks.knights import knights
from rlvr.types import Problem, Response, Status, Verdict

PROSE = r"f(x)=a x+b$, where $b$ is \underline{any} integer"


def line(gold: object, prediction: object, **more: object) -> str:
    return json.dumps({"gold": gold, "prediction": prediction, **more})


def graded(lines: list[str], task: str = "math") -> list[dict]:
    return list(grade(lines, task))


def test_every_line_is_answered_in_order_and_a_malformed_one_is_an_error() -> None:
    sums = r"F = \sum_{k=1}^n k"
    lines = [
        line("1/2", r"\boxed{0.5}", id="a"), line("5", "none"), "half a li", "[1]", line("5", 7),
        line(5, r"\boxed{5.0}"),
        line(sums, rf"\boxed{{{sums}+0}}"), line("5", r"\boxed{9^^9}"), "",
    ]  # fmt: skip
    found = graded(lines)
    assert [row["id"] for row in found] == ["a", 1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["status"] for row in found] == [
        "correct", "no_answer", "error", "error", "error", "correct", "correct", "unparseable", "error",
    ]  # fmt: skip
    assert [row["correct"] for row in found] == [row["status"] == "correct" for row in found]
    assert {frozenset(row) for row in found} == {
        frozenset(("id", "status", "correct", "answer", "ms"))
    }
    assert found[0]["answer"] == "0.5" and found[1]["answer"] is None


def test_knights_are_graded_with_their_form_also_where_the_prompt_opened_the_thinking() -> None:
    gold = "(1) Zoey is a knight\n(2) Tom is a knave"
    lines = [
        line(gold, f"<think>x</think><answer>{gold}</answer>"),
        line(gold, f"x</think><answer>{gold}</answer>"),
        line(gold, "<answer>Zoey is a knave, Tom is a knave</answer>"),
        line("nobody", "x"),
    ]
    found = graded(lines, "knights")
    assert [(row["status"], row["formatted"]) for row in found] == [
        ("correct", True), ("correct", True), ("wrong", False), ("error", False),
    ]  # fmt: skip


def test_the_command_prints_json_lines_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(line("5", r"\boxed{5}") + "\nnonsense\n", encoding="utf-8")
    assert cli.main(["grade", str(file)]) == 0
    printed = capsys.readouterr()
    assert [json.loads(text)["status"] for text in printed.out.splitlines()] == [
        "correct",
        "error",
    ] and not printed.err
    assert cli.main(["grade", str(file), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 2 and capsys.readouterr().out == ""
    assert cli.main(["grade", str(tmp_path / "none.jsonl")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_grading_ends_its_helpers_when_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(line(r"\sum_{k=1}^n k", r"\boxed{\sum_{j=1}^n j}") + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "rlvr", "grade", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300
    )
    assert done.returncode == 0 and json.loads(done.stdout)["status"] in ("correct", "wrong")


def test_the_gate_marks_or_drops_and_lists() -> None:
    problems = [
        Problem("a", "math", "", "1/2"),
        Problem("b", "math", "", PROSE),
        *knights(people=2, count=2),
    ]
    kept, refused = check_golds(problems, "mark")
    assert [row.id for row in refused] == ["b"] and len(kept) == 4 and kept[1].meta["string_only"]
    assert [p.id for p in check_golds(problems, "drop")[0]] == ["a", kept[2].id, kept[3].id]
    assert check_golds(problems, "off") == (tuple(problems), ())


@pytest.mark.parametrize("task", ["math", "knights"])
def test_no_control_earns_anything(task: str) -> None:
    problems = arithmetic(count=64) if task == "math" else knights(people=2, count=64)
    scores = score_controls(find("task", task, "").function, problems)
    assert set(scores) == set(CONTROLS) and set(scores.values()) == {0.0}


def anything(problem: Problem, response: Response) -> Verdict:
    return Verdict(Status.CORRECT if not response.text else Status.WRONG)


def echoed(problem: Problem, response: Response) -> Verdict:
    return Verdict(Status.CORRECT if problem.answer in response.text else Status.WRONG)


def test_a_task_that_rewards_nothing_or_an_echo_is_refused() -> None:
    problems = [Problem(str(i), "math", f"Is it {i} or {i + 1}?", str(i)) for i in range(9)]
    with pytest.raises(
        UserError, match=r"train\.0: the task takes the control 'empty' for correct on 100%"
    ):
        check_controls("train.0", anything, problems, [], 0.15)
    with pytest.raises(UserError, match="'echo of the question' for correct on 100% of 9 problems"):
        check_controls("train.0", echoed, problems, [], 0.15)
    check_controls("train.0", echoed, problems, [], 1.0)


def test_training_refuses_it_before_the_run_folder_is_made(
    tmp_path: Path, tiny_model: Path
) -> None:
    task = tmp_path / "lazy.py"
    task.write_text(
        "from rlvr.types import Status, Verdict\n"
        "def lazy(problem, response):\n    return Verdict(Status.CORRECT if not response.text else Status.WRONG)\n"
    )
    train = [{"data": tiny.SUMS | {"count": 16}, "task": f"{task}:lazy"}]
    with pytest.raises(UserError, match="control 'empty'"):
        rlvr.train(tiny.recipe(tiny_model, train=train), run__name="lazy")
    assert not (tiny_model.parent / "runs" / "lazy").exists()


def test_golds_without_meaning_are_listed_when_training_starts(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [("What is 1 + 1?", "2"), ("What is f?", PROSE)]
    rlvr.train(tiny.recipe(tiny_model), problems=problems, run__steps=1, run__name="prose")
    said = "".join(capsys.readouterr())
    assert (
        "the golds of 1 training problems cannot be compared by meaning" in said
        and "given/1" in said
    )
    with pytest.raises(UserError, match=r"train\.0: no problem is left"):
        rlvr.train(
            tiny.recipe(tiny_model), problems=problems[1:], verify__gate="drop", run__name="other"
        )


def test_an_audit_of_a_file_and_of_a_run(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.jsonl"
    rows = [
        line("1000", r"\boxed{1\,000}"),
        line("5", r"\boxed{6} 5"),
        line("5", r"\boxed{5}"),
        line(PROSE, "x"),
    ]
    file.write_text("\n".join(rows), encoding="utf-8")
    found = audit_responses(file)
    table = {name: figures for name, *figures in found.table()}
    assert (
        table["library"] == [3, 1, 0] and table["number"] == [2, 1, 1] and len(found.refused) == 1
    )
    text = "\n".join(describe_audit(found))
    assert (
        r"only we accept: gold '1000', answer '1\\,000'" in text
        and "no control is rewarded" in text
    )
    page = write_page(found, "<in>", tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "&lt;in&gt;" in page and "http" not in page.replace("http://www.w3.org", "")
    rlvr.train(tiny.recipe(tiny_model), run__steps=1, run__name="audited")
    capsys.readouterr()
    assert cli.main(["audit", str(tiny_model.parent / "runs" / "audited")]) == 0
    assert (
        "responses to" in capsys.readouterr().out
        and (tiny_model.parent / "runs" / "audited" / "audit.html").exists()
    )
    assert cli.main(["audit", str(tmp_path / "nothing.jsonl")]) == 2


def test_a_file_without_a_response_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="nothing to audit"):
        audit_responses(tmp_path / "empty.jsonl")
