"""What changes the reward of a token before advantages are estimated: a KL penalty, a running scale, lambda returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from rlvr.metrics.mergeable import Metrics
from rlvr.training.scored import Scored
from rlvr.training.tensors import Estimator, estimate_kl


def penalise_kl(
    scored: Scored,
    coef: float,
    *,
    estimator: Estimator = "k1",
    clamp: float | None = None,
    clip: float | None = None,
) -> tuple[Scored, float]:
    """Return the same with `coef` times the KL to the reference taken off every token's reward, and
    the mean KL of a response.

    The reward, and a greedy baseline with it, is bounded to +-clip first (OpenRLHF: 10). The mean
    KL, over responses of the means over their tokens, is what an adaptive coefficient follows
    (verl, apply_kl_penalty).
    """
    assert scored.old_logprob is not None
    assert scored.ref_logprob is not None
    kl = estimate_kl(scored.old_logprob, scored.ref_logprob, estimator, clamp) * scored.mask
    if clip is not None:
        scored = _bound_rewards(scored, clip)
    penalised = replace(scored, penalty=coef * kl)
    return penalised, _average_kl(scored, kl)


def _bound_rewards(scored: Scored, clip: float) -> Scored:
    """Return the same with rewards and greedy baselines within +-clip."""
    reward = scored.reward.clamp(-clip, clip)
    baseline = scored.baseline
    if baseline is not None:
        baseline = baseline.clamp(-clip, clip)
    return replace(scored, reward=reward, baseline=baseline)


def _average_kl(scored: Scored, kl: Tensor) -> float:
    """Return the mean over responses of the means over their tokens, 0 without a response."""
    if len(scored.reward) == 0:
        return 0.0
    zeros = scored.reward.new_zeros(scored.reward.shape)
    length = zeros.index_add(0, scored.sample, scored.mask).clamp(min=1)
    total = zeros.index_add(0, scored.sample, kl)
    by_response = total / length
    return float(by_response.mean())


def adapt_coefficient(
    coef: float,
    current: float,
    count: int,
    *,
    target: float,
    horizon: int,
) -> float:
    """Return the coefficient after `count` more samples with that KL (Ziegler et al., 2019, section 2.2).

    At twice the target it grows by 0.2 count / horizon.
    """
    error = min(max(current / target - 1, -0.2), 0.2)
    return coef * (1 + error * count / horizon)


class Shaper(ABC):
    """Changes the rewards of a step between the verifier and the estimator; a checkpoint keeps its
    state.
    """

    state_names: tuple[str, ...] = ()  # of what changes from step to step

    @abstractmethod
    def __call__(self, scored: Scored) -> Scored:
        """Return the same rollouts with other rewards."""

    def measure(self) -> Metrics:
        """Return what is logged of the shaper's state: nothing unless a shaper says otherwise."""
        return Metrics()

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in self.state_names}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        for name in self.state_names:
            setattr(self, name, state[name])

    def carry(self, before: Any) -> None:
        """Go on from the same kind of shaper of the stage before."""
        self.load_state(before.state())


@dataclass
class KlInReward(Shaper):
    """The penalty on token rewards; its coefficient, where it adapts, is the one thing that changes
    from step to step.
    """

    first: float
    shape: Callable[[Scored, float], tuple[Scored, float]]
    adapt: Callable[[float, float, int], float] | None = None
    coef: float = field(init=False)
    state_names = ("coef",)

    def __post_init__(self) -> None:
        self.coef = self.first

    def __call__(self, scored: Scored) -> Scored:
        shaped, current = self.shape(scored, self.coef)
        if self.adapt is not None:
            self.coef = self.adapt(self.coef, current, len(scored.reward))
        return shaped

    def measure(self) -> Metrics:
        return Metrics.mean("kl_coef", self.coef, 1)

    def carry(self, before: KlInReward) -> None:
        # another first coefficient is the stage's own
        if self.adapt is not None and before.first == self.first:
            super().carry(before)


@dataclass
class RunningScale(Shaper):
    """Rewards minus their running mean, over their running deviation, and greedy baselines with
    them.

    All samples so far weigh the same. Rewards 1, 0, 0, 1 in the first step become 1, -1, -1, 1.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    state_names = ("count", "total", "squares")

    def __call__(self, scored: Scored) -> Scored:
        reward = scored.reward.double()
        self.count += len(reward)
        self.total += float(reward.sum())
        self.squares += float((reward**2).sum())
        count = max(self.count, 1)
        mean = self.total / count
        variance = max(self.squares / count - mean**2, 0.0)
        deviation = variance**0.5 or 1.0  # equal rewards are only centred
        reward = (reward - mean) / deviation
        baseline = scored.baseline
        if baseline is not None:
            baseline = (baseline - mean) / deviation
        return replace(
            scored,
            reward=reward.to(scored.reward.dtype),
            baseline=baseline,
        )
