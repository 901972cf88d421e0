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
from rlvr.config.merge import Pair, pairs
from rlvr.config.schema import Recipe
from rlvr.config.staging import staged
from rlvr.config.validation import default_values, sections, validate_recipe, wrap_single_rows
from rlvr.errors import UserError


def load(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str | Pair] = ()
) -> Recipe:
    """Read, override and check a recipe: a YAML file, the name of a shipped recipe, or a mapping.

    Overrides are dotted keys: `["rollout.samples=4"]` or `{"rollout.samples": 4}`. Raises
    UserError.
    """
    where, found = merge.read(source, sections())
    found = wrap_single_rows(found)
    for key, value in pairs(overrides):
        merge.set_path(found, key, value, default_values())
    try:
        recipe = validate_recipe(wrap_single_rows(found))
        if recipe.stages:
            if any(key == "run.steps" for key, _ in pairs(overrides)):
                raise UserError(
                    "run.steps: the stages say how long they are; override stages.0.steps and so on"
                )
            total = sum(stage.steps for stage in recipe.stages)
            recipe = recipe.model_copy(
                update={"run": recipe.run.model_copy(update={"steps": total})}
            )
        check_reference(recipe, staged(recipe))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return recipe.model_copy(
        update={"run": recipe.run.model_copy(update={"name": recipe.run.name or where})}
    )


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, which loads back to an equal recipe."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
    )
