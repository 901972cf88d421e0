"""Rows of benchmarks to evaluate, as callers name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr import registry
from rlvr.config import merge, plugins, validation
from rlvr.config.benchmarks import BOXED
from rlvr.config.schema import EvalSetConfig, Spec
from rlvr.errors import UserError
from rlvr.tasks.row_files import DATA_SUFFIXES

YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What the caller says in place of what a row says itself; None and () leave the row's own."""

    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    limit: int | None = None
    prompt: str | Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    data: str | Path | None = None  # the folder of the published files

    def apply(self, row: EvalSetConfig) -> EvalSetConfig:
        """Return the row with these options."""
        changed: dict[str, Any] = {}
        for name in ("samples", "temperature", "top_p", "max_tokens", "limit"):
            value = getattr(self, name)
            if value is not None:
                changed[name] = value
        if self.stop:
            changed["stop"] = self.stop
        if self.prompt is not None:
            changed["prompt"] = Spec.model_validate(self.prompt)
        if self.data is not None and row.data is not None and row.data.name == "shipped":
            params = {**row.data.params, "folder": str(self.data)}
            changed["data"] = Spec(name="shipped", params=params)
        return row.model_copy(update=changed)


def read_rows(benchmarks: Sequence[str | Mapping[str, Any]]) -> list[EvalSetConfig]:
    """Return the rows behind names, data files, YAML files of rows and rows; raises UserError."""
    rows: list[EvalSetConfig] = []
    for benchmark in benchmarks:
        suffix = Path(benchmark).suffix if isinstance(benchmark, str) else None
        if suffix in YAML_SUFFIXES:
            rows += read_rows(_read_yaml(Path(str(benchmark))))
        elif suffix in DATA_SUFFIXES:
            rows.append(_make_row(str(benchmark)))
        else:
            rows.append(validation.resolve_eval_set(benchmark))
    return rows


def _read_yaml(path: Path) -> list[Any]:
    """Return the benchmarks that a YAML file lists, or the one that it is."""
    content = merge.load_yaml(path, str(path))
    rows = [content]
    if isinstance(content, list):
        rows = content
    if not rows or not all(isinstance(row, str | Mapping) for row in rows):
        raise UserError(
            f"{path}: should be a list of benchmarks, each a name or a row {{name, data, task, prompt}}"
        )
    return rows


def _make_row(file: str) -> EvalSetConfig:
    """Return the row of a data file: named after it, its answers asked for in a box."""
    data = Spec(name="file", params={"path": file})
    return EvalSetConfig(name=Path(file).stem, data=data, prompt=BOXED)


def check_rows(rows: Sequence[EvalSetConfig]) -> None:
    """Raise UserError where a row is not valid or two have the same name."""
    for row in rows:
        # what the caller gave is checked as a row is
        validation.resolve_eval_set(row.model_dump(mode="json"))
        for where, kind, spec in plugins.list_plugins(row, row.name):
            registry.find(kind, spec.name, kind).check(spec.params, where)
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"benchmarks: two are called '{name}'; give each its own name")
