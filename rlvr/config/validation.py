"""Plain values as a checked recipe: sections, single rows, default values and benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rlvr import registry
from rlvr.config.checks import check, needs_of, needs_weight_sync
from rlvr.config.schema import EvalSetConfig, Recipe, Section, Spec

# sections where one row may stand for a list of one
LISTS = ("train", "reward", "filter", "trackers")


def validate_recipe(found: dict[str, Any]) -> Recipe:
    recipe = registry.validated(Recipe, found, "")
    sets = tuple(eval_set(row) for row in recipe.eval.sets)
    recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"sets": sets})})
    check(recipe)
    return _corrected(recipe)


def _corrected(recipe: Recipe) -> Recipe:
    """Truncated importance sampling where the engine's log-probabilities are not the learner's,
    unless the recipe says otherwise, corrects in a term, or cuts the vocabulary, with which it
    would be biased.
    """
    cut = recipe.rollout.top_p < 1 or recipe.rollout.top_k > 0
    named = "correction" in recipe.loss.model_fields_set or "rollout" in needs_of(recipe)
    if named or cut or not needs_weight_sync(recipe):
        return recipe
    loss = recipe.loss.model_copy(update={"correction": Spec(name="importance")})
    return recipe.model_copy(update={"loss": loss})


def eval_set(row: EvalSetConfig | str | Mapping[str, Any]) -> EvalSetConfig:
    """A held-out set from a row, or from the name of a registered benchmark; raises UserError."""
    row = (
        row
        if isinstance(row, EvalSetConfig)
        else registry.validated(EvalSetConfig, row, "benchmark")
    )
    if row.data:
        return row
    found: EvalSetConfig = registry.find("benchmark", row.name, "eval.sets").bind({}, row.name)()
    return found.model_copy(
        update={key: getattr(row, key) for key in row.model_fields_set - {"name", "data"}}
    )


def wrap_single_rows(found: dict[str, Any]) -> dict[str, Any]:
    return {k: [v] if k in LISTS and isinstance(v, (str, Mapping)) else v for k, v in found.items()}


def default_values() -> dict[str, Any]:
    """The recipe's own values, so that an override of a plug-in's parameter finds the plug-in that
    is the default.
    """
    filled = Recipe.model_construct().model_dump(mode="json", exclude={"train"}, warnings=False)
    return {name: value for name, value in filled.items() if isinstance(value, (dict, list))}


def sections(schema: type[BaseModel] = Recipe) -> dict[str, Any]:
    """The keys of a schema that are sections themselves, each with those of its own."""
    found = {}
    for name, field in schema.model_fields.items():
        kinds = [
            k
            for k in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(k, type)
        ]
        inner = next((k for k in kinds if issubclass(k, Section)), None)
        if inner is not None and not str(field.annotation).startswith("tuple"):
            found[name] = sections(inner)
    return found
