"""Load the models of a recipe and the engine that generates with them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from typing import Any

import torch

from rlvr.build.binding import bind_plugin
from rlvr.config import checks, plugins
from rlvr.config.plugins import needs_weight_sync
from rlvr.config.schema import ModelConfig, OptimizerConfig, Recipe, Spec
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.engines.base import Engine
from rlvr.engines.weight_check import WeightSyncCheck
from rlvr.errors import import_optional
from rlvr.models import loading, locating, lora
from rlvr.models.policy import Policy
from rlvr.models.trainable import TrainableModel
from rlvr.models.value import ValueModel, value_head
from rlvr.rollouts.generate import Rollouts, no_check
from rlvr.training.learner import Reference


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer and the engine that generates with it."""

    policy: Policy
    rollouts: Rollouts


def check_model_folders(recipe: Recipe) -> None:
    """Models whose folders are not there are refused before anything is read."""
    for where, name in plugins.list_models(recipe).items():
        if name not in locating.BUILT_IN:
            locating.locate(name, where)


def load_policy(recipe: Recipe, world: World = SINGLE_PROCESS) -> Loaded:
    """The recipe's model as a policy, and its engine with the same weights."""
    module, tokenizer, compute = _module(recipe.model)
    engine: Engine = bind_plugin("engine", recipe.rollout.engine)(module, tokenizer, compute)
    if recipe.model.lora:
        lora.add_lora(module, **recipe.model.lora.model_dump(), seed=recipe.run.seed)
    auto = (
        recipe.model.shard == "auto"
        and module.device.type == "cuda"
        and checks.find_shard_obstacle(recipe) is None
    )
    shard = world.size > 1 and (recipe.model.shard == "full" or auto)
    held = {"offload": recipe.model.offload, "shard": shard}
    policy = Policy(module, compute, recipe.learn.tokens_per_pass, tokenizer, **held)
    if recipe.model.gradient_checkpointing:
        loading.checkpoint_layers(policy.module)
    policy.distribute(world)
    rollouts = Rollouts(
        engine, tokenizer, WeightSyncCheck(policy) if needs_weight_sync(recipe) else no_check
    )
    rollouts.load(policy.weights(), version=0)
    return Loaded(policy, rollouts)


def load_engine(model: ModelConfig, engine: Spec) -> Rollouts:
    """An engine alone, for evaluation."""
    module, tokenizer, compute = _module(model)
    made: Engine = bind_plugin("engine", engine)(module, tokenizer, compute)
    made.load(
        ((name, parameter.detach()) for name, parameter in module.named_parameters()), version=0
    )
    return Rollouts(made, tokenizer)


def _module(model: ModelConfig) -> tuple[Any, Any, torch.dtype]:
    device, dtype = loading.device_of(model.device), getattr(torch, model.dtype)
    if device.type == "cpu":
        _steady_memory()
    module, tokenizer = loading.load(model.name, dtype)
    return module.to(device), tokenizer, loading.compute_dtype(model.compute, dtype, device)


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


def load_value_model(recipe: Recipe, policy: Policy) -> ValueModel:
    """The critic's model with a fresh head: the policy's as it begins, unless the recipe names
    another.
    """
    assert recipe.critic is not None
    compute = loading.compute_dtype(recipe.model.compute, policy.dtype, policy.device)
    name = recipe.critic.model or recipe.model.name
    module, tokenizer = loading.load(name, policy.dtype, "critic.model")
    loading.check_tokens(tokenizer, policy, name, "critic.model")
    body = module.base_model.to(policy.device)
    head = value_head(
        body.config.hidden_size, policy.dtype, policy.device, recipe.run.seed, "critic"
    )
    held = {"offload": recipe.model.offload, "shard": policy.shard}
    value = ValueModel(body, head, compute, recipe.learn.tokens_per_pass, **held)
    if recipe.model.gradient_checkpointing:
        loading.checkpoint_layers(body)
    value.distribute(policy.world)
    return value


def make_adamw(model: TrainableModel, options: OptimizerConfig) -> torch.optim.Optimizer:
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
    """The policy as it is now, frozen, in the compute dtype; with adapters the policy without them."""
    if recipe.model.lora and recipe.model.reference is None:
        return lora.WithoutAdapters(policy)
    compute = loading.compute_dtype(recipe.model.compute, policy.dtype, policy.device)
    name = recipe.model.reference or recipe.model.name
    module, tokenizer = loading.load(name, compute, "model.reference")
    loading.check_tokens(tokenizer, policy, name, "model.reference")
    reference = Policy(
        module.to(policy.device), compute, policy.tokens_per_pass, tokenizer, shard=policy.shard
    )
    reference.distribute(policy.world)
    return reference
