"""Advantages, loss terms, reductions, rates, the optimiser, metrics, gathering and drawing, each by
worked numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.rollouts import give_reward, make_prompt, make_rollout
from torch import Tensor

from rlvr.data.sources import Sources, SourceState
from rlvr.distributed.world import World
from rlvr.errors import RunError
from rlvr.metrics.mergeable import Metrics
from rlvr.models.packing import Tokens
from rlvr.models.policy import Forward, Policy
from rlvr.rollouts.filters import no_signal
from rlvr.rollouts.gather import CollectedGroups, once, refill
from rlvr.training import loss, reductions, schedules
from rlvr.training.advantage import grpo, rloo
from rlvr.training.batch import Batch
from rlvr.training.learner import Learner
from rlvr.training.objective import Objective
from rlvr.training.optimizer import LrSchedule, OptimizerStepper
from rlvr.training.scored import Scored
from rlvr.training.tensors import estimate_kl, group_deviation, group_mean
from rlvr.types import (
    Draw,
    Problem,
    RewardedGroup,
)

WORLD = World()
REWARDS = st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=9), min_size=1, max_size=5)


def scored(
    groups: Sequence[Sequence[float]], length: int = 1, dtype: torch.dtype = torch.float64
) -> Scored:
    """Samples of `length` tokens each with the given rewards."""
    rewards = [r for group in groups for r in group]
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group], dtype=torch.long)
    sample = torch.arange(len(rewards)).repeat_interleave(length)
    zeros = torch.zeros(len(sample), dtype=dtype)
    return Scored(
        sequences=(Tokens((3,), (5,) * length),) * len(rewards),
        total_samples=len(rewards),
        total_tokens=len(sample),
        reward=torch.tensor(rewards, dtype=dtype),
        group=owner,
        sample=sample,
        mask=zeros + 1,
        rollout_logprob=zeros,
    )


def batch(
    lengths: Sequence[int] = (1,),
    advantage: Sequence[float] = (),
    old: Sequence[float] | None = None,
    ref: Sequence[float] | None = None,
    mask: Sequence[int] = (),
    silent: tuple[int, int] = (0, 0),
    dtype: torch.dtype = torch.float64,
) -> Batch:
    zeros = torch.zeros(sum(lengths), dtype=dtype)
    kept = torch.tensor(mask, dtype=dtype) if mask else zeros + 1
    scored = Scored(
        sequences=tuple(Tokens((3,), tuple(range(5, 5 + n))) for n in lengths),
        reward=torch.zeros(len(lengths), dtype=dtype),
        group=torch.arange(len(lengths)),
        sample=torch.arange(len(lengths)).repeat_interleave(
            torch.tensor(lengths, dtype=torch.long)
        ),
        mask=kept,
        rollout_logprob=zeros,
        old_logprob=torch.tensor(old, dtype=dtype) if old is not None else None,
        ref_logprob=torch.tensor(ref, dtype=dtype) if ref is not None else None,
        total_samples=len(lengths) + silent[0],
        total_tokens=float(kept.sum()) + silent[1],
    )
    return Batch(scored, torch.tensor(advantage, dtype=dtype) if advantage else zeros)


def valued(
    term: Callable[..., Any], found: Batch, logprob: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The values of a term and its gradients in the log-probabilities, one for each token."""
    point = torch.tensor(logprob, dtype=found.mask.dtype, requires_grad=True)
    result = term(Forward(point, 2 * point), found)
    value = result[0] if isinstance(result, tuple) else result
    value.sum().backward()
    assert point.grad is not None
    return value.tolist(), point.grad.tolist()


# --- Advantages


def test_grpo_divides_by_the_deviation_of_the_group() -> None:
    """Rewards 1, 0, 0, 1: mean 1/2, deviation sqrt(4/4 / 3) = 0.5774, so +-0.866; with `ddof` 0 it
    is 1/2, so +-1.
    """
    rewards = scored([[1, 0, 0, 1]])
    assert grpo(rewards, WORLD).tolist() == pytest.approx(
        [0.8660, -0.8660, -0.8660, 0.8660], abs=1e-4
    )
    assert grpo(rewards, WORLD, ddof=0).tolist() == pytest.approx([1, -1, -1, 1], abs=1e-5)
    assert grpo(rewards, WORLD, eps=0.5).tolist() == pytest.approx(
        [0.5 / (3**-0.5 + 0.5) * s for s in (1, -1, -1, 1)]
    )


def test_grpo_without_the_deviation_subtracts_the_mean() -> None:
    """Rewards 3, 0, 0 have the mean 1."""
    assert grpo(scored([[3, 0, 0]]), WORLD, std=False).tolist() == pytest.approx([2, -1, -1])


def test_rloo_subtracts_the_mean_of_the_others() -> None:
    """Rewards 1, 0, 0, 1: 1 - 1/3 = 2/3 and 0 - 2/3."""
    assert rloo(scored([[1, 0, 0, 1]]), WORLD).tolist() == pytest.approx(
        [2 / 3, -2 / 3, -2 / 3, 2 / 3]
    )


def test_a_group_of_one_gives_nothing() -> None:
    for estimator in (grpo, partial(grpo, std=False), rloo):
        assert estimator(scored([[5.0], [0, 1]]), WORLD)[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reward", [0.1, 0.9, 1.1, -0.7, 3.3, 100.7])
def test_a_group_of_equal_rewards_gives_nothing(reward: float, dtype: torch.dtype) -> None:
    """Rewards that no binary fraction equals, so that sums round: dividing by a tiny deviation must
    not show it.
    """
    for count in range(2, 20):
        for estimator in (grpo, partial(grpo, std=False), rloo):
            assert estimator(scored([[reward] * count], dtype=dtype), WORLD).abs().max() < 1e-4


@given(REWARDS)
@settings(deadline=None)
def test_estimators_equal_their_definitions(groups: list[list[float]]) -> None:
    plain, divided, others = [], [], []
    for group in groups:
        n, mean = len(group), math.fsum(group) / len(group)
        deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in group) / max(n - 1, 1))
        plain += [r - mean for r in group]
        divided += [(r - mean) / (deviation + 1e-6) for r in group]
        others += [r - (math.fsum(group) - r) / (n - 1) if n > 1 else 0.0 for r in group]
    rewards = scored(groups)
    assert grpo(rewards, WORLD, std=False).tolist() == pytest.approx(plain, abs=1e-9)
    assert grpo(rewards, WORLD).tolist() == pytest.approx(divided, abs=1e-6)
    assert rloo(rewards, WORLD).tolist() == pytest.approx(others, abs=1e-9)


def test_groups_are_told_apart_by_their_number_not_by_their_place() -> None:
    values, group = torch.tensor([1.0, 10.0, 3.0, 30.0, 5.0]), torch.tensor([0, 1, 0, 1, 0])
    assert group_mean(values, group).tolist() == [3, 20, 3, 20, 3]
    assert group_deviation(values, group).tolist() == pytest.approx([2, math.sqrt(200)] * 2 + [2])


def test_every_token_of_a_sample_has_its_advantage() -> None:
    assert grpo(scored([[2, 0]], length=3), WORLD, std=False).tolist() == [1, 1, 1, -1, -1, -1]


def test_no_samples_have_no_advantages() -> None:
    for estimator in (grpo, rloo):
        assert estimator(scored([]), WORLD).shape == (0,)


# --- Loss terms


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "clipped"),
    [
        (1.0, 1.0, -1.0, -1.0, 0),  # on policy
        (1.5, 1.0, -1.2, 0.0, 1),  # already far above
        (1.5, -1.0, 1.5, 1.5, 0),  # above, and to be lowered
        (0.5, 1.0, -0.5, -0.5, 0),  # below, and to be raised
        (0.5, -1.0, 0.8, 0.0, 1),  # already far below
        (1.1, 2.0, -2.2, -2.2, 0),  # inside
    ],
)
def test_the_clipped_loss(
    ratio: float, advantage: float, value: float, slope: float, clipped: int
) -> None:
    """-min(r A, clip(r, 0.8, 1.2) A), whose slope in the log-probability is -r A where it is not
    clipped.
    """
    found = batch(advantage=[advantage], old=[-1.0])
    point = -1 + math.log(ratio)
    values, slopes = valued(loss.clip, found, [point])
    assert (values, slopes) == (pytest.approx([value]), pytest.approx([slope]))
    here = torch.tensor([point], dtype=torch.float64)
    assert loss.clip(Forward(here, here), found)[1]["clip_fraction"].tolist() == [clipped]


@pytest.mark.parametrize(
    ("ratio", "value", "slope"), [(1.25, -1.25, -1.25), (1.3, -1.28, 0.0), (0.85, -0.85, -0.85)]
)
def test_clip_higher_has_a_bound_of_its_own(ratio: float, value: float, slope: float) -> None:
    """`high` 0.28 as in DAPO: the gradient is zero above 1.28."""
    found = batch(advantage=[1.0], old=[-2.0])
    values, slopes = valued(partial(loss.clip, low=0.2, high=0.28), found, [-2 + math.log(ratio)])
    assert (values, slopes) == (pytest.approx([value]), pytest.approx([slope]))
    low = valued(
        partial(loss.clip, low=0.2, high=0.28), batch(advantage=[-1.0], old=[0.0]), [math.log(0.5)]
    )
    assert low == (pytest.approx([0.8]), [0.0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (5.0, -1.0, 3.0, 0.0),
        (2.0, -1.0, 2.0, 2.0),
        (5.0, 1.0, -1.2, 0.0),
        (0.5, -2.0, 1.6, 0.0),
        (4.0, -2.0, 6.0, 0.0),
    ],
)
def test_dual_clip_bounds_what_a_bad_sample_may_cost(
    ratio: float, advantage: float, value: float, slope: float
) -> None:
    """`dual` 3: where A < 0 the loss is at most 3 |A|."""
    found = batch(advantage=[advantage], old=[-1.0])
    values, slopes = valued(partial(loss.clip, dual=3.0), found, [-1 + math.log(ratio)])
    assert (values, slopes) == (pytest.approx([value]), pytest.approx([slope]))


def test_with_one_update_the_ratio_is_one_and_the_gradient_is_that_of_reinforce() -> None:
    found = batch(lengths=(3,), advantage=[1.0, -2.0, 0.5])
    values, slopes = valued(loss.clip, found, [-1.0, -5.0, -0.1])
    assert values == [-1.0, 2.0, -0.5] and slopes == [-1.0, 2.0, -0.5]
    assert valued(loss.reinforce, found, [-1.0, -5.0, -0.1])[1] == slopes


def test_reinforce_entropy_and_supervised() -> None:
    """-A logprob, -coef entropy and -logprob; here the entropy is twice the log-probability."""
    found = batch(lengths=(2,), advantage=[2.0, -1.0])
    assert valued(loss.reinforce, found, [-0.5, -3.0]) == ([1.0, -3.0], [-2.0, 1.0])
    assert valued(partial(loss.entropy, coef=0.1), found, [-0.5, -3.0])[0] == pytest.approx(
        [0.1, 0.6]
    )
    assert valued(loss.supervised, found, [-0.5, -3.0]) == ([0.5, 3.0], [-1.0, -1.0])


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [("k1", 0.5, 1.0), ("k2", 0.125, 0.5), ("k3", math.exp(-0.5) + 0.5 - 1, 1 - math.exp(-0.5))],
)
def test_kl_estimators(estimator: str, value: float, slope: float) -> None:
    """Policy -1, reference -1.5: d = ref - policy = -0.5, and k1 = -d, k2 = d^2/2, k3 = e^d - d - 1
    = 0.1065.
    """
    found = batch(ref=[-1.5])
    values, slopes = valued(partial(loss.kl, coef=1.0, estimator=estimator), found, [-1.0])
    assert (values, slopes) == (pytest.approx([value]), pytest.approx([slope]))
    assert valued(partial(loss.kl, coef=0.1, estimator=estimator), found, [-1.0])[
        0
    ] == pytest.approx([value / 10])
    equal = batch(ref=[-1.0])
    assert valued(partial(loss.kl, coef=1.0, estimator=estimator), equal, [-1.0])[0] == [0.0]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimators_are_right_on_average(estimator: str) -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    found = batch(lengths=(3,), ref=reference.log().tolist())
    values, _ = valued(
        partial(loss.kl, coef=1.0, estimator=estimator), found, policy.log().tolist()
    )
    exact = float((policy * (policy / reference).log()).sum())
    assert sum(p * v for p, v in zip(policy.tolist(), values, strict=True)) == pytest.approx(
        exact, rel=1e-5
    )


FAR: dict[str, Callable[..., Any]] = {
    **{name: partial(loss.kl, coef=1.0, estimator=name) for name in ("k1", "k2", "k3")},
    **{"clip": loss.clip, "dual clip": partial(loss.clip, dual=3.0), "reinforce": loss.reinforce},
}


@pytest.mark.parametrize("term", FAR)
@pytest.mark.parametrize("advantage", [1.0, 0.0])
@pytest.mark.parametrize("gap", [200.0, -200.0])
def test_terms_stay_finite_in_float32_however_far_the_policies_are_apart(
    term: str, gap: float, advantage: float
) -> None:
    """e^200 is infinite in float32; where the loss is bounded, neither it nor its gradient may be."""
    base = -201.0
    found = batch(advantage=[advantage], old=[base], ref=[base], dtype=torch.float32)
    values, slopes = valued(FAR[term], found, [base + gap])
    assert math.isfinite(values[0]) and math.isfinite(slopes[0])


def test_dual_clip_stays_finite_for_a_bad_sample_that_became_likely() -> None:
    found = batch(advantage=[-1.0], old=[-200.0], dtype=torch.float32)
    assert valued(partial(loss.clip, dual=3.0), found, [0.0]) == ([3.0], [0.0])


# --- Reductions

REDUCTIONS = {
    "token": reductions.token_mean,
    "sequence": reductions.sequence_mean,
    "constant": partial(reductions.constant, length=10),
}


def test_reductions_weigh_tokens_or_responses() -> None:
    """Lengths 1 and 4: by token 1/5 each; by sequence 1/2, and 1/8 four times; by constant 1/(2 x
    10).
    """
    found = batch(lengths=(1, 4))
    assert reductions.token_mean(found).tolist() == pytest.approx([1 / 5] * 5)
    assert reductions.sequence_mean(found).tolist() == pytest.approx([1 / 2] + [1 / 8] * 4)
    assert reductions.constant(found, length=10).tolist() == pytest.approx([1 / 20] * 5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_reductions_sum_to_one_whatever_the_mask(lengths: list[int], data: st.DataObject) -> None:
    mask = [
        1 if first else data.draw(st.integers(0, 1))
        for n in lengths
        for first in [True, *[False] * (n - 1)]
    ]
    found = batch(lengths=lengths, mask=mask)
    assert float(reductions.token_mean(found).sum()) == pytest.approx(1)
    assert float(reductions.sequence_mean(found).sum()) == pytest.approx(1)
    assert float(reductions.constant(found, length=10).sum()) == pytest.approx(
        sum(mask) / (10 * len(lengths))
    )
    assert all(
        reduce(found)[i] == 0 for reduce in REDUCTIONS.values() for i, m in enumerate(mask) if not m
    )


def test_what_a_filter_left_out_stays_in_every_denominator() -> None:
    """Two of four samples and 5 of 20 tokens are trained on."""
    found = batch(lengths=(1, 4), silent=(2, 15))
    sums = {name: float(reduce(found).sum()) for name, reduce in REDUCTIONS.items()}
    assert sums == pytest.approx({"token": 5 / 20, "sequence": 2 / 4, "constant": 5 / 40})


def test_a_response_that_is_all_masked_weighs_nothing() -> None:
    weights = reductions.sequence_mean(batch(lengths=(2, 2), mask=[0, 0, 1, 1])).tolist()
    assert weights == [0, 0, 0.25, 0.25]


# --- Rates


def test_schedules_at_their_ends_and_in_the_middle() -> None:
    places = (0.0, 0.5, 1.0)
    assert [schedules.constant(x) for x in places] == [1, 1, 1]
    assert [schedules.linear(x) for x in places] == [1, 0.5, 0]
    assert [schedules.linear(x, final=0.2) for x in places] == pytest.approx([1, 0.6, 0.2])
    assert [schedules.cosine(x, final=0.1) for x in places] == pytest.approx([1, 0.55, 0.1])


def test_the_rate_warms_up_then_follows_its_schedule() -> None:
    """Four updates of warm-up, then a line to zero over the other ten, and zero beyond."""
    rate = LrSchedule(peak=2.0, warmup=4, total=14, schedule=schedules.linear)
    assert [rate.at(n) for n in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert [rate.at(n) for n in (4, 9, 13, 14, 99)] == pytest.approx([2.0, 1.0, 0.2, 0.0, 0.0])
    assert LrSchedule(2.0, 0, 10, schedules.linear).at(0) == 2.0
    assert LrSchedule(2.0, 5, 5, schedules.linear).at(5) == 2.0 and LrSchedule(
        2.0, 9, 5, schedules.linear
    ).at(4) == pytest.approx(10 / 9)


# --- The optimiser step


def learner(
    term: Callable[..., Any],
    clip: float | None = None,
    rate: LrSchedule | None = None,
    **options: Any,
) -> Learner:
    policy = Policy(tiny.model(0, torch.float64), torch.float64, 64, tiny.tokenizer())
    optimizer = torch.optim.AdamW(policy.master, **{"lr": 0.0, "weight_decay": 0.0, **options})
    objective = Objective([("term", term)], reductions.token_mean)
    updates = OptimizerStepper(
        policy, optimizer, rate or LrSchedule(1e-2, 0, 10, schedules.constant), clip
    )
    return Learner(policy, None, objective, updates)


def gradient(made: Learner, data: Batch) -> list[Tensor]:
    parameters = made.policy.master
    (
        reductions.token_mean(data)
        * -made.policy.forward(next(made.policy.passes(data.sequences)), 1.0).logprob
    ).sum().backward()
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    assert len(found) == len(parameters)
    made.updates.optimizer.zero_grad()
    return found


@pytest.mark.parametrize("clip", [None, 0.5])
def test_two_updates_are_those_of_adamw_by_hand(clip: float | None) -> None:
    """Decoupled decay, bias correction, one factor for all gradients where their norm exceeds
    `clip`, the rate.
    """
    betas, eps, decay = (0.9, 0.99), 1e-3, 0.1
    rate = LrSchedule(1e-2, 2, 10, schedules.constant)
    made = learner(loss.supervised, clip, rate, betas=betas, eps=eps, weight_decay=decay)
    data = batch(lengths=(5,))
    weights = [p.detach().clone() for p in made.policy.master]
    first, second = ([torch.zeros_like(p) for p in weights] for _ in range(2))
    for number in range(2):
        grads = gradient(made, data)
        norm = float(sum((g**2).sum() for g in grads)) ** 0.5
        record = made.update(data).record()
        assert record["grad_norm"] == pytest.approx(norm) and record["lr"] == pytest.approx(
            1e-2 * (number + 1) / 2
        )
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        assert (scale < 1) == (clip is not None)
        for i, grad in enumerate(grads):
            first[i] = betas[0] * first[i] + (1 - betas[0]) * scale * grad
            second[i] = betas[1] * second[i] + (1 - betas[1]) * (scale * grad) ** 2
            mean, square = (
                first[i] / (1 - betas[0] ** (number + 1)),
                second[i] / (1 - betas[1] ** (number + 1)),
            )
            step = rate.at(number)
            weights[i] = weights[i] * (1 - step * decay) - step * mean / (square.sqrt() + eps)
    assert all(
        torch.allclose(p, w, rtol=0, atol=1e-12)
        for p, w in zip(made.policy.master, weights, strict=True)
    )


def broken_at(updates: set[int], bad: float) -> Callable[..., Any]:
    """A loss that is not finite at the given calls."""
    calls = iter(range(1000))

    def term(out: Forward, data: Batch) -> Tensor:
        return -out.logprob * (bad if next(calls) in updates else 1.0)

    return term


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_without_a_finite_gradient_is_skipped_and_counted(bad: float) -> None:
    made, data = learner(broken_at({1, 2, 4, 5}, bad)), batch(lengths=(5,))
    for number, skipped in enumerate([0, 1, 1, 0, 1, 1, 0]):
        before = [p.detach().clone() for p in made.policy.master]
        assert made.update(data).record()["skipped_updates"] == skipped
        moved = [not torch.equal(p, q) for p, q in zip(made.policy.master, before, strict=True)]
        assert any(moved) != bool(skipped) and made.updates.count == number + 1
        assert all(p.grad is None and p.isfinite().all() for p in made.policy.master)
    moments = [value for state in made.updates.optimizer.state.values() for value in state.values()]
    assert all(torch.as_tensor(value).isfinite().all() for value in moments)


def test_the_third_update_in_a_row_without_a_finite_gradient_ends_the_run() -> None:
    made, data = learner(broken_at({0, 1, 3, 4, 5}, math.nan)), batch(lengths=(5,))
    for _ in range(5):
        made.update(data)
    with pytest.raises(RunError, match="3 updates in a row"):
        made.update(data)


def test_the_count_of_broken_updates_survives_a_resume() -> None:
    made, data = learner(broken_at({0, 1}, math.nan)), batch(lengths=(5,))
    made.update(data)
    made.update(data)
    resumed = learner(broken_at({0}, math.nan))
    resumed.load_state(dict(made.saved()), made.state())
    assert resumed.updates.count == 2
    with pytest.raises(RunError):
        resumed.update(data)


def test_an_empty_batch_moves_nothing() -> None:
    made = learner(loss.supervised, weight_decay=0.1)
    before = [p.detach().clone() for p in made.policy.master]
    assert made.update(batch(lengths=(), silent=(4, 20))).record()["skipped_updates"] == 0
    assert all(torch.equal(p, q) for p, q in zip(made.policy.master, before, strict=True))


# --- Metrics

Pieces = st.lists(st.lists(st.floats(-100, 100), max_size=6), min_size=1, max_size=6)


@given(Pieces)
@settings(deadline=None)
def test_merged_means_are_the_mean_of_everything_and_not_of_means(
    pieces: list[list[float]],
) -> None:
    merged = Metrics()
    for piece in pieces:
        merged += Metrics.mean("m", sum(piece), len(piece)) + Metrics.sum(s=len(piece))
    everything = [x for piece in pieces for x in piece]
    record = merged.all_reduce(WORLD).record()
    assert record["s"] == len(everything)
    if everything:
        assert record["m"] == pytest.approx(sum(everything) / len(everything), abs=1e-9)
    else:
        assert "m" not in record


def test_a_mean_of_unequal_parts() -> None:
    """One part of 1 with the mean 4, one of 3 with the mean 0: the mean is 1, where the mean of
    means would be 2.
    """
    assert (Metrics.mean("kl", 4.0, 1) + Metrics.mean("kl", 0.0, 3)).record() == {"kl": 1.0}


def test_adding_metrics_leaves_both_as_they_were() -> None:
    one, other = (
        Metrics.mean("a", 1, 1) + Metrics.sum(s=1),
        Metrics.mean("a", 2, 1) + Metrics.sum(s=5),
    )
    _ = one + other
    assert one.record() == {"a": 1, "s": 1} and other.record() == {"a": 2, "s": 5}


def test_names_with_a_slash_are_nested() -> None:
    assert Metrics.sum(**{"losses/clip": 1.0, "losses/kl": 2.0}).record() == {
        "losses": {"clip": 1.0, "kl": 2.0}
    }


# --- Gathering and filters


def group(rewards: Sequence[float], name: str = "p", trained: bool = True) -> RewardedGroup:
    problem = Problem(name, "math", "q", "a")
    prompt = make_prompt(problem)
    samples = tuple(
        give_reward(make_rollout(prompt, i, (5, 6)), reward) for i, reward in enumerate(rewards)
    )
    return RewardedGroup(problem, samples, trained)


def attempts(*drawn: Sequence[RewardedGroup]) -> tuple[Callable[..., Any], list[tuple[int, int]]]:
    """An attempt that brings the given groups in turn, and the log of the numbers and states it was
    asked with.
    """
    asked: list[tuple[int, int]] = []

    def attempt(number: int, source: SourceState) -> tuple[Sequence[RewardedGroup], SourceState]:
        asked.append((number, source.drawn))
        return drawn[number], SourceState(source.drawn + 2, ())

    return attempt, asked


LOUD, SILENT, OTHER = group([0, 1], "loud"), group([1, 1], "silent"), group([2, 1], "other")
START = SourceState(10, ())


def test_once_takes_what_one_attempt_brings() -> None:
    attempt, asked = attempts([SILENT, LOUD])
    assert once(attempt, START, 2) == CollectedGroups((SILENT, LOUD), SourceState(12, ()), 1, 2)
    assert asked == [(0, 10)]


def test_refill_goes_on_until_enough_groups_have_a_signal() -> None:
    attempt, asked = attempts([SILENT, LOUD], [SILENT, SILENT], [OTHER, LOUD], [LOUD, LOUD])
    assert refill(attempt, START, 2) == CollectedGroups(
        (LOUD, OTHER), SourceState(16, ()), 3, 6, (SILENT,) * 3 + (LOUD,)
    )
    assert asked == [(0, 10), (1, 12), (2, 14)]


def test_refill_stops_at_its_limit_with_what_it_has() -> None:
    attempt, asked = attempts([SILENT, LOUD], [SILENT, SILENT], [OTHER, LOUD])
    assert refill(attempt, START, 2, max_attempts=2) == CollectedGroups(
        (LOUD,), SourceState(14, ()), 2, 4, (SILENT,) * 3
    )
    attempt, asked = attempts([LOUD, OTHER])
    assert refill(attempt, START, 2).attempts == len(asked) == 1


def test_the_filter_marks_and_never_deletes() -> None:
    marked = group([0, 1], "marked", trained=False)
    found = no_signal([LOUD, SILENT, marked, group([3.0], "single")])
    assert [g.problem.id for g in found] == ["loud", "silent", "marked", "single"]
    assert [g.trained for g in found] == [True, False, False, False]
    assert found[0] == LOUD and SILENT.trained


# --- Sources


def sources(*sizes: int, weights: Sequence[float] = (), seed: int = 0) -> Sources:
    rows = tuple(
        tuple(Problem(f"{s}/{i}", "math", "q", "a") for i in range(n)) for s, n in enumerate(sizes)
    )
    return Sources(rows, tuple(weights or [1.0] * len(sizes)), seed)


def names(draws: Sequence[Draw]) -> list[str]:
    return [draw.problem.id for draw in draws]


@pytest.mark.parametrize("step", [1, 4, 7, 10, 23])
def test_an_epoch_has_every_problem_once(step: int) -> None:
    made, drawn = sources(10), []
    state = made.start()
    while len(drawn) < 60:
        draws, state = made.draw(state, step)
        drawn += names(draws)
    epochs = [drawn[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == sorted(p.id for p in made.problems[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_each_source_of_a_mix_keeps_its_own_epochs() -> None:
    made = sources(5, 8, weights=[1, 3])
    draws, state = made.draw(made.start(), 400)
    assert state.drawn == 400 and sum(state.positions) == 400
    for source, size in ((0, 5), (1, 8)):
        own = [d.problem.id for d in draws if d.source == source]
        assert len(own) == state.positions[source] and all(
            name.startswith(f"{source}/") for name in own
        )
        assert all(len(set(own[i : i + size])) == size for i in range(0, len(own) - size + 1, size))


@pytest.mark.parametrize("seed", range(3))
def test_the_shares_of_a_mix_are_near_its_weights(seed: int) -> None:
    """4000 draws at 0.1, 0.3, 0.6: five standard deviations are at most 0.04."""
    made = sources(7, 7, 7, weights=[1, 3, 6], seed=seed)
    draws, _ = made.draw(made.start(), 4000)
    shares = Counter(draw.source for draw in draws)
    assert [shares[i] / 4000 for i in range(3)] == pytest.approx([0.1, 0.3, 0.6], abs=0.04)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_a_resume_from_any_state_draws_what_an_uninterrupted_run_draws(
    parts: list[int], seed: int
) -> None:
    whole = names(
        sources(4, 6, weights=[1, 2], seed=seed).draw(SourceState(0, (0, 0)), sum(parts))[0]
    )
    state, drawn = SourceState(0, (0, 0)), []
    for part in parts:
        made = sources(4, 6, weights=[1, 2], seed=seed)  # a new process has nothing but the state
        draws, state = made.draw(SourceState(state.drawn, tuple(state.positions)), part)
        drawn += names(draws)
    assert drawn == whole


def test_drawing_leaves_the_state_as_it_was() -> None:
    made = sources(4, 6)
    state = made.start()
    assert made.draw(state, 9) == made.draw(state, 9) and state == made.start()


def test_copies_of_a_problem_in_one_step_are_counted() -> None:
    made = sources(3)
    draws, state = made.draw(made.start(), 8)
    for name in ("0/0", "0/1", "0/2"):
        copies = [d.copy for d in draws if d.problem.id == name]
        assert copies == list(range(len(copies))) and len(copies) >= 2
    again, _ = made.draw(state, 3)
    assert [d.copy for d in again].count(0) == len(set(names(again)))


def test_another_seed_is_another_order() -> None:
    orders = {
        tuple(names(sources(20, seed=seed).draw(SourceState(0, (0,)), 20)[0])) for seed in range(5)
    }
    assert len(orders) == 5


@pytest.mark.parametrize(
    ("estimator", "slope"), [("k2", 1.0), ("k3", 1 - math.exp(-1)), ("k1", 1.0)]
)
def test_the_slopes_of_the_estimates_are_those_of_the_page_on_migration(
    estimator: Any, slope: float
) -> None:
    """Where the policy is e times as likely as the reference."""
    logprob = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    estimate_kl(logprob, torch.full((1,), -1.0, dtype=torch.float64), estimator).sum().backward()
    assert logprob.grad is not None and logprob.grad.item() == pytest.approx(slope)
