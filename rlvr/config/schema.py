"""The sections of a recipe, frozen and strict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    model_serializer,
    model_validator,
)

from rlvr.errors import UserError
from rlvr.registry import Count, Share

PositiveShare = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A mapping of known keys; an unknown one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        """Read a bare string as the name of the section, where it has one."""
        if isinstance(value, str) and "name" in cls.model_fields:
            return {"name": value}
        return value


class Spec(BaseModel):
    """A plug-in with its parameters; in a recipe a bare string equals `{name: …}`."""

    model_config = ConfigDict(frozen=True)
    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        """Read `name`, `{name: …, key: …}` and `{name: …, params: {key: …}}` alike."""
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, Mapping):
            return value
        if "name" not in value:
            raise ValueError("should be a name or a mapping with the key 'name'")
        if set(value) == {"name", "params"}:
            return value
        params = {key: entry for key, entry in value.items() if key != "name"}
        return {"name": value["name"], "params": params}

    @model_serializer
    def _write_flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}

    def without(self, key: str) -> Spec:
        """Return the plug-in without a parameter that is not its own."""
        params = {name: value for name, value in self.params.items() if name != key}
        return Spec(name=self.name, params=params)


class RunConfig(Section):
    """`steps` counts updates by reinforcement; a cold start adds its own before them."""

    name: str | None = None
    folder: str = "runs"
    seed: int = 0
    steps: NonNegativeInt = 100
    threads: Count | None = None


class LoraConfig(Section):
    """Adapters of that rank on the named layers; the rest of the model stays as it is (LoRA, Hu et
    al., 2021).
    """

    rank: Count = 16
    alpha: Count = 32
    targets: str | tuple[str, ...] = "all-linear"


class ModelConfig(Section):
    """`dtype` holds the master weights and optimiser, `compute` does the arithmetic, `auto` in bf16
    where that is fast. `name` may be another run's folder. `reference` is the policy before training
    unless it names a model. `offload` keeps master weights and optimiser in the memory of the CPU.
    `shard` splits policy, critic and reference over the processes (FSDP2), `auto` on GPUs where
    nothing is against it.
    """

    name: str = "smollm2-135m-instruct"
    reference: str | None = None
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    compute: Literal["auto", "float64", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    offload: bool = False
    shard: Literal["auto", "none", "full"] = "auto"


class AdaptiveConfig(Section):
    """A problem whose accuracy at its last visit was not between the bounds is passed over the next
    `cooldown` times.
    """

    low: Share = 0.0
    high: Share = 1.0
    cooldown: Count = 1


class SourceConfig(Section):
    """Where problems come from, how they are asked and verified, and how often they are drawn."""

    data: Spec
    task: Spec | None = None
    prompt: Spec = Spec(name="chat")
    weight: PositiveFloat = 1.0
    select: Spec = Spec(name="all")
    order: Literal["shuffled", "given"] = "shuffled"
    adaptive: AdaptiveConfig | None = None


class RolloutConfig(Section):
    """`problems` a step times `samples` each; `score_temperature` 1.0 scores as SimpleRL v0 did. `bos`
    says whether a prompt begins with the token that begins a text: `auto` as the tokenizer would
    for plain prompts and as the chat template says, `add` always, `none` never. Responses end at
    the end-of-text tokens of the model, with `turn_ends: template` also at the token by which the
    chat template ends a turn.
    """

    engine: Spec = Spec(name="local")
    problems: Count = 8
    samples: Count = 8
    max_tokens: Count = 256
    max_prompt_tokens: Count = 1024
    temperature: PositiveFloat = 1.0
    score_temperature: PositiveFloat | None = None
    top_p: PositiveShare = 1.0
    top_k: NonNegativeInt = 0
    stop: tuple[str, ...] = ()
    bos: Literal["auto", "add", "none"] = "auto"
    turn_ends: Literal["template", "model"] = "template"

    @property
    def is_truncated(self) -> bool:
        """Whether tokens are drawn from a part of the vocabulary."""
        return self.top_p < 1 or self.top_k > 0


class VerifyConfig(Section):
    """What a failure of the verifier itself counts as, the share of failures at which the run
    stops, what becomes of golds that cannot be compared by meaning, on which share of problems
    an echo may happen to be right, and for how many seconds a verifier of a user's file may work
    on one response (null: for ever).
    """

    error: Literal["mask", "wrong"] = "mask"
    timeout: Literal["mask", "wrong"] = "wrong"
    stop_above: PositiveShare = 0.2
    gate: Literal["mark", "drop", "off"] = "mark"
    echo_limit: Share = 0.15
    time_limit: PositiveFloat | None = 600.0


class OptimizerConfig(Section):
    """AdamW; `states` 8bit needs torchao."""

    lr: NonNegativeFloat = 1e-6
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    schedule: Spec = Spec(name="constant")
    warmup: NonNegativeInt = 0
    clip: PositiveFloat | None = 1.0
    states: Literal["full", "8bit"] = "full"


class CriticConfig(Section):
    """The value model of PPO: a full model of its own (`model`, or as the policy begins) with its
    own optimiser. Its values are clipped to +-`clip` of the old ones. The first `warmup` steps train
    it alone, before the policy moves. `lam` is the lambda of its target where that is not the
    estimator's (VAPO: 1).
    """

    model: str | None = None
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5)
    clip: PositiveFloat | None = 0.5
    reduction: Spec = Spec(name="token")
    warmup: NonNegativeInt = 0
    lam: Share | None = None


class LossConfig(Section):
    """The terms are summed per token and reduced with weights that are fixed before the batch is
    split. A term may name a `reduction` of its own. `correction` weighs the policy terms against the
    gap between engine and learner. It is `importance` where the recipe names none and the engine
    holds weights of its own.
    """

    terms: tuple[Spec, ...] = Field(default=(Spec(name="clip"),), min_length=1)
    reduction: Spec = Spec(name="token")
    correction: Spec = Spec(name="none")


class RewardKlConfig(Section):
    """A penalty in the reward of every token, `coef` times an estimate of the KL to the reference.
    With a `target` the coefficient adapts to it over `horizon` samples. `clip` bounds the reward
    before the penalty.
    """

    coef: NonNegativeFloat
    estimator: Literal["k1", "abs", "k2", "k3"] = "k1"
    clamp: PositiveFloat | None = None
    clip: PositiveFloat | None = None
    target: PositiveFloat | None = None
    horizon: Count = 10_000


class LearnConfig(Section):
    """A mini-batch is a share of the step's samples, so many of its samples, or so many problems
    with all theirs; `tokens_per_pass` bounds one forward pass and never changes the result.
    """

    epochs: Count = 1
    minibatches: Count | None = None
    minibatch_samples: Count | None = None
    minibatch_prompts: Count | None = None
    tokens_per_pass: Count = 2048

    def count_minibatches(self, rollout: RolloutConfig) -> int:
        """Return how many mini-batches a step has; raises UserError where they do not come out even."""
        given = [key for key in MINIBATCH if getattr(self, key) is not None]
        if len(given) > 1:
            raise UserError(f"learn: {' and '.join(given)} say the same thing; keep one of them")
        if not given:
            return 1
        key = given[0]
        size: int = getattr(self, key)
        total = rollout.problems * rollout.samples
        unit = "samples (problems x samples)"
        if key == "minibatch_prompts":
            total = rollout.problems
            unit = "problems (rollout.problems)"
        if total % size:
            raise UserError(f"learn.{key}: {size} does not divide the {total} {unit} of a step")
        return size if key == "minibatches" else total // size


# Three ways to say how large a mini-batch is.
MINIBATCH = ("minibatches", "minibatch_samples", "minibatch_prompts")


class ColdStartConfig(Section):
    """Supervised steps on the solutions of the training sources, before reinforcement begins."""

    steps: Count
    problems: Count = 16
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4)


class StageConfig(BaseModel):
    """A stretch of `steps` with keys of its own: any of the recipe's but those of the model and of
    the run as a whole, as sections or dotted. Optimiser and counters go on; with `reference:
    renewed` the KL is from here on to the policy as it enters.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    name: str | None = None
    steps: Count
    reference: Literal["kept", "renewed"] = "kept"


class EvalSetConfig(Section):
    """A held-out set, or where `data` is left out the benchmark of that name with the keys that are
    given; the summary leads with the first one. How it is sampled goes before what `eval` says;
    `limit` asks its first problems only.
    """

    name: str
    data: Spec | None = None
    task: Spec | None = None
    prompt: Spec = Spec(name="chat")
    limit: Count | None = None
    samples: Count | None = None
    temperature: NonNegativeFloat | None = None
    top_p: PositiveShare | None = None
    max_tokens: Count | None = None
    stop: tuple[str, ...] = ()


class EvalConfig(Section):
    """When and how the held-out sets are asked; `every` 0 evaluates before and after only.
    `second_verifier` counts where math-verify judges otherwise. With `quantised` an engine that has
    quantised weights (`rollout.engine.weights`) answers by them here as well.
    """

    sets: tuple[EvalSetConfig, ...] = ()
    every: NonNegativeInt = 0
    samples: Count = 1
    temperature: NonNegativeFloat = 0.0
    max_tokens: Count | None = None
    second_verifier: bool = True
    quantised: bool = False


class CheckpointConfig(Section):
    """A checkpoint every so many steps (0: only at the end and on Ctrl-C), of which the last `keep`
    stay, and that of the step with the highest pass@1 on the held-out set `best`. In the
    `background` a thread writes a copy while the next steps are made (None: where there is a GPU,
    since on a processor the copy takes memory that training needs).
    """

    every: NonNegativeInt = 0
    keep: Count = 1
    best: str | None = None
    background: bool | None = None


class Recipe(Section):
    """A whole training run; see `rlvr show` for every key and its value.

    `reward_timeout`: for how many seconds a reward of a user's file may work on the answers to one
    problem; null for ever.
    """

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    cold_start: ColdStartConfig | None = None
    train: tuple[SourceConfig, ...] = Field(default=..., min_length=1)
    rollout: RolloutConfig = RolloutConfig()
    verify: VerifyConfig = VerifyConfig()
    reward: tuple[Spec, ...] = (Spec(name="correct"),)
    reward_scale: Literal["none", "running"] = "none"
    reward_kl: RewardKlConfig | None = None
    reward_timeout: PositiveFloat | None = 600.0
    gather: Spec = Spec(name="once")
    filter: tuple[Spec, ...] = ()
    advantage: Spec = Spec(name="grpo")
    loss: LossConfig = LossConfig()
    learn: LearnConfig = LearnConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig | None = None
    stages: tuple[StageConfig, ...] = ()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    trackers: tuple[Spec, ...] = ()
