"""What changes the reward of a token before advantages are estimated: a KL penalty, a running scale, lambda returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlvr.metrics.mergeable import Metrics
from rlvr.training.scored import Scored
from rlvr.training.tensors import Estimator, kl_estimate


def penalise_kl(
    scored: Scored,
    coef: float,
    *,
    estimator: Estimator = "k1",
    clamp: float | None = None,
    clip: float | None = None,
) -> tuple[Scored, float]:
    """The same with `coef` times the KL to the reference taken off every token's reward, and the
    mean KL of a response.

    The reward, and a greedy baseline with it, is bounded to +-clip first (OpenRLHF: 10). The mean
    KL, over responses of the means over their tokens, is what an adaptive coefficient follows
    (verl, apply_kl_penalty).
    """
    assert scored.old_logprob is not None and scored.ref_logprob is not None
    kl = kl_estimate(scored.old_logprob, scored.ref_logprob, estimator, clamp) * scored.mask
    zeros = scored.reward.new_zeros(scored.reward.shape)
    length = zeros.index_add(0, scored.sample, scored.mask).clamp(min=1)
    mean = (zeros.index_add(0, scored.sample, kl) / length).mean()
    bounded = {} if clip is None else {"reward": scored.reward.clamp(-clip, clip)}
    if clip is not None and scored.baseline is not None:
        bounded["baseline"] = scored.baseline.clamp(-clip, clip)
    return replace(scored, **bounded, penalty=coef * kl), float(mean) if len(length) else 0.0


def adapt_coefficient(
    coef: float, current: float, count: int, *, target: float, horizon: int
) -> float:
    """The coefficient after `count` more samples with that KL (Ziegler et al., 2019, section 2.2).

    At twice the target it grows by 0.2 count / horizon.
    """
    error = min(max(current / target - 1, -0.2), 0.2)
    return coef * (1 + error * count / horizon)


class Shaper(ABC):
    """Changes the rewards of a step between the verifier and the estimator; a checkpoint keeps its
    state.
    """

    kept: tuple[str, ...] = ()  # the names of what changes from step to step

    @abstractmethod
    def __call__(self, scored: Scored) -> Scored:
        """The same rollouts with other rewards."""

    def metrics(self) -> Metrics:
        return Metrics()

    def state(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.kept}

    def load_state(self, state: Mapping[str, float]) -> None:
        for name in self.kept:
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
    kept = ("coef",)

    def __post_init__(self) -> None:
        self.coef = self.first

    def __call__(self, scored: Scored) -> Scored:
        shaped, current = self.shape(scored, self.coef)
        if self.adapt:
            self.coef = self.adapt(self.coef, current, len(scored.reward))
        return shaped

    def metrics(self) -> Metrics:
        return Metrics.mean("kl_coef", self.coef, 1)

    def carry(self, before: KlInReward) -> None:
        if self.adapt and before.first == self.first:  # another coefficient is the stage's own
            super().carry(before)


@dataclass
class RunningScale(Shaper):
    """Rewards minus their running mean, over their running deviation, and greedy baselines with
    them; all samples so far weigh the same.

    Rewards 1, 0, 0, 1 in the first step become 1, -1, -1, 1.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    kept = ("count", "total", "squares")

    def __call__(self, scored: Scored) -> Scored:
        reward = scored.reward.double()
        self.count, self.total = self.count + len(reward), self.total + float(reward.sum())
        self.squares += float((reward**2).sum())
        mean = self.total / max(self.count, 1)
        deviation = max(self.squares / max(self.count, 1) - mean**2, 0.0) ** 0.5
        baseline = (
            scored.baseline
            if scored.baseline is None
            else (scored.baseline - mean) / (deviation or 1.0)
        )
        reward = ((reward - mean) / (deviation or 1.0)).to(scored.reward.dtype)
        return replace(scored, reward=reward, baseline=baseline)
