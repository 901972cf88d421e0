"""The interval over problems and seeds: a case worked by hand, and how often it covers the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlvr.metrics.statistics import estimate_crossed_interval, estimate_paired_gain
from rlvr.report.trends import split_gain
from rlvr.sweeps.figures import pool_gains

Z = 1.959963984540054


def test_the_interval_over_problems_and_seeds_worked_by_hand() -> None:
    """Mean squares of problems 1/2, of seeds 1/6 and of the rest 1/6, so 1/6 + (1/2 - 1/6) = 1/2,
    over 6 values; by Hillis (1/2)² / (1/6)² = 9 degrees of freedom, whose t is 2.262157.
    """
    low, high = estimate_crossed_interval(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    spread = 2.262157 * (0.5 / 6) ** 0.5
    assert (low, high) == pytest.approx((0.5 - spread, 0.5 + spread), abs=1e-6)


def test_seeds_that_differ_more_than_problems_leave_few_degrees_of_freedom() -> None:
    """Two problems that go together: seeds have the mean square 2 (4/9 + 1/9 + 1/9) / 2, the rest
    0; t(2) is 4.303.
    """
    values = np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    spread = 4.302653 * ((2 / 3) / 6) ** 0.5
    assert estimate_crossed_interval(values) == pytest.approx(
        (2 / 3 - spread, 2 / 3 + spread), abs=1e-6
    )


@pytest.mark.parametrize("copies", [1, 3])
def test_one_seed_or_equal_ones_give_the_interval_over_problems(copies: int) -> None:
    changes = [1.0, 0.0, -1.0, 1.0, 1.0, 0.0]
    alone = estimate_paired_gain([0.0] * 6, changes).ci95
    assert list(estimate_crossed_interval(np.array([changes] * copies).T)) == pytest.approx(alone)


def test_the_interval_is_never_narrower_than_the_one_over_problems() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        values = random.normal(random.normal(0, 1, (20, 1)), 1.0, (20, 3))
        low, high = estimate_crossed_interval(values)
        spread = Z * values.mean(axis=1).std(ddof=1) / 20**0.5
        assert high - low >= 2 * spread - 1e-12


def coverage(seeds: int, spread: float, cases: int = 2500) -> tuple[float, float]:
    """How often the interval covers 0 where an arm is its own baseline, and how often one over
    problems alone does: 128 problems, each sample right with the problem's chance, which a seed
    moves for all problems at once.
    """
    random = np.random.default_rng(7)
    hits, alone = 0, 0
    for _ in range(cases):
        chance = random.beta(0.7, 0.9, (128, 1))
        arm, baseline = (
            random.random((128, seeds)) < np.clip(chance + random.normal(0, spread, seeds), 0, 1)
            for _ in range(2)
        )
        change = arm.astype(float) - baseline
        low, high = estimate_crossed_interval(change)
        hits += low <= 0 <= high
        row = change.mean(axis=1)
        alone += abs(row.mean()) <= Z * row.std(ddof=1) / 128**0.5
    return hits / cases, alone / cases


def test_an_arm_identical_to_its_baseline_covers_zero_with_sample_noise_alone() -> None:
    """A little too often, since the interval is never narrower than the one over problems."""
    assert 0.945 <= coverage(seeds=3, spread=0.0)[0] <= 0.99


@pytest.mark.parametrize("spread", [0.05, 0.1])
def test_an_arm_identical_to_its_baseline_covers_zero_where_runs_differ(spread: float) -> None:
    """An interval over problems alone does not."""
    covered, alone = coverage(seeds=3, spread=spread)
    assert 0.935 <= covered <= 0.97
    assert alone < 0.85


def test_several_runs_are_pooled_over_problems_and_runs(tmp_path: Path) -> None:
    """The matrix of the case worked by hand, as two run folders."""
    for name, after in (("one", "101"), ("two", "001")):
        (tmp_path / name / "samples").mkdir(parents=True)
        (tmp_path / name / "summary.json").write_text(
            json.dumps({"steps": 3, "evals": {"held": {}}})
        )
        for step, right in ((0, "000"), (3, after)):
            rows = [
                {"id": f"p{i}", "status": "correct" if r == "1" else "wrong"}
                for i, r in enumerate(right)
            ]
            path = tmp_path / name / "samples" / f"eval-held-{step:06d}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gain = pool_gains([tmp_path / "one", tmp_path / "two"])
    assert gain is not None
    spread = 2.262157 * (0.5 / 6) ** 0.5
    assert gain.value == pytest.approx(0.5)
    assert gain.ci95 == pytest.approx([0.5 - spread, 0.5 + spread], abs=1e-6)


def test_a_gain_splits_into_form_content_and_the_rest() -> None:
    """Only the form: half as many answers in a box before, equally often right; what is outside is
    never right.
    """
    assert split_gain((0.2, 0.4, 0.5), (0.4, 0.8, 0.5)) == pytest.approx((0.2, 0.0, 0.0))
    assert sum(split_gain((0.3, 0.5, 0.6), (0.5, 0.7, 0.7))) == pytest.approx(0.2)
