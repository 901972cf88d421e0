"""Benchmarks: one row each, saying where the problems come from, how they are asked and how answers
are judged.

A published set is read from its file below `--data DIR` (or RLVR_DATA_DIR), else from the hub. What
a row says of sampling is what the papers used: One-Shot-RLVR (section 4.5 of its appendix) takes
eight samples at temperature 0.6 of AIME and AMC and greedy answers of the rest, at most 3,072
tokens; Logic-RL temperature 1 and 8,192 tokens. docs/evaluation.md has them all in one table.
"""

from __future__ import annotations

from rlvr.config.schema import EvalSetConfig, Spec
from rlvr.registry import register
from rlvr.resources import load_asset

BOXED = Spec(name="chat", params={"suffix": " Put the final answer in \\boxed{}."})


def _register_published(row: EvalSetConfig) -> None:
    """Register a published set as a benchmark."""

    def make_benchmark() -> EvalSetConfig:
        return row

    register("benchmark", row.name)(make_benchmark)


for _row in load_asset("config/benchmarks"):
    _register_published(EvalSetConfig.model_validate(_row))
