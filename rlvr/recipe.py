"""Recipes: strict YAML to frozen sections that mirror the flow of a step; imports nothing heavy.

Every mistake is refused here, before a model or a data set is touched, in one line that names the
key and the fix.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from rlvr import registry, tree
from rlvr.errors import UserError, suggest
from rlvr.tree import Pair, pairs, plain, shipped

Decay = Annotated[float, Field(ge=0, lt=1)]
# sections where one row may stand for a list of one
LISTS = ("train", "reward", "filter", "trackers")
STAGED = ("train", "rollout", "verify", "reward", "reward_scale", "reward_kl", "gather", "filter", "advantage", "loss",
          "learn", "optimizer", "critic")  # fmt: skip
SHARED = ("rollout.engine", "learn.tokens_per_pass", "optimizer.states", "critic.model", "critic.warmup",
          "critic.optimizer.states")  # fmt: skip
__all__ = ["Recipe", "load", "pairs", "shipped"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) and "name" in cls.model_fields else value


class Spec(BaseModel):
    """A plug-in with its parameters; in a recipe a bare string equals `{name: …}`."""

    model_config = ConfigDict(frozen=True)
    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "name" not in value:
            raise ValueError("should be a name or a mapping with the key 'name'")
        if isinstance(value, Mapping) and set(value) != {"name", "params"}:
            return {
                "name": value["name"],
                "params": {k: v for k, v in value.items() if k != "name"},
            }
        return value

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}

    def without(self, key: str) -> Spec:
        """The plug-in without a parameter that is not its own."""
        return Spec(name=self.name, params={k: v for k, v in self.params.items() if k != key})


class Run(Section):
    """`steps` counts updates by reinforcement; a cold start adds its own before them."""

    name: str | None = None
    folder: str = "runs"
    seed: int = 0
    steps: int = Field(default=100, ge=0)
    threads: int | None = Field(default=None, ge=1)


class Lora(Section):
    """Adapters of that rank on the named layers; the rest of the model stays as it is (LoRA, Hu et
    al., 2021).
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    targets: str | tuple[str, ...] = "all-linear"


class Model(Section):
    """`dtype` holds the master weights and optimiser, `compute` does the arithmetic; `auto` takes
    bf16 where it is fast. `name` may be another run's folder; `reference` is the policy before
    training unless it names a model; `offload` keeps master weights and optimiser in the memory of
    the CPU; `shard` splits policy, critic and reference over the processes (FSDP2), `auto` on GPUs
    where there is nothing against it.
    """

    name: str = "smollm2-135m-instruct"
    reference: str | None = None
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    compute: Literal["auto", "float64", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    offload: bool = False
    shard: Literal["auto", "none", "full"] = "auto"


class Adaptive(Section):
    """A problem whose accuracy at its last visit was not between the bounds is passed over the next
    `rest` times.
    """

    low: float = Field(default=0.0, ge=0, le=1)
    high: float = Field(default=1.0, ge=0, le=1)
    rest: int = Field(default=1, ge=1)


class Source(Section):
    """Where problems come from, how they are asked and verified, and how often they are drawn."""

    data: Spec
    task: Spec | None = None
    prompt: Spec = Spec(name="chat")
    weight: float = Field(default=1.0, gt=0)
    select: Spec = Spec(name="all")
    order: Literal["shuffled", "given"] = "shuffled"
    adaptive: Adaptive | None = None


class Rollout(Section):
    """`problems` a step times `samples` each; `score_temperature` 1.0 scores as SimpleRL v0 did."""

    engine: Spec = Spec(name="local")
    problems: int = Field(default=8, ge=1)
    samples: int = Field(default=8, ge=1)
    max_tokens: int = Field(default=256, ge=1)
    max_prompt_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    score_temperature: float | None = Field(default=None, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    stop: tuple[str, ...] = ()


class Verify(Section):
    """What a failure of the verifier itself counts as, the share of failures at which the run
    stops, what becomes of golds that cannot be compared by meaning, and on which share of problems
    an echo may happen to be right.
    """

    error: Literal["mask", "wrong"] = "mask"
    timeout: Literal["mask", "wrong"] = "wrong"
    stop_above: float = Field(default=0.2, gt=0, le=1)
    gate: Literal["mark", "drop", "off"] = "mark"
    echo_limit: float = Field(default=0.15, ge=0, le=1)


class Optimizer(Section):
    """AdamW; `states` 8bit needs torchao."""

    lr: float = Field(default=1e-6, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Spec = Spec(name="constant")
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    states: Literal["full", "8bit"] = "full"


class Critic(Section):
    """The value model of PPO: a full model of its own (`model`, or as the policy begins) with its
    own optimiser. Its values are clipped to +-`clip` of the old ones; `warmup` steps are its own
    before the policy moves; `lam` is the lambda of its target where that is not the estimator's
    (VAPO: 1).
    """

    model: str | None = None
    optimizer: Optimizer = Optimizer(lr=1e-5)
    clip: float | None = Field(default=0.5, gt=0)
    reduction: Spec = Spec(name="token")
    warmup: int = Field(default=0, ge=0)
    lam: float | None = Field(default=None, ge=0, le=1)


class Loss(Section):
    """The terms are summed per token and reduced with weights that are fixed before the batch is
    split; a term may name a `reduction` of its own. `correction` weighs the policy terms against
    the gap between engine and learner; where the recipe names none and the engine computes apart,
    it is `importance`.
    """

    terms: tuple[Spec, ...] = Field(default=(Spec(name="clip"),), min_length=1)
    reduction: Spec = Spec(name="token")
    correction: Spec = Spec(name="none")


class RewardKl(Section):
    """A penalty in the reward of every token, `coef` times an estimate of the KL to the reference;
    with a `target` the coefficient adapts to it over `horizon` samples. `clip` bounds the reward
    before the penalty.
    """

    coef: float = Field(default=..., ge=0)
    estimator: Literal["k1", "abs", "k2", "k3"] = "k1"
    clamp: float | None = Field(default=None, gt=0)
    clip: float | None = Field(default=None, gt=0)
    target: float | None = Field(default=None, gt=0)
    horizon: int = Field(default=10_000, ge=1)


class Learn(Section):
    """A mini-batch is a share of the step's samples, so many of its samples, or so many problems
    with all theirs; `tokens_per_pass` bounds one forward pass and never changes the result.
    """

    epochs: int = Field(default=1, ge=1)
    minibatches: int | None = Field(default=None, ge=1)
    minibatch_samples: int | None = Field(default=None, ge=1)
    minibatch_prompts: int | None = Field(default=None, ge=1)
    tokens_per_pass: int = Field(default=2048, ge=1)

    def parts(self, ask: Rollout) -> int:
        """How many mini-batches a step has; raises UserError where they do not come out even."""
        given = {k: v for k in MINIBATCH if (v := getattr(self, k)) is not None}
        if len(given) > 1:
            raise UserError(f"learn: {' and '.join(given)} say the same thing; keep one of them")
        whole = ask.problems if self.minibatch_prompts else ask.problems * ask.samples
        name, size = next(iter(given.items()), ("minibatches", 1))
        if whole % size:
            what = (
                "problems (rollout.problems)"
                if self.minibatch_prompts
                else "samples (problems x samples)"
            )
            raise UserError(f"learn.{name}: {size} does not divide the {whole} {what} of a step")
        return size if name == "minibatches" else whole // size


MINIBATCH = ("minibatches", "minibatch_samples", "minibatch_prompts")


class ColdStart(Section):
    """Supervised steps on the solutions of the training sources, before reinforcement begins."""

    steps: int = Field(default=..., ge=1)
    problems: int = Field(default=16, ge=1)
    optimizer: Optimizer = Optimizer(lr=1e-4)


class Stage(BaseModel):
    """A stretch of `steps` with keys of its own: any of the recipe's but those of the model and of
    the run as a whole, as sections or dotted. Optimiser and counters go on; with `reference:
    renewed` the KL is from here on to the policy as it enters.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    name: str | None = None
    steps: int = Field(default=..., ge=1)
    reference: Literal["kept", "renewed"] = "kept"


class EvalSet(Section):
    """A held-out set, or where `data` is left out the benchmark of that name with the keys that are
    given; the summary leads with the first one. How it is sampled goes before what `eval` says;
    `limit` asks its first problems only.
    """

    name: str
    data: Spec | None = None
    task: Spec | None = None
    prompt: Spec = Spec(name="chat")
    limit: int | None = Field(default=None, ge=1)
    samples: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: tuple[str, ...] = ()


class Eval(Section):
    """When and how the held-out sets are asked; `every` 0 evaluates before and after only.
    `second_verifier` counts where math-verify judges otherwise.
    """

    sets: tuple[EvalSet, ...] = ()
    every: int = Field(default=0, ge=0)
    samples: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    second_verifier: bool = True


class Checkpoint(Section):
    """A checkpoint every so many steps (0: only at the end and on Ctrl-C), of which the last `keep`
    stay, and that of the step with the highest pass@1 on the held-out set `best`. In the
    `background` a thread writes a copy while the next steps are made (None: where there is a GPU,
    since on a processor the copy takes memory that training needs).
    """

    every: int = Field(default=0, ge=0)
    keep: int = Field(default=1, ge=1)
    best: str | None = None
    background: bool | None = None


class Recipe(Section):
    """A whole training run; see `rlvr show` for every key and its value."""

    run: Run = Run()
    model: Model = Model()
    cold_start: ColdStart | None = None
    train: tuple[Source, ...] = Field(default=..., min_length=1)
    rollout: Rollout = Rollout()
    verify: Verify = Verify()
    reward: tuple[Spec, ...] = (Spec(name="correct"),)
    reward_scale: Literal["none", "running"] = "none"
    reward_kl: RewardKl | None = None
    gather: Spec = Spec(name="once")
    filter: tuple[Spec, ...] = ()
    advantage: Spec = Spec(name="grpo")
    loss: Loss = Loss()
    learn: Learn = Learn()
    optimizer: Optimizer = Optimizer()
    critic: Critic | None = None
    stages: tuple[Stage, ...] = ()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    trackers: tuple[Spec, ...] = ()


def models_of(recipe: Recipe) -> dict[str, str]:
    """The models that a recipe names, by their keys."""
    named = {"model.name": recipe.model.name, "model.reference": recipe.model.reference}
    named |= {"critic.model": recipe.critic and recipe.critic.model}
    return {key: name for key, name in named.items() if name}


def own_reduction(term: Spec, where: str) -> Spec | None:
    """The reduction that a loss term names for itself; raises UserError."""
    if "reduction" not in term.params:
        return None
    return registry.validated(Spec, term.params["reduction"], f"{where}.reduction")


def needs_of(recipe: Recipe) -> frozenset[str]:
    """What the advantage, the reward and the loss need beside the policy: any of `ref`, `old`,
    `value`, `greedy`.
    """
    parts = [("advantage", recipe.advantage), ("correction", recipe.loss.correction)]
    parts += [("loss", term) for term in recipe.loss.terms]
    found = frozenset[str]().union(
        *(registry.find(kind, spec.name, kind).needs for kind, spec in parts)
    )
    return found - {"signal"} | ({"ref", "old"} if recipe.reward_kl else set())


def load(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str | Pair] = ()
) -> Recipe:
    """Read, override and check a recipe: a YAML file, the name of a shipped recipe, or a mapping.

    Overrides are dotted keys: `["rollout.samples=4"]` or `{"rollout.samples": 4}`. Raises
    UserError.
    """
    where, found = tree.read(source, sections())
    found = _listed(found)
    for key, value in pairs(overrides):
        tree.assign(found, key, value, _defaults())
    try:
        recipe = _valid(_listed(found))
        if recipe.stages:
            if any(key == "run.steps" for key, _ in pairs(overrides)):
                raise UserError(
                    "run.steps: the stages say how long they are; override stages.0.steps and so on"
                )
            total = sum(stage.steps for stage in recipe.stages)
            recipe = recipe.model_copy(
                update={"run": recipe.run.model_copy(update={"steps": total})}
            )
        _check_reference(recipe, staged(recipe))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return recipe.model_copy(
        update={"run": recipe.run.model_copy(update={"name": recipe.run.name or where})}
    )


def _valid(found: dict[str, Any]) -> Recipe:
    recipe = registry.validated(Recipe, found, "")
    sets = tuple(eval_set(row) for row in recipe.eval.sets)
    recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"sets": sets})})
    check(recipe)
    return _corrected(recipe)


def apart(recipe: Recipe) -> bool:
    """Whether the engine holds weights that are not in plain sight, so that their arrival has to be
    proven.
    """
    return "proof" in registry.find("engine", recipe.rollout.engine.name, "rollout.engine").needs


def _corrected(recipe: Recipe) -> Recipe:
    """Truncated importance sampling where the engine's log-probabilities are not the learner's,
    unless the recipe says otherwise, corrects in a term, or cuts the vocabulary, with which it
    would be biased.
    """
    cut = recipe.rollout.top_p < 1 or recipe.rollout.top_k > 0
    named = "correction" in recipe.loss.model_fields_set or "rollout" in needs_of(recipe)
    if named or cut or not apart(recipe):
        return recipe
    loss = recipe.loss.model_copy(update={"correction": Spec(name="importance")})
    return recipe.model_copy(update={"loss": loss})


def staged(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipe of each stage, with the stage's own keys and its steps; without stages the recipe
    itself.
    """
    names = stage_names(recipe)
    if len(set(names)) < len(names):
        raise UserError("stages: two of them have the same name; give each its own")
    if "cold_start" in names:
        raise UserError(
            f"stages.{names.index('cold_start')}.name: 'cold_start' names the steps before all stages"
        )
    return tuple(_stage(recipe, i, stage) for i, stage in enumerate(recipe.stages)) or (recipe,)


def stage_names(recipe: Recipe) -> list[str]:
    """What the stages are called in the metrics; a run without stages has one, "rl"."""
    return [stage.name or f"stage {i}" for i, stage in enumerate(recipe.stages, 1)] or ["rl"]


def _stage(recipe: Recipe, number: int, stage: Stage) -> Recipe:
    where = f"stages.{number}"
    found: tree.Tree = recipe.model_dump(mode="json") | {"stages": []}
    found["run"]["steps"] = stage.steps
    for key in stage.model_extra or {}:
        section = key.partition(".")[0]
        if section not in STAGED:
            raise UserError(
                f"{where}.{key}: stages cannot change it{suggest(section, (*Stage.model_fields, *STAGED))}"
            )
    try:
        for key, value in plain(stage.model_extra or {}).items():
            if "." in key:
                tree.assign(found, key, value, _defaults())
            else:
                found = tree.laid(found, {key: value}, sections())
        changed = _valid(_listed(found))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if (changed.critic is None) != (recipe.critic is None):
        raise UserError(f"{where}.critic: a run has a critic in all of its stages or in none")
    for key in SHARED:
        if _at(changed, key) != _at(recipe, key):
            raise UserError(
                f"{where}.{key}: is the same for all stages; set it once, in the recipe's own {key}"
            )
    return changed


def _at(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key; None where a section on the way is left out."""
    return functools.reduce(
        lambda section, name: section and getattr(section, name), key.split("."), recipe
    )


def eval_set(row: EvalSet | str | Mapping[str, Any]) -> EvalSet:
    """A held-out set from a row, or from the name of a registered benchmark; raises UserError."""
    row = row if isinstance(row, EvalSet) else registry.validated(EvalSet, row, "benchmark")
    if row.data:
        return row
    found: EvalSet = registry.find("benchmark", row.name, "eval.sets").bind({}, row.name)()
    return found.model_copy(
        update={key: getattr(row, key) for key in row.model_fields_set - {"name", "data"}}
    )


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, which loads back to an equal recipe."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
    )


def check(recipe: Recipe) -> None:
    """Everything that a schema of single keys cannot see; raises UserError."""
    for where, kind, spec in specs(recipe):
        weight = spec.params.get("weight", 1.0) if kind == "reward" else 1.0
        own = spec.without({"reward": "weight", "loss": "reduction"}.get(kind, ""))
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise UserError(f"{where}.weight: should be a number, not {weight!r}")
        registry.find(kind, spec.name, f"{where}.name").check(own.params, where)
    names = [held_out.name for held_out in recipe.eval.sets]
    if len(set(names)) < len(names):
        raise UserError("eval.sets: two sets have the same name; give each its own")
    if recipe.checkpoint.best is not None and recipe.checkpoint.best not in names:
        raise UserError(
            f"checkpoint.best: no set of eval.sets is called that{suggest(recipe.checkpoint.best, names)}"
        )
    _check_batches(recipe)
    if recipe.model.shard == "full" and (fault := against_shards(recipe)):
        raise UserError(f"model.shard: full does not go with {fault}")
    needs = needs_of(recipe)
    if "value" in needs and recipe.critic is None:
        raise UserError(
            f"advantage: '{recipe.advantage.name}' needs a critic; add the section critic: {{}}"
        )
    if "value" not in needs and recipe.critic is not None:
        raise UserError(
            f"critic: '{recipe.advantage.name}' reads no values; take advantage: gae, or leave critic out"
        )


def against_shards(recipe: Recipe) -> str | None:
    """Why the models of a recipe cannot be split over processes, in one line; None where they can."""
    if recipe.model.lora:
        return "model.lora: adapters are small, and what they stand on is not split over processes; leave one out"
    optimizers = {
        "optimizer": recipe.optimizer,
        "critic.optimizer": recipe.critic and recipe.critic.optimizer,
    }
    small = next(
        (at for at, options in optimizers.items() if options and options.states != "full"), None
    )
    return small and f"{small}.states: 8bit states are not split over processes; set it to full"


def _check_reference(recipe: Recipe, parts: Sequence[Recipe]) -> None:
    """A reference follows the policy only where it is a copy of it."""
    renewed = next(
        (i for i, stage in enumerate(recipe.stages) if stage.reference == "renewed"), None
    )
    follows = renewed is not None or recipe.cold_start is not None
    if renewed is not None and recipe.model.reference is not None:
        raise UserError(
            f"stages.{renewed}.reference: model.reference names a model, which stays; keep one of the two"
        )
    needed = recipe.model.reference is None and any("ref" in needs_of(part) for part in parts)
    if recipe.model.lora and needed and follows:
        raise UserError(
            "model.lora: the reference is the model without adapters, so it cannot follow the policy later"
        )


def _check_batches(recipe: Recipe) -> None:
    recipe.learn.parts(recipe.rollout)
    truncated = recipe.rollout.top_p < 1 or recipe.rollout.top_k > 0
    parts = [
        ("correction", recipe.loss.correction),
        *(("loss", term) for term in recipe.loss.terms),
    ]
    corrected = [
        spec.name for kind, spec in parts if "rollout" in registry.find(kind, spec.name, kind).needs
    ]
    if truncated and corrected:
        raise UserError(
            f"loss.terms: importance correction ('{corrected[0]}') is biased together with rollout.top_p < 1 or"
            f" rollout.top_k > 0; set top_p: 1.0 and top_k: 0"
        )


def specs(value: Any, where: str = "", kind: str = "") -> Iterator[tuple[str, str, Spec]]:
    """Every plug-in below a key, with its own key and its kind, which the key says."""
    if isinstance(value, Spec):
        yield where, KINDS.get(kind, kind), value
        if kind == "terms" and (own := own_reduction(value, where)):
            yield f"{where}.reduction", "reduction", own
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from specs(getattr(value, name), f"{where}.{name}" if where else name, name)
    elif isinstance(value, tuple):
        for i, row in enumerate(value):
            yield from specs(row, f"{where}.{i}", kind)


# of plug-ins whose key is not the name of their kind
KINDS = {"terms": "loss", "trackers": "tracker"}


def _listed(found: dict[str, Any]) -> dict[str, Any]:
    return {k: [v] if k in LISTS and isinstance(v, (str, Mapping)) else v for k, v in found.items()}


def _defaults() -> dict[str, Any]:
    """The recipe's own values, so that an override of a plug-in's parameter finds the plug-in that
    is the default.
    """
    filled = Recipe.model_construct().model_dump(mode="json", exclude={"train"}, warnings=False)
    return {name: value for name, value in filled.items() if isinstance(value, (dict, list))}


def sections(schema: type[BaseModel] = Recipe) -> dict[str, Any]:
    """The keys of a schema that are sections themselves, each with those of its own."""
    found = {}
    for name, field in schema.model_fields.items():
        kinds = [
            k
            for k in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(k, type)
        ]
        inner = next((k for k in kinds if issubclass(k, Section)), None)
        if inner is not None and not str(field.annotation).startswith("tuple"):
            found[name] = sections(inner)
    return found
