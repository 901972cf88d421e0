"""From a recipe to the parts of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlvr.build.benchmarks import make_benchmark
from rlvr.build.binding import bind_plugin
from rlvr.build.judging import bind_filters, bind_rewarder, bind_verifier
from rlvr.build.learner import Shared, make_learner, make_shared, make_stepper
from rlvr.build.models import Loaded, check_model_folders, load_policy, make_adamw
from rlvr.build.problems import Identities, read_problems, read_sources
from rlvr.cold_start import ColdStart, check_solutions
from rlvr.config import staging
from rlvr.config.plugins import collect_needs
from rlvr.config.schema import EvalSetConfig, Recipe, RolloutConfig
from rlvr.data.chat_template import find_turn_ends
from rlvr.data.controls import check_controls
from rlvr.data.gate import RejectedGold
from rlvr.data.prompts import Renderer
from rlvr.data.sources import Sources
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.evaluation.ask import Benchmark
from rlvr.rewards.rewarder import Rewarder
from rlvr.rollouts.greedy_baseline import GreedyBaseline, skip_baseline
from rlvr.rollouts.verify import Verifier
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
    """A stretch of steps with its parts.

    `own_problems` where its problems are other than those of the stage before, `renews` where the
    reference is from here on the policy as it enters.
    """

    name: str
    steps: int
    run: Run
    own_problems: bool
    renews: bool


@dataclass(frozen=True, slots=True)
class Built:
    """Everything that a recipe asks for, ready to run.

    The stages share models, optimisers and engine.
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
        for stage in self.stages:
            if stage.run.learner.reference is not None:
                return stage.run.learner.reference
        return None

    @property
    def problems_key(self) -> int:
        """A number that names the problems of all stages and their order.

        A resume goes on with the same.
        """
        return key_of(*(stage.run.sources.key for stage in self.stages))


def build(
    recipe: Recipe,
    problems: Sequence[Problem] | None = None,
    reward: Callable[..., Any] | None = None,
    world: World = SINGLE_PROCESS,
) -> Built:
    """Read the problems, load the model, bind every option; raises UserError.

    `problems` and `reward` take the recipe's place where given.
    """
    _limit_threads(recipe)
    stages = staging.split_stages(recipe)
    check_model_folders(recipe)
    # All that a recipe or a data file can have wrong is found before the model is loaded.
    rewarders = [bind_rewarder(stage, reward) for stage in stages]
    sources: list[Sources] = []
    refused: dict[str, RejectedGold] = {}
    identities = Identities()
    for stage in stages:
        stage_sources, rejected = read_sources(stage, problems, recipe.run.seed, identities)
        sources.append(stage_sources)
        for gold in rejected:
            refused[gold.id] = gold
    held_out = _read_held_out(recipe)
    loaded = load_policy(recipe, world)
    benchmarks = _make_benchmarks(recipe, held_out, loaded)
    shared = make_shared(recipe, stages, loaded.policy)
    runs: list[Run] = []
    for stage, stage_sources, rewarder in zip(stages, sources, rewarders, strict=True):
        runs.append(_make_run(stage, stage_sources, rewarder, loaded, shared))
    return Built(
        stages=_make_stages(recipe, stages, runs),
        cold=_make_cold_start(recipe, runs[0]),
        benchmarks=benchmarks,
        refused=tuple(refused.values()),
    )


def _limit_threads(recipe: Recipe) -> None:
    """Share the cores of this machine between the processes that train on it."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(recipe.run.threads or max(1, cores // processes))


HeldOut = Sequence[tuple[EvalSetConfig, tuple[Problem, ...]]]


def _read_held_out(recipe: Recipe) -> HeldOut:
    held_out = []
    for number, row in enumerate(recipe.eval.sets):
        held_out.append((row, read_problems(row, f"eval.sets.{number}")))
    return held_out


def _make_benchmarks(recipe: Recipe, held_out: HeldOut, loaded: Loaded) -> tuple[Benchmark, ...]:
    default = Sampling(
        samples=recipe.eval.samples,
        max_tokens=recipe.eval.max_tokens or recipe.rollout.max_tokens,
        temperature=recipe.eval.temperature,
        stop=recipe.rollout.stop,
        exact=not recipe.eval.quantised,
    )
    tokenizer = loaded.policy.tokenizer
    limit = recipe.rollout.max_prompt_tokens
    bos = recipe.rollout.bos
    benchmarks = []
    for row, problems in held_out:
        benchmarks.append(
            make_benchmark(row, problems, tokenizer, limit, default, bos, recipe.verify.time_limit)
        )
    return tuple(benchmarks)


def _make_stages(recipe: Recipe, parts: Sequence[Recipe], runs: Sequence[Run]) -> tuple[Stage, ...]:
    """Return each stage with its run; `parts` are the recipes of the stages."""
    names = staging.name_stages(recipe)
    renews = [stage.reference == "renewed" for stage in recipe.stages] or [False]
    before = parts[0]
    stages = []
    for number, part in enumerate(parts):
        same_problems = part.train == before.train and part.verify.gate == before.verify.gate
        stage = Stage(
            name=names[number],
            steps=part.run.steps,
            run=runs[number],
            own_problems=not same_problems,
            renews=renews[number],
        )
        stages.append(stage)
        before = part
    return tuple(stages)


def _make_run(
    recipe: Recipe, sources: Sources, rewarder: Rewarder, loaded: Loaded, shared: Shared
) -> Run:
    """Return the parts of one stage.

    Raises UserError for a prompt that is too long and for a task that pays for a constant answer.
    """
    asked = recipe.rollout
    templates = [bind_plugin("prompt", source.prompt) for source in recipe.train]
    render = Renderer(templates, loaded.policy.tokenizer, asked.max_prompt_tokens, asked.bos)
    verifier = replace(bind_verifier(recipe), world=loaded.policy.world)
    _check_sources(sources, render, verifier, recipe.verify.echo_limit)
    baseline = skip_baseline
    if "greedy" in collect_needs(recipe):
        # one failure among so few answers would be a large share
        lenient = replace(verifier, stop_above=1.0)
        baseline = GreedyBaseline(loaded.rollouts, lenient, rewarder, asked.max_tokens, asked.stop)
    return Run(
        seed=recipe.run.seed,
        problems=asked.problems,
        split=_plan_minibatches(recipe),
        world=loaded.policy.world,
        sources=sources,
        render=render,
        rollouts=loaded.rollouts,
        sampling=_read_sampling(asked),
        verifier=verifier,
        reward=rewarder,
        baseline=baseline,
        gather=bind_plugin("gather", recipe.gather),
        keep=bind_filters(recipe),
        learner=make_learner(recipe, shared),
        advantage=bind_plugin("advantage", recipe.advantage),
    )


def _check_sources(
    sources: Sources, render: Renderer, verifier: Verifier, echo_limit: float
) -> None:
    """Render every problem once, and refuse a task that pays for an answer that solves nothing."""
    for source, problems in enumerate(sources.problems):
        distinct = list({problem.id: problem for problem in problems}.values())
        prompts = render([Draw(problem, source) for problem in distinct])
        texts = [prompt.text for prompt in prompts]
        check_controls(f"train.{source}", verifier.judges[source], distinct, texts, echo_limit)


def _plan_minibatches(recipe: Recipe) -> MinibatchPlan:
    return MinibatchPlan(
        parts=recipe.learn.count_minibatches(recipe.rollout),
        epochs=recipe.learn.epochs,
        groups=recipe.learn.minibatch_prompts is not None,
    )


def _read_sampling(asked: RolloutConfig) -> Sampling:
    return Sampling(
        samples=asked.samples,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=asked.stop,
    )


def _make_cold_start(recipe: Recipe, run: Run) -> ColdStart | None:
    """Return the supervised steps before all stages, with an optimiser of their own; raises UserError."""
    options = recipe.cold_start
    if options is None:
        return None
    for problems in run.sources.problems:
        check_solutions(problems)
    policy = run.learner.policy
    optimizer = make_adamw(policy, options.optimizer)
    learner = Learner(
        policy=policy,
        reference=None,
        objective=Objective([("supervised", supervised)], token_mean),
        updates=make_stepper(policy, optimizer, options.optimizer, options.steps),
        temperature=run.learner.temperature,
    )
    return ColdStart(
        problems=options.problems,
        sources=run.sources,
        render=run.render,
        rollouts=run.rollouts,
        learner=learner,
        turn_end=_find_turn_end(recipe, run.render),
    )


def _find_turn_end(recipe: Recipe, render: Renderer) -> int | None:
    """Return the token by which the chat template ends a turn, where responses end at it."""
    if recipe.rollout.turn_ends != "template":
        return None
    return next(iter(find_turn_ends(render.tokenizer)), None)
