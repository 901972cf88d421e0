"""What a run will cost, before it starts: rollouts, tokens, and the memory of each process with
where it goes.

The terms are those of the parts themselves (Trained, Decoder, Policy), so that the peak of a
process on a CPU is met within 15 %; docs/scale.md has the comparison.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.config.checks import against_shards, needs_of
from rlvr.config.loader import load
from rlvr.config.schema import OptimizerConfig, Recipe
from rlvr.config.staging import stage_names, staged
from rlvr.errors import UserError
from rlvr.models.loading import BUILT_IN, compute_dtype, device_of, locate, quiet
from rlvr.resources import asset

GIB = 2**30


BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}


PROCESS = 0.4 * GIB  # Python with torch and transformers


# the logits of one chunk, and what comes of some of them (see policy.CHUNK_LOGITS)
HEAD = 3 * 2**26


# tokens, where a prompt may have at least so many: prompts are read only when the run starts
PROMPT = 64


# Hidden size, layers, heads, key heads, inner size, vocabulary and tied embeddings, by a pattern of
# the model's name.
FAMILIES: Mapping[str, list[Any]] = asset("build/families")


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that its memory depends on; `kv` is the width of all key heads."""

    parameters: int
    layers: int
    hidden: int
    kv: int
    inner: int
    vocabulary: int

    def activations(self, checkpointed: bool) -> int:
        """How many numbers a token leaves for the backward pass: in each layer fourteen of its
        hidden width (two norms, queries before and after rotation, attention, residuals), its keys
        and values, and four of its inner width.
        """
        layer = 14 * self.hidden + 2 * self.kv + 4 * self.inner
        return self.layers * self.hidden + layer if checkpointed else self.layers * layer


def shape_of(name: str) -> Shape | None:
    """From the model's configuration, or that of its family where it is not on this machine; None
    for a stranger.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = _config(name)
    if config is None:
        return None
    with quiet(), torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv = size * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    sizes = (
        config.num_hidden_layers,
        config.hidden_size,
        kv,
        config.intermediate_size,
        config.vocab_size,
    )
    return Shape(count, *sizes)


def _config(name: str) -> Any:
    from transformers import AutoConfig, LlamaConfig

    if name not in BUILT_IN:
        with contextlib.suppress(OSError, ValueError, UserError):
            return AutoConfig.from_pretrained(locate(name), local_files_only=True)
    found = next((sizes for family, sizes in FAMILIES.items() if re.search(family, name)), None)
    if found is None:
        return None
    hidden, layers, heads, keys, inner, vocabulary, tied = found
    named = {"num_attention_heads": heads, "num_key_value_heads": keys, "vocab_size": vocabulary}
    widths = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    return LlamaConfig(**named, **widths, tie_word_embeddings=tied, attention_bias="Qwen" in name)


def estimate(recipe: Recipe, processes: int = 1, limit: float | None = None) -> list[str]:
    """Lines that say what a run generates and what memory each of its processes takes.

    With `limit` (GiB for each process) a run that cannot fit raises UserError with the option that
    would make it fit.
    """
    lines = [
        _cost(name, part) for name, part in zip(stage_names(recipe), staged(recipe), strict=True)
    ]
    shape = shape_of(recipe.model.name)
    if shape is None:
        return [*lines, f"memory: unknown, since '{recipe.model.name}' is not on this machine"]
    parts = memory(recipe, shape, processes)
    total = sum(parts.values())
    if limit is not None and total > limit:
        cure = _cure(recipe, shape, processes, limit)
        raise UserError(
            f"model.name: a process needs about {total:.1f} GiB and has {limit:g}; {cure}"
        )
    told = ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
    many = f" in each of {processes} processes" if processes > 1 else ""
    return [
        *lines,
        f"memory{many}: about {total:.1f} GiB for {shape.parameters / 1e6:,.0f}M parameters ({told})",
    ]


def memory(recipe: Recipe, shape: Shape, processes: int = 1) -> dict[str, float]:
    """The GiB of one process at its peak, which is that of an update or of generation."""
    device = device_of(recipe.model.device)
    master, on_gpu = BYTES[recipe.model.dtype], device.type != "cpu" or processes > 1
    compute = _compute(recipe, on_gpu)
    sharded = processes > 1 and recipe.model.shard != "none" and against_shards(recipe) is None
    split = processes if sharded else 1
    trained = 0 if recipe.model.lora else shape.parameters  # adapters are a small part of a model
    engine = recipe.rollout.engine.params
    own = 0 if engine.get("engines") else 1 / engine.get("tensor_parallel", 1)
    held = {"process": PROCESS, "engine": own * compute * shape.parameters}
    copies = (
        compute * shape.parameters
        if recipe.model.lora or (master != compute and not sharded)
        else 0
    )
    held["policy"] = (master * trained) / split + copies
    held["AdamW"] = _states(recipe.optimizer, master) * trained / split
    if recipe.critic:
        held["critic"] = (
            master + _states(recipe.critic.optimizer, master)
        ) * trained / split + copies
    if any("ref" in needs_of(part) for part in staged(recipe)) and (
        recipe.model.reference or not recipe.model.lora
    ):
        held["reference"] = compute * shape.parameters / split
    if recipe.model.offload and on_gpu:
        held |= {"AdamW": 0.0, "policy": compute * shape.parameters / split}
    gradients = master * trained / split
    left, passes = _pass(recipe, shape, compute, processes)
    # The activations of a pass are freed while its gradients come; those of an earlier pass are
    # there from the start.
    updating = {
        "activations": left,
        "gradients": gradients if passes > 1 else max(0.0, gradients - left),
    }
    generating = {"keys and values": _cache(recipe, shape, compute, processes)}
    # The weights once more, as the processor's products read them (see decode).
    if recipe.rollout.engine.name == "local" and compute <= 4 and not on_gpu:
        generating["engine's layout"] = compute * shape.parameters
    working = max(updating, generating, key=lambda part: sum(part.values()))
    return {name: size / GIB for name, size in (held | working).items() if size}


def _compute(recipe: Recipe, on_gpu: bool) -> int:
    """Bytes of a number in arithmetic; what is planned for several processes is planned for GPUs."""
    import torch

    if recipe.model.compute == "auto" and on_gpu:
        return min(2, BYTES[recipe.model.dtype])
    dtype = compute_dtype(
        recipe.model.compute, getattr(torch, recipe.model.dtype), device_of(recipe.model.device)
    )
    return dtype.itemsize


def _states(options: OptimizerConfig, master: int) -> float:
    return 2 * master if options.states == "full" else 2


def _pass(recipe: Recipe, shape: Shape, compute: int, processes: int) -> tuple[float, float]:
    """The bytes that one forward pass leaves for the backward one, and how many passes an update
    takes.
    """
    ask = recipe.rollout
    samples = ask.problems * ask.samples / recipe.learn.parts(ask) / processes
    tokens = samples / ask.samples * PROMPT + samples * ask.max_tokens
    one = min(tokens, max(recipe.learn.tokens_per_pass, PROMPT + ask.max_tokens))
    left = one * shape.activations(recipe.model.gradient_checkpointing) * compute
    return left + HEAD + 4 * shape.vocabulary * shape.hidden, tokens / one


def _cache(recipe: Recipe, shape: Shape, compute: int, processes: int) -> float:
    """Keys and values of a wave of responses, and of the part that is copied when the finished
    leave.
    """
    ask = recipe.rollout
    rows = min(ask.problems * ask.samples / processes, ask.engine.params.get("max_sequences", 128))
    return 1.75 * rows * (PROMPT + ask.max_tokens) * 2 * shape.layers * shape.kv * compute


def _cure(recipe: Recipe, shape: Shape, processes: int, limit: float) -> str:
    """The one option with which a process fits, else the first few together."""
    base = recipe.model_dump(mode="json")
    options = ["model.gradient_checkpointing=true", "learn.tokens_per_pass=512", "model.shard=auto"]
    options += ["rollout.engine.max_sequences=8"] if recipe.rollout.engine.name == "local" else []
    options += ["model.offload=true"] if processes > 1 else ["model.lora={rank: 32}"]
    for chosen in [
        *([option] for option in options),
        *(options[:n] for n in range(2, len(options) + 1)),
    ]:
        # an option that does not go with the rest of the recipe
        with contextlib.suppress(UserError):
            if sum(memory(load(base, chosen), shape, processes).values()) <= limit:
                return f"it fits with {shlex.join(chosen)}"
    return "give it more processes with --nproc, or a smaller model"


def _cost(name: str, recipe: Recipe) -> str:
    ask, steps = recipe.rollout, recipe.run.steps
    rollouts = ask.problems * ask.samples
    updates = recipe.learn.epochs * recipe.learn.parts(ask)
    return (
        f"cost of {name}: {steps} steps of {ask.problems} problems x {ask.samples} samples = {steps * rollouts:,}"
        f" rollouts, at most {steps * rollouts * ask.max_tokens:,} response tokens; {updates} updates a step"
    )
