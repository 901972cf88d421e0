"""Recipes as trees of plain values: read from YAML, laid over one another, overridden by dotted keys."""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from rlvr.errors import UserError, suggest
from rlvr.resources import FOLDERS, list_shipped

Tree = dict[str, Any]
# The keys of a tree that are sections themselves, each with those of its own.
Sections: TypeAlias = "Mapping[str, Sections]"
# A dotted key and its value.
Override = tuple[str, Any]

# What a file of each kind holds.
KEYS = {
    "recipe": "sections such as model, train and rollout",
    "sweep": "keys such as recipe, seeds and arms",
}


def read(
    source: str | Path | Mapping[str, Any],
    sections: Sections,
    seen: tuple[str, ...] = (),
    kind: str = "recipe",
) -> tuple[str, Tree]:
    """Return the name and tree of a recipe (or sweep), laid over what it `extends`.

    The source is a YAML file, a shipped name, or a mapping; `seen` are the bases on the way here.
    Raises UserError.
    """
    where, tree, folder = _read_source(source, kind)
    base = tree.pop("extends", None)
    if base is None:
        return where, tree
    if not isinstance(base, str):
        raise UserError(f"{where}: extends: should be the name or file of a {kind}, not {base!r}")
    base_source = base
    if folder is not None and base.endswith((".yaml", ".yml")):
        base_source = str((folder / base).resolve())
    if base_source in seen:
        raise UserError(f"{where}: extends: '{base}' extends itself")
    _, base_tree = read(base_source, sections, (*seen, base_source), kind)
    return where, deep_merge(base_tree, tree, sections)


def _read_source(
    source: str | Path | Mapping[str, Any], kind: str
) -> tuple[str, Tree, Path | None]:
    """Return the name, the tree and the folder of a source; a mapping has no folder."""
    if isinstance(source, Mapping):
        return kind, make_plain(dict(source)), None
    where = str(source)
    path = _find_file(where, kind)
    if not path.is_file():
        raise UserError(f"{where}: no such {kind} file")
    tree = load_yaml(path, where)
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a {kind} is a mapping of {KEYS[kind]}")
    return path.stem, tree, path.parent


def _find_file(where: str, kind: str) -> Path:
    """Return the path of a file, or that of a shipped name; raises UserError for an unknown name."""
    path = Path(where)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return path
    known = list_shipped(kind)
    if where not in known:
        raise UserError(
            f"unknown {kind} '{where}'{suggest(where, known)}; or give the path of a YAML file"
        )
    return FOLDERS[kind] / f"{where}.yaml"


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once in its mapping, as its standard asks."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raises ConstructorError with the line of a key that stands twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, where: str) -> Any:
    """Return what a YAML file holds; raises UserError with the line of a fault."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506 - a safe one
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read as UTF-8 text: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date may have a thirteenth month
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None


def deep_merge(base: Tree, tree: Tree, sections: Sections) -> Tree:
    """Return the tree laid over its base: sections key by key, everything else replaced."""
    merged = copy.deepcopy(base)
    for key, value in tree.items():
        inner = sections.get(key)
        if inner is None or value is None:
            merged[key] = value
            continue
        below = _expand_name(merged.get(key))
        value = _expand_name(value)
        if isinstance(below, dict) and isinstance(value, dict):
            value = deep_merge(below, value, inner)
        merged[key] = value
    return merged


def _expand_name(value: Any) -> Any:
    """Return a bare name as the section that it stands for."""
    return {"name": value} if isinstance(value, str) else value


def parse_overrides(overrides: Mapping[str, Any] | Sequence[str | Override]) -> list[Override]:
    """Return overrides as dotted keys with values; raises UserError for a text that is not key=value."""
    entries = list(overrides.items()) if isinstance(overrides, Mapping) else overrides
    parsed: list[Override] = []
    for entry in entries:
        if isinstance(entry, str):
            parsed.append(_parse_override(entry))
        else:
            key, value = entry
            parsed.append((key, make_plain(value)))
    return parsed


def _parse_override(text: str) -> Override:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"'{text}': an override is key=value, such as rollout.samples=4")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"'{text}': the value is not valid YAML") from None


def make_plain(value: Any) -> Any:
    """Return a value from Python as YAML would have given it: tuples as lists, paths as texts."""
    return json.loads(json.dumps(value, default=str))


def flatten(tree: Tree, sections: Sections) -> list[Override]:
    """Return a tree as overrides: each section comes apart into dotted keys.

    >>> flatten({"run": {"steps": 3}}, {"run": {}})
    [('run.steps', 3)]
    """
    overrides: list[Override] = []
    for key, value in tree.items():
        inner = sections.get(key)
        if inner is None or not isinstance(value, dict) or not value:
            overrides.append((key, value))
            continue
        for below, leaf in flatten(value, inner):
            overrides.append((f"{key}.{below}", leaf))
    return overrides


def find_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Container[str] = (), prefix: str = ""
) -> str | None:
    """Return the first dotted key whose value differs, those of `free` left out; None where none does."""
    for key in {**before, **now}:
        where = f"{prefix}{key}"
        old = before.get(key)
        new = now.get(key)
        if where in free or old == new:
            continue
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
            return where
        difference = find_difference(old, new, free, f"{where}.")
        if difference is not None:
            return difference
    return None


def set_path(tree: Tree, key: str, value: Any, defaults: Tree) -> None:
    """Set a dotted key in place; a bare string on the way is the name of a plug-in, a number a row.

    A section that the tree leaves out begins as it is in `defaults`. Raises UserError.
    """
    node: Any = tree
    default: Any = defaults
    *path, last = key.split(".")
    for depth, part in enumerate(path):
        default = default.get(part) if isinstance(default, dict) else None
        index = _find_index(node, part, key, path[:depth])
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {} if default is None else default
        node[index] = _expand_name(node[index])
        node = node[index]
    node[_find_index(node, last, key, path)] = value


def _find_index(node: Any, part: str, key: str, path: Sequence[str]) -> str | int:
    """Return the key of a mapping, or the number of a row; raises UserError."""
    if isinstance(node, list):
        is_number = part.isascii() and part.isdigit()
        if not is_number or int(part) >= len(node):
            raise UserError(f"{key}: '{part}' should be the number of a row, 0 to {len(node) - 1}")
        return int(part)
    if not isinstance(node, dict):
        raise UserError(f"{key}: '{'.'.join(path)}' is a plain value and has no key '{part}'")
    return part
