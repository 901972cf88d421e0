"""Rules that no section can check alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from rlvr import registry
from rlvr.config.schema import Recipe, Spec
from rlvr.errors import UserError, suggest


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


def needs_weight_sync(recipe: Recipe) -> bool:
    """Whether the engine holds weights that are not in plain sight, so that their arrival has to be
    proven.
    """
    return (
        "weight_sync" in registry.find("engine", recipe.rollout.engine.name, "rollout.engine").needs
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


def check_reference(recipe: Recipe, parts: Sequence[Recipe]) -> None:
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
