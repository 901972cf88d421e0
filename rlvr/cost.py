"""What a recipe will cost, from its figures and the shape of its model; nothing is loaded or downloaded."""

from __future__ import annotations

from rlvr import models
from rlvr.recipe import Recipe, needs_of

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}


def estimate(recipe: Recipe) -> list[str]:
    """Lines that say how much is generated and how much memory weights, gradients and optimiser take."""
    ask, steps = recipe.rollout, recipe.run.steps
    rollouts = ask.problems * ask.samples
    updates = recipe.learn.epochs * recipe.learn.minibatches
    lines = [
        f"cost: {steps} steps of {ask.problems} problems x {ask.samples} samples = {steps * rollouts:,} rollouts,"
        f" at most {steps * rollouts * ask.max_tokens:,} response tokens; {updates} updates a step"
    ]
    count = models.parameters(recipe.model.name)
    if count is None:
        return [*lines, f"memory: unknown, since '{recipe.model.name}' is not on this machine"]
    master = BYTES[recipe.model.dtype]
    compute = BYTES[recipe.model.compute] if recipe.model.compute != "auto" else min(master, 4)
    copies = {"weights": master, "gradients": master, "AdamW": 2 * master, "compute copy": compute, "engine": compute}
    if "ref" in needs_of(recipe):
        copies["reference"] = compute
    parts = ", ".join(f"{name} {count * size / 2**30:.2f}" for name, size in copies.items())
    total = count * sum(copies.values()) / 2**30
    return [
        *lines,
        f"memory: at most {total:.1f} GiB for {count / 1e6:.0f}M parameters ({parts}), and activations beside it",
    ]
