"""Bind the learner of a stage: objective, critic, reward shaping and optimisers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlvr import registry
from rlvr.build.binding import bind_plugin
from rlvr.build.models import load_reference, load_value_model, make_adamw
from rlvr.config import plugins
from rlvr.config.plugins import collect_needs
from rlvr.config.schema import OptimizerConfig, Recipe
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
    """What the learners of all stages have in common, and how many updates they make together."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    reference: Reference | None
    value: ValueModel | None
    value_optimizer: torch.optim.Optimizer | None
    updates: int
    warmup: int


def make_shared(recipe: Recipe, parts: Sequence[Recipe], policy: Policy) -> Shared:
    """Reference, critic and optimisers, where any stage needs them."""
    needs = frozenset[str]().union(*(collect_needs(part) for part in parts))
    value = load_value_model(recipe, policy) if recipe.critic else None
    updates = [
        part.learn.epochs * part.learn.count_minibatches(part.rollout)
        for part in parts
        for _ in range(part.run.steps)
    ]
    return Shared(
        policy=policy,
        optimizer=make_adamw(policy, recipe.optimizer),
        reference=load_reference(recipe, policy) if "ref" in needs else None,
        value=value,
        value_optimizer=make_adamw(value, recipe.critic.optimizer)
        if value and recipe.critic
        else None,
        updates=sum(updates),
        warmup=sum(updates[: recipe.critic.warmup]) if recipe.critic else 0,
    )


def make_learner(recipe: Recipe, shared: Shared) -> Learner:
    terms, own = [], {}
    for spec in recipe.loss.terms:
        name, reduction = spec.name.rpartition(":")[2], plugins.find_reduction(spec, "loss.terms")
        terms.append((name, bind_plugin("loss", spec.without("reduction"))))
        own |= {name: bind_plugin("reduction", reduction)} if reduction else {}
    loud = [
        s.name
        for s in recipe.loss.terms
        if "signal" not in registry.find("loss", s.name, "loss").needs
    ]
    signal = frozenset(name for name, _ in terms) - {name.rpartition(":")[2] for name in loud}
    needs = collect_needs(recipe)
    reduction, correction = (
        bind_plugin("reduction", recipe.loss.reduction),
        bind_plugin("correction", recipe.loss.correction),
    )
    several = recipe.learn.epochs * recipe.learn.count_minibatches(recipe.rollout) > 1
    return Learner(
        shared.policy,
        shared.reference if "ref" in needs else None,
        Objective(terms, reduction, correction, own, signal),
        make_steppers(
            shared.policy, shared.optimizer, recipe.optimizer, shared.updates - shared.warmup
        ),
        temperature=recipe.rollout.score_temperature or recipe.rollout.temperature,
        keeps_old=several or "old" in needs,
        shapers=_shapers(recipe),
        critic=_critic(recipe, shared),
    )


def _critic(recipe: Recipe, shared: Shared) -> Critic | None:
    options = recipe.critic
    if options is None or shared.value is None or shared.value_optimizer is None:
        return None
    chosen = recipe.advantage
    estimator = registry.find("advantage", chosen.name, "advantage").check(
        chosen.params, "advantage"
    )
    gamma, lam = (
        estimator.get("gamma", 1.0),
        estimator.get("lam", 1.0) if options.lam is None else options.lam,
    )
    return Critic(
        model=shared.value,
        updates=make_steppers(
            shared.value, shared.value_optimizer, options.optimizer, shared.updates
        ),
        target=functools.partial(estimate_gae, gamma=gamma, lam=lam),
        reduction=bind_plugin("reduction", options.reduction),
        clip=options.clip,
        warmup=shared.warmup,
    )


def _shapers(recipe: Recipe) -> list[Shaper]:
    found: list[Shaper] = [RunningScale()] if recipe.reward_scale == "running" else []
    options = recipe.reward_kl
    if options is None:
        return found
    shape = functools.partial(
        penalise_kl, estimator=options.estimator, clamp=options.clamp, clip=options.clip
    )
    if options.target is None:
        return [*found, KlInReward(options.coef, shape)]
    adapt = functools.partial(adapt_coefficient, target=options.target, horizon=options.horizon)
    return [*found, KlInReward(options.coef, shape, adapt)]


def make_steppers(
    model: TrainableModel, optimizer: torch.optim.Optimizer, options: OptimizerConfig, total: int
) -> OptimizerStepper:
    rate = LrSchedule(options.lr, options.warmup, total, bind_plugin("schedule", options.schedule))
    settings = {"betas": options.betas, "eps": options.eps, "weight_decay": options.weight_decay}
    return OptimizerStepper(model, optimizer, rate, options.clip, settings)
