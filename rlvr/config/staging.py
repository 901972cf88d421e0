"""A recipe with stages as one recipe a stage."""

from __future__ import annotations

from rlvr.config import merge
from rlvr.config.schema import Recipe, StageConfig
from rlvr.config.validation import (
    collect_sections,
    list_defaults,
    validate_recipe,
    wrap_single_rows,
)
from rlvr.errors import UserError, suggest

# The sections that a stage may change.
STAGED = (
    "train",
    "rollout",
    "verify",
    "reward",
    "reward_scale",
    "reward_kl",
    "reward_timeout",
    "gather",
    "filter",
    "advantage",
    "loss",
    "learn",
    "optimizer",
    "critic",
)
# The keys in them that all stages share, since the models and optimisers go on.
SHARED = (
    "rollout.engine",
    "learn.tokens_per_pass",
    "optimizer.states",
    "critic.model",
    "critic.warmup",
    "critic.optimizer.states",
)


def split_stages(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return the recipe of each stage, with the stage's own keys and steps; without stages itself.

    Raises UserError.
    """
    names = name_stages(recipe)
    if len(set(names)) < len(names):
        raise UserError("stages: two of them have the same name; give each its own")
    if "cold_start" in names:
        raise UserError(
            f"stages.{names.index('cold_start')}.name: 'cold_start' names the steps before all stages"
        )
    if not recipe.stages:
        return (recipe,)
    return tuple(_resolve_stage(recipe, i, stage) for i, stage in enumerate(recipe.stages))


def name_stages(recipe: Recipe) -> list[str]:
    """Return what the stages are called in the metrics; a run without stages has one, "rl"."""
    if not recipe.stages:
        return ["rl"]
    return [stage.name or f"stage {i}" for i, stage in enumerate(recipe.stages, start=1)]


def _resolve_stage(recipe: Recipe, number: int, stage: StageConfig) -> Recipe:
    where = f"stages.{number}"
    changes = stage.model_extra or {}
    _check_staged(changes, where)
    try:
        changed = _change(recipe, stage.steps, merge.make_plain(changes))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_shared(recipe, changed, where)
    return changed


def _check_staged(changes: merge.Tree, where: str) -> None:
    """Refuse keys of the model and of the run as a whole."""
    for key in changes:
        section = key.partition(".")[0]
        if section not in STAGED:
            known = (*StageConfig.model_fields, *STAGED)
            raise UserError(f"{where}.{key}: stages cannot change it{suggest(section, known)}")


def _change(recipe: Recipe, steps: int, changes: merge.Tree) -> Recipe:
    """Return the recipe with a stage's changes, which are sections or dotted keys."""
    tree: merge.Tree = recipe.model_dump(mode="json") | {"stages": []}
    tree["run"]["steps"] = steps
    for key, value in changes.items():
        if "." in key:
            merge.set_path(tree, key, value, list_defaults())
        else:
            tree = merge.deep_merge(tree, {key: value}, collect_sections())
    return validate_recipe(wrap_single_rows(tree))


def _check_shared(recipe: Recipe, changed: Recipe, where: str) -> None:
    """Refuse a stage whose models, optimisers or engine are not those of the run."""
    if (changed.critic is None) != (recipe.critic is None):
        raise UserError(f"{where}.critic: a run has a critic in all of its stages or in none")
    for key in SHARED:
        if _get_value(changed, key) != _get_value(recipe, key):
            raise UserError(
                f"{where}.{key}: is the same for all stages; set it once, in the recipe's own {key}"
            )


def _get_value(recipe: Recipe, key: str) -> object:
    """Return the value of a dotted key; None where a section on the way is left out."""
    value: object = recipe
    for name in key.split("."):
        if not value:
            return value
        value = getattr(value, name)
    return value
