"""`rlvr.evaluate`: a model on benchmarks, outside training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr import recipe as recipes
from rlvr.build import benchmark_of, load_engine, read_problems
from rlvr.errors import UserError
from rlvr.evals.suite import evaluate as evaluate_one
from rlvr.progress import Progress
from rlvr.recipe import Model, Spec
from rlvr.trackers import JsonLines
from rlvr.types import Sampling


def evaluate(
    model: str,
    benchmarks: Sequence[str | Mapping[str, Any]],
    *,
    prompt: str | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 256,
    max_prompt_tokens: int = 4096,
    seed: int = 0,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a model folder, hub id or built-in model; returns one record a benchmark, objects as in `evals.jsonl`.

    A benchmark is the name of a registered one or a row `{name, data, task, prompt}`. With `out`, `results.json` and
    `samples.jsonl` are written there. Raises UserError for bad input.
    """
    rows = [recipes.eval_set(row) for row in benchmarks]
    if prompt is not None:
        rows = [row.model_copy(update={"prompt": Spec(name=prompt)}) for row in rows]
    sampling = _sampling(samples, temperature, max_tokens)
    folder = Path(out) if out is not None else None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with Progress(f"evaluating {model}", 0) as progress:
        problems = [read_problems(row, f"benchmark {row.name}") for row in rows]
        progress.stage(f"loading {model}")
        rollouts = load_engine(Model(name=model), Spec(name="local"))
        results, lines = [], []
        for row, asked in zip(rows, problems, strict=True):
            progress.stage(f"evaluating {row.name}")
            held_out = benchmark_of(row, asked, rollouts.tokenizer, max_prompt_tokens)
            evaluation = evaluate_one(held_out, rollouts, sampling, 0, seed)
            progress.evaluated(evaluation.record)
            results.append(evaluation.record)
            lines += [{"benchmark": row.name, **sample} for sample in evaluation.samples]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        JsonLines.write(folder / "samples.jsonl", lines)
        (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def _sampling(samples: int, temperature: float, max_tokens: int) -> Sampling:
    if samples < 1 or max_tokens < 1 or temperature < 0:
        raise UserError("samples and max_tokens should be at least 1 and temperature at least 0")
    return Sampling(samples, max_tokens, temperature)
