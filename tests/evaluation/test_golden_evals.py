"""The references' evaluations (eval_metrics.json) through the functions that ours uses, with what
is not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.golden_cases import cases
from support.rollouts import make_prompt, make_rollout

from rlvr.evaluation.summary import summarise
from rlvr.grading.compare import compare
from rlvr.grading.extract import find_last_box
from rlvr.metrics import statistics, text_quality, votes
from rlvr.storage.sample_record import SampleRecord, make_sample
from rlvr.tasks.judge import wait_all
from rlvr.tasks.math import math
from rlvr.types import Finish, Problem, Response, Status, Verdict

CASES = cases("eval_metrics")
FAMILIES = ("evaluate_zoo", "evaluate_oneshot", "maj_rm", "pass_at_k", "is_repeat", "collect_results",
            "extract_last_boxed")  # fmt: skip
# The reference's rule fails on a text with a newline but no long line, and its caller counts that
# as a repetition.
RAISES = "IndexError"
# Its pattern for a box knows three levels of braces.
DEEP = r"\boxed{\frac{1}{\sqrt{\frac{1}{2}}}}"


def family(name: str) -> list[Any]:
    return [
        pytest.param(case, id=f"golden-{case['name']}")
        for case in CASES
        if case["name"].startswith(f"{name}/")
    ]


def test_every_case_golden_belongs_to_a_family_that_is_checked() -> None:
    assert [c["name"] for c in CASES if c["name"].partition("/")[0] not in FAMILIES] == []


def row(
    problem: Problem, index: int, text: str, verdict: Verdict, finish: Finish = Finish.STOP
) -> SampleRecord:
    """A line of samples.jsonl; a token is a word, as the reference's stand-in for a tokenizer has
    it.
    """
    words = tuple(range(len(text.split())))
    rollout = make_rollout(make_prompt(problem), index, words, text=text, finish=finish)
    return make_sample(0, rollout, verdict)


def judged(sample: dict[str, Any], preds: Sequence[str]) -> list[SampleRecord]:
    """The predictions of one problem as samples whose answer stands in a box; an empty one is no
    answer.
    """
    problem = Problem(
        str(sample["idx"]),
        "math",
        sample["question"],
        sample["answer"],
        {"category": sample["type"]},
    )
    texts = [rf"\boxed{{{pred}}}" if pred else "" for pred in preds]
    verdicts = wait_all([math(problem, Response(text)) for text in texts])
    return [row(problem, i, t, v) for i, (t, v) in enumerate(zip(texts, verdicts, strict=True))]


def problems_of(case: dict[str, Any]) -> list[Problem]:
    samples = case["inputs"]["samples"]
    return [
        Problem(str(s["idx"]), "math", s["question"], s["answer"], {"category": s["type"]})
        for s in samples
    ]


def padded(preds: list[str], width: int) -> list[str]:
    """The reference fills short rows with their last score; ours has no short rows, so the test
    fills them.
    """
    return preds + [preds[-1]] * (width - len(preds))


def close(case: dict[str, Any], ours: Any, wanted: Any) -> None:
    assert ours == pytest.approx(wanted, rel=case["config"]["rtol"], abs=case["config"]["atol"])


def percent(share: float) -> float:
    return round(100 * share + 1e-9, 1)


@pytest.mark.parametrize("case", [*family("evaluate_zoo"), *family("evaluate_oneshot")])
def test_scores_golden(case: dict[str, Any]) -> None:
    """Verdicts, accuracy, pass@k, and accuracy by category, which the reference takes from the last
    samples alone.
    """
    samples, wanted = case["inputs"]["samples"], case["outputs"]["result_json"]
    rows = [judged(s, s["pred"]) for s in samples]
    verdicts = [[line.status == Status.CORRECT for line in group] for group in rows]
    assert verdicts == case["outputs"]["score_matrix"]
    assert wanted["num_scores"] == sum(map(len, rows)) and wanted["timeout_samples"] == 0
    width, problems = max(map(len, rows)), problems_of(case)
    padded_rows = [line for s in samples for line in judged(s, padded(s["pred"], width))]
    full = summarise(0, "zoo", padded_rows, problems).metrics
    last = summarise(0, "zoo", [group[-1] for group in rows], problems)
    assert last.counts.no_answer == wanted["empty_samples"]
    assert {c: percent(v.value) for c, v in last.categories.items()} == wanted["type_acc"]
    if "total_acc" in wanted:  # One-Shot: the first sample alone, and all as they are
        first = summarise(0, "zoo", [group[0] for group in rows], problems).metrics
        assert percent(first["pass@1"]) == wanted["acc"]
        flat = [line.status == Status.CORRECT for group in rows for line in group]
        close(case, 100 * sum(flat) / len(flat), wanted["total_acc"])
        return
    assert percent(full["pass@1"]) == wanted["acc"]
    assert percent(full[f"pass@{width}"]) == wanted["pass_acc"]
    assert {k: percent(full[f"pass@{k}"]) for k in wanted["pass@k"]} == wanted["pass@k"]


@pytest.mark.parametrize("case", family("pass_at_k"))
def test_pass_at_k_golden(case: dict[str, Any]) -> None:
    given = case["inputs"]
    for k in given["k"]:
        ours = [statistics.pass_at_k(given["num_samples"], c, k) for c in given["num_correct"]]
        close(case, ours, case["outputs"][f"pass@{k}"])


@pytest.mark.parametrize("case", family("maj_rm"))
def test_the_majority_golden(case: dict[str, Any]) -> None:
    """By text, as an evaluation votes, and by meaning. rm@k needs the scores of a reward model,
    which is not here.
    """
    rows = case["inputs"]["rows"]
    text = [votes.find_majority(r["pred"]) for r in rows]
    meaning = [votes.find_majority(r["pred"], lambda a, b: bool(compare(a, b).same)) for r in rows]
    assert [r["pred"][at] for r, at in zip(rows, text, strict=True)] == case["outputs"][
        "majority_string"
    ]
    assert [r["pred"][at] for r, at in zip(rows, meaning, strict=True)] == case["outputs"][
        "majority_symbolic"
    ]
    for k in (2, 4, 8):
        lines, problems = [], [Problem(str(i), "math", "?", "0") for i in range(len(rows))]
        for problem, given in zip(problems, rows, strict=True):
            pairs = list(zip(given["pred"], given["score"], strict=True))[:k]
            status = {True: Status.CORRECT, False: Status.WRONG}
            lines += [
                row(problem, i, a, Verdict(status[right], a)) for i, (a, right) in enumerate(pairs)
            ]
        close(
            case,
            100 * summarise(0, "zoo", lines, problems).metrics[f"maj@{k}"],
            case["outputs"]["metrics"][f"maj@{k}"],
        )


@pytest.mark.parametrize("case", family("is_repeat"))
def test_repetition_golden(case: dict[str, Any]) -> None:
    wanted = False if case["outputs"]["raises"] == RAISES else case["outputs"]["is_repeat"]
    assert text_quality.is_repetitive(case["inputs"]["text"]) == wanted


def fails(text: str) -> bool:
    """Whether the reference's rule of repetition fails on the text."""
    return (
        not text_quality.is_repetitive(text)
        and "\n" in text
        and not any(len(line) >= 20 for line in text.split("\n"))
    )


@pytest.mark.parametrize("case", family("collect_results"))
def test_signs_in_the_texts_golden(case: dict[str, Any]) -> None:
    """The reference reads the first samples in small letters; its third reason to end is a cut that
    is no length.
    """
    given = [r for r in case["inputs"]["rows"] if r["code"]]
    wanted = case["outputs"]
    problems = [Problem(str(r["idx"]), "math", "?", "0") for r in given]

    def measured(abort: Finish) -> Any:
        ends = {"stop": Finish.STOP, "length": Finish.LENGTH, "abort": abort}
        status = {True: Status.CORRECT, False: Status.WRONG}
        lines = [
            row(
                p,
                0,
                r["code"][0].lower(),
                Verdict(status[r["score"][0]]),
                ends[r["finish_reason"][0]],
            )
            for p, r in zip(problems, given, strict=True)
        ]
        return summarise(0, "zoo", lines, problems).metrics

    found, stopped = measured(Finish.STOP), measured(Finish.LENGTH)
    close(case, found["length"], wanted["avg_tokens"])
    close(case, found["keywords"], wanted["avg_keywords"])
    close(case, found["length_correct"], wanted["avg_correct_tokens"])
    close(case, found["length_wrong"], wanted["avg_wrong_tokens"])
    close(case, found["truncated"], wanted["clip_ratio"])
    close(case, 1 - stopped["truncated"], wanted["stop_ratio"])
    close(case, stopped["length_stopped"], wanted["avg_stop_tokens"])
    texts = [r["code"][0] for r in given]
    close(case, found["repeats"] + sum(map(fails, texts)) / len(texts), wanted["repeat_ratio"])
    deep = sum(r"\frac{1}{\frac{" in text for text in texts)
    close(case, found["boxed"] - deep / len(texts), wanted["box_ratio"])


@pytest.mark.parametrize("case", family("extract_last_boxed"))
def test_the_last_box_golden(case: dict[str, Any]) -> None:
    text, wanted = case["inputs"]["text"], case["outputs"]["result"]
    assert rf"\boxed{{{find_last_box(text)}}}" == (text if text == DEEP else wanted)
