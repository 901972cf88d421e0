"""The first prompt of each source and held-out set, as the model reads it, without loading the model."""

from __future__ import annotations

from collections.abc import Iterator

from rlvr.build.binding import bind_plugin
from rlvr.build.problems import read_problems
from rlvr.config.schema import EvalSetConfig, Recipe, SourceConfig
from rlvr.config.staging import name_stages, split_stages
from rlvr.data.prompts import Renderer
from rlvr.models.loading import load_tokenizer
from rlvr.types import Draw


def show_first_prompts(recipe: Recipe) -> list[str]:
    """Return lines with each first prompt, its special tokens visible, and who opens the thinking."""
    tokenizer = load_tokenizer(recipe.model.name)
    asked = recipe.rollout
    lines: dict[str, None] = {}  # a set in order: stages often share their sources
    for where, row in _list_rows(recipe):
        templates = [bind_plugin("prompt", row.prompt)]
        render = Renderer(templates, tokenizer, asked.max_prompt_tokens, asked.bos)
        draw = Draw(read_problems(row, where)[0], 0)
        lines[f"the first prompt of {where}:\n{render.show(draw)}\n(end of the prompt)"] = None
        lines[f"{where}: {render.describe(draw)}"] = None
    return "\n".join(lines).split("\n")


def _list_rows(recipe: Recipe) -> Iterator[tuple[str, SourceConfig | EvalSetConfig]]:
    """Yield the sources of all stages and the held-out sets, each with its key."""
    stages = zip(name_stages(recipe), split_stages(recipe), strict=True)
    for stage, part in stages:
        prefix = f"{stage}: " if recipe.stages else ""
        for number, source in enumerate(part.train):
            yield f"{prefix}train.{number}", source
    for number, row in enumerate(recipe.eval.sets):
        yield f"eval.sets.{number}", row
