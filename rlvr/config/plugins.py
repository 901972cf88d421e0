"""The plug-ins that a recipe names, and what they need."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from rlvr import registry
from rlvr.config.schema import Recipe, Spec

# Of plug-ins whose key is not the name of their kind.
KINDS = {"terms": "loss", "trackers": "tracker"}
# Parameters that belong to the recipe and not to the plug-in beside which they stand, by its kind.
FOREIGN_PARAMETERS = {"reward": "weight", "loss": "reduction"}


def list_plugins(value: object, where: str = "", key: str = "") -> Iterator[tuple[str, str, Spec]]:
    """Yield every plug-in below a key: its dotted key, its kind (which the key says), itself."""
    if isinstance(value, Spec):
        yield where, KINDS.get(key) or key, value
        reduction = find_reduction(value, where) if key == "terms" else None
        if reduction is not None:
            yield f"{where}.reduction", "reduction", reduction
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            below = f"{where}.{name}" if where else name
            yield from list_plugins(getattr(value, name), below, name)
    elif isinstance(value, tuple):
        for number, row in enumerate(value):
            yield from list_plugins(row, f"{where}.{number}", key)


def find_reduction(term: Spec, where: str) -> Spec | None:
    """Return the reduction that a loss term names for itself; raises UserError."""
    if "reduction" not in term.params:
        return None
    return registry.validate(Spec, term.params["reduction"], f"{where}.reduction")


def read_weight(reward: Spec) -> float:
    """Return how much a reward counts in the sum of all."""
    if "weight" not in reward.params:
        return 1.0
    return float(reward.params["weight"])


def list_policy_terms(recipe: Recipe) -> list[tuple[str, Spec]]:
    """Return the correction and the loss terms with their kinds."""
    terms = [("loss", term) for term in recipe.loss.terms]
    return [("correction", recipe.loss.correction), *terms]


def collect_needs(recipe: Recipe) -> frozenset[str]:
    """Return what the advantage, the reward and the loss need beside the policy.

    Any of `ref`, `old`, `value`, `greedy`, `rollout`.
    """
    needs: set[str] = set()
    for kind, spec in [("advantage", recipe.advantage), *list_policy_terms(recipe)]:
        needs |= registry.find(kind, spec.name, kind).needs
    needs.discard("signal")
    if recipe.reward_kl:
        needs |= {"ref", "old"}
    return frozenset(needs)


def needs_weight_sync(recipe: Recipe) -> bool:
    """Return whether the engine keeps weights of its own, so that every sync has to be checked."""
    engine = registry.find("engine", recipe.rollout.engine.name, "rollout.engine")
    return "weight_sync" in engine.needs


def has_engine_apart(recipe: Recipe) -> bool:
    """Return whether the engine computes otherwise than the policy: apart from it, or in fewer bits."""
    weights = recipe.rollout.engine.params.get("weights", "compute")
    return needs_weight_sync(recipe) or weights != "compute"


def list_models(recipe: Recipe) -> dict[str, str]:
    """Return the models that a recipe names, by their keys."""
    models = {"model.name": recipe.model.name}
    if recipe.model.reference:
        models["model.reference"] = recipe.model.reference
    if recipe.critic and recipe.critic.model:
        models["critic.model"] = recipe.critic.model
    return models
