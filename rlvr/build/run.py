"""From a recipe to the parts of a run: the one place that reads configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from rlvr.build.binding import bind_plugin
from rlvr.build.learner import Shared, make_learner, make_shared, make_steppers
from rlvr.build.models import Loaded, check_model_folders, load_policy, make_adamw
from rlvr.build.problems import (
    benchmark_of,
    bind_filters,
    bind_rewarder,
    bind_verifier,
    read_problems,
    read_sources,
)
from rlvr.cold_start import ColdStart, check_solutions
from rlvr.config import staging
from rlvr.config.plugins import collect_needs
from rlvr.config.schema import Recipe
from rlvr.data.controls import check_controls
from rlvr.data.gate import RejectedGold
from rlvr.data.prompts import Renderer
from rlvr.data.sources import Sources
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.evaluation.ask import Benchmark
from rlvr.rewards.rewarder import Rewarder
from rlvr.rollouts.greedy_baseline import GreedyBaseline, no_baseline
from rlvr.seeds import key_of
from rlvr.step import Run
from rlvr.training.batch import MinibatchPlan
from rlvr.training.learner import Learner, Reference
from rlvr.training.loss import supervised
from rlvr.training.objective import Objective
from rlvr.training.reductions import token_mean
from rlvr.types import Draw, Problem, Sampling


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of steps: its parts, whether its problems are other than those of the stage before,
    and whether the reference is from here on the policy as it enters.
    """

    name: str
    steps: int
    run: Run
    own_problems: bool
    renews: bool


@dataclass(frozen=True, slots=True)
class Built:
    """Everything that a recipe asks for, ready to run; the stages share models, optimisers and
    engine.
    """

    stages: tuple[Stage, ...]
    cold: ColdStart | None
    benchmarks: tuple[Benchmark, ...]
    refused: tuple[RejectedGold, ...]  # problems whose gold did not pass the gate

    @property
    def run(self) -> Run:
        """The parts of the first stage; its policy and engine are those of all."""
        return self.stages[0].run

    @property
    def reference(self) -> Reference | None:
        """The reference of all stages that need one."""
        return next(
            (ref for stage in self.stages if (ref := stage.run.learner.reference) is not None), None
        )

    @property
    def problems_key(self) -> int:
        """A number that names the problems of all stages and their order: a resume goes on with the
        same.
        """
        return key_of(*(stage.run.sources.key for stage in self.stages))


def build(
    recipe: Recipe,
    problems: Sequence[Problem] | None = None,
    reward: Callable[..., Any] | None = None,
    world: World = SINGLE_PROCESS,
) -> Built:
    """Read the problems, load the model, bind every option. `problems` and `reward` take the
    recipe's place where given.
    """
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(recipe.run.threads or max(1, len(os.sched_getaffinity(0)) // beside))
    parts = staging.split_stages(recipe)
    check_model_folders(recipe)
    rewarders = [bind_rewarder(part, reward) for part in parts]
    read = [read_sources(part, problems, recipe.run.seed) for part in parts]
    held_out = [
        (row, read_problems(row, f"eval.sets.{i}")) for i, row in enumerate(recipe.eval.sets)
    ]
    loaded = load_policy(recipe, world)
    tokenizer, limit = loaded.policy.tokenizer, recipe.rollout.max_prompt_tokens
    ask, longest = recipe.eval, recipe.eval.max_tokens or recipe.rollout.max_tokens
    asked = Sampling(ask.samples, longest, ask.temperature, stop=recipe.rollout.stop)
    benchmarks = tuple(benchmark_of(row, rows, tokenizer, limit, asked) for row, rows in held_out)
    shared = make_shared(recipe, parts, loaded.policy)
    runs = [
        _run(part, own, loaded, shared, pay)
        for part, (own, _), pay in zip(parts, read, rewarders, strict=True)
    ]
    refused = {row.id: row for _, rows in read for row in rows}
    return Built(
        _stages(recipe, parts, runs),
        _cold_start(recipe, runs[0]),
        benchmarks,
        tuple(refused.values()),
    )


def _stages(recipe: Recipe, parts: Sequence[Recipe], runs: Sequence[Run]) -> tuple[Stage, ...]:
    drawn_from = [(part.train, part.verify.gate) for part in parts]
    others = [now != before for before, now in pairwise([drawn_from[0], *drawn_from])]
    renews = [stage.reference == "renewed" for stage in recipe.stages] or [False]
    steps = [part.run.steps for part in parts]
    return tuple(map(Stage, staging.name_stages(recipe), steps, runs, others, renews))


def _run(
    recipe: Recipe, sources: Sources, loaded: Loaded, shared: Shared, rewarder: Rewarder
) -> Run:
    """The parts of one stage; a prompt that is too long and a task that pays for a constant answer
    fail here.
    """
    limit, ask = recipe.rollout.max_prompt_tokens, recipe.rollout
    render = Renderer(
        [bind_plugin("prompt", s.prompt) for s in recipe.train], loaded.policy.tokenizer, limit
    )
    verifier = replace(bind_verifier(recipe), world=loaded.policy.world)
    for source, rows in enumerate(sources.problems):
        distinct = list({p.id: p for p in rows}.values())
        prompts = [p.text for p in render([Draw(p, source) for p in distinct])]
        check_controls(
            f"train.{source}", verifier.judges[source], distinct, prompts, recipe.verify.echo_limit
        )
    # one failure among so few answers would be a large share
    judged_alone = replace(verifier, stop_above=1.0)
    greedy = GreedyBaseline(loaded.rollouts, judged_alone, rewarder, ask.max_tokens, ask.stop)
    return Run(
        seed=recipe.run.seed,
        problems=ask.problems,
        split=MinibatchPlan(
            recipe.learn.count_minibatches(ask), recipe.learn.epochs, recipe.learn.minibatch_prompts is not None
        ),
        world=loaded.policy.world,
        sources=sources,
        render=render,
        rollouts=loaded.rollouts,
        sampling=Sampling(
            ask.samples, ask.max_tokens, ask.temperature, ask.top_p, ask.top_k, ask.stop
        ),
        verifier=verifier,
        reward=rewarder,
        baseline=greedy if "greedy" in collect_needs(recipe) else no_baseline,
        gather=bind_plugin("gather", recipe.gather),
        keep=bind_filters(recipe),
        learner=make_learner(recipe, shared),
        advantage=bind_plugin("advantage", recipe.advantage),
    )


def _cold_start(recipe: Recipe, run: Run) -> ColdStart | None:
    if recipe.cold_start is None:
        return None
    for rows in run.sources.problems:
        check_solutions(rows)
    objective = Objective([("supervised", supervised)], token_mean)
    policy, options = run.learner.policy, recipe.cold_start
    updates = make_steppers(
        policy, make_adamw(policy, options.optimizer), options.optimizer, options.steps
    )
    learner = Learner(policy, None, objective, updates, temperature=run.learner.temperature)
    return ColdStart(options.problems, run.sources, run.render, run.rollouts, learner)
