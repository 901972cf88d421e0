"""Contamination of benchmarks by what a run, or a file, trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.build.problems import read_problems
from rlvr.config import loader
from rlvr.config.schema import SourceConfig, Spec
from rlvr.data.contamination import Overlap, find_overlap
from rlvr.run.eval_rows import RowOptions, read_rows
from rlvr.types import Problem


def find_overlaps(
    train: Path,
    benchmarks: Sequence[str | Mapping[str, Any]],
    data: str | Path | None,
) -> Iterator[tuple[str, Overlap]]:
    """Yield the contamination of each benchmark by the problems of a file, or of a run's recipe;
    raises UserError.
    """
    if train.is_dir():
        sources = loader.load(train / "recipe.yaml").train
    else:
        sources = (SourceConfig(data=Spec(name="file", params={"path": str(train)})),)
    training_problems: list[Problem] = []
    for number, source in enumerate(sources):
        training_problems += read_problems(source, f"train.{number}")
    options = RowOptions(data=data)
    for row in read_rows(benchmarks):
        problems = read_problems(options.apply(row), f"benchmark {row.name}")
        yield row.name, find_overlap(training_problems, problems)
