"""Evaluation of a model, or of a run's checkpoints, on held-out sets; every sample is kept, so a
killed one goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr import registry
from rlvr.build.models import load_engine, load_policy
from rlvr.build.problems import benchmark_of, read_problems
from rlvr.config import loader, merge, plugins, validation
from rlvr.config.benchmarks import BOXED
from rlvr.config.schema import EvalSetConfig, ModelConfig, SourceConfig, Spec
from rlvr.data.contamination import Overlap, find_overlap
from rlvr.errors import UserError
from rlvr.evaluation.ask import Benchmark
from rlvr.models import loading
from rlvr.run import checkpoint
from rlvr.run.evaluation_folder import Folder, digest_weights
from rlvr.run.evaluator import Evaluator, Version
from rlvr.run.progress import Progress
from rlvr.seeds import key_of
from rlvr.types import Draw, Sampling

MAX_TOKENS = 256  # where neither the caller nor the benchmark says


DATA = (".json", ".jsonl", ".parquet")


def evaluate(
    model: str,
    benchmarks: Sequence[str | Mapping[str, Any]],
    *,
    prompt: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    max_prompt_tokens: int = 4096,
    seed: int | Sequence[int] = 0,
    limit: int | None = None,
    data: str | Path | None = None,
    checkpoints: str | Sequence[int] | None = None,
    batch: int = 64,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate a model folder, hub id or built-in model; returns one record a benchmark, objects as
    in `evals.jsonl`.

    A benchmark is the name of a registered one, a data file, a YAML file of rows, or a row `{name,
    data, task, prompt}` itself; what is given here goes before what its row says. `checkpoints`
    ("all" or steps, 0 the model before) asks those of a run's folder. With `out`, `samples.jsonl`
    is written there as it goes and `results.json` at the end; the same call goes on where an
    earlier one was ended. Raises UserError for bad input.
    """
    given = {
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "limit": limit,
    }
    rows = [_asked(row, given, prompt, tuple(stop), data) for row in declared(benchmarks)]
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    _check(rows, seeds, batch)
    steps = _steps(Path(model), checkpoints)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with Progress(f"evaluating {model}", 0) as progress:
        problems = [read_problems(row, f"benchmark {row.name}") for row in rows]
        progress.stage(f"loading {model}")
        versions = _versions(model, steps)
        tokenizer, base = versions[0].rollouts.tokenizer, Sampling(1, MAX_TOKENS, 0.0)
        pairs = list(zip(rows, problems, strict=True))
        held_out = [
            benchmark_of(row, asked, tokenizer, max_prompt_tokens, base) for row, asked in pairs
        ]
        for line in [line for benchmark in held_out for line in _shown(benchmark).split("\n")]:
            progress.note(line)
        settings = _settings(model, steps, rows, held_out, seeds)
        folder = Folder(Path(out), settings, overwrite) if out is not None else None
        results = Evaluator(seeds, folder, batch, progress).results(versions, held_out)
        if folder is not None:
            folder.finish(results)
            if checkpoints is not None:
                from rlvr.report.evaluation_page import write_curves

                progress.note(f"curves: {write_curves(folder.path)}")
    return results


def declared(benchmarks: Sequence[str | Mapping[str, Any]]) -> list[EvalSetConfig]:
    """The rows behind names, data files, YAML files of rows and rows; raises UserError."""
    found: list[EvalSetConfig] = []
    for row in benchmarks:
        if isinstance(row, str) and Path(row).suffix in (".yaml", ".yml"):
            found += declared(_rows_of(Path(row)))
        elif isinstance(row, str) and Path(row).suffix in DATA:
            found.append(
                EvalSetConfig(
                    name=Path(row).stem, data=Spec(name="file", params={"path": row}), prompt=BOXED
                )
            )
        else:
            found.append(validation.resolve_eval_set(row))
    return found


def overlaps(
    train: Path, benchmarks: Sequence[str | Mapping[str, Any]], data: str | Path | None
) -> Iterator[tuple[str, Overlap]]:
    """The contamination of each benchmark by the problems of a file, or of a run's recipe; raises
    UserError.
    """
    if train.is_dir():
        sources = loader.load(train / "recipe.yaml").train
    else:
        sources = (SourceConfig(data=Spec(name="file", params={"path": str(train)})),)
    problems = [p for i, source in enumerate(sources) for p in read_problems(source, f"train.{i}")]
    for row in [_asked(row, {}, None, (), data) for row in declared(benchmarks)]:
        yield row.name, find_overlap(problems, read_problems(row, f"benchmark {row.name}"))


def _rows_of(path: Path) -> list[Any]:
    read = merge.load_yaml(path, str(path))
    rows = read if isinstance(read, list) else [read]
    if not rows or not all(isinstance(row, str | Mapping) for row in rows):
        raise UserError(
            f"{path}: should be a list of benchmarks, each a name or a row {{name, data, task, prompt}}"
        )
    return rows


def _asked(
    row: EvalSetConfig,
    given: Mapping[str, Any],
    prompt: Any,
    stop: tuple[str, ...],
    data: str | Path | None,
) -> EvalSetConfig:
    """The row with what the caller says in place of its own."""
    changed = {key: value for key, value in given.items() if value is not None}
    if stop:
        changed["stop"] = stop
    if prompt is not None:
        changed["prompt"] = Spec.model_validate(prompt)
    if data is not None and row.data is not None and row.data.name == "shipped":
        changed["data"] = Spec(name="shipped", params={**row.data.params, "folder": str(data)})
    return row.model_copy(update=changed)


def _check(rows: Sequence[EvalSetConfig], seeds: Sequence[int], batch: int) -> None:
    for row in rows:
        validation.resolve_eval_set(
            row.model_dump(mode="json")
        )  # what the caller gave is checked as a row is
        for where, kind, spec in plugins.list_plugins(row, row.name):
            registry.find(kind, spec.name, kind).check(spec.params, where)
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"benchmarks: two are called '{twice}'; give each its own name")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("seed: should be one number, or several that differ")
    if batch < 1:
        raise UserError("batch: should be at least 1")


def _steps(run: Path, checkpoints: str | Sequence[int] | None) -> dict[int, Path | None]:
    """The checkpoints that are asked for, by step; {} where the model itself is meant."""
    if checkpoints is None:
        return {}
    if not (run / "recipe.yaml").is_file():
        raise UserError(
            f"{run}: is no run folder (it has no recipe.yaml), and only a run has checkpoints"
        )
    known: dict[int, Path | None] = {0: None}
    known |= {
        int(path.name.rpartition("-")[2]): path
        for path in checkpoint.list_checkpoints(run / "checkpoints")
    }
    wanted = list(known) if checkpoints == "all" else [int(step) for step in checkpoints]
    absent = next((step for step in wanted if step not in known), None)
    if absent is not None:
        kept = ", ".join(map(str, known))
        raise UserError(
            f"{run}: has no checkpoint of step {absent} (known: {kept}); see checkpoint.keep in the recipe"
        )
    return {step: known[step] for step in sorted(set(wanted))}


def _versions(model: str, steps: Mapping[int, Path | None]) -> list[Version]:
    if not steps:
        return [Version(0, load_engine(ModelConfig(name=model), Spec(name="local")))]
    loaded = load_policy(loader.load(Path(model) / "recipe.yaml"))
    return [Version(step, loaded.rollouts, loaded.policy, path) for step, path in steps.items()]


def _shown(benchmark: Benchmark) -> str:
    """One rendered prompt and how it is sampled, so that nobody evaluates with the wrong one."""
    prompt, ask_ = benchmark.render([Draw(benchmark.problems[0], 0)])[0], benchmark.sampling
    sampled = (
        f"{ask_.samples} samples at temperature {ask_.temperature:g}"
        if ask_.temperature
        else "greedy"
    )
    nucleus = f", top-p {ask_.top_p:g}" if ask_.top_p < 1 else ""
    stops = f", ends also at {', '.join(map(repr, ask_.stop))}" if ask_.stop else ""
    same = " (all the same at temperature 0)" if ask_.samples > 1 and not ask_.temperature else ""
    head = f"{benchmark.name}: {len(benchmark.problems)} problems, {sampled}{same}{nucleus}, at most {ask_.max_tokens}"
    return f"{head} tokens{stops}; the first prompt:\n{prompt.text}\n(end of the prompt)"


def _settings(
    model: str,
    steps: Mapping[int, Path | None],
    rows: Sequence[EvalSetConfig],
    held_out: Sequence[Benchmark],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """What has to be the same for an evaluation to go on; the problems and the weights by digest."""
    weights = (
        [digest_weights(path) for path in steps.values() if path]
        if steps
        else [digest_weights(Path(loading.locate(model)))]
    )
    found: dict[str, Any] = {
        "model": model,
        "weights": weights,
        "checkpoints": list(steps),
        "seeds": list(seeds),
    }
    for row, benchmark in zip(rows, held_out, strict=True):
        asked = row.model_dump(mode="json", include={"task", "prompt"})
        first = benchmark.render([Draw(benchmark.problems[0], 0)])[0].text
        texts = [text for p in benchmark.problems for text in (p.id, p.question, p.answer)]
        sampling = {name: getattr(benchmark.sampling, name) for name in Sampling.__slots__}
        digests = {"problems": key_of(*texts), "first_prompt": key_of(first)}
        found[f"benchmark {row.name}"] = {
            **asked,
            **sampling,
            "stop": list(benchmark.sampling.stop),
            **digests,
        }
    return found
