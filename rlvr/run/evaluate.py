"""Evaluate a model, or a run's checkpoints, on held-out sets.

Every sample is kept, so a killed evaluation goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from rlvr.build.benchmarks import make_benchmark
from rlvr.build.models import load_engine, load_policy
from rlvr.build.problems import read_problems
from rlvr.config import loader
from rlvr.config.schema import EvalSetConfig, ModelConfig, Spec, VerifyConfig
from rlvr.data.prompts import Bos
from rlvr.errors import UserError
from rlvr.evaluation.ask import Benchmark
from rlvr.models import loading
from rlvr.run import checkpoint
from rlvr.run.eval_rows import RowOptions, check_rows, read_rows
from rlvr.run.evaluation_folder import EvaluationFolder, digest_weights
from rlvr.run.evaluator import Evaluator, Version
from rlvr.run.progress import Progress
from rlvr.seeds import key_of
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.lock import lock_folder
from rlvr.types import Draw, Problem, Sampling

MAX_TOKENS = 256  # where neither the caller nor the benchmark says

# The checkpoints to evaluate by their steps; None stands for the model before training.
Checkpoints = Mapping[int, Path | None]


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
    bos: Bos | None = None,
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
    ("all" or steps, 0 the model before) asks those of a run's folder. `bos` is as rollout.bos of a
    recipe: `auto`, or for checkpoints as their run has it. With `out`, `samples.jsonl`
    is written there as it goes and `results.json` at the end; the same call goes on where an
    earlier one was ended. Raises UserError for bad input.
    """
    options = RowOptions(
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        limit=limit,
        prompt=prompt,
        stop=tuple(stop),
        data=data,
    )
    rows = [options.apply(row) for row in read_rows(benchmarks)]
    seeds = _list_seeds(seed)
    check_rows(rows)
    _check_numbers(seeds, batch)
    steps = _find_checkpoints(Path(model), checkpoints)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(lock_folder(Path(out), "an evaluation"))
        progress = stack.enter_context(Progress(f"evaluating {model}", 0))
        prompts = _PromptOptions(max_prompt_tokens, _choose_bos(bos, model, steps))
        versions, held_out = _prepare(model, rows, steps, prompts, progress)
        settings = _collect_settings(model, steps, rows, held_out, seeds)
        folder = _open_folder(out, settings, overwrite)
        results = Evaluator(seeds, folder, batch, progress).evaluate(versions, held_out)
        if folder is not None:
            _finish(folder, results, progress, draws_curves=checkpoints is not None)
    return [record.dump_row() for record in results]


@dataclass(frozen=True, slots=True)
class _PromptOptions:
    """How long a prompt may be, and whether it begins with the token that begins a text."""

    max_tokens: int
    bos: Bos


def _choose_bos(asked: Bos | None, model: str, steps: Checkpoints) -> Bos:
    """Return what the caller asks for, else what the run of the checkpoints has."""
    if asked is not None:
        if asked not in get_args(Bos):
            raise UserError(f"bos: should be one of {', '.join(get_args(Bos))}, not {asked!r}")
        return asked
    if steps:
        return loader.load(Path(model) / "recipe.yaml").rollout.bos
    return "auto"


def _list_seeds(seed: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seed, int):
        return (seed,)
    return tuple(seed)


def _check_numbers(seeds: Sequence[int], batch: int) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("seed: should be one number, or several that differ")
    if batch < 1:
        raise UserError("batch: should be at least 1")


def _find_checkpoints(run: Path, asked: str | Sequence[int] | None) -> Checkpoints:
    """Return the checkpoints that are asked for in the order of their steps; {} where the model
    itself is meant.
    """
    if asked is None:
        return {}
    if not (run / "recipe.yaml").is_file():
        raise UserError(
            f"{run}: is no run folder (it has no recipe.yaml), and only a run has checkpoints"
        )
    known: dict[int, Path | None] = {0: None}
    for path in checkpoint.list_checkpoints(run / "checkpoints"):
        known[checkpoint.step_of(path)] = path
    if asked == "all":
        return _check_whole(dict(sorted(known.items())))
    steps = [int(step) for step in asked]
    for step in steps:
        if step not in known:
            names = ", ".join(map(str, known))
            raise UserError(
                f"{run}: has no checkpoint of step {step} (known: {names}); see checkpoint.keep in the recipe"
            )
    return _check_whole({step: known[step] for step in sorted(set(steps))})


def _check_whole(asked: Checkpoints) -> Checkpoints:
    """Raise UserError where the files of a checkpoint are not as they were written."""
    for step, path in asked.items():
        fault = None if path is None else checkpoint.find_fault(path)
        if fault is not None:
            raise UserError(
                f"{path}: is damaged ({fault}); name the steps without {step}, or restore it"
            )
    return asked


def _load_versions(model: str, steps: Checkpoints) -> list[Version]:
    """Return the weights to evaluate, which share one model and one engine."""
    if not steps:
        rollouts = load_engine(ModelConfig(name=model), Spec(name="local"))
        return [Version(0, rollouts)]
    loaded = load_policy(loader.load(Path(model) / "recipe.yaml"))
    return [Version(step, loaded.rollouts, loaded.policy, path) for step, path in steps.items()]


def _prepare(
    model: str,
    rows: Sequence[EvalSetConfig],
    steps: Checkpoints,
    prompts: _PromptOptions,
    progress: Progress,
) -> tuple[list[Version], list[Benchmark]]:
    """Return the weights and the benchmarks to ask, and say how each benchmark is asked."""
    problems = [read_problems(row, f"benchmark {row.name}") for row in rows]
    progress.stage(f"loading {model}")
    versions = _load_versions(model, steps)
    benchmarks = _make_benchmarks(rows, problems, versions[0], prompts)
    for benchmark in benchmarks:
        for line in _describe(benchmark).split("\n"):
            progress.note(line)
    return versions, benchmarks


def _make_benchmarks(
    rows: Sequence[EvalSetConfig],
    problems: Sequence[Sequence[Problem]],
    version: Version,
    prompts: _PromptOptions,
) -> list[Benchmark]:
    tokenizer = version.rollouts.tokenizer
    default = Sampling(1, MAX_TOKENS, 0.0)
    benchmarks: list[Benchmark] = []
    for row, own_problems in zip(rows, problems, strict=True):
        benchmark = make_benchmark(
            row,
            own_problems,
            tokenizer,
            prompts.max_tokens,
            default,
            prompts.bos,
            VerifyConfig().time_limit,
        )
        benchmarks.append(benchmark)
    return benchmarks


def _describe(benchmark: Benchmark) -> str:
    """Return one rendered prompt and how it is sampled, so that nobody evaluates with the wrong
    one.
    """
    sampling = ", ".join(_describe_sampling(benchmark.sampling))
    return (
        f"{benchmark.name}: {len(benchmark.problems)} problems, {sampling}; the first prompt:\n"
        f"{_render_first(benchmark)}\n(end of the prompt)\n"
        f"{benchmark.render.describe(Draw(benchmark.problems[0], 0))}"
    )


def _describe_sampling(sampling: Sampling) -> Iterator[str]:
    if sampling.temperature:
        yield f"{sampling.samples} samples at temperature {sampling.temperature:g}"
    elif sampling.samples > 1:
        yield "greedy (all the same at temperature 0)"
    else:
        yield "greedy"
    if sampling.top_p < 1:
        yield f"top-p {sampling.top_p:g}"
    yield f"at most {sampling.max_tokens} tokens"
    if sampling.stop:
        yield f"ends also at {', '.join(map(repr, sampling.stop))}"


def _render_first(benchmark: Benchmark) -> str:
    return benchmark.render.show(Draw(benchmark.problems[0], 0))


def _collect_settings(
    model: str,
    steps: Checkpoints,
    rows: Sequence[EvalSetConfig],
    benchmarks: Sequence[Benchmark],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Return what has to be the same for an evaluation to go on, the problems and the weights by
    digest.
    """
    weights = [path for path in steps.values() if path]
    if not steps:
        weights = [Path(loading.locate(model))]
    settings: dict[str, Any] = {
        "model": model,
        "weights": [digest_weights(path) for path in weights],
        "checkpoints": list(steps),
        "seeds": list(seeds),
    }
    for row, benchmark in zip(rows, benchmarks, strict=True):
        settings[f"benchmark {row.name}"] = _collect_benchmark_settings(row, benchmark)
    return settings


def _collect_benchmark_settings(row: EvalSetConfig, benchmark: Benchmark) -> dict[str, Any]:
    settings: dict[str, Any] = row.model_dump(mode="json", include={"task", "prompt"})
    for name in Sampling.__slots__:
        settings[name] = getattr(benchmark.sampling, name)
    settings["stop"] = list(benchmark.sampling.stop)
    texts: list[str] = []
    for problem in benchmark.problems:
        texts += [problem.id, problem.question, problem.answer]
    settings["problems"] = key_of(*texts)
    settings["first_prompt"] = key_of(_render_first(benchmark))
    return settings


def _open_folder(
    out: str | Path | None,
    settings: Mapping[str, Any],
    overwrite: bool,
) -> EvaluationFolder | None:
    if out is None:
        return None
    return EvaluationFolder.open(Path(out), settings, overwrite)


def _finish(
    folder: EvaluationFolder,
    results: Sequence[EvalRecord],
    progress: Progress,
    *,
    draws_curves: bool,
) -> None:
    """Write the results and, where checkpoints were asked, the page of their curves."""
    from rlvr.report.evaluation_page import write_curves

    folder.finish(results)
    if draws_curves:
        progress.note(f"curves: {write_curves(folder.path)}")
