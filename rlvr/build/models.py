"""Load the models of a recipe, each with what trains it or generates with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rlvr.build.binding import bind_plugin
from rlvr.config.checks import find_shard_obstacle
from rlvr.config.plugins import list_models, needs_weight_sync
from rlvr.config.schema import ModelConfig, OptimizerConfig, Recipe, Spec
from rlvr.data.chat_template import find_turn_ends
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.engines.base import Engine
from rlvr.engines.weight_check import WeightSyncCheck
from rlvr.errors import import_optional
from rlvr.models import loading, lora
from rlvr.models.locating import BUILT_IN, locate
from rlvr.models.policy import Policy
from rlvr.models.trainable import TrainableModel
from rlvr.models.value import ValueModel, value_head
from rlvr.rollouts.generate import Rollouts, skip_proof
from rlvr.training.learner import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer and the engine that generates with it."""

    policy: Policy
    rollouts: Rollouts


def check_model_folders(recipe: Recipe) -> None:
    """Refuse models whose folders are not there, before anything is read; raises UserError."""
    for where, name in list_models(recipe).items():
        if name not in BUILT_IN:
            locate(name, where)


def load_policy(recipe: Recipe, world: World = SINGLE_PROCESS) -> Loaded:
    """Return the recipe's model as a policy, and its engine with the same weights."""
    module, tokenizer, compute = _load_module(recipe.model)
    if recipe.rollout.turn_ends == "template":
        add_turn_ends(module, tokenizer)
    engine: Engine = bind_plugin("engine", recipe.rollout.engine)(module, tokenizer, compute)
    if recipe.model.lora:
        lora.add_lora(module, **recipe.model.lora.model_dump(), seed=recipe.run.seed)
    policy = Policy(
        module,
        compute,
        recipe.learn.tokens_per_pass,
        tokenizer,
        offload=recipe.model.offload,
        shard=_is_sharded(recipe, world, module.device),
    )
    if recipe.model.gradient_checkpointing:
        loading.checkpoint_layers(policy.module)
    policy.distribute(world)
    check = WeightSyncCheck(policy) if needs_weight_sync(recipe) else skip_proof
    rollouts = Rollouts(engine, tokenizer, check)
    rollouts.load(policy.weights(), version=0)
    return Loaded(policy, rollouts)


def add_turn_ends(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the token by which the chat template ends a turn end responses too.

    It goes into the configuration of generation, where every engine reads what ends a response, and
    which is exported with the model.
    """
    config: Any = module.generation_config
    if config is None:
        return
    ends = _list_ids(config.eos_token_id)
    end: Any = tokenizer.eos_token_id
    known = {*ends, end}
    new = [token for token in find_turn_ends(tokenizer) if token not in known]
    if new:
        config.eos_token_id = [*ends, *new]


def _list_ids(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return ids if isinstance(ids, list) else [ids]


def _is_sharded(recipe: Recipe, world: World, device: torch.device) -> bool:
    """Return whether the models are split over the processes; `auto` does so on GPUs where it can."""
    if world.size == 1 or recipe.model.shard == "none":
        return False
    if recipe.model.shard == "full":
        return True
    return device.type == "cuda" and find_shard_obstacle(recipe) is None


def load_engine(model: ModelConfig, engine: Spec) -> Rollouts:
    """Return an engine alone, for evaluation."""
    module, tokenizer, compute = _load_module(model)
    add_turn_ends(module, tokenizer)
    loaded: Engine = bind_plugin("engine", engine)(module, tokenizer, compute)
    weights = ((name, parameter.detach()) for name, parameter in module.named_parameters())
    loaded.load(weights, version=0)
    return Rollouts(loaded, tokenizer)


def _load_module(
    model: ModelConfig,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, torch.dtype]:
    """Return the model on its device, its tokenizer, and the dtype of its arithmetic."""
    device = loading.device_of(model.device)
    dtype: torch.dtype = getattr(torch, model.dtype)
    if device.type == "cpu":
        _steady_memory()
    module, tokenizer = loading.load(model.name, dtype)
    compute = loading.compute_dtype(model.compute, dtype, device)
    return _move(module, device), tokenizer, compute


def _move(module: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    # transformers decorates `to` in a way that hides its arguments from type checkers
    return module.to(device)  # type: ignore[arg-type]


def _steady_memory() -> None:
    """Keep the memory of a process on a CPU from moving up and down with every pass.

    What a pass frees stays with the process: to give it back and take it again is an eighth of an
    update. oneDNN's caches of primitives are capped at 128 entries: the default of 1,024, twice,
    grows by 20 MB a step, since it remembers how to multiply sizes that never come again.
    """
    with contextlib.suppress(AttributeError, TypeError):  # only glibc has it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large pieces come from the heap too
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink
    # read at the first product
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "128")


def load_value_model(recipe: Recipe, policy: Policy) -> ValueModel:
    """Return the critic's model with a fresh head.

    It is the policy's model as it begins, unless the recipe names another.
    """
    assert recipe.critic is not None
    compute = loading.compute_dtype(recipe.model.compute, policy.dtype, policy.device)
    name = recipe.critic.model or recipe.model.name
    module, tokenizer = loading.load(name, policy.dtype, "critic.model", with_head=False)
    loading.check_tokens(tokenizer, policy, name, "critic.model")
    body: PreTrainedModel = module.base_model.to(policy.device)  # type: ignore[assignment]
    head = value_head(
        body.config.hidden_size, policy.dtype, policy.device, recipe.run.seed, "critic"
    )
    value = ValueModel(
        body,
        head,
        compute,
        recipe.learn.tokens_per_pass,
        offload=recipe.model.offload,
        shard=policy.shard,
    )
    if recipe.model.gradient_checkpointing:
        loading.checkpoint_layers(body)
    value.distribute(policy.world)
    return value


def make_adamw(model: TrainableModel, options: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW over a model's master weights, with states in 8 bit where the recipe asks for it.

    Raises UserError where torchao is missing.
    """
    settings = {
        "lr": options.lr,
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }
    if options.states == "full":
        return torch.optim.AdamW(model.master, fused=True, **settings)
    low_memory = import_optional(
        "torchao.optim", "optimizer.states: 8bit needs the package torchao; pip install torchao"
    )
    return low_memory.AdamW8bit(model.master, **settings)


def load_reference(recipe: Recipe, policy: Policy) -> Reference:
    """Return the policy as it is now, frozen, in the compute dtype; with adapters the policy without them."""
    if recipe.model.lora and recipe.model.reference is None:
        return lora.WithoutAdapters(policy)
    compute = loading.compute_dtype(recipe.model.compute, policy.dtype, policy.device)
    name = recipe.model.reference or recipe.model.name
    module, tokenizer = loading.load(name, compute, "model.reference")
    loading.check_tokens(tokenizer, policy, name, "model.reference")
    reference = Policy(
        _move(module, policy.device),
        compute,
        policy.tokens_per_pass,
        tokenizer,
        shard=policy.shard,
    )
    reference.distribute(policy.world)
    return reference
