"""Writes docs/reference.md: every key of a recipe and every built-in plug-in, from the code itself.

python docs/reference.py
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rlvr import registry
from rlvr.config.schema import Recipe

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# Reference

Made by `python docs/reference.py` from the code. The first part has every key of a recipe with its default, the second
every name that a recipe may choose, with its options; `rlvr show RECIPE` prints a whole recipe as it will run. A
plug-in is given as its name, or as `{name: …, option: …}`; a function of your own as `path/to/file.py:function` or
`package.module:function`.

`extends: OTHER` in a recipe takes over the keys of another one. The built-in model is converted once, into the folder
of the variable `RLVR_HOME` (`~/.cache/rlvr`).

Some parts need an extra, `pip install -e '.[NAME]'` in a clone: `lora` for `model.lora`, `low_memory` for
`optimizer.states: 8bit`, `hub` for data from the Hugging Face hub, `gym` for reasoning-gym, `wandb` and `tensorboard`
for the trackers, `vllm` and `ray`.

"""


def page() -> str:
    return HEAD + "\n".join([*sections(), *plugins()])


def sections() -> Iterator[str]:
    """The recipe and each section of it, once, in the order of the recipe."""
    yield "## Keys of a recipe\n"
    waiting: list[tuple[str, type[BaseModel]]] = [("recipe", Recipe)]
    seen = {"Spec"}
    while waiting:
        path, model = waiting.pop(0)
        if model.__name__ in seen:
            continue
        seen.add(model.__name__)
        yield f"### `{path}`\n\n{said(model)}\n\n| key | type | default |\n|---|---|---|"
        for name, field in model.model_fields.items():
            yield f"| `{name}` | {kind_of(field.annotation)} | {default(field)} |"
            below = name if path == "recipe" else f"{path}.{name}"
            waiting += [(below, inner) for inner in models_in(field.annotation)]
        yield ""


def plugins() -> Iterator[str]:
    yield "## Names\n"
    for kind in registry.HOMES:
        yield f"### {kind}\n"
        if kind == "benchmark":
            yield (
                ", ".join(f"`{name}`" for name in registry.list_names(kind))
                + " ([evaluation.md](evaluation.md))\n"
            )
            continue
        yield "| name | | options |\n|---|---|---|"
        for name in registry.list_names(kind):
            plugin = registry.find(kind, name, "reference")
            fields = plugin.schema.model_fields.items()
            options = ", ".join(f"`{key}` ({default(field)})" for key, field in fields)
            yield f"| `{name}` | {said(plugin.function)} | {options} |"
        yield ""


def said(thing: Any) -> str:
    """The first paragraph of a docstring on one line."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return re.sub(r" -> \[.*\]$", "", re.sub(r"\s+", " ", text)).replace("|", "\\|")


def kind_of(annotation: Any) -> str:
    """A type as a reader of recipes would say it."""
    arguments = [part for part in typing.get_args(annotation) if part is not type(None)]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " \\| ".join(f"`{part}`" for part in arguments)
    if origin is tuple:
        return f"list of {kind_of(arguments[0])}"
    if origin is typing.Annotated:
        return kind_of(arguments[0])
    if arguments:
        return " or ".join(dict.fromkeys(kind_of(part) for part in arguments))
    names = {
        "Spec": "name",
        "str": "text",
        "bool": "true, false",
        "int": "whole number",
        "float": "number",
    }
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "a section" if models_in(annotation) else name)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a type may hold."""
    found = [inner for part in typing.get_args(annotation) for inner in models_in(part)]
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and annotation.__name__ != "Spec"
    ):
        found.append(annotation)
    return found


def default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return (
            f"`{value.name}`"
            if hasattr(value, "name") and type(value).__name__ == "Spec"
            else "see below"
        )
    if isinstance(value, tuple):
        return (
            "empty"
            if not value
            else ", ".join(f"`{getattr(part, 'name', part)}`" for part in value)
        )
    text = str(value).lower() if isinstance(value, bool) else str(value).replace("\n", "\\n")
    return "none" if value is None else f"`{text}`" if text else "empty"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
