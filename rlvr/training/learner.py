"""The learner: what scores samples with a policy, updates it, and hands its weights over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr.metrics.mergeable import Metrics
from rlvr.metrics.timing import timed
from rlvr.models.packing import Pass, Tokens
from rlvr.models.policy import Forward, Policy
from rlvr.training.batch import Batch
from rlvr.training.corrections import weigh_advantages
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
    """Scores and updates a policy by an objective and, for PPO, with a critic.

    Log-probabilities are those at `temperature`.
    """

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
        """Make one optimiser step of the policy, and one of the critic, which alone moves while it
        warms up.
        """
        metrics = Metrics()
        for shaper in self.shapers:
            metrics += shaper.measure()
        if self.critic is None:
            return metrics + self._update_policy(minibatch)
        was_warming = self.critic.warming
        metrics += self.critic.update(minibatch)
        if was_warming:
            return metrics
        return metrics + self._update_policy(minibatch)

    def _update_policy(self, minibatch: Batch) -> Metrics:
        """Make one optimiser step of the policy.

        The gradient is a sum over tokens, so the split into passes cannot change it, nor what is
        zero on all of a sample's tokens: such samples are only measured.
        """
        # of the whole mini-batch, as are the importance weights
        weights = self.objective.weigh_tokens(minibatch)
        minibatch = weigh_advantages(minibatch, self.objective.correction(minibatch))
        # ranks may round otherwise
        split = self.policy.world.broadcast(
            lambda: self.objective.split_by_gradient(minibatch, weights)
        )
        metrics = Metrics()
        for rows, needs_gradient in zip(split, (True, False), strict=True):
            for part in self.policy.passes([minibatch.sequences[row] for row in rows]):
                samples = [rows[i] for i in part.samples]
                piece = minibatch.select(samples)
                piece_weights: dict[str, Tensor] = {}
                for name, weight in weights.items():
                    piece_weights[name] = minibatch.take_tokens(weight, samples)
                metrics += self._run_pass(part, piece, piece_weights, needs_gradient)
        return metrics.all_reduce(self.policy.world) + self.updates.step()

    def _run_pass(
        self,
        part: Pass,
        piece: Batch,
        weights: Mapping[str, Tensor],
        needs_gradient: bool,
    ) -> Metrics:
        """Measure the samples of a pass and, where it needs one, add their gradient to the model's."""
        with torch.set_grad_enabled(needs_gradient):
            out = self.policy.forward(part, self.temperature)
            loss, metrics = self._sum_terms(out, piece, weights)
        if needs_gradient:
            loss.backward()
            self.policy.collect_gradients()
        return metrics

    def _sum_terms(
        self,
        out: Forward,
        piece: Batch,
        weights: Mapping[str, Tensor],
    ) -> tuple[Tensor, Metrics]:
        """Return the part of the loss that the samples of a pass have, with what terms measure."""
        count = float(piece.mask.sum())
        metrics = measure_mismatch(out, piece)
        loss = out.logprob.new_zeros(())
        for name, term in self.objective.terms:
            per_token = term(out, piece)
            measured: Mapping[str, Tensor] = {}
            if isinstance(per_token, tuple):
                per_token, measured = per_token
            reduced = (weights[name] * per_token).sum()
            loss = loss + reduced
            value = float(reduced.detach())
            metrics += Metrics.sum(**{f"losses/{name}": value, "loss": value})
            for share, values in measured.items():
                metrics += Metrics.mean(share, float((values * piece.mask).sum()), count)
        return loss, metrics

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the policy's weights by the names that engines know."""
        return self.policy.weights()

    def saved(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that a checkpoint keeps, of policy and critic, sharded where the models
        are.
        """
        for model, updates in self._steppers.items():
            for name, tensor in updates.saved():
                yield f"{model}/{name}", tensor

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the tensors."""
        state: dict[str, Any] = {}
        for model, updates in self._steppers.items():
            state[model] = updates.state()
        state["shapers"] = [shaper.state() for shaper in self.shapers]
        return state

    def find_master(self, name: str) -> Tensor:
        """Return the master weight that a saved tensor belongs to."""
        model_name, _, rest = name.partition("/")
        weight, _, _ = rest.rpartition("/")
        model = self._steppers[model_name].model
        return model.master[model.names.index(weight)]

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `saved` and `state` gave."""
        for model, updates in self._steppers.items():
            prefix = f"{model}/"
            own_tensors: dict[str, Tensor] = {}
            for name, tensor in tensors.items():
                if name.startswith(prefix):
                    own_tensors[name.removeprefix(prefix)] = tensor
            updates.load_state(own_tensors, state[model])
        for shaper, shaper_state in zip(self.shapers, state["shapers"], strict=True):
            shaper.load_state(shaper_state)

    @property
    def _steppers(self) -> dict[str, OptimizerStepper]:
        """The optimiser steps of each model, by the name that a checkpoint has for it."""
        steppers = {"policy": self.updates}
        if self.critic is not None:
            steppers["critic"] = self.critic.updates
        return steppers

    def carry(self, before: Learner) -> None:
        """Go on from the learner of the stage before, which shares the models and optimisers."""
        self.updates.carry(before.updates)
        if self.critic is not None and before.critic is not None:
            self.critic.updates.carry(before.critic.updates)
        for shaper in self.shapers:
            for earlier in before.shapers:
                if type(earlier) is type(shaper):
                    shaper.carry(earlier)
