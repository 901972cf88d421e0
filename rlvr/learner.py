"""The learner: a policy, an objective and, for PPO, a critic. It scores samples, makes updates and
hands its weights over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr import batch as batches
from rlvr.batch import Batch, Forward, Scored, Tokens, tokens_of
from rlvr.critic import Critic
from rlvr.loss import corrected, uncorrected
from rlvr.metrics import Metrics, timed
from rlvr.policy import Policy, measured
from rlvr.types import SampleGroup
from rlvr.weights import Updates

Term = Callable[[Forward, Batch], Any]


@dataclass(frozen=True, slots=True)
class Objective:
    """Per-token terms by name, the reduction that weighs the tokens of a mini-batch, the importance
    weights of the policy terms, and the reductions of terms that name their own.
    """

    terms: Sequence[tuple[str, Term]]
    reduction: Callable[[Batch], Tensor]
    correction: Callable[[Batch], Tensor | None] = uncorrected
    own: Mapping[str, Callable[[Batch], Tensor]] = field(default_factory=dict)
    # the terms that are zero, with their slope, where the advantage is
    signal: frozenset[str] = frozenset()

    def weights(self, minibatch: Batch) -> dict[str, Tensor]:
        """The weight of every token in every term.   -> [T] each"""
        return {name: self.own.get(name, self.reduction)(minibatch) for name, _ in self.terms}

    def told(self, minibatch: Batch, weights: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
        """The samples that the gradient hears of, and those on which every term is zero whatever
        the model says; the first of all is heard where none would be, since an optimiser moves on
        by what it remembers.
        """
        speaks = [
            (w != 0) & ((minibatch.advantage != 0) | (name not in self.signal))
            for name, w in weights.items()
        ]
        heard = torch.zeros(
            len(minibatch.sequences), dtype=torch.bool, device=minibatch.mask.device
        )
        heard[minibatch.sample[torch.stack(speaks).any(0)]] = True
        heard[:1] |= ~heard.any()
        return heard.nonzero()[:, 0].tolist(), (~heard).nonzero()[:, 0].tolist()


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


class Reference(Protocol):
    """Whatever knows the log-probabilities of the frozen policy."""

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor: ...


@dataclass(eq=False)
class Learner:
    """Scores and updates a policy; log-probabilities are those at `temperature`."""

    policy: Policy
    reference: Reference | None
    objective: Objective
    updates: Updates
    temperature: float = 1.0
    keeps_old: bool = False
    shapers: Sequence[Shaper] = ()
    critic: Critic | None = None

    @timed("score")
    def score(self, groups: Sequence[SampleGroup]) -> Scored:
        """What estimators read of the groups that are trained on; log-probabilities only where
        something needs them.
        """
        sequences = tokens_of(batches.trained(groups))
        old = self.policy.logprobs(sequences, self.temperature) if self.keeps_old else None
        ref = self.reference.logprobs(sequences, self.temperature) if self.reference else None
        scored = batches.score(groups, old, ref, self.policy.wide, self.policy.device)
        for shaper in self.shapers:
            scored = shaper(scored)
        return self.critic.expect(scored, sequences) if self.critic else scored

    @timed("update")
    def update(self, minibatch: Batch) -> Metrics:
        """One optimiser step of the policy, and one of the critic, which alone moves while it warms
        up.
        """
        metrics = sum((shaper.metrics() for shaper in self.shapers), Metrics())
        if self.critic is None:
            return metrics + self._update_policy(minibatch)
        warming = self.critic.warming
        metrics += self.critic.update(minibatch)
        return metrics if warming else metrics + self._update_policy(minibatch)

    def _update_policy(self, minibatch: Batch) -> Metrics:
        """The gradient is a sum over tokens, so the split into passes cannot change it, nor what is
        zero on all of a sample's tokens: such samples are only measured.
        """
        metrics = Metrics()
        # before the split, as are the importance weights
        weights = self.objective.weights(minibatch)
        minibatch = corrected(minibatch, self.objective.correction(minibatch))
        # ranks may round otherwise
        told = self.policy.world.told(lambda: self.objective.told(minibatch, weights))
        for rows, heard in zip(told, (True, False), strict=True):
            for part in self.policy.passes([minibatch.sequences[row] for row in rows]):
                samples = [rows[i] for i in part.samples]
                piece = minibatch.select(samples)
                weight = {name: minibatch.rows(every, samples) for name, every in weights.items()}
                with torch.set_grad_enabled(heard):
                    loss, found = self._loss(
                        self.policy.forward(part, self.temperature), piece, weight
                    )
                if heard:
                    loss.backward()
                    self.policy.collect_gradients()
                metrics += found
        return metrics.over(self.policy.world) + self.updates.step()

    def _loss(
        self, out: Forward, piece: Batch, weight: Mapping[str, Tensor]
    ) -> tuple[Tensor, Metrics]:
        count, mask = float(piece.mask.sum()), piece.mask
        metrics = measured(out, piece)
        total = out.logprob.new_zeros(())
        for name, term in self.objective.terms:
            result = term(out, piece)
            value, shares = result if isinstance(result, tuple) else (result, {})
            reduced = (weight[name] * value).sum()
            total = total + reduced
            metrics += Metrics.sum(
                **{f"losses/{name}": float(reduced.detach()), "loss": float(reduced.detach())}
            )
            for share, per_token in shares.items():
                metrics += Metrics.mean(share, float((per_token * mask).sum()), count)
        return total, metrics

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return self.policy.weights()

    def saved(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that a checkpoint keeps, of policy and critic, sharded where the models are."""
        return (
            (f"{of}/{name}", tensor)
            for of, updates in self._trained.items()
            for name, tensor in updates.saved()
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors."""
        kept = {of: updates.state() for of, updates in self._trained.items()}
        return {**kept, "shapers": [shaper.state() for shaper in self.shapers]}

    def like(self, name: str) -> Tensor:
        """The master weight that a saved tensor belongs to."""
        of, _, rest = name.partition("/")
        model = self._trained[of].model
        return model.master[model.names.index(rest.rpartition("/")[0])]

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `saved` and `state` gave."""
        for of, updates in self._trained.items():
            own = {
                name.removeprefix(f"{of}/"): t
                for name, t in tensors.items()
                if name.startswith(f"{of}/")
            }
            updates.load_state(own, state[of])
        for shaper, kept in zip(self.shapers, state["shapers"], strict=True):
            shaper.load_state(kept)

    @property
    def _trained(self) -> dict[str, Updates]:
        return {"policy": self.updates} | ({"critic": self.critic.updates} if self.critic else {})

    def carry(self, before: Learner) -> None:
        """Go on from the learner of the stage before, which shares the models and optimisers."""
        self.updates.carry(before.updates)
        if self.critic and before.critic:
            self.critic.updates.carry(before.critic.updates)
        for shaper in self.shapers:
            for old in (old for old in before.shapers if type(old) is type(shaper)):
                shaper.carry(old)
