"""Held-out sets, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlvr.build.binding import bind_plugin
from rlvr.build.judging import bind_judge
from rlvr.config.schema import EvalSetConfig
from rlvr.data.gate import check_golds
from rlvr.data.prompts import STOPS, Bos, Renderer
from rlvr.evaluation.ask import Benchmark
from rlvr.types import Problem, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLING_KEYS = ("samples", "temperature", "top_p", "max_tokens")


def make_benchmark(
    row: EvalSetConfig,
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    default: Sampling,
    bos: Bos = "auto",
    time_limit: float | None = None,
) -> Benchmark:
    """Return a held-out set with what asks and judges it.

    `default` is how sets are sampled; `time_limit` is `verify.time_limit`, in seconds.
    """
    marked, _ = check_golds(problems, "mark")
    template = bind_plugin("prompt", row.prompt)
    return Benchmark(
        name=row.name,
        problems=tuple(marked),
        judge=bind_judge(row.task, time_limit),
        render=Renderer([template], tokenizer, max_prompt_tokens, bos),
        sampling=resolve_sampling(row, default),
    )


def resolve_sampling(row: EvalSetConfig, default: Sampling) -> Sampling:
    """Return how a held-out set is sampled: as its row says, else as the default does.

    Its prompt may end answers too.
    """
    named = {}
    for key in SAMPLING_KEYS:
        value = getattr(row, key)
        if value is not None:
            named[key] = value
    stops = [*default.stop, *row.stop]
    if row.prompt.name in STOPS:
        stops += STOPS[row.prompt.name]
    return replace(default, **named, stop=tuple(dict.fromkeys(stops)))
