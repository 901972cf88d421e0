"""Recipes: strict YAML to frozen sections that mirror the flow of a step; imports nothing heavy.

Every mistake is refused here, before a model or a data set is touched, in one line that names the key and the fix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from rlvr import registry
from rlvr.errors import UserError, suggest

Decay = Annotated[float, Field(ge=0, lt=1)]
LISTS = ("train", "reward", "filter", "trackers")  # sections where one row may stand for a list of one


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
            return {"name": value["name"], "params": {k: v for k, v in value.items() if k != "name"}}
        return value

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}


class Run(Section):
    """`steps` counts updates by reinforcement; a cold start adds its own before them."""

    name: str | None = None
    folder: str = "runs"
    seed: int = 0
    steps: int = Field(default=100, ge=0)
    threads: int | None = Field(default=None, ge=1)


class Model(Section):
    """`dtype` holds the master weights and optimiser, `compute` does the arithmetic; `auto` takes bf16 where it is
    fast."""

    name: str = "smollm2-135m-instruct"
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    compute: Literal["auto", "float64", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = False


class Source(Section):
    """Where problems come from, how they are asked and verified, and how often they are drawn."""

    data: Spec
    task: Spec | None = None
    prompt: Spec = Spec(name="chat")
    weight: float = Field(default=1.0, gt=0)
    select: Spec = Spec(name="all")


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
    """What a failure of the verifier itself counts as, the share of failures at which the run stops, what becomes of
    golds that cannot be compared by meaning, and on which share of problems an echo may happen to be right."""

    error: Literal["mask", "wrong"] = "mask"
    timeout: Literal["mask", "wrong"] = "wrong"
    stop_above: float = Field(default=0.2, gt=0, le=1)
    gate: Literal["mark", "drop", "off"] = "mark"
    echo_limit: float = Field(default=0.15, ge=0, le=1)


class Optimizer(Section):
    lr: float = Field(default=1e-6, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Spec = Spec(name="constant")
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=1.0, gt=0)


class Loss(Section):
    """The terms are summed per token and reduced with weights that are fixed before the batch is split; a term may name
    a `reduction` of its own. `correction` weighs the policy terms against the gap between engine and learner."""

    terms: tuple[Spec, ...] = Field(default=(Spec(name="clip"),), min_length=1)
    reduction: Spec = Spec(name="token")
    correction: Spec = Spec(name="none")


class RewardKl(Section):
    """A penalty in the reward of every token, `coef` times an estimate of the KL to the reference; with a `target` the
    coefficient adapts to it over `horizon` samples. `clip` bounds the reward before the penalty."""

    coef: float = Field(default=..., ge=0)
    estimator: Literal["k1", "abs", "k2", "k3"] = "k1"
    clamp: float | None = Field(default=None, gt=0)
    clip: float | None = Field(default=None, gt=0)
    target: float | None = Field(default=None, gt=0)
    horizon: int = Field(default=10_000, ge=1)


class Learn(Section):
    """`tokens_per_pass` bounds one forward pass and never changes the result."""

    epochs: int = Field(default=1, ge=1)
    minibatches: int = Field(default=1, ge=1)
    tokens_per_pass: int = Field(default=2048, ge=1)


class ColdStart(Section):
    """Supervised steps on the solutions of the training sources, before reinforcement begins."""

    steps: int = Field(default=..., ge=1)
    problems: int = Field(default=16, ge=1)
    optimizer: Optimizer = Optimizer(lr=1e-4)


class EvalSet(Section):
    """A held-out set, or where `data` is left out the benchmark of that name; the summary leads with the first one."""

    name: str
    data: Spec | None = None
    task: Spec | None = None
    prompt: Spec = Spec(name="chat")


class Eval(Section):
    """When and how the held-out sets are asked; `every` 0 evaluates before and after only."""

    sets: tuple[EvalSet, ...] = ()
    every: int = Field(default=0, ge=0)
    samples: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)


class Checkpoint(Section):
    """A checkpoint every so many steps (0: only at the end and on Ctrl-C), of which the last `keep` stay."""

    every: int = Field(default=0, ge=0)
    keep: int = Field(default=1, ge=1)


class Recipe(Section):
    """A whole training run; see `rlvr show` for every key and its value."""

    run: Run = Run()
    model: Model = Model()
    cold_start: ColdStart | None = None
    train: tuple[Source, ...] = Field(default=..., min_length=1)
    rollout: Rollout = Rollout()
    verify: Verify = Verify()
    reward: tuple[Spec, ...] = (Spec(name="correct"),)
    reward_kl: RewardKl | None = None
    gather: Spec = Spec(name="once")
    filter: tuple[Spec, ...] = ()
    advantage: Spec = Spec(name="grpo")
    loss: Loss = Loss()
    learn: Learn = Learn()
    optimizer: Optimizer = Optimizer()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    trackers: tuple[Spec, ...] = ()


def own_reduction(term: Spec, where: str) -> Spec | None:
    """The reduction that a loss term names for itself; raises UserError."""
    if "reduction" not in term.params:
        return None
    try:
        return Spec.model_validate(term.params["reduction"])
    except ValidationError as error:
        raise UserError(registry.explain(error, f"{where}.reduction")) from None


def needs_of(recipe: Recipe) -> frozenset[str]:
    """What the advantage, the reward and the loss need beside the policy: any of `ref`, `old`, `value`, `greedy`."""
    parts = [("advantage", recipe.advantage), ("correction", recipe.loss.correction)]
    parts += [("loss", term) for term in recipe.loss.terms]
    found = frozenset[str]().union(*(registry.find(kind, spec.name, kind).needs for kind, spec in parts))
    return found | {"ref", "old"} if recipe.reward_kl else found


Pair = tuple[str, Any]


def load(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str | Pair] = ()) -> Recipe:
    """Read, override and check a recipe: a YAML file, the name of a shipped recipe, or a mapping.

    Overrides are dotted keys: `["rollout.samples=4"]` or `{"rollout.samples": 4}`. Raises UserError.
    """
    where, tree = _read(source)
    tree = _listed(tree)
    for key, value in pairs(overrides):
        _assign(tree, key, value)
    tree = _listed(tree)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {registry.explain(error, '', Recipe)}") from None
    try:
        sets = tuple(eval_set(row) for row in recipe.eval.sets)
        recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"sets": sets})})
        check(recipe)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": recipe.run.name or where})})


def eval_set(row: EvalSet | str | Mapping[str, Any]) -> EvalSet:
    """A held-out set from a row, or from the name of a registered benchmark; raises UserError."""
    try:
        row = row if isinstance(row, EvalSet) else EvalSet.model_validate(row)
    except ValidationError as error:
        raise UserError(registry.explain(error, "benchmark", EvalSet)) from None
    return row if row.data else registry.find("benchmark", row.name, "eval.sets").bind({}, row.name)()


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, which loads back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    files = (resources.files("rlvr") / "recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def check(recipe: Recipe) -> None:
    """Everything that a schema of single keys cannot see; raises UserError."""
    for where, kind, spec in _specs(recipe):
        params = dict(spec.params)
        weight = params.pop("weight", 1.0) if kind == "reward" else 1.0
        if kind == "loss":
            params.pop("reduction", None)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise UserError(f"{where}.weight: should be a number, not {weight!r}")
        registry.find(kind, spec.name, f"{where}.name").check(params, where)
    names = [held_out.name for held_out in recipe.eval.sets]
    if len(set(names)) < len(names):
        raise UserError("eval.sets: two sets have the same name; give each its own")
    _check_batches(recipe)
    if "value" in needs_of(recipe):
        raise UserError(
            "advantage: needs a critic, and this recipe has none; take an estimator without one, such as 'grpo'"
        )
    if "greedy" in needs_of(recipe):
        raise UserError(
            "advantage: needs the reward of a greedy answer, which rollouts do not sample yet; take 'rloo' or 'grpo'"
        )


def _check_batches(recipe: Recipe) -> None:
    samples = recipe.rollout.problems * recipe.rollout.samples
    if samples % recipe.learn.minibatches:
        raise UserError(
            f"learn.minibatches: {recipe.learn.minibatches} does not divide the {samples} samples of a step"
            f" (rollout.problems x rollout.samples)"
        )
    truncated = recipe.rollout.top_p < 1 or recipe.rollout.top_k > 0
    parts = [("correction", recipe.loss.correction), *(("loss", term) for term in recipe.loss.terms)]
    corrected = [spec.name for kind, spec in parts if "rollout" in registry.find(kind, spec.name, kind).needs]
    if truncated and corrected:
        raise UserError(
            f"loss.terms: importance correction ('{corrected[0]}') is biased together with rollout.top_p < 1 or"
            f" rollout.top_k > 0; set top_p: 1.0 and top_k: 0"
        )


def _specs(recipe: Recipe) -> list[tuple[str, str, Spec]]:
    found: list[tuple[str, str, Spec]] = []
    for name, rows in (("train", recipe.train), ("eval.sets", recipe.eval.sets)):
        for i, row in enumerate(rows):
            kinds = ("data", "task", "prompt", "select") if isinstance(row, Source) else ("data", "task", "prompt")
            found += [(f"{name}.{i}.{kind}", kind, getattr(row, kind)) for kind in kinds if getattr(row, kind)]
    found += [(f"reward.{i}", "reward", spec) for i, spec in enumerate(recipe.reward)]
    found += [(f"filter.{i}", "filter", spec) for i, spec in enumerate(recipe.filter)]
    for i, spec in enumerate(recipe.loss.terms):
        own = own_reduction(spec, f"loss.terms.{i}")
        found += [
            (f"loss.terms.{i}", "loss", spec),
            *([(f"loss.terms.{i}.reduction", "reduction", own)] if own else []),
        ]
    found += [(f"trackers.{i}", "tracker", spec) for i, spec in enumerate(recipe.trackers)]
    found += [
        ("rollout.engine", "engine", recipe.rollout.engine),
        ("loss.reduction", "reduction", recipe.loss.reduction),
        ("loss.correction", "correction", recipe.loss.correction),
    ]
    found += [(kind, kind, getattr(recipe, kind)) for kind in ("gather", "advantage")]
    optimizers = {"optimizer": recipe.optimizer}
    if recipe.cold_start:
        optimizers["cold_start.optimizer"] = recipe.cold_start.optimizer
    return [*found, *((f"{at}.schedule", "schedule", options.schedule) for at, options in optimizers.items())]


def _listed(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: [v] if k in LISTS and isinstance(v, (str, Mapping)) else v for k, v in tree.items()}


def _read(source: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(source, Mapping):
        return "recipe", _plain(dict(source))
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise UserError(f"{source}: no such recipe file")
        try:
            return path.stem, _parse(path.read_text(encoding="utf-8"), str(source))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read as UTF-8 text: {error}") from None
    if str(source) not in shipped():
        raise UserError(f"unknown recipe '{source}'{suggest(str(source), shipped())}; or give the path of a YAML file")
    return str(source), _parse((resources.files("rlvr") / "recipes" / f"{source}.yaml").read_text("utf-8"), str(source))


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a recipe is a mapping of sections ({', '.join(Recipe.model_fields)})")
    return tree


def pairs(overrides: Mapping[str, Any] | Sequence[str | Pair]) -> list[Pair]:
    """Overrides as pairs of a dotted key and a value; raises UserError for a text that is not key=value."""
    given = list(overrides.items()) if isinstance(overrides, Mapping) else overrides
    return [_pair(one) if isinstance(one, str) else (one[0], _plain(one[1])) for one in given]


def _pair(text: str) -> Pair:
    key, found, value = text.partition("=")
    if not key or not found:
        raise UserError(f"'{text}': an override is key=value, such as rollout.samples=4")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"'{text}': the value is not valid YAML") from None


def _plain(value: Any) -> Any:
    """A value from Python as YAML would have given it: tuples as lists, paths as texts."""
    return json.loads(json.dumps(value, default=str))


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a bare string on the way is the name of a plug-in, a number the row of a list."""
    here: Any = tree
    default: Any = _defaults()
    *path, last = key.split(".")
    for i, part in enumerate(path):
        put: Callable[[Any], None]
        default = default.get(part) if isinstance(default, dict) else None
        here, put = _descend(here, part, key, ".".join(path[:i]), default)
        if isinstance(here, str):
            here = {"name": here}
            put(here)
    if isinstance(here, list):
        _row(here, last, key)
        here[int(last)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise UserError(f"{key}: '{'.'.join(path)}' is a plain value and has no key '{last}'")


def _defaults() -> dict[str, Any]:
    """The recipe's own values, so that an override of a plug-in's parameter finds the plug-in that is the default."""
    filled = Recipe.model_construct().model_dump(mode="json", exclude={"train"}, warnings=False)
    return {name: value for name, value in filled.items() if isinstance(value, (dict, list))}


def _descend(here: Any, part: str, key: str, done: str, default: Any) -> tuple[Any, Callable[[Any], None]]:
    if isinstance(here, list):
        row = _row(here, part, key)
        return here[row], lambda value: here.__setitem__(row, value)
    if not isinstance(here, dict):
        raise UserError(f"{key}: '{done}' is a plain value and has no key '{part}'")
    if here.get(part) is None:
        here[part] = {} if default is None else default
    return here[part], lambda value: here.__setitem__(part, value)


def _row(rows: list[Any], part: str, key: str) -> int:
    if not (part.isascii() and part.isdigit()) or int(part) >= len(rows):
        raise UserError(f"{key}: '{part}' should be the number of a row, 0 to {len(rows) - 1}")
    return int(part)
