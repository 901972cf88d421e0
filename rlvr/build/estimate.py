"""What a run will cost, before it starts: rollouts, tokens, and the memory of each process.

Loads neither torch nor transformers, so that `rlvr show` answers at once.
"""

from __future__ import annotations

import contextlib
import shlex

from rlvr.build.memory import plan_memory
from rlvr.build.model_shape import Shape, shape_of
from rlvr.config.loader import load
from rlvr.config.schema import Recipe
from rlvr.config.staging import name_stages, split_stages
from rlvr.errors import UserError


def estimate(recipe: Recipe, processes: int = 1, limit: float | None = None) -> list[str]:
    """Return lines that say what a run generates and what memory each of its processes takes.

    With `limit` (GiB for each process) a run that cannot fit raises UserError with the option that
    would make it fit.
    """
    lines = []
    for name, part in zip(name_stages(recipe), split_stages(recipe), strict=True):
        lines.append(_describe_cost(name, part))
    shape = shape_of(recipe.model.name)
    if shape is None:
        return [*lines, f"memory: unknown, since '{recipe.model.name}' is not on this machine"]
    parts = plan_memory(recipe, shape, processes)
    total = sum(parts.values())
    if limit is not None and total > limit:
        cure = _find_cure(recipe, shape, processes, limit)
        raise UserError(
            f"model.name: a process needs about {total:.1f} GiB and has {limit:g}; {cure}"
        )
    return [*lines, _describe_memory(parts, shape, processes)]


def _describe_cost(name: str, recipe: Recipe) -> str:
    asked = recipe.rollout
    steps = recipe.run.steps
    rollouts = steps * asked.problems * asked.samples
    updates = recipe.learn.epochs * recipe.learn.count_minibatches(asked)
    return (
        f"cost of {name}: {steps} steps of {asked.problems} problems x {asked.samples} samples = {rollouts:,}"
        f" rollouts, at most {rollouts * asked.max_tokens:,} response tokens; {updates} updates a step"
    )


def _describe_memory(parts: dict[str, float], shape: Shape, processes: int) -> str:
    total = sum(parts.values())
    details = ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
    where = f" in each of {processes} processes" if processes > 1 else ""
    millions = f"{shape.parameters / 1e6:,.0f}M"
    return f"memory{where}: about {total:.1f} GiB for {millions} parameters ({details})"


def _find_cure(recipe: Recipe, shape: Shape, processes: int, limit: float) -> str:
    """Return the one option with which a process fits, else the first few together."""
    options = _list_cures(recipe, processes)
    attempts = [[option] for option in options]
    for count in range(2, len(options) + 1):
        attempts.append(options[:count])
    tree = recipe.model_dump(mode="json")
    for overrides in attempts:
        # an option may not go with the rest of the recipe
        with contextlib.suppress(UserError):
            parts = plan_memory(load(tree, overrides), shape, processes)
            if sum(parts.values()) <= limit:
                return f"it fits with {shlex.join(overrides)}"
    return "give it more processes with --nproc, or a smaller model"


def _list_cures(recipe: Recipe, processes: int) -> list[str]:
    options = ["model.gradient_checkpointing=true", "learn.tokens_per_pass=512", "model.shard=auto"]
    if recipe.rollout.engine.name == "local":
        options.append("rollout.engine.max_sequences=8")
    options.append("model.offload=true" if processes > 1 else "model.lora={rank: 32}")
    return options
