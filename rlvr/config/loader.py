"""Recipes: strict YAML to frozen sections that mirror the flow of a step; imports nothing heavy.

Every mistake is refused here, before a model or a data set is touched, in one line that names the
key and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlvr.config import merge
from rlvr.config.checks import check_reference
from rlvr.config.merge import Override, parse_overrides
from rlvr.config.schema import Recipe
from rlvr.config.staging import split_stages
from rlvr.config.validation import (
    collect_sections,
    list_defaults,
    validate_recipe,
    wrap_single_rows,
)
from rlvr.errors import UserError


def load(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Sequence[str | Override] = (),
) -> Recipe:
    """Read, override and check a recipe: a YAML file, the name of a shipped recipe, or a mapping.

    Overrides are dotted keys: `["rollout.samples=4"]` or `{"rollout.samples": 4}`. Raises
    UserError.
    """
    where, tree = merge.read(source, collect_sections())
    tree = wrap_single_rows(tree)
    changes = parse_overrides(overrides)
    for key, value in changes:
        merge.set_path(tree, key, value, list_defaults())
    try:
        recipe = validate_recipe(wrap_single_rows(tree))
        if recipe.stages:
            _check_steps_come_from_stages(changes)
            recipe = _update_run(recipe, steps=sum(stage.steps for stage in recipe.stages))
        check_reference(recipe, split_stages(recipe))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return _update_run(recipe, name=recipe.run.name or where)


def _check_steps_come_from_stages(changes: Sequence[Override]) -> None:
    if any(key == "run.steps" for key, _ in changes):
        raise UserError(
            "run.steps: the stages say how long they are; override stages.0.steps and so on"
        )


def _update_run(recipe: Recipe, **values: str | int) -> Recipe:
    """Return the recipe with other keys in its section `run`."""
    run = recipe.run.model_copy(update=values)
    return recipe.model_copy(update={"run": run})


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML, which loads back to an equal recipe."""
    tree = recipe.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
