"""A recipe with stages as one recipe a stage."""

from __future__ import annotations

import functools
from typing import Any

from rlvr.config import merge
from rlvr.config.merge import plain
from rlvr.config.schema import Recipe, StageConfig
from rlvr.config.validation import default_values, sections, validate_recipe, wrap_single_rows
from rlvr.errors import UserError, suggest

STAGED = ("train", "rollout", "verify", "reward", "reward_scale", "reward_kl", "gather", "filter", "advantage", "loss",
          "learn", "optimizer", "critic")  # fmt: skip


SHARED = ("rollout.engine", "learn.tokens_per_pass", "optimizer.states", "critic.model", "critic.warmup",
          "critic.optimizer.states")  # fmt: skip


def staged(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipe of each stage, with the stage's own keys and its steps; without stages the recipe
    itself.
    """
    names = stage_names(recipe)
    if len(set(names)) < len(names):
        raise UserError("stages: two of them have the same name; give each its own")
    if "cold_start" in names:
        raise UserError(
            f"stages.{names.index('cold_start')}.name: 'cold_start' names the steps before all stages"
        )
    return tuple(_stage(recipe, i, stage) for i, stage in enumerate(recipe.stages)) or (recipe,)


def stage_names(recipe: Recipe) -> list[str]:
    """What the stages are called in the metrics; a run without stages has one, "rl"."""
    return [stage.name or f"stage {i}" for i, stage in enumerate(recipe.stages, 1)] or ["rl"]


def _stage(recipe: Recipe, number: int, stage: StageConfig) -> Recipe:
    where = f"stages.{number}"
    found: merge.Tree = recipe.model_dump(mode="json") | {"stages": []}
    found["run"]["steps"] = stage.steps
    for key in stage.model_extra or {}:
        section = key.partition(".")[0]
        if section not in STAGED:
            raise UserError(
                f"{where}.{key}: stages cannot change it{suggest(section, (*StageConfig.model_fields, *STAGED))}"
            )
    try:
        for key, value in plain(stage.model_extra or {}).items():
            if "." in key:
                merge.set_path(found, key, value, default_values())
            else:
                found = merge.deep_merge(found, {key: value}, sections())
        changed = validate_recipe(wrap_single_rows(found))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if (changed.critic is None) != (recipe.critic is None):
        raise UserError(f"{where}.critic: a run has a critic in all of its stages or in none")
    for key in SHARED:
        if _at(changed, key) != _at(recipe, key):
            raise UserError(
                f"{where}.{key}: is the same for all stages; set it once, in the recipe's own {key}"
            )
    return changed


def _at(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key; None where a section on the way is left out."""
    return functools.reduce(
        lambda section, name: section and getattr(section, name), key.split("."), recipe
    )
