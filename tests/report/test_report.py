"""The report tells the truth about a run, raises the alarm on a hacked reward, and is one safe,
self-contained file.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from support.fake_run import hacked, healthy, unfinished

from rlvr.cli import main as cli
from rlvr.errors import UserError
from rlvr.report import charts
from rlvr.report.findings import find_alarms, write_headline
from rlvr.report.phenomena import find_phenomena
from rlvr.report.rendering import load_template
from rlvr.report.run_page import compare, sum_times, write_report
from rlvr.report.trends import find_saturation
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.run_data import read_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {make.__name__: make(folder / make.__name__) for make in (healthy, hacked, unfinished)}


@pytest.fixture
def run(made: dict[str, Path], tmp_path: Path) -> Path:
    """A healthy run to spoil."""
    return Path(shutil.copytree(made["healthy"], tmp_path / "run"))


def text_of(run: Path) -> str:
    return write_report(run).read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")


def edit(path: Path, change: Any) -> None:
    JsonLines.write(path, [{**record, **(change(record) or {})} for record in JsonLines.read(path)])


def check_drawings(page: str) -> None:
    """Each is whole; a figure holds a drawing in a drawing, a table cell a plain one."""
    drawings = re.findall(
        r"<figure.*?</figure>|<td[^>]*><svg.*?</svg>\s*</td>", page, flags=re.DOTALL
    )
    assert drawings and page.count("<svg") == sum(drawing.count("<svg") for drawing in drawings)
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_a_healthy_run_rose_and_raises_no_alarm(made: dict[str, Path]) -> None:
    page = text_of(made["healthy"])
    assert (
        "Held-out accuracy rose from 42 % to 73 % (256 unseen problems); the 95 % intervals do not overlap."
        in page
    )
    assert find_alarms(read_run(made["healthy"])) == []
    assert 'class="alarm"' not in page
    order = [
        "Before and after",
        "Curves",
        "The same held-out problems",
        "Rollouts of training",
        "Verdicts on",
    ]
    order += ["Where the time went", "What it cost", "The recipe, resolved", "How to go on"]
    assert sorted(order, key=page.index) == order
    assert "wrong before, right after" in page


def test_the_empty_box_raises_the_alarm(made: dict[str, Path]) -> None:
    page = text_of(made["hacked"])
    assert 'class="alarm"' in page
    found = dict(find_alarms(read_run(made["hacked"])))
    assert set(found) >= {"The reward may be hacked", "Reward rises while training accuracy falls"}
    assert (
        "well-formed answers rose from 0.06 to 1.00, but held-out accuracy fell"
        in found["The reward may be hacked"]
    )
    assert "Nothing left to learn from" in found
    assert "\\boxed{}</pre>" in page


def test_the_alarm_needs_no_fall(run: Path) -> None:
    """Formatted from 0.05 to 1.00 with held-out accuracy 0 all the time."""

    def change(record: dict[str, Any]) -> dict[str, Any]:
        share = 0.05 if record["step"] == 0 else 1.0
        return {
            "metrics": {"pass@1": 0.0, "formatted": share},
            "ci95": {"pass@1": [0.0, 0.015]},
            "categories": {},
        }

    edit(run / "evals.jsonl", change)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "samples")
    assert find_alarms(read_run(run))[0][0] == "Training improves, held-out problems not measurably"
    edit(run / "metrics.jsonl", lambda r: {"accuracy": 0.0})
    (heading, text), *_ = find_alarms(read_run(run))
    assert heading == "The reward may be hacked"
    assert (
        "well-formed answers rose from 0.05 to 1.00, but held-out accuracy did not measurably rise: 0"
        in text
    )


def test_truncation_and_skipped_updates_are_warned_of(run: Path) -> None:
    edit(
        run / "metrics.jsonl",
        lambda r: {"truncated": 0.02 * r["step"], "skipped_updates": int(r["step"] == 4)},
    )
    assert [heading for heading, _ in find_alarms(read_run(run))] == [
        "Responses run into the token limit",
        "Updates were skipped",
    ]


@pytest.mark.parametrize(
    ("before", "after", "gain", "tone", "words"),
    [
        (0.40, 0.43, [-0.02, 0.08], "flat", "No measurable change"),
        (
            0.40,
            0.46,
            [0.02, 0.10],
            "good",
            "rose from 40 % to 46 % (256 unseen problems); compared problem by problem",
        ),
        (0.46, 0.40, [-0.10, -0.02], "bad", "fell from 46 % to 40 %"),
        (0.40, 0.46, None, "flat", "the 95 % intervals overlap"),
    ],
)
def test_the_sentence_is_honest(
    run: Path, before: float, after: float, gain: list[float] | None, tone: str, words: str
) -> None:
    shutil.rmtree(run / "samples")

    def change(record: dict[str, Any]) -> dict[str, Any]:
        value = before if record["step"] == 0 else after
        return {"metrics": {"pass@1": value}, "ci95": {"pass@1": [value - 0.06, value + 0.06]}}

    edit(run / "evals.jsonl", change)
    summary = json.loads((run / "summary.json").read_text())
    summary["evals"]["heldout"]["gain"] = {"pass@1": after - before, "ci95": gain} if gain else {}
    (run / "summary.json").write_text(json.dumps(summary))
    found, sentence = write_headline(read_run(run))
    assert found == tone
    assert words in sentence.replace("\N{NO-BREAK SPACE}", " ")


def test_the_paired_gain_is_computed_from_samples_where_it_is_not_summed_up(
    made: dict[str, Path],
) -> None:
    _, sentence = write_headline(read_run(made["unfinished"]))
    assert "compared problem by problem the change is +6 to +13 points" in sentence


def test_an_unfinished_run_says_so_and_how_to_go_on(made: dict[str, Path]) -> None:
    page = text_of(made["unfinished"])
    assert "This run is unfinished: the last recorded step is 13 of 30." in page
    assert "--resume" in page


def test_a_cold_start_is_shown_apart(run: Path) -> None:
    edit(run / "metrics.jsonl", lambda r: {"phase": "cold_start"} if r["step"] <= 10 else {})
    page = text_of(run)
    assert "<th>cold start</th>" in page
    assert (
        "After the cold start it was 63 %; reinforcement changed that by +10 points, 95 % interval"
        in page
    )
    assert 'class="cold"' in page


@pytest.mark.parametrize(
    "absent", ["recipe.yaml", "metrics.jsonl", "evals.jsonl", "summary.json", "samples"]
)
def test_absent_files_do_not_break_it(run: Path, absent: str) -> None:
    path = run / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "<h1>run</h1>" in text_of(run)


def test_a_run_that_died_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("run: {steps: 3}\n")
    (tmp_path / "summary.json").write_text('{"fin')
    (tmp_path / "metrics.jsonl").write_text("")
    assert "no step was recorded. No evaluation was recorded" in text_of(tmp_path)


def test_missing_keys_and_nulls_do_not_break_it(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"step": 1},
        {"step": 2, "reward": None, "time": None, "verdicts": None},
    ]
    JsonLines.write(
        tmp_path / "metrics.jsonl",
        [*steps, {"step": 3, "reward": 0.5, "reward_parts": {"a": None}}],
    )
    evals: list[dict[str, Any]] = [
        {"step": 0, "benchmark": "x"},
        {"step": 3, "benchmark": "x", "metrics": {"pass@1": 1}},
    ]
    JsonLines.write(tmp_path / "evals.jsonl", evals)
    JsonLines.write(
        tmp_path / "samples/train-000001.jsonl", [{"step": 1, "reward": None, "text": None}]
    )
    assert "<svg" in text_of(tmp_path)


def test_it_is_one_file_without_network(made: dict[str, Path]) -> None:
    for name in made:
        page = text_of(made[name])
        assert not re.findall(
            r"""(?:src|href)\s*=|url\(|@import|<link|<script|<iframe|https?://""", page
        )
        check_drawings(page)


def test_hostile_text_is_escaped(run: Path) -> None:
    attack = "<script type=none></script><img alt=x class=a>\x1b[31m\x00\ud800'\"</title></pre>"
    for path in (run / "samples").glob("*.jsonl"):
        edit(
            path,
            lambda r: {
                "text": attack,
                "question": attack,
                "gold": attack,
                "answer": attack,
                "status": attack,
            },
        )
    edit(
        run / "metrics.jsonl",
        lambda r: {"reward_parts": {attack: 0.5, "b": r["step"]}, "verdicts": {attack: 1}},
    )
    edit(run / "evals.jsonl", lambda r: {"categories": {attack: {"pass@1": 0.5, "n": 3}}})
    (run / "recipe.yaml").write_text(f"run: {attack[:24]}\n")
    page = text_of(run)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script type=none&gt;" in page
    assert "\x1b" not in page
    assert "\x00" not in page
    check_drawings(page)


def test_the_stages_add_up_to_the_wall_clock(made: dict[str, Path]) -> None:
    run = read_run(made["healthy"])
    spent = dict(sum_times(run))
    assert sum(spent.values()) == pytest.approx(run.summary.seconds)
    assert spent["evaluation"] == pytest.approx(4 * 9.1)


def test_compare_sets_runs_side_by_side(made: dict[str, Path], tmp_path: Path) -> None:
    page = compare(list(made.values()), tmp_path / "out" / "compare.html").read_text("utf-8")
    assert "3 runs side by side" in page
    assert page.count('class="swatch"') == 3
    assert "do not compare directly" not in page


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="folder of a run") as error:
            write_report(folder)
        assert "\n" not in str(error.value)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nbroken\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        write_report(tmp_path)


def test_charts_draw_any_numbers() -> None:
    draw = load_template("charts.html.j2").module.figure  # type: ignore[attr-defined]
    for values in (
        [0.0],
        [5.0, 5.0],
        [-1.0, 2.0],
        [1e-9, 3e-9],
        [1e9, 2e12],
        [None, 1.0, None, 2.0],
    ):
        points = [(float(step), value) for step, value in enumerate(values)]
        for unit in ("number", "share"):
            for wide in (False, True):
                figure = draw(charts.make_chart("t", [charts.Series("s", points)], unit, wide=wide))
                assert (
                    "<circle" in figure
                    and "nan" not in ElementTree.tostring(ElementTree.fromstring(figure)).decode()
                )


def test_running_mean_is_flat_on_flat_data() -> None:
    assert [y for _, y in charts.compute_running_mean([(float(x), 2.0) for x in range(40)])] == [
        2.0
    ] * 40


@pytest.mark.parametrize(
    ("visited", "chosen"),
    [
        ([(step, f"p{step % 20}") for step in range(40)], "--method historical_variance --top 16"),
        ([(step, f"p{step}") for step in range(20)], "--method pass_rate --top 16"),
        ([(1, "a"), (1, "a"), (2, "b")], "--method pass_rate --top 2"),
        ([(1, "a"), (2, "a")], None),
    ],
)
def test_the_report_offers_a_selection_that_the_run_allows(
    run: Path,
    visited: list[tuple[int, str]],
    chosen: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    JsonLines.write(
        run / "history.jsonl",
        [{"step": s, "id": name, "accuracy": 0.5, "n": 8} for s, name in visited],
    )
    offered = [
        unescape(found) for found in re.findall(r"<code>(rlvr select .*?)</code>", text_of(run))
    ]
    assert offered == ([f"rlvr select {run} {chosen}"] if chosen else [])
    for command in offered:
        assert cli.main(shlex.split(command)[1:]) == 0
        assert len(capsys.readouterr().out.splitlines()) == int(command.split()[-1])


# --- What One-Shot-RLVR and its critics look for


def test_saturation_is_marked_and_what_held_out_accuracy_does_after_it_is_said(run: Path) -> None:
    """Training accuracy is 0.5 to step 10 and then 1, but for one step of 0.8, whose five-step mean
    is still 0.96.
    """
    edit(
        run / "metrics.jsonl",
        lambda r: {"accuracy": 0.5 if r["step"] <= 10 else 0.8 if r["step"] == 20 else 1.0},
    )
    assert find_saturation(read_run(run)) == 11
    said = dict(find_phenomena(read_run(run)))["After training accuracy saturated"].replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "From step 11 on" in said and "(step 20)" in said and "(step 30)" in said
    page = text_of(run)
    assert "training saturated" in page and said in page
    edit(run / "metrics.jsonl", lambda r: {"accuracy": 0.9})
    assert find_saturation(read_run(run)) is None and "training saturated" not in text_of(run)


def test_the_gain_is_split_into_form_and_content(run: Path) -> None:
    """Half to all well-formed at 0.4 to 0.6 among them, and nothing right outside: 0.2 -> 0.6, of
    it 0.25 by form.
    """
    last = max(r["step"] for r in JsonLines.read(run / "evals.jsonl"))
    metrics = {0: (0.2, 0.5, 0.4), last: (0.6, 1.0, 0.6)}
    keys = ("pass@1", "formatted", "pass@1_formatted")
    edit(
        run / "evals.jsonl",
        lambda r: {"metrics": dict(zip(keys, metrics.get(r["step"], metrics[0]), strict=True))},
    )
    said = dict(find_phenomena(read_run(run)))["How much of the change is form"]
    assert said == (
        "Of the change of +40 points in held-out accuracy: +25 from more answers in the asked form, +15 from better "
        "answers in that form."
    )


def test_several_tries_reflection_and_decay_are_said_only_where_they_are_seen(run: Path) -> None:
    names = {"Solved in several tries", "Words of reflection", "Texts decay"}
    assert not names & set(dict(find_phenomena(read_run(run))))
    last = max(r["step"] for r in JsonLines.read(run / "evals.jsonl"))

    def more(r: dict[str, Any]) -> dict[str, float]:
        shown = 0.05 * (r["step"] == last)
        return {"pass@4": 0.7, "pass@16": 0.9, "reflection": shown, "non_ascii": 0.0}

    edit(run / "evals.jsonl", lambda r: {"metrics": {**r["metrics"], **more(r)}})
    edit(run / "metrics.jsonl", lambda r: {"non_ascii": 0.01 * r["step"]})
    found = {
        name: said.replace("\N{NO-BREAK SPACE}", " ")
        for name, said in find_phenomena(read_run(run))
    }
    assert "16 tries: 90 % before, 90 % after" in found["Solved in several tries"]
    assert "0.0 % of the held-out answers before and 5.0 % after" in found["Words of reflection"]
    assert found["Texts decay"].startswith(
        "Training answers had 3 % letters outside ASCII and now have 28 %"
    )
    assert "held-out ones 0 % and now 0 %" in found["Texts decay"]
