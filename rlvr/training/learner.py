"""The learner: a policy, an objective and, for PPO, a critic. It scores samples, makes updates and
hands its weights over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr.metrics.mergeable import Metrics
from rlvr.metrics.timing import timed
from rlvr.models.packing import Tokens
from rlvr.models.policy import Forward, Policy
from rlvr.training.batch import Batch
from rlvr.training.corrections import corrected
from rlvr.training.critic import Critic
from rlvr.training.mismatch import measure_mismatch
from rlvr.training.objective import Objective
from rlvr.training.optimizer import OptimizerStepper
from rlvr.training.reward_shaping import Shaper
from rlvr.training.scored import Scored, collate
from rlvr.types import RewardedGroup


class Reference(Protocol):
    """Whatever knows the log-probabilities of the frozen policy."""

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor: ...


@dataclass(eq=False)
class Learner:
    """Scores and updates a policy; log-probabilities are those at `temperature`."""

    policy: Policy
    reference: Reference | None
    objective: Objective
    updates: OptimizerStepper
    temperature: float = 1.0
    keeps_old: bool = False
    shapers: Sequence[Shaper] = ()
    critic: Critic | None = None

    @timed("score")
    def score(self, groups: Sequence[RewardedGroup]) -> Scored:
        """Return what estimators read of the groups that are trained on; log-probabilities only
        where something needs them.
        """
        scored = collate(groups, self.policy.accum_dtype, self.policy.device)
        if self.keeps_old:
            old = self.policy.logprobs(scored.sequences, self.temperature)
            scored = replace(scored, old_logprob=old)
        if self.reference is not None:
            ref = self.reference.logprobs(scored.sequences, self.temperature)
            scored = replace(scored, ref_logprob=ref)
        return scored

    @timed("score")
    def shape_rewards(self, scored: Scored) -> Scored:
        """Return the samples with the rewards that estimators are to see: the same where a recipe
        shapes none.
        """
        for shaper in self.shapers:
            scored = shaper(scored)
        return scored

    @timed("score")
    def estimate_values(self, scored: Scored) -> Scored:
        """Return the samples with what the critic expected of each token: the same without one."""
        if self.critic is None:
            return scored
        return self.critic.estimate_values(scored)

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
        split = self.policy.world.broadcast(
            lambda: self.objective.split_by_gradient(minibatch, weights)
        )
        for rows, heard in zip(split, (True, False), strict=True):
            for part in self.policy.passes([minibatch.sequences[row] for row in rows]):
                samples = [rows[i] for i in part.samples]
                piece = minibatch.select(samples)
                weight = {
                    name: minibatch.take_tokens(every, samples) for name, every in weights.items()
                }
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
        metrics = measure_mismatch(out, piece)
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
    def _trained(self) -> dict[str, OptimizerStepper]:
        return {"policy": self.updates} | ({"critic": self.critic.updates} if self.critic else {})

    def carry(self, before: Learner) -> None:
        """Go on from the learner of the stage before, which shares the models and optimisers."""
        self.updates.carry(before.updates)
        if self.critic and before.critic:
            self.critic.updates.carry(before.critic.updates)
        for shaper in self.shapers:
            for old in (old for old in before.shapers if type(old) is type(shaper)):
                shaper.carry(old)
