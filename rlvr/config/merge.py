"""Recipes as trees of plain values: read from YAML, laid over one another, overridden by dotted
keys.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlvr.errors import UserError, suggest
from rlvr.resources import FOLDERS, shipped

Tree = dict[str, Any]


Pair = tuple[str, Any]


def read(
    source: str | Path | Mapping[str, Any],
    sections: Mapping[str, Any],
    seen: tuple[str, ...] = (),
    kind: str = "recipe",
) -> Pair:
    """The name and tree of a recipe (or sweep): a YAML file, a shipped name, or a mapping, laid
    over what it `extends`.
    """
    where, tree, home = _source(source, kind)
    base = tree.pop("extends", None)
    if base is None:
        return where, tree
    if not isinstance(base, str):
        raise UserError(f"{where}: extends: should be the name or file of a {kind}, not {base!r}")
    near = (home / base).resolve() if home and base.endswith((".yaml", ".yml")) else base
    if str(near) in seen:
        raise UserError(f"{where}: extends: '{base}' extends itself")
    _, under = read(near, sections, (*seen, str(near)), kind)
    return where, deep_merge(under, tree, sections)


def deep_merge(under: Tree, over: Tree, sections: Mapping[str, Any]) -> Tree:
    """The upper tree over the lower: sections key by key, everything else replaced."""
    found = copy.deepcopy(under)
    for key, value in over.items():
        inner, below = sections.get(key), found.get(key)
        if inner is None or value is None:
            found[key] = value
            continue
        below, value = ({"name": v} if isinstance(v, str) else v for v in (below, value))
        if isinstance(below, dict) and isinstance(value, dict):
            value = deep_merge(below, value, inner)
        found[key] = value
    return found


def _source(source: str | Path | Mapping[str, Any], kind: str) -> tuple[str, Tree, Path | None]:
    if isinstance(source, Mapping):
        return kind, plain(dict(source)), None
    path, where = Path(source), str(source)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        known = shipped(kind)
        if where not in known:
            raise UserError(
                f"unknown {kind} '{where}'{suggest(where, known)}; or give the path of a YAML file"
            )
        path = FOLDERS[kind] / f"{where}.yaml"
    if not path.is_file():
        raise UserError(f"{where}: no such {kind} file")
    tree = loaded(path, where)
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a {kind} is a mapping of {KEYS[kind]}")
    return path.stem, tree, path.parent


KEYS = {
    "recipe": "sections such as model, train and rollout",
    "sweep": "keys such as recipe, seeds and arms",
}


def loaded(path: Path, where: str) -> Any:
    """What a YAML file holds; raises UserError."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read as UTF-8 text: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date may have a thirteenth month
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None


def pairs(overrides: Mapping[str, Any] | Sequence[str | Pair]) -> list[Pair]:
    """Overrides as pairs of a dotted key and a value; raises UserError for a text that is not
    key=value.
    """
    given = list(overrides.items()) if isinstance(overrides, Mapping) else overrides
    return [_pair(one) if isinstance(one, str) else (one[0], plain(one[1])) for one in given]


def _pair(text: str) -> Pair:
    key, found, value = text.partition("=")
    if not key or not found:
        raise UserError(f"'{text}': an override is key=value, such as rollout.samples=4")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"'{text}': the value is not valid YAML") from None


def plain(value: Any) -> Any:
    """A value from Python as YAML would have given it: tuples as lists, paths as texts."""
    return json.loads(json.dumps(value, default=str))


def flatten(tree: Tree, sections: Mapping[str, Any]) -> list[Pair]:
    """A tree as overrides: each section comes apart into dotted keys.   {"run": {"steps": 3}} ->
    [("run.steps", 3)]
    """
    found: list[Pair] = []
    for key, value in tree.items():
        inner = sections.get(key)
        if inner is not None and isinstance(value, dict) and value:
            found += [(f"{key}.{below}", leaf) for below, leaf in flatten(value, inner)]
        else:
            found.append((key, value))
    return found


def first_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Container[str] = (), at: str = ""
) -> str | None:
    """The first dotted key whose value is another one, those of `free` left out; None where there
    is none.
    """
    for key in {**before, **now}:
        where, pair = f"{at}{key}", (before.get(key), now.get(key))
        if where in free or pair[0] == pair[1]:
            continue
        if not (isinstance(pair[0], Mapping) and isinstance(pair[1], Mapping)):
            return where
        found = first_difference(pair[0], pair[1], free, f"{where}.")
        if found is not None:
            return found
    return None


def set_path(tree: Tree, key: str, value: Any, defaults: Tree) -> None:
    """Set a dotted key; a bare string on the way is the name of a plug-in, a number the row of a
    list.
    """
    here: Any = tree
    default: Any = defaults
    *path, last = key.split(".")
    for i, part in enumerate(path):
        default = default.get(part) if isinstance(default, dict) else None
        at = _place(here, part, key, path[:i])
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {} if default is None else default
        if isinstance(here[at], str):
            here[at] = {"name": here[at]}
        here = here[at]
    here[_place(here, last, key, path)] = value


def _place(here: Any, part: str, key: str, path: Sequence[str]) -> Any:
    """The key of a mapping, or the number of a row; raises UserError."""
    if isinstance(here, list):
        if not (part.isascii() and part.isdigit()) or int(part) >= len(here):
            raise UserError(f"{key}: '{part}' should be the number of a row, 0 to {len(here) - 1}")
        return int(part)
    if not isinstance(here, dict):
        raise UserError(f"{key}: '{'.'.join(path)}' is a plain value and has no key '{part}'")
    return part
