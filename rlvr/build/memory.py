"""The memory that one process of a run takes at its peak, part by part.

The terms are those of the parts themselves (TrainableModel, Decoder, Policy), so that the peak of a
process on a CPU is met within 15 %; docs/scale.md has the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlvr import registry
from rlvr.build.model_shape import Shape
from rlvr.config.checks import find_shard_obstacle
from rlvr.config.plugins import collect_needs
from rlvr.config.schema import OptimizerConfig, Recipe
from rlvr.config.staging import split_stages
from rlvr.models.devices import Device, choose_device, count_gpus, has_fast_bf16

GIB = 2**30
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}
PROCESS = 0.4 * GIB  # Python with torch and transformers
HEAD = (
    3 * 2**26
)  # the logits of one chunk, and what comes of some of them (see policy.CHUNK_LOGITS)
# Tokens of a prompt, where it may have at least so many: prompts are read only when the run starts.
PROMPT = 64
# What an engine that does not have these parameters does.
ENGINE_DEFAULTS = {"engines": 0, "tensor_parallel": 1, "max_sequences": 128}


def plan_memory(recipe: Recipe, shape: Shape, processes: int = 1) -> dict[str, float]:
    """Return the GiB of one process at its peak, which is that of an update or of generation."""
    plan = _plan(recipe, shape, processes)
    updating = plan.list_updating()
    generating = plan.list_generating()
    working = updating
    if sum(generating.values()) > sum(updating.values()):
        working = generating
    parts = plan.list_held() | working
    return {name: size / GIB for name, size in parts.items() if size}


def _plan(recipe: Recipe, shape: Shape, processes: int) -> _Plan:
    on_gpu = _choose_device(recipe.model.device) == "cuda" or processes > 1
    sharded = processes > 1 and recipe.model.shard != "none" and find_shard_obstacle(recipe) is None
    engine = recipe.rollout.engine
    parameters = registry.find("engine", engine.name, "rollout.engine").check(
        engine.params, "rollout.engine"
    )
    return _Plan(
        recipe=recipe,
        shape=shape,
        processes=processes,
        on_gpu=on_gpu,
        shards=processes if sharded else 1,
        engine=ENGINE_DEFAULTS | parameters,
        master_bytes=BYTES[recipe.model.dtype],
        compute_bytes=_choose_compute_bytes(recipe, on_gpu),
    )


def _choose_device(wanted: str) -> Device:
    """Return the device of this machine that a recipe would use; raises UserError where it has none."""
    gpus = 0 if wanted == "cpu" else count_gpus()
    return choose_device(wanted, gpus)


def _choose_compute_bytes(recipe: Recipe, on_gpu: bool) -> int:
    """Return the bytes of a number in arithmetic; what is planned for several processes is planned for GPUs."""
    master = recipe.model.dtype
    if recipe.model.compute != "auto":
        return BYTES[recipe.model.compute]
    if on_gpu:
        return min(2, BYTES[master])
    if master == "float32" and has_fast_bf16():
        return 2
    return BYTES[master]


@dataclass(frozen=True, slots=True)
class _Plan:
    """One process of a run, and the bytes of what it holds."""

    recipe: Recipe
    shape: Shape
    processes: int
    on_gpu: bool
    shards: int  # processes over which the models are split, 1 where each holds them all
    engine: Mapping[str, int]
    master_bytes: int
    compute_bytes: int

    @property
    def weights(self) -> int:
        """All weights of a model in the compute dtype."""
        return self.compute_bytes * self.shape.parameters

    @property
    def trained(self) -> int:
        """The parameters that are trained; adapters are a small part of a model."""
        return 0 if self.recipe.model.lora else self.shape.parameters

    @property
    def compute_copy(self) -> int:
        """The weights that stand beside the master weights; sharded ones are cast when they are gathered."""
        if self.recipe.model.lora:
            return self.weights
        if self.master_bytes != self.compute_bytes and self.shards == 1:
            return self.weights
        return 0

    def list_held(self) -> dict[str, float]:
        """Return what is there at all times."""
        held: dict[str, float] = {"process": PROCESS, "engine": self._engine_weights()}
        held["policy"] = (self.master_bytes * self.trained) / self.shards + self.compute_copy
        held["AdamW"] = self._moments(self.recipe.optimizer) * self.trained / self.shards
        if self.recipe.critic:
            numbers = self.master_bytes + self._moments(self.recipe.critic.optimizer)
            held["critic"] = numbers * self.trained / self.shards + self.compute_copy
        if self._has_reference():
            held["reference"] = self.weights / self.shards
        if self.recipe.model.offload and self.on_gpu:
            held["AdamW"] = 0.0
            held["policy"] = self.weights / self.shards
        return held

    def list_updating(self) -> dict[str, float]:
        """Return what an update adds.

        The activations of a pass are freed while its gradients come; those of an earlier pass are
        there from the start.
        """
        tokens = self._count_update_tokens()
        asked = self.recipe.rollout
        longest = PROMPT + asked.max_tokens
        tokens_in_pass = min(tokens, max(self.recipe.learn.tokens_per_pass, longest))
        numbers = self.shape.count_activations(self.recipe.model.gradient_checkpointing)
        activations = tokens_in_pass * numbers * self.compute_bytes
        activations += HEAD + 4 * self.shape.vocabulary * self.shape.hidden
        gradients = self.master_bytes * self.trained / self.shards
        if tokens <= tokens_in_pass:
            gradients = max(0.0, gradients - activations)
        return {"activations": activations, "gradients": gradients}

    def list_generating(self) -> dict[str, float]:
        """Return what generation adds."""
        parts = {"keys and values": self._kv_cache()}
        # The weights once more, as the processor's products read them (see decode).
        local = self.recipe.rollout.engine.name == "local"
        if local and self.compute_bytes <= 4 and not self.on_gpu:
            parts["engine's layout"] = self.weights
        return parts

    def _engine_weights(self) -> float:
        """The engine's share of the weights: none where engines live in processes of their own."""
        if self.engine["engines"]:
            return 0.0
        return 1 / self.engine["tensor_parallel"] * self.compute_bytes * self.shape.parameters

    def _moments(self, options: OptimizerConfig) -> int:
        """Return the bytes of AdamW's two moments of a parameter."""
        return 2 * self.master_bytes if options.states == "full" else 2

    def _has_reference(self) -> bool:
        """Return whether a second model is held; with adapters the policy without them is the reference."""
        if self.recipe.model.lora and not self.recipe.model.reference:
            return False
        return any("ref" in collect_needs(part) for part in split_stages(self.recipe))

    def _count_update_tokens(self) -> float:
        asked = self.recipe.rollout
        minibatches = self.recipe.learn.count_minibatches(asked)
        samples = asked.problems * asked.samples / minibatches / self.processes
        return samples / asked.samples * PROMPT + samples * asked.max_tokens

    def _kv_cache(self) -> float:
        """Return keys and values of a wave of responses, and of the part copied when the finished leave."""
        asked = self.recipe.rollout
        rows = min(asked.problems * asked.samples / self.processes, self.engine["max_sequences"])
        tokens = 1.75 * rows * (PROMPT + asked.max_tokens)
        return tokens * 2 * self.shape.layers * self.shape.kv * self.compute_bytes
