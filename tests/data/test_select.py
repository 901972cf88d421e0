r"""Problems from their accuracy history: the published ranking to the bit, by command, in a recipe, and fed back."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support import tiny
from support.golden_cases import cases
from support.places import DATA, ROOT
from support.rows import NESTED, refuse_nested

from rlvr import registry
from rlvr.cli import main as cli
from rlvr.config import loader
from rlvr.data import rankings, run_history, selection
from rlvr.errors import UserError
from rlvr.seeds import permutation
from rlvr.tasks.files import file
from rlvr.types import Problem

ONE_SHOT = DATA / "one_shot"
PUBLISHED = ONE_SHOT / "acc_step_500.json"
needs_data = pytest.mark.skipif(
    not PUBLISHED.is_file(), reason=f"no published history in {ONE_SHOT} (RLVR_DATA_DIR)"
)
COLUMNS = {"question": "prompt.0.content", "answer": "reward_model.ground_truth"}

# Deviations: c 0.5, a 0.25, d 0.25, b 0 and e 0; means: a 0.25, b 0, c 0.5, d 0.75, e 1.
HISTORIES = {
    "a": [0.0, 0.5],
    "b": [0.0, 0.0, 0.0],
    "c": [1.0, 0.0],
    "d": [0.5, 1.0, 0.5, 1.0],
    "e": [1.0, 1.0],
}


def ids(ranking: Sequence[tuple[str, float]]) -> list[str]:
    return [name for name, _ in ranking]


def write(path: Path, content: Any) -> Path:
    """A text as it is, rows as JSON lines, anything else as JSON."""
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def visit(step: int, name: str, accuracy: float, n: int = 8) -> dict[str, Any]:
    return {"step": step, "id": name, "accuracy": accuracy, "n": n}


def sample(name: str, answer: str | None, status: str = "wrong", step: int = 1) -> dict[str, Any]:
    return {"step": step, "id": name, "status": status, "answer": answer}


# --- golden: what the reference implementation returned
# --------------------------------------------------------------


def check_order(ours: Sequence[tuple[str, float]], theirs: Sequence[str]) -> None:
    """The same order, except between scores that differ only by rounding."""
    assert sorted(ids(ours)) == sorted(theirs)
    score = dict(ours)
    assert [score[name] for name in theirs] == pytest.approx(
        [value for _, value in ours], rel=1e-12, abs=1e-12
    )


def check_published(case: dict[str, Any], rule: Callable[..., list[tuple[str, float]]]) -> None:
    """Rank, index and score of the rows that the case holds of the ranking of the whole published
    history.
    """
    if not PUBLISHED.is_file():
        pytest.skip(f"no published history in {ONE_SHOT}")
    ranking = rule(run_history.read_history(PUBLISHED))
    assert len(ranking) == case["inputs"]["n_examples"]
    for row in [row for rows in case["outputs"].values() for row in rows]:
        name, score = ranking[row["rank"] - 1]
        assert name == str(row["index"])
        assert score == pytest.approx(
            row["score"], rel=case["config"]["rtol"], abs=case["config"]["atol"]
        )


def check_real_histories(case: dict[str, Any]) -> None:
    given, wanted = case["inputs"]["histories"], case["outputs"]
    assert dict(rankings.historical_variance(given)) == pytest.approx(wanted["std"], rel=1e-9)
    if PUBLISHED.is_file():
        published = run_history.read_history(PUBLISHED)
        assert {name: list(published[name]) for name in given} == given
        ranking = ids(rankings.historical_variance(published))
        assert {name: ranking.index(name) + 1 for name in given} == wanted["rank"]


def check_synthetic(case: dict[str, Any]) -> None:
    given = {name: case["inputs"]["histories"][name] for name in case["inputs"]["key_order"]}
    for rule, key in ((rankings.historical_variance, "std"), (rankings.lim, "lim")):
        found = rule(given)
        wanted = case["outputs"][key]
        assert dict(found) == pytest.approx(wanted, rel=1e-9, abs=1e-10)
        check_order(found, [str(index) for index in case["outputs"][f"{key}_order"]])


def check_collected(case: dict[str, Any]) -> None:
    """Copies drawn in one step are one visit. The reference rounds the share of their samples down
    to a multiple of 1/n, ours stays exact; without copies there is nothing to round.
    """
    n, records = case["config"]["rollout_n"], []
    for step, scores in enumerate(case["inputs"]["score_records_per_step"], 1):
        for index in dict.fromkeys(index for index, _ in scores):
            mine = [score for other, score in scores if other == index]
            copies = [mine[at : at + n] for at in range(0, len(mine), n)]
            records += [visit(step, str(index), sum(copy) / n, n) for copy in copies]
    found = run_history.collect_visits(records, "records")
    rounded = {
        name: {step: math.floor(share * n + 1e-9) / n for step, share in at.items()}
        for name, at in found.items()
    }
    wanted = case["outputs"]
    assert {name: list(at.values()) for name, at in rounded.items()} == wanted["history_accuracy"]
    with_step = {name: {str(step): a for step, a in at.items()} for name, at in rounded.items()}
    assert with_step == wanted["history_accuracy_with_step"]
    often = [len(at) for at in found.values()]
    measured = {"avg": sum(often) / case["config"]["n_train"], "max": max(often), "min": min(often)}
    assert measured == wanted["sampling_frequency"]


CHECKS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "historical_std/real_top30_last10": lambda case: check_published(
        case, rankings.historical_variance
    ),
    "limr/real_top30_last5": lambda case: check_published(case, rankings.lim),
    "historical_std/real_histories": check_real_histories,
    "synthetic": check_synthetic,
    "collect_accuracy": check_collected,
}


@pytest.mark.parametrize("case", cases("selection"), ids=lambda case: case["name"])
def test_golden_selection(case: dict[str, Any]) -> None:
    name = case["name"]
    CHECKS[name if name in CHECKS else name.rpartition("/")[0]](case)


# --- the rules by hand
# -----------------------------------------------------------------------------------------------


def test_historical_variance_ranks_by_the_deviation_of_all_visits_and_leaves_ties_in_the_order_of_the_file() -> (
    None
):
    assert rankings.historical_variance(HISTORIES) == [
        ("c", 0.5),
        ("a", 0.25),
        ("d", 0.25),
        ("b", 0.0),
        ("e", 0.0),
    ]
    backwards = dict(reversed(HISTORIES.items()))
    assert ids(rankings.historical_variance(backwards)) == ["c", "d", "a", "e", "b"]


def test_lim_compares_with_the_mean_curve_over_the_visits_that_all_have() -> None:
    # Two visits count; means 1/3 and 2/3; the denominator is 4/9 + 1/9.
    found = dict(rankings.lim({"x": [0.0, 1.0, 0.0], "y": [1.0, 1.0, 0.0], "z": [0.0, 0.0]}))
    assert found == pytest.approx({"x": 1 - Fraction(2, 5), "y": 0.0, "z": 0.0}, abs=1e-12)


def test_lim_of_problems_that_are_always_right_is_one() -> None:
    assert rankings.lim({"x": [1.0, 1.0], "y": [1.0]}) == [("x", 1.0), ("y", 1.0)]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [("c", 0.5), ("a", 0.25), ("d", 0.75), ("b", 0.0), ("e", 1.0)]),
        ({"low": 0.25, "high": 0.75}, [("c", 0.5), ("a", 0.25), ("d", 0.75)]),
        ({"low": 0.25, "high": 1.0}, [("c", 0.5), ("d", 0.75), ("a", 0.25), ("e", 1.0)]),
        ({"target": 1.0}, [("e", 1.0), ("d", 0.75), ("c", 0.5), ("a", 0.25), ("b", 0.0)]),
        ({"of": "last", "high": 0.5}, [("a", 0.5), ("b", 0.0), ("c", 0.0)]),
    ],
    ids=str,
)
def test_pass_rate_keeps_a_band_and_ranks_by_nearness(
    options: dict[str, Any], wanted: list[tuple[str, float]]
) -> None:
    assert rankings.pass_rate(HISTORIES, **options) == wanted


def test_random_is_a_function_of_the_seed() -> None:
    found = [ids(rankings.shuffled(HISTORIES, seed=seed)) for seed in range(8)]
    assert found[0] == ["abcde"[i] for i in permutation(5, 0, "select")]
    assert found[3] == ids(rankings.shuffled(HISTORIES, seed=3))
    assert len(set(map(tuple, found))) > 4


def test_random_from_a_history_and_random_in_a_recipe_agree() -> None:
    assert [p.id for p in selection.at_random(problems("abcde"), take=5, seed=7)] == ids(
        rankings.shuffled(HISTORIES, seed=7)
    )


def test_uncertainty_is_the_entropy_of_the_answers_of_a_problem(tmp_path: Path) -> None:
    first = [
        sample("same", "4"),
        sample("two", "4"),
        sample("two", "5"),
        sample("four", "1"),
        sample("four", None),
    ]
    second = [
        sample("same", "4"),
        sample("two", "4"),
        sample("two", "5"),
        sample("four", "2"),
        sample("four", "3"),
    ]
    unseen = [sample("same", "9", step=0), sample("other", "9", step=0)]
    failed = [sample("same", None, "error"), sample("same", None, "timeout")]
    write(tmp_path / "run/samples/train-000001.jsonl", first)
    write(tmp_path / "run/samples/train-000002.jsonl", second + failed)
    alone = write(tmp_path / "run/samples/eval-heldout-000000.jsonl", unseen)
    wanted = [("four", math.log(4)), ("two", math.log(2)), ("same", 0.0)]
    for place in ("run", "run/samples"):
        found = rankings.uncertainty(run_history.read_answers(tmp_path / place))
        assert ids(found) == ids(wanted)
        assert dict(found) == pytest.approx(dict(wanted))
    assert ids(rankings.uncertainty(run_history.read_answers(alone))) == ["same", "other"]


def test_the_history_of_a_run_joins_the_copies_of_a_step_and_passes_over_a_half_written_line(
    tmp_path: Path,
) -> None:
    rows = [
        visit(1, "x", 0.25, 8),
        visit(1, "y", 1.0, 4),
        visit(1, "x", 1.0, 4),
        visit(3, "x", 5 / 49, 49),
    ]
    log = write(tmp_path / "history.jsonl", rows)
    log.write_text(log.read_text() + '{"step": 4, "id": "x", "accu')
    for place in (tmp_path, log):
        assert run_history.read_history(place) == {"x": (0.5, 5 / 49), "y": (1.0,)}


# --- the command
# -----------------------------------------------------------------------------------------------------


def called(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    assert cli.main(["select", *map(str, words)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return [json.loads(line) for line in said.out.splitlines()]


@needs_data
def test_the_command_prints_the_published_ranking_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = called(capsys, PUBLISHED, "--method", "historical_variance")
    assert all(list(row) == ["rank", "id", "score"] for row in rows)
    assert [row["rank"] for row in rows] == list(range(1, 1210))
    first = [
        "124",
        "267",
        "531",
        "931",
        "212",
        "25",
        "568",
        "131",
        "649",
        "724",
        "875",
        "925",
        "682",
    ]
    assert [row["id"] for row in rows[:13]] == first
    assert rows[-1]["id"] == "789"
    assert rows[0]["score"] == np.std(json.loads(PUBLISHED.read_text())["124"])


def test_the_command_takes_a_range_of_ranks_and_writes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = write(tmp_path / "h.json", HISTORIES)
    wanted = [{"rank": 2, "id": "a", "score": 0.25}, {"rank": 3, "id": "d", "score": 0.25}]
    words = [history, "--method", "historical_variance", "--start", 2, "--top", 2]
    assert called(capsys, *words) == wanted
    assert called(capsys, *words, "--out", tmp_path / "out.jsonl") == []
    assert [
        json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ] == wanted


METHODS: dict[str, tuple[list[str], list[str]]] = {
    "historical_variance": ([], ["c", "a", "d", "b", "e"]),
    "lim": ([], ids(rankings.lim(HISTORIES))),
    "pass_rate": (["--low", "0.2", "--high", "0.8", "--target", "0.75"], ["d", "c", "a"]),
    "random": (["--seed", "5"], ids(rankings.shuffled(HISTORIES, seed=5))),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_command(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, wanted = METHODS[method]
    rows = called(capsys, write(tmp_path / "h.json", HISTORIES), "--method", method, *options)
    assert [row["id"] for row in rows] == wanted


def test_the_last_accuracy_and_the_answers_are_ranked_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = write(tmp_path / "h.json", HISTORIES)
    rows = called(
        capsys, history, "--method", "pass_rate", "--of", "last", "--target", 0, "--top", 3
    )
    assert [row["id"] for row in rows] == ["b", "c", "a"]
    log = write(tmp_path / "samples.jsonl", [sample("x", "1"), sample("y", "1"), sample("y", "2")])
    rows = called(capsys, log, "--method", "uncertainty")
    assert rows == [
        {"rank": 1, "id": "y", "score": pytest.approx(math.log(2))},
        {"rank": 2, "id": "x", "score": 0.0},
    ]


def test_the_lines_may_be_read_in_part(tmp_path: Path) -> None:
    """`rlvr select … | head -1`, with more lines than a pipe holds."""
    history = write(tmp_path / "h.json", {f"problem number {i}": [0.0, 1.0] for i in range(5000)})
    words = [
        sys.executable,
        "-m",
        "rlvr",
        "select",
        str(history),
        "--method",
        "historical_variance",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["rank"] == 1
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


BAND = ("--method", "pass_rate")
BROKEN: dict[str, tuple[Any, Sequence[Any], list[str]]] = {
    "no file": (None, (), ["h.json", "no such file"]),
    "not JSON": ('{"1": [0.5', (), ["h.json", "not valid JSON"]),
    "not text": (b"\xff\xfe\x00", (), ["h.json", "not valid JSON"]),
    "too deep": (f'{{"1": {NESTED}0.5]]]}}', (), ["h.json", "not valid JSON", "too deep"]),
    "a list": ("[1, 2]", (), ["h.json", "{id: [accuracy, …]}", "list"]),
    "no list of a problem": ({"1": 0.5}, (), ["h.json", "'1'", "list"]),
    "a word": ({"1": [0.5, "x"]}, (), ["h.json", "'1'", "'x'", "0 to 1"]),
    "nothing": ({"1": [0.5, None]}, (), ["h.json", "'1'", "None"]),
    "a truth": ({"1": [True]}, (), ["h.json", "'1'", "True"]),
    "above one": ({"1": [0.5, 8]}, (), ["h.json", "'1'", "8"]),
    "not a number": ('{"1": [NaN]}', (), ["h.json", "'1'", "nan"]),
    "a problem without a visit": ({"1": [0.5], "2": []}, (), ["h.json", "'2'", "list of accuracies, not []"]),
    "empty": ({}, (), ["h.json", "no accuracy"]),
    "an empty file": ("", (), ["h.json", "not valid JSON"]),
    "unknown method": (HISTORIES, ("--method", "historical_varianse"), ["--method", "'historical_variance'"]),
    "top too large": (HISTORIES, ("--top", 6), ["h.json", "top", "6", "5"]),
    "start too large": (HISTORIES, ("--start", 6), ["h.json", "start", "6", "5"]),
    "start and top too large": (HISTORIES, ("--start", 4, "--top", 3), ["h.json", "top", "3", "2"]),
    "top 0": (HISTORIES, ("--top", 0), ["top", "at least 1"]),
    "start 0": (HISTORIES, ("--start", 0), ["start", "at least 1"]),
    "an option of another method": (HISTORIES, ("--low", 0.5), ["historical_variance", "low", "unknown key"]),
    "a band upside down": (HISTORIES, (*BAND, "--low", 0.7, "--high", 0.2), ["h.json", "low: 0.7", "exchange"]),
    "nothing in the band": (HISTORIES, (*BAND, "--low", 0.3, "--high", 0.4), ["h.json", "0.3", "0.4"]),
    "one visit each": ({"1": [0.5], "2": [1.0]}, (), ["h.json", "visited twice", "pass_rate"]),
    "a band beyond one": (HISTORIES, (*BAND, "--high", 2), ["high", "1"]),
    "last of what": (HISTORIES, (*BAND, "--of", "median"), ["of", "'median'", "last"]),
    "a folder that is no file": (HISTORIES, ("--out", "folder"), ["folder"]),
    "answers of a history": (HISTORIES, ("--method", "uncertainty"), ["h.json", ".id: is required"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_of_the_command_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words, named = BROKEN[case]
    monkeypatch.chdir(tmp_path)
    refuse_nested(monkeypatch)
    (tmp_path / "folder").mkdir()
    if isinstance(content, bytes):
        Path("h.json").write_bytes(content)
    elif content is not None:
        write(Path("h.json"), content)
    refused(
        capsys, ["select", "h.json", "--method", "historical_variance", *map(str, words)], named
    )


def refused(capsys: pytest.CaptureFixture[str], words: list[str], named: Sequence[str]) -> None:
    capsys.readouterr()
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert not [word for word in named if word not in said.err], said.err


LOGS: dict[str, tuple[str, Any, str, list[str]]] = {
    "a folder of something else": ("x/y", "", "historical_variance", ["x", "history.jsonl", "run"]),
    "a run without a visit": ("x/history.jsonl", "", "historical_variance", ["history.jsonl", "no accuracy"]),
    "a broken line": ("x/history.jsonl", '{"step"\n{"step": 2}\n', "historical_variance", ["history.jsonl, line 1"]),
    "no id": ("x/history.jsonl", [{"step": 1, "accuracy": 1, "n": 8}], "lim", ["record 1.id:"]),
    "no step": ("x/history.jsonl", [visit(1, "a", 0), {"id": "a", "accuracy": 1}], "lim", ["record 2.step:"]),
    "no count": ("x/history.jsonl", [{"step": 1, "id": "a", "accuracy": 1}], "lim", ["record 1.n:"]),
    "a share of nothing": ("x/history.jsonl", [visit(1, "a", 0.0, 0)], "lim", ["record 1.n:"]),
    "a count that is a truth": ("x/history.jsonl", [visit(1, "a", 0.0, True)], "lim", ["record 1.n:", "True"]),
    "no share of the count": ("x/history.jsonl", [visit(1, "a", 0.3, 8)], "lim", ["record 1", "0.3", "8"]),
    "no number of samples": ("x/history.jsonl", [visit(1, "a", 1, 10**400)], "lim", ["record 1.n:"]),
    "above one": ("x/history.jsonl", [visit(1, "a", 2.0, 8)], "lim", ["record 1.accuracy:", "2.0"]),
    "no samples": ("x/history.jsonl", [visit(1, "a", 0.5)], "uncertainty", ["x", "train-*.jsonl"]),
    "samples without answers": ("x/samples/train-000001.jsonl", [{"id": "a"}], "uncertainty", ["01", ".answer: is"]),
    "an answer that is a number": ("x/samples/train-000001.jsonl", [sample("a", 3)], "uncertainty", [".answer", "3"]),
    "failures only": ("x/samples/train-000001.jsonl", [sample("a", None, "error")], "uncertainty", ["x", "no answer"]),
}  # fmt: skip


@pytest.mark.parametrize("case", LOGS)
def test_a_broken_run_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, content, method, named = LOGS[case]
    monkeypatch.chdir(tmp_path)
    write(Path(path), content)
    refused(capsys, ["select", "x", "--method", method], named)


# --- in a recipe
# -----------------------------------------------------------------------------------------------------


def problems(names: Sequence[str]) -> list[Problem]:
    return [Problem(name, "math", f"{name}?", name) for name in names]


def chosen(rows: Sequence[Problem], name: str, **params: Any) -> list[str]:
    rule = registry.find("select", name, "select").bind(params, "train.0.select")
    return [problem.id for problem in rule(rows)]


@pytest.mark.parametrize(
    ("name", "params", "wanted"),
    [
        ("historical_variance", {}, "cadbe"),
        ("historical_variance", {"top": 1, "repeat": 3}, "ccc"),
        ("historical_variance", {"top": 2, "start": 2, "repeat": 2}, "aadd"),
        ("historical_variance", {"top": 2, "repeat": [3, 1]}, "ccca"),
        ("lim", {"top": 2}, "".join(ids(rankings.lim(HISTORIES))[:2])),
        ("pass_rate", {"low": 0.2, "high": 0.8, "top": 2, "target": 0.75}, "dc"),
        ("pass_rate", {"low": 0.2, "high": 0.8}, "cad"),
        ("pass_rate", {"of": "last", "top": 1, "target": 0.5}, "a"),
    ],
    ids=str,
)
def test_a_recipe_selects_by_rank(
    name: str, params: dict[str, Any], wanted: str, tmp_path: Path
) -> None:
    history = str(write(tmp_path / "h.json", HISTORIES))
    assert "".join(chosen(problems("edcbaz"), name, history=history, **params)) == wanted


def test_a_recipe_selects_the_uncertain(tmp_path: Path) -> None:
    log = [sample("x", "1"), sample("x", "1"), sample("y", "1"), sample("y", "2")]
    write(tmp_path / "samples/train-000001.jsonl", log)
    assert chosen(problems("xyz"), "uncertainty", samples=str(tmp_path), top=1, repeat=2) == [
        "y",
        "y",
    ]


def test_a_bare_index_is_the_place_in_the_file_or_the_id(tmp_path: Path) -> None:
    history = str(write(tmp_path / "h.json", {"10": [0, 1], "0": [0, 0.5], "x": [0, 0]}))
    assert chosen(problems(["s/0", "s/10", "x"]), "historical_variance", history=history) == [
        "s/10",
        "s/0",
        "x",
    ]
    names = ["hub/set/train/0", "hub/set/train/10"]
    assert chosen(problems(names), "historical_variance", history=history, top=2) == names[::-1]
    assert chosen(
        problems(["0", "s/0", "10", "x"]), "historical_variance", history=history, top=2
    ) == ["10", "0"]


@pytest.mark.parametrize(
    ("names", "params", "said"),
    [
        (["s/0"], {}, ["select.history", "h.json", "'7'", "rank 1", "1 problem", "'s/0'"]),
        (["s/7", "t/7"], {}, ["select.history", "'7'", "'s/7'", "'t/7'"]),
        (["s/7"], {"start": 2}, ["select.history", "'x'", "rank 2", "'s/7'"]),
        (["s/x", "s/7"], {"start": 2}, ["'x'", "rank 2"]),
        (["s/7", "x"], {"top": 3}, ["h.json", "top", "3", "2"]),
        (["s/7", "x"], {"repeat": [1, 2, 3]}, ["select.repeat", "3", "2"]),
    ],
)
def test_a_recipe_says_which_problem_is_missing(
    names: list[str], params: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    history = str(write(tmp_path / "h.json", {"x": [0.5], "7": [0, 1]}))
    with pytest.raises(UserError) as caught:
        chosen(problems(names), "historical_variance", history=history, **params)
    assert "\n" not in str(caught.value)
    assert not [word for word in said if word not in str(caught.value)], str(caught.value)


def test_ids_are_merged_with_weights() -> None:
    assert Counter(chosen(problems("abc"), "ids", ids=["a", "c"], repeat=64)) == {"a": 64, "c": 64}
    assert Counter(chosen(problems("abc"), "ids", ids=["a", "c"], repeat=[96, 32])) == {
        "a": 96,
        "c": 32,
    }
    assert chosen(problems("abc"), "ids", ids=["b"]) == ["b"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"name": "ids", "ids": []}, ["select.ids", "should not be empty"]),
        (
            {"name": "ids", "ids": ["a"], "repeat": 0},
            ["select.repeat", "greater than or equal to 1"],
        ),
        (
            {"name": "ids", "ids": ["a"], "repeat": [2, -1]},
            ["select.repeat.1", "greater than or equal to 1"],
        ),
        ({"name": "ids", "ids": ["a"], "repeat": []}, ["select.repeat", "should not be empty"]),
        ({"name": "ids", "ids": ["a"], "repeat": "many"}, ["select.repeat", "'many'"]),
        ({"name": "random", "take": 0}, ["select.take", "greater than or equal to 1"]),
        ({"name": "historical_variance", "top": 1}, ["select.history", "required"]),
        (
            {"name": "historical_variance", "history": "h", "top": 0},
            ["select.top", "greater than or equal to 1"],
        ),
        (
            {"name": "historical_variance", "history": "h", "tpo": 1},
            ["select.tpo", "did you mean 'top'"],
        ),
        (
            {"name": "lim", "history": "h", "start": 0},
            ["select.start", "greater than or equal to 1"],
        ),
        (
            {"name": "pass_rate", "history": "h", "low": -1},
            ["select.low", "greater than or equal to 0"],
        ),
        (
            {"name": "uncertainty", "samples": "h", "history": "h"},
            ["select.history", "unknown key"],
        ),
        ({"name": "uncertainty", "history": "h"}, ["select.history", "unknown key", "samples"]),
        ({"name": "limr", "history": "h"}, ["train.0.select", "did you mean 'lim'"]),
    ],
    ids=str,
)
def test_a_mistake_in_a_recipe_is_found_when_it_is_read(
    params: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        loader.load({"train": {"data": "arithmetic", "select": params}})
    assert "\n" not in str(caught.value)
    assert not [word for word in said if word not in str(caught.value)], str(caught.value)


def test_ids_whose_weights_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"select\.repeat: 3 numbers for 2 problems"):
        chosen(problems("abc"), "ids", ids=["a", "c"], repeat=[1, 2, 3])


# --- the published selections
# ----------------------------------------------------------------------------------------


def dsr_sub() -> list[Problem]:
    """The published training set; one of its 1,209 rows has no answer."""
    return file(path=str(ONE_SHOT / "dsr_sub.parquet"), columns=COLUMNS, unanswered="drop")


def asked(rows: Sequence[Problem]) -> list[tuple[str, str]]:
    return [(problem.question, problem.answer) for problem in rows]


@needs_data
@pytest.mark.parametrize(("rank", "index"), [(1, 124), (13, 682), (1209, 789)])
def test_the_selected_problem_is_the_one_of_the_published_file(rank: int, index: int) -> None:
    source = dsr_sub()
    params = {"history": str(PUBLISHED), "top": 1, "start": rank, "repeat": 128}
    rule = registry.find("select", "historical_variance", "select").bind(params, "select")
    found = rule(source)
    published = file(path=str(ONE_SHOT / f"pi{rank}_r128.parquet"), columns=COLUMNS)
    assert len(published) == 128
    assert asked(found) == asked(published)
    assert {problem.id for problem in found} == {f"dsr_sub/{index}"}


@needs_data
def test_the_recipe_of_the_page_takes_the_first_published_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "selection.md").read_text(), re.S)
    (source,) = loader.load(yaml.safe_load(block)).train
    monkeypatch.chdir(ONE_SHOT)
    given = registry.find("data", source.data.name, "data").bind(source.data.params, "data")()
    assert chosen(given, source.select.name, **source.select.params) == ["dsr_sub/124"] * 128


@needs_data
def test_a_range_of_ranks_and_a_merge_of_published_problems() -> None:
    source = dsr_sub()
    wanted = [f"dsr_sub/{index}" for index in (267, 531, 931, 212)]
    assert chosen(source, "historical_variance", history=str(PUBLISHED), start=2, top=4) == wanted
    merged = ["dsr_sub/124", "dsr_sub/682"]
    found = registry.find("select", "ids", "select").bind({"ids": merged, "repeat": 64}, "select")(
        source
    )
    halves = [
        file(path=str(ONE_SHOT / f"pi{rank}_r128.parquet"), columns=COLUMNS)[:64]
        for rank in (1, 13)
    ]
    assert asked(found) == asked([*halves[0], *halves[1]])


# --- fed back
# --------------------------------------------------------------------------------------------------------

JUDGE = """
from rlvr.types import Status, Verdict


def digit(problem, response):
    right = any(c.isdigit() for c in response.text)
    return Verdict(Status.CORRECT if right else Status.WRONG, response.text[:2], True, "digit")
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def full(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run over all problems in `runs/full`, made by `r.yaml`; the tiny model is right
    now and then.
    """
    monkeypatch.chdir(tmp_path)
    task = f"{write(tmp_path / 'judge.py', JUDGE)}:digit"
    tree = {
        **tiny.recipe(tiny_model),
        "run": {"name": "full", "steps": 4, "folder": "runs", "threads": 1},
        "train": [{**tiny.recipe(tiny_model)["train"][0], "task": task}],  # type: ignore[index]
        "rollout": {"problems": 8, "samples": 4, "max_tokens": 4},
        "verify": {"echo_limit": 1.0},
        "eval": {},
    }
    Path("r.yaml").write_text(yaml.safe_dump(tree))
    assert cli.main(["train", "r.yaml"]) == 0
    return Path("runs/full")


def test_the_history_of_a_run_chooses_the_problem_of_the_next(
    full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    best, *rest = called(capsys, full, "--method", "historical_variance")
    assert best["score"] > 0
    assert len(rest) == 15
    word = "train.0.select={name: historical_variance, history: runs/full, top: 1, repeat: 8}"
    assert cli.main(["train", "r.yaml", "run.name=one", "run.steps=2", word]) == 0
    history = lines(Path("runs/one/history.jsonl"))
    assert [row["id"] for row in history] == [best["id"]] * 16
    for step in (1, 2):
        samples = lines(Path(f"runs/one/samples/train-{step:06d}.jsonl"))
        assert sorted({row["copy"] for row in samples}) == list(range(8)), (
            "each copy is a group of its own"
        )
        assert len({row["text"] for row in samples}) > 8

    word = "train.0.select={name: uncertainty, samples: runs/full, top: 2, repeat: [6, 2]}"
    wanted = called_after_training(capsys, full)
    assert cli.main(["train", "r.yaml", "run.name=two", "run.steps=1", word]) == 0
    history = lines(Path("runs/two/history.jsonl"))
    assert Counter(row["id"] for row in history) == {wanted[0]: 6, wanted[1]: 2}


def called_after_training(capsys: pytest.CaptureFixture[str], run: Path) -> list[str]:
    capsys.readouterr()
    return [row["id"] for row in called(capsys, run, "--method", "uncertainty", "--top", 2)]


def test_a_resumed_run_does_not_go_on_with_other_problems(
    full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = "train.0.select={name: historical_variance, history: runs/full, top: 1, repeat: 8}"
    words = ["train", "r.yaml", word, "run.name=one"]
    assert cli.main([*words, "run.steps=1"]) == 0
    assert cli.main([*words, "run.steps=2", "--resume"]) == 0
    before = (
        Path("runs/one/history.jsonl").read_bytes(),
        Path("runs/one/metrics.jsonl").read_bytes(),
    )
    trained = lines(Path("runs/one/history.jsonl"))[0]["id"]
    other = next(row["id"] for row in lines(full / "history.jsonl") if row["id"] != trained)
    write(
        full / "history.jsonl", [visit(1, other, 0.0), visit(2, other, 1.0), visit(1, trained, 0.0)]
    )
    capsys.readouterr()
    assert cli.main([*words, "run.steps=3", "--resume"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "runs/one" in said
    assert "train" in said
    assert "history" in said
    assert before == (
        Path("runs/one/history.jsonl").read_bytes(),
        Path("runs/one/metrics.jsonl").read_bytes(),
    )


def test_a_history_that_is_missing_is_found_before_a_model_is_loaded(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlvr.models.loading.load", lambda *_: pytest.fail("a model was loaded"))
    tree = tiny.recipe(tiny_model, train=[{"data": "arithmetic"}])
    Path("r.yaml").write_text(yaml.safe_dump(tree))
    word = "train.0.select={name: lim, history: runs/nowhere, top: 1}"
    assert cli.main(["train", "r.yaml", word, "run.folder=runs"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "runs/nowhere: no such file" in said
    assert not Path("runs").exists()
