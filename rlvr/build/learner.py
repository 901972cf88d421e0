"""Bind the learner of a stage: objective, critic, reward shaping, optimisers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlvr import registry
from rlvr.build.binding import bind_plugin
from rlvr.build.models import load_reference, load_value_model, make_adamw
from rlvr.config.plugins import collect_needs, find_reduction
from rlvr.config.schema import OptimizerConfig, Recipe, RewardKlConfig
from rlvr.models.policy import Policy
from rlvr.models.trainable import TrainableModel
from rlvr.models.value import ValueModel
from rlvr.training.advantage import estimate_gae
from rlvr.training.critic import Critic
from rlvr.training.learner import Learner, Reference
from rlvr.training.objective import Objective
from rlvr.training.optimizer import LrSchedule, OptimizerStepper
from rlvr.training.reward_shaping import (
    KlInReward,
    RunningScale,
    Shaper,
    adapt_coefficient,
    penalise_kl,
)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the learners of all stages have in common, and how many updates they make together.

    The first `warmup` of the updates are the critic's alone.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    reference: Reference | None
    value: ValueModel | None
    value_optimizer: torch.optim.Optimizer | None
    updates: int
    warmup: int


def make_shared(recipe: Recipe, stages: Sequence[Recipe], policy: Policy) -> Shared:
    """Return reference, critic and optimisers, where any stage needs them."""
    value = load_value_model(recipe, policy) if recipe.critic else None
    optimizer = make_adamw(policy, recipe.optimizer)
    reference = None
    if any("ref" in collect_needs(stage) for stage in stages):
        reference = load_reference(recipe, policy)
    updates: list[int] = []  # of each step
    for stage in stages:
        updates += [_count_updates(stage)] * stage.run.steps
    value_optimizer = None
    warmup = 0
    if recipe.critic and value is not None:
        value_optimizer = make_adamw(value, recipe.critic.optimizer)
        warmup = sum(updates[: recipe.critic.warmup])
    return Shared(
        policy=policy,
        optimizer=optimizer,
        reference=reference,
        value=value,
        value_optimizer=value_optimizer,
        updates=sum(updates),
        warmup=warmup,
    )


def _count_updates(recipe: Recipe) -> int:
    """Return how many updates a step makes."""
    return recipe.learn.epochs * recipe.learn.count_minibatches(recipe.rollout)


def make_learner(recipe: Recipe, shared: Shared) -> Learner:
    """Return the learner of one stage, over the models and optimisers of all."""
    needs = collect_needs(recipe)
    stepper = make_stepper(
        shared.policy, shared.optimizer, recipe.optimizer, shared.updates - shared.warmup
    )
    return Learner(
        policy=shared.policy,
        reference=shared.reference if "ref" in needs else None,
        objective=_make_objective(recipe),
        updates=stepper,
        temperature=recipe.rollout.score_temperature or recipe.rollout.temperature,
        # after the first update the policy is no longer the one that sampled
        keeps_old=_count_updates(recipe) > 1 or "old" in needs,
        shapers=_make_shapers(recipe),
        critic=_make_critic(recipe, shared),
    )


def _make_objective(recipe: Recipe) -> Objective:
    """Return the loss terms by name, each with the reduction that it names for itself."""
    terms = []
    reductions = {}
    with_signal: set[str] = set()
    without_signal: set[str] = set()
    for spec in recipe.loss.terms:
        name = spec.name.rpartition(":")[2]
        terms.append((name, bind_plugin("loss", spec.without("reduction"))))
        reduction = find_reduction(spec, "loss.terms")
        if reduction is not None:
            reductions[name] = bind_plugin("reduction", reduction)
        if "signal" in registry.find("loss", spec.name, "loss").needs:
            with_signal.add(name)
        else:
            without_signal.add(name)
    return Objective(
        terms=terms,
        reduction=bind_plugin("reduction", recipe.loss.reduction),
        correction=bind_plugin("correction", recipe.loss.correction),
        term_reductions=reductions,
        signal=frozenset(with_signal - without_signal),
    )


def _make_critic(recipe: Recipe, shared: Shared) -> Critic | None:
    """Return the critic of one stage; its target has the lambda of the estimator, or one of its own."""
    options = recipe.critic
    if options is None or shared.value is None or shared.value_optimizer is None:
        return None
    advantage = registry.find("advantage", recipe.advantage.name, "advantage")
    estimator = {"gamma": 1.0, "lam": 1.0}
    estimator |= advantage.check(recipe.advantage.params, "advantage")
    lam = estimator["lam"] if options.lam is None else options.lam
    return Critic(
        model=shared.value,
        updates=make_stepper(
            shared.value, shared.value_optimizer, options.optimizer, shared.updates
        ),
        target=functools.partial(estimate_gae, gamma=estimator["gamma"], lam=lam),
        reduction=bind_plugin("reduction", options.reduction),
        clip=options.clip,
        warmup=shared.warmup,
    )


def _make_shapers(recipe: Recipe) -> list[Shaper]:
    """Return what changes the rewards before the estimator sees them, in this order."""
    shapers: list[Shaper] = []
    if recipe.reward_scale == "running":
        shapers.append(RunningScale())
    if recipe.reward_kl is not None:
        shapers.append(_make_kl_penalty(recipe.reward_kl))
    return shapers


def _make_kl_penalty(options: RewardKlConfig) -> KlInReward:
    penalise = functools.partial(
        penalise_kl,
        estimator=options.estimator,
        clamp=options.clamp,
        clip=options.clip,
    )
    if options.target is None:
        return KlInReward(options.coef, penalise)
    adapt = functools.partial(adapt_coefficient, target=options.target, horizon=options.horizon)
    return KlInReward(options.coef, penalise, adapt)


def make_stepper(
    model: TrainableModel, optimizer: torch.optim.Optimizer, options: OptimizerConfig, updates: int
) -> OptimizerStepper:
    """Return what steps an optimiser with these options; the schedule spans so many updates."""
    schedule = bind_plugin("schedule", options.schedule)
    rate = LrSchedule(options.lr, options.warmup, updates, schedule)
    settings = {"betas": options.betas, "eps": options.eps, "weight_decay": options.weight_decay}
    return OptimizerStepper(model, optimizer, rate, options.clip, settings)
