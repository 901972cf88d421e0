"""Plain values as a checked recipe: sections, single rows, default values, benchmarks by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlvr import registry
from rlvr.config.checks import check, check_file_name
from rlvr.config.merge import Sections, Tree
from rlvr.config.plugins import collect_needs, has_engine_apart
from rlvr.config.schema import EvalSetConfig, Recipe, Section, Spec

# Sections where one row may stand for a list of one.
LISTS = ("train", "reward", "filter", "trackers")


def validate_recipe(tree: Tree) -> Recipe:
    """Return the recipe that a tree describes; raises UserError for the first fault."""
    recipe = registry.validate(Recipe, tree, "")
    sets = tuple(resolve_eval_set(row) for row in recipe.eval.sets)
    evaluation = recipe.eval.model_copy(update={"sets": sets})
    recipe = recipe.model_copy(update={"eval": evaluation})
    check(recipe)
    return _add_correction(recipe)


def _add_correction(recipe: Recipe) -> Recipe:
    """Return the recipe with truncated importance sampling where engine and learner compute apart.

    Not where the recipe says otherwise, corrects in a term, or cuts the vocabulary, with which the
    correction would be biased.
    """
    is_named = "correction" in recipe.loss.model_fields_set
    is_corrected = is_named or "rollout" in collect_needs(recipe)
    if is_corrected or recipe.rollout.is_truncated or not has_engine_apart(recipe):
        return recipe
    loss = recipe.loss.model_copy(update={"correction": Spec(name="importance")})
    return recipe.model_copy(update={"loss": loss})


def resolve_eval_set(row: EvalSetConfig | str | Mapping[str, Any]) -> EvalSetConfig:
    """Return a held-out set from a row, or from the name of a registered benchmark; raises UserError."""
    if not isinstance(row, EvalSetConfig):
        row = registry.validate(EvalSetConfig, row, "benchmark")
    if row.data:
        check_file_name(row.name, "benchmark.name")
        return row
    make_benchmark = registry.find("benchmark", row.name, "eval.sets").bind({}, row.name)
    benchmark: EvalSetConfig = make_benchmark()
    # The row may name a function of a file; what it makes is what files are named after.
    check_file_name(benchmark.name, "benchmark.name")
    given = row.model_fields_set - {"name", "data"}
    return benchmark.model_copy(update={key: getattr(row, key) for key in given})


def wrap_single_rows(tree: Tree) -> Tree:
    """Return the tree with lists of one where a row stands alone."""
    wrapped = dict(tree)
    for key in LISTS:
        if isinstance(wrapped.get(key), (str, Mapping)):
            wrapped[key] = [wrapped[key]]
    return wrapped


def list_defaults() -> Tree:
    """Return the sections as a recipe without any keys has them.

    An override of a plug-in's parameter so finds the plug-in that is the default.
    """
    tree = Recipe.model_construct().model_dump(mode="json", exclude={"train"}, warnings=False)
    return {name: value for name, value in tree.items() if isinstance(value, (dict, list))}


def collect_sections(schema: type[BaseModel] = Recipe) -> Sections:
    """Return the keys of a schema that are sections themselves, each with those of its own."""
    sections: dict[str, Sections] = {}
    for name, field in schema.model_fields.items():
        is_list = str(field.annotation).startswith("tuple")
        section = next(_list_section_types(field), None)
        if section is not None and not is_list:
            sections[name] = collect_sections(section)
    return sections


def _list_section_types(field: FieldInfo) -> Iterator[type[Section]]:
    """Yield the sections among the types of a key, as in `CriticConfig | None`."""
    for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, Section):
            yield kind
