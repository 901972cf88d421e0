"""From a recipe to the parts of a run: the one place that reads configuration."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from rlvr import models, registry
from rlvr import recipe as recipes
from rlvr.advantage import adapted, gae_of, penalised
from rlvr.audit import Refused, check_controls, gated
from rlvr.batch import Split
from rlvr.cold_start import ColdStart, check_solutions
from rlvr.critic import Critic, ValueModel, value_head
from rlvr.engines import Engine
from rlvr.errors import UserError, optional
from rlvr.gather import GreedyBaseline, Sources, no_baseline
from rlvr.learner import KlInReward, Learner, Objective, Reference, RunningScale, Shaper
from rlvr.loss import supervised, token_mean
from rlvr.policy import Policy, Proof
from rlvr.prompts import STOPS
from rlvr.recipe import EvalSet, Model, Optimizer, Recipe, Source, Spec, apart, needs_of
from rlvr.rollouts import Renderer, Rollouts, unproven
from rlvr.seeds import key_of
from rlvr.step import Run
from rlvr.types import Draw, Problem, SampleGroup, Sampling, Status
from rlvr.verify import Judge, Rewarder, Verifier, by_task, guarded
from rlvr.weights import Rate, Trained, Updates
from rlvr.world import ALONE, World


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Problems under a name, with the judge of their answers, the template that asks them and how
    they are sampled.
    """

    name: str
    problems: tuple[Problem, ...]
    judge: Judge
    render: Renderer
    sampling: Sampling


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
    refused: tuple[Refused, ...]  # problems whose gold did not pass the gate

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


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer and the engine that generates with it."""

    policy: Policy
    rollouts: Rollouts


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


def build(
    recipe: Recipe,
    problems: Sequence[Problem] | None = None,
    reward: Callable[..., Any] | None = None,
    world: World = ALONE,
) -> Built:
    """Read the problems, load the model, bind every option. `problems` and `reward` take the
    recipe's place where given.
    """
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(recipe.run.threads or max(1, len(os.sched_getaffinity(0)) // beside))
    parts = recipes.staged(recipe)
    _check_models(recipe)
    rewarders = [_rewarder(part, reward) for part in parts]
    read = [_sources(part, problems, recipe.run.seed) for part in parts]
    held_out = [
        (row, read_problems(row, f"eval.sets.{i}")) for i, row in enumerate(recipe.eval.sets)
    ]
    loaded = load(recipe, world)
    tokenizer, limit = loaded.policy.tokenizer, recipe.rollout.max_prompt_tokens
    ask, longest = recipe.eval, recipe.eval.max_tokens or recipe.rollout.max_tokens
    asked = Sampling(ask.samples, longest, ask.temperature, stop=recipe.rollout.stop)
    benchmarks = tuple(benchmark_of(row, rows, tokenizer, limit, asked) for row, rows in held_out)
    shared = _shared(recipe, parts, loaded.policy)
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


def _check_models(recipe: Recipe) -> None:
    """Models whose folders are not there are refused before anything is read."""
    for where, name in recipes.models_of(recipe).items():
        if name not in models.BUILT_IN:
            models.locate(name, where)


def _stages(recipe: Recipe, parts: Sequence[Recipe], runs: Sequence[Run]) -> tuple[Stage, ...]:
    drawn_from = [(part.train, part.verify.gate) for part in parts]
    others = [now != before for before, now in pairwise([drawn_from[0], *drawn_from])]
    renews = [stage.reference == "renewed" for stage in recipe.stages] or [False]
    steps = [part.run.steps for part in parts]
    return tuple(map(Stage, recipes.stage_names(recipe), steps, runs, others, renews))


def _run(
    recipe: Recipe, sources: Sources, loaded: Loaded, shared: Shared, rewarder: Rewarder
) -> Run:
    """The parts of one stage; a prompt that is too long and a task that pays for a constant answer
    fail here.
    """
    limit, ask = recipe.rollout.max_prompt_tokens, recipe.rollout
    render = Renderer(
        [_bind("prompt", s.prompt) for s in recipe.train], loaded.policy.tokenizer, limit
    )
    verifier = replace(_verifier(recipe), world=loaded.policy.world)
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
        split=Split(
            recipe.learn.parts(ask), recipe.learn.epochs, recipe.learn.minibatch_prompts is not None
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
        baseline=greedy if "greedy" in needs_of(recipe) else no_baseline,
        gather=_bind("gather", recipe.gather),
        keep=_filters(recipe),
        learner=_learner(recipe, shared),
        advantage=_bind("advantage", recipe.advantage),
    )


def load(recipe: Recipe, world: World = ALONE) -> Loaded:
    """The recipe's model as a policy, and its engine with the same weights."""
    module, tokenizer, compute = _module(recipe.model)
    engine: Engine = _bind("engine", recipe.rollout.engine)(module, tokenizer, compute)
    if recipe.model.lora:
        models.add_lora(module, recipe.model.lora, recipe.run.seed)
    auto = (
        recipe.model.shard == "auto"
        and module.device.type == "cuda"
        and recipes.against_shards(recipe) is None
    )
    shard = world.size > 1 and (recipe.model.shard == "full" or auto)
    held = {"offload": recipe.model.offload, "shard": shard}
    policy = Policy(module, compute, recipe.learn.tokens_per_pass, tokenizer, **held)
    if recipe.model.gradient_checkpointing:
        models.checkpoint_layers(policy.module)
    policy.join(world)
    rollouts = Rollouts(engine, tokenizer, Proof(policy) if apart(recipe) else unproven)
    rollouts.load(policy.weights(), version=0)
    return Loaded(policy, rollouts)


def load_engine(model: Model, engine: Spec) -> Rollouts:
    """An engine alone, for evaluation."""
    module, tokenizer, compute = _module(model)
    made: Engine = _bind("engine", engine)(module, tokenizer, compute)
    made.load(
        ((name, parameter.detach()) for name, parameter in module.named_parameters()), version=0
    )
    return Rollouts(made, tokenizer)


def _module(model: Model) -> tuple[Any, Any, torch.dtype]:
    device, dtype = models.device_of(model.device), getattr(torch, model.dtype)
    if device.type == "cpu":
        _steady_memory()
    module, tokenizer = models.load(model.name, dtype)
    return module.to(device), tokenizer, models.compute_dtype(model.compute, dtype, device)


def _steady_memory() -> None:
    """What a pass frees stays with the process: to give it back and take it again is an eighth of
    an update. And how to multiply sizes long past is forgotten: oneDNN would keep 1,024 products,
    twice, 20 MB more each step.
    """
    with contextlib.suppress(AttributeError, TypeError):  # only glibc has it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large pieces come from the heap too
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink
    # read at the first product
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "128")


def _bind(kind: str, spec: Spec) -> Callable[..., Any]:
    return registry.find(kind, spec.name, kind).bind(spec.params, kind)


def _sources(
    recipe: Recipe, given: Sequence[Problem] | None, seed: int
) -> tuple[Sources, tuple[Refused, ...]]:
    rows = [read_problems(source, f"train.{i}") for i, source in enumerate(recipe.train)]
    if given is not None:
        rows[0] = tuple(given)
    passed = [gated(row, recipe.verify.gate) for row in rows]
    empty = next((i for i, (row, _) in enumerate(passed) if not row), None)
    if empty is not None:
        why = (
            "row has a gold"
            if not any(p.answer.strip() for p in rows[empty])
            else "gold can be compared"
        )
        raise UserError(
            f"train.{empty}: no problem is left, since no {why}; mend the data, or try verify.gate=mark"
        )
    chosen = [
        tuple(_bind("select", s.select)(row))
        for s, (row, _) in zip(recipe.train, passed, strict=True)
    ]
    weights, given_order = (
        tuple(s.weight for s in recipe.train),
        tuple(s.order == "given" for s in recipe.train),
    )
    resting = tuple(s.adaptive for s in recipe.train)
    sources = Sources(tuple(chosen), weights, seed, given_order, resting)
    return sources, tuple(r for _, refused in passed for r in refused)


def read_problems(row: Source | EvalSet, where: str) -> tuple[Problem, ...]:
    """The problems of a source or held-out set, each with an answer and the task that its row
    names.
    """
    assert row.data is not None
    try:
        problems = _bind("data", row.data)()
    except UserError as error:
        raise UserError(f"{where}.data: {error}") from None
    if not problems:
        raise UserError(f"{where}.data: '{row.data.name}' gave no problem")
    # the gate does so and says so; a held-out set has to be whole
    leaves_out = isinstance(row, Source)
    check_problems([p for p in problems if p.answer.strip() or not leaves_out], f"{where}.data")
    if isinstance(row, EvalSet):
        problems = problems[: row.limit]
    for task in {p.task for p in problems} if row.task is None else ():
        registry.find("task", task, f"{where}.data")
    return tuple(replace(p, task=row.task.name) if row.task else p for p in problems)


def benchmark_of(
    row: EvalSet, problems: Sequence[Problem], tokenizer: Any, limit: int, asked: Sampling
) -> Benchmark:
    """A held-out set ready to be asked."""
    judge = _bind("task", row.task) if row.task else by_task
    problems, _ = gated(problems, "mark")
    render = Renderer([_bind("prompt", row.prompt)], tokenizer, limit)
    return Benchmark(row.name, tuple(problems), judge, render, sampling_of(row, asked))


def sampling_of(row: EvalSet, asked: Sampling) -> Sampling:
    """How a held-out set is sampled: as its row says, else as `asked`; its prompt may end answers
    too.
    """
    own = {
        k: v
        for k in ("samples", "temperature", "top_p", "max_tokens")
        if (v := getattr(row, k)) is not None
    }
    return replace(
        asked,
        **own,
        stop=tuple(dict.fromkeys((*asked.stop, *row.stop, *STOPS.get(row.prompt.name, ())))),
    )


def _verifier(recipe: Recipe) -> Verifier:
    judges: list[Judge] = [_bind("task", s.task) if s.task else by_task for s in recipe.train]
    failures = {Status.ERROR: recipe.verify.error, Status.TIMEOUT: recipe.verify.timeout}
    return Verifier(
        judges,
        frozenset(s for s, how in failures.items() if how == "mask"),
        recipe.verify.stop_above,
    )


def _rewarder(recipe: Recipe, given: Callable[..., Any] | None) -> Rewarder:
    if given is not None:
        name = getattr(given, "__name__", "reward")
        return Rewarder([(name, 1.0, guarded(name, given))])
    rows = []
    for spec in recipe.reward:
        name, function = spec.name.rpartition(":")[2], _bind("reward", spec.without("weight"))
        rows.append((name, float(spec.params.get("weight", 1.0)), guarded(name, function)))
    return Rewarder(rows)


def _filters(recipe: Recipe) -> Callable[[Sequence[SampleGroup]], Sequence[SampleGroup]]:
    filters = [_bind("filter", spec) for spec in recipe.filter]
    return lambda groups: functools.reduce(lambda kept, keep: keep(kept), filters, groups)


def _shared(recipe: Recipe, parts: Sequence[Recipe], policy: Policy) -> Shared:
    """Reference, critic and optimisers, where any stage needs them."""
    needs = frozenset[str]().union(*(needs_of(part) for part in parts))
    value = _value_model(recipe, policy) if recipe.critic else None
    updates = [
        part.learn.epochs * part.learn.parts(part.rollout)
        for part in parts
        for _ in range(part.run.steps)
    ]
    return Shared(
        policy=policy,
        optimizer=_adamw(policy, recipe.optimizer),
        reference=_reference(recipe, policy) if "ref" in needs else None,
        value=value,
        value_optimizer=_adamw(value, recipe.critic.optimizer) if value and recipe.critic else None,
        updates=sum(updates),
        warmup=sum(updates[: recipe.critic.warmup]) if recipe.critic else 0,
    )


def _learner(recipe: Recipe, shared: Shared) -> Learner:
    terms, own = [], {}
    for spec in recipe.loss.terms:
        name, reduction = spec.name.rpartition(":")[2], recipes.own_reduction(spec, "loss.terms")
        terms.append((name, _bind("loss", spec.without("reduction"))))
        own |= {name: _bind("reduction", reduction)} if reduction else {}
    loud = [
        s.name
        for s in recipe.loss.terms
        if "signal" not in registry.find("loss", s.name, "loss").needs
    ]
    signal = frozenset(name for name, _ in terms) - {name.rpartition(":")[2] for name in loud}
    needs = needs_of(recipe)
    reduction, correction = (
        _bind("reduction", recipe.loss.reduction),
        _bind("correction", recipe.loss.correction),
    )
    several = recipe.learn.epochs * recipe.learn.parts(recipe.rollout) > 1
    return Learner(
        shared.policy,
        shared.reference if "ref" in needs else None,
        Objective(terms, reduction, correction, own, signal),
        _updates(shared.policy, shared.optimizer, recipe.optimizer, shared.updates - shared.warmup),
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
        updates=_updates(shared.value, shared.value_optimizer, options.optimizer, shared.updates),
        target=functools.partial(gae_of, gamma=gamma, lam=lam),
        reduction=_bind("reduction", options.reduction),
        clip=options.clip,
        warmup=shared.warmup,
    )


def _value_model(recipe: Recipe, policy: Policy) -> ValueModel:
    """The critic's model with a fresh head: the policy's as it begins, unless the recipe names
    another.
    """
    assert recipe.critic is not None
    compute = models.compute_dtype(recipe.model.compute, policy.dtype, policy.device)
    name = recipe.critic.model or recipe.model.name
    module, tokenizer = models.load(name, policy.dtype, "critic.model")
    models.check_tokens(tokenizer, policy, name, "critic.model")
    body = module.base_model.to(policy.device)
    head = value_head(
        body.config.hidden_size, policy.dtype, policy.device, recipe.run.seed, "critic"
    )
    held = {"offload": recipe.model.offload, "shard": policy.shard}
    value = ValueModel(body, head, compute, recipe.learn.tokens_per_pass, **held)
    if recipe.model.gradient_checkpointing:
        models.checkpoint_layers(body)
    value.join(policy.world)
    return value


def _shapers(recipe: Recipe) -> list[Shaper]:
    found: list[Shaper] = [RunningScale()] if recipe.reward_scale == "running" else []
    options = recipe.reward_kl
    if options is None:
        return found
    shape = functools.partial(
        penalised, estimator=options.estimator, clamp=options.clamp, clip=options.clip
    )
    if options.target is None:
        return [*found, KlInReward(options.coef, shape)]
    adapt = functools.partial(adapted, target=options.target, horizon=options.horizon)
    return [*found, KlInReward(options.coef, shape, adapt)]


def _adamw(model: Trained, options: Optimizer) -> torch.optim.Optimizer:
    settings = {
        "lr": options.lr,
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }
    if options.states == "full":
        return torch.optim.AdamW(model.master, fused=True, **settings)
    low_memory = optional(
        "torchao.optim", "optimizer.states: 8bit needs the package torchao; pip install torchao"
    )
    return low_memory.AdamW8bit(model.master, **settings)


def _updates(
    model: Trained, optimizer: torch.optim.Optimizer, options: Optimizer, total: int
) -> Updates:
    rate = Rate(options.lr, options.warmup, total, _bind("schedule", options.schedule))
    settings = {"betas": options.betas, "eps": options.eps, "weight_decay": options.weight_decay}
    return Updates(model, optimizer, rate, options.clip, settings)


def _reference(recipe: Recipe, policy: Policy) -> Reference:
    """The policy as it is now, frozen, in the compute dtype; with adapters the policy without them."""
    if recipe.model.lora and recipe.model.reference is None:
        return models.WithoutAdapters(policy)
    compute = models.compute_dtype(recipe.model.compute, policy.dtype, policy.device)
    name = recipe.model.reference or recipe.model.name
    module, tokenizer = models.load(name, compute, "model.reference")
    models.check_tokens(tokenizer, policy, name, "model.reference")
    reference = Policy(
        module.to(policy.device), compute, policy.tokens_per_pass, tokenizer, shard=policy.shard
    )
    reference.join(policy.world)
    return reference


def _cold_start(recipe: Recipe, run: Run) -> ColdStart | None:
    if recipe.cold_start is None:
        return None
    for rows in run.sources.problems:
        check_solutions(rows)
    objective = Objective([("supervised", supervised)], token_mean)
    policy, options = run.learner.policy, recipe.cold_start
    updates = _updates(policy, _adamw(policy, options.optimizer), options.optimizer, options.steps)
    learner = Learner(policy, None, objective, updates, temperature=run.learner.temperature)
    return ColdStart(options.problems, run.sources, run.render, run.rollouts, learner)


def check_problems(problems: Sequence[Problem], where: str) -> None:
    """Refuse problems without an answer and ids that occur twice."""
    empty = next((p for p in problems if not p.answer.strip()), None)
    if empty is not None:
        raise UserError(f"{where}: problem '{empty.id}' has no answer to verify against")
    twice = next(
        (name for name, count in Counter(p.id for p in problems).items() if count > 1), None
    )
    if twice is not None:
        raise UserError(f"{where}: the id '{twice}' of a problem occurs twice")


def as_problems(rows: Sequence[Problem | Mapping[str, Any] | tuple[str, str]]) -> list[Problem]:
    """Problems from what a script has at hand: Problem, (question, answer), or a mapping with these
    keys.
    """
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
        raise UserError(
            f"problems, row {number}: a problem is a pair (question, answer) or a mapping with these keys"
        )
    fields: dict[str, Any] = (
        dict(row) if isinstance(row, Mapping) else dict(zip(pair, row, strict=True))
    )
    if not {"question", "answer"} <= set(fields):
        raise UserError(f"problems, row {number}: needs the keys 'question' and 'answer'")
    known = {k: fields[k] for k in ("meta", "solution") if k in fields}
    name, task = str(fields.get("id", f"given/{number}")), str(fields.get("task", "math"))
    return Problem(name, task, str(fields["question"]), str(fields["answer"]), **known)
