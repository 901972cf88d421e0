"""From a recipe to the parts of a run: the one place that reads configuration."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlvr import models, registry
from rlvr.advantage import adapted, penalised
from rlvr.audit import Refused, check_controls, gated
from rlvr.cold_start import ColdStart, check_solutions
from rlvr.engines import Engine
from rlvr.errors import UserError
from rlvr.evals.suite import Benchmark
from rlvr.learner import KlInReward, Learner, Objective, Rate
from rlvr.policy import Policy
from rlvr.recipe import EvalSet, Model, Optimizer, Recipe, Source, Spec, needs_of, own_reduction
from rlvr.rollouts import Renderer, Rollouts
from rlvr.source import Sources
from rlvr.step import Run
from rlvr.types import Draw, Problem, SampleGroup, Sampling, Status
from rlvr.verify import Judge, Rewarder, Verifier, by_task, guarded
from rlvr.world import World


@dataclass(frozen=True, slots=True)
class Built:
    """Everything that a recipe asks for, ready to run."""

    run: Run
    cold: ColdStart | None
    benchmarks: tuple[Benchmark, ...]
    eval_sampling: Sampling
    refused: tuple[Refused, ...]  # problems whose gold did not pass the gate


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer and the engine that generates with it."""

    policy: Policy
    rollouts: Rollouts


def build(recipe: Recipe, problems: Sequence[Problem] | None = None, reward: Callable[..., Any] | None = None) -> Built:
    """Read the problems, load the model, bind every option. `problems` and `reward` take the recipe's place where
    given."""
    torch.set_num_threads(recipe.run.threads or len(os.sched_getaffinity(0)))
    sources, refused = _sources(recipe, problems)
    held_out = [(row, read_problems(row, f"eval.sets.{i}")) for i, row in enumerate(recipe.eval.sets)]
    loaded = load(recipe)
    tokenizer, limit = loaded.policy.tokenizer, recipe.rollout.max_prompt_tokens
    render = Renderer([_bind("prompt", s.prompt) for s in recipe.train], tokenizer, limit)
    benchmarks = tuple(benchmark_of(row, rows, tokenizer, limit) for row, rows in held_out)
    verifier = _verifier(recipe)
    for source, rows in enumerate(sources.problems):
        distinct = list({p.id: p for p in rows}.values())
        prompts = [p.text for p in render([Draw(p, source) for p in distinct])]  # one that is too long fails here
        check_controls(f"train.{source}", verifier.judges[source], distinct, prompts, recipe.verify.echo_limit)
    run = Run(
        seed=recipe.run.seed,
        problems=recipe.rollout.problems,
        minibatches=recipe.learn.minibatches,
        epochs=recipe.learn.epochs,
        world=World(),
        sources=sources,
        render=render,
        rollouts=loaded.rollouts,
        sampling=_sampling(recipe),
        verifier=verifier,
        reward=_rewarder(recipe, reward),
        gather=_bind("gather", recipe.gather),
        keep=_filters(recipe),
        learner=_learner(recipe, loaded.policy),
        advantage=_bind("advantage", recipe.advantage),
    )
    samples, limit = recipe.eval.samples, recipe.eval.max_tokens or recipe.rollout.max_tokens
    asked = Sampling(samples, limit, recipe.eval.temperature, stop=recipe.rollout.stop)
    return Built(run, _cold_start(recipe, run), benchmarks, asked, refused)


def load(recipe: Recipe) -> Loaded:
    """The recipe's model as a policy, and its engine with the same weights."""
    module, tokenizer, compute = _module(recipe.model)
    scored_at = recipe.rollout.score_temperature or recipe.rollout.temperature
    policy = Policy(module, compute, scored_at, recipe.learn.tokens_per_pass, tokenizer)
    engine: Engine = _bind("engine", recipe.rollout.engine)(policy.module, tokenizer, compute)
    if recipe.model.gradient_checkpointing:
        models.checkpoint_layers(policy.module)
    engine.load(policy.weights(), version=0)
    return Loaded(policy, Rollouts(engine, tokenizer))


def load_engine(model: Model, engine: Spec) -> Rollouts:
    """An engine alone, for evaluation."""
    module, tokenizer, compute = _module(model)
    made: Engine = _bind("engine", engine)(module, tokenizer, compute)
    made.load(((name, parameter.detach()) for name, parameter in module.named_parameters()), version=0)
    return Rollouts(made, tokenizer)


def _module(model: Model) -> tuple[Any, Any, torch.dtype]:
    device, dtype = models.device_of(model.device), getattr(torch, model.dtype)
    module, tokenizer = models.load(model.name, dtype)
    return module.to(device), tokenizer, models.compute_dtype(model.compute, dtype, device)


def _bind(kind: str, spec: Spec) -> Callable[..., Any]:
    return registry.find(kind, spec.name, kind).bind(spec.params, kind)


def _sources(recipe: Recipe, given: Sequence[Problem] | None) -> tuple[Sources, tuple[Refused, ...]]:
    rows = [read_problems(source, f"train.{i}") for i, source in enumerate(recipe.train)]
    if given is not None:
        rows[0] = tuple(given)
    passed = [gated(row, recipe.verify.gate) for row in rows]
    empty = next((i for i, (row, _) in enumerate(passed) if not row), None)
    if empty is not None:
        raise UserError(f"train.{empty}: no problem is left, since no gold can be compared; try verify.gate=mark")
    chosen = [tuple(_bind("select", s.select)(row)) for s, (row, _) in zip(recipe.train, passed, strict=True)]
    sources = Sources(tuple(chosen), tuple(s.weight for s in recipe.train), recipe.run.seed)
    return sources, tuple(r for _, refused in passed for r in refused)


def read_problems(row: Source | EvalSet, where: str) -> tuple[Problem, ...]:
    """The problems of a source or held-out set, each with an answer and the task that its row names."""
    assert row.data is not None
    problems = _bind("data", row.data)()
    if not problems:
        raise UserError(f"{where}.data: '{row.data.name}' gave no problem")
    check_problems(problems, f"{where}.data")
    for task in {p.task for p in problems} if row.task is None else ():
        registry.find("task", task, f"{where}.data")
    return tuple(replace(p, task=row.task.name) if row.task else p for p in problems)


def benchmark_of(row: EvalSet, problems: Sequence[Problem], tokenizer: Any, limit: int) -> Benchmark:
    """A held-out set ready to be asked."""
    judge = _bind("task", row.task) if row.task else by_task
    problems, _ = gated(problems, "mark")
    return Benchmark(row.name, tuple(problems), judge, Renderer([_bind("prompt", row.prompt)], tokenizer, limit))


def _sampling(recipe: Recipe) -> Sampling:
    ask = recipe.rollout
    return Sampling(ask.samples, ask.max_tokens, ask.temperature, ask.top_p, ask.top_k, ask.stop)


def _verifier(recipe: Recipe) -> Verifier:
    judges: list[Judge] = [_bind("task", s.task) if s.task else by_task for s in recipe.train]
    failures = {Status.ERROR: recipe.verify.error, Status.TIMEOUT: recipe.verify.timeout}
    return Verifier(judges, frozenset(s for s, how in failures.items() if how == "mask"), recipe.verify.stop_above)


def _rewarder(recipe: Recipe, given: Callable[..., Any] | None) -> Rewarder:
    if given is not None:
        name = getattr(given, "__name__", "reward")
        return Rewarder([(name, 1.0, guarded(name, given))])
    rows = []
    for spec in recipe.reward:
        params = {k: v for k, v in spec.params.items() if k != "weight"}
        function = registry.find("reward", spec.name, "reward").bind(params, "reward")
        name = spec.name.rpartition(":")[2]
        rows.append((name, float(spec.params.get("weight", 1.0)), guarded(name, function)))
    return Rewarder(rows)


def _filters(recipe: Recipe) -> Callable[[Sequence[SampleGroup]], Sequence[SampleGroup]]:
    filters = [_bind("filter", spec) for spec in recipe.filter]
    return lambda groups: functools.reduce(lambda kept, keep: keep(kept), filters, groups)


def _learner(recipe: Recipe, policy: Policy) -> Learner:
    terms, own = [], {}
    for spec in recipe.loss.terms:
        name, reduction = spec.name.rpartition(":")[2], own_reduction(spec, "loss.terms")
        params = {key: value for key, value in spec.params.items() if key != "reduction"}
        terms.append((name, _bind("loss", Spec(name=spec.name, params=params))))
        own |= {name: _bind("reduction", reduction)} if reduction else {}
    needs, updates = needs_of(recipe), recipe.learn.epochs * recipe.learn.minibatches
    reduction, correction = _bind("reduction", recipe.loss.reduction), _bind("correction", recipe.loss.correction)
    objective = Objective(terms, reduction, correction, own)
    reference = _reference(recipe, policy) if "ref" in needs else None
    keeps_old = updates > 1 or "old" in needs
    learner = _learner_of(policy, reference, objective, recipe.optimizer, recipe.run.steps * updates, keeps_old)
    learner.penalty = _penalty(recipe)
    return learner


def _penalty(recipe: Recipe) -> KlInReward | None:
    if recipe.reward_kl is None:
        return None
    options = recipe.reward_kl
    shape = functools.partial(penalised, estimator=options.estimator, clamp=options.clamp, clip=options.clip)
    if options.target is None:
        return KlInReward(options.coef, shape, lambda coef, current, count: coef)
    return KlInReward(options.coef, shape, functools.partial(adapted, target=options.target, horizon=options.horizon))


def _learner_of(
    policy: Policy, reference: Policy | None, objective: Objective, options: Optimizer, updates: int, keeps_old: bool
) -> Learner:
    optimizer = torch.optim.AdamW(
        policy.master,
        lr=options.lr,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
        fused=True,
    )
    rate = Rate(options.lr, options.warmup, updates, _bind("schedule", options.schedule))
    return Learner(policy, reference, objective, optimizer, rate, options.clip, keeps_old, World())


def _reference(recipe: Recipe, policy: Policy) -> Policy:
    """The policy as it is now, frozen, in the compute dtype."""
    compute = next(policy.module.parameters()).dtype
    module, tokenizer = models.load(recipe.model.name, compute)
    return Policy(module.to(policy.device), compute, policy.temperature, policy.tokens_per_pass, tokenizer)


def _cold_start(recipe: Recipe, run: Run) -> ColdStart | None:
    if recipe.cold_start is None:
        return None
    for rows in run.sources.problems:
        check_solutions(rows)
    objective = Objective(
        [("supervised", _bind("loss", Spec(name="supervised")))], _bind("reduction", Spec(name="token"))
    )
    options = recipe.cold_start
    learner = _learner_of(run.learner.policy, None, objective, options.optimizer, options.steps, False)
    return ColdStart(options.problems, run.sources, run.render, run.rollouts, learner)


def check_problems(problems: Sequence[Problem], where: str) -> None:
    """Refuse problems without an answer and ids that occur twice."""
    empty = next((p for p in problems if not p.answer.strip()), None)
    if empty is not None:
        raise UserError(f"{where}: problem '{empty.id}' has no answer to verify against")
    twice = next((name for name, count in Counter(p.id for p in problems).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{where}: the id '{twice}' of a problem occurs twice")


def as_problems(rows: Sequence[Problem | Mapping[str, Any] | tuple[str, str]]) -> list[Problem]:
    """Problems from what a script has at hand: Problem, (question, answer), or a mapping with these keys."""
    if not rows:
        raise UserError("problems: there is no problem in the list")
    problems = [_as_problem(row, i) for i, row in enumerate(rows)]
    check_problems(problems, "problems")
    return problems


def _as_problem(row: Problem | Mapping[str, Any] | tuple[str, str], number: int) -> Problem:
    if isinstance(row, Problem):
        return row
    pair = ("question", "answer")
    if isinstance(row, str) or not (isinstance(row, Mapping) or len(row) == len(pair)):
        raise UserError(f"problems, row {number}: a problem is a pair (question, answer) or a mapping with these keys")
    fields: dict[str, Any] = dict(row) if isinstance(row, Mapping) else dict(zip(pair, row, strict=True))
    if not {"question", "answer"} <= set(fields):
        raise UserError(f"problems, row {number}: needs the keys 'question' and 'answer'")
    known = {k: fields[k] for k in ("meta", "solution") if k in fields}
    name, task = str(fields.get("id", f"given/{number}")), str(fields.get("task", "math"))
    return Problem(name, task, str(fields["question"]), str(fields["answer"]), **known)
