"""Evaluation of a model, or of a run's checkpoints, on held-out sets; every sample is kept, so a
killed one goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlvr import checkpoint, models, registry, tree
from rlvr import recipe as recipes
from rlvr.audit import Overlap, overlap
from rlvr.benchmarks import BOXED
from rlvr.build import Benchmark, benchmark_of, load, load_engine, read_problems
from rlvr.errors import UserError
from rlvr.evals import ask, summarise
from rlvr.progress import Progress
from rlvr.recipe import EvalSet, Model, Source, Spec
from rlvr.rollouts import Rollouts
from rlvr.seeds import key_of
from rlvr.trackers import JsonLines, write_whole
from rlvr.types import Draw, Problem, Sampling

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
                from rlvr.report import write_curves

                progress.note(f"curves: {write_curves(folder.path)}")
    return results


def declared(benchmarks: Sequence[str | Mapping[str, Any]]) -> list[EvalSet]:
    """The rows behind names, data files, YAML files of rows and rows; raises UserError."""
    found: list[EvalSet] = []
    for row in benchmarks:
        if isinstance(row, str) and Path(row).suffix in (".yaml", ".yml"):
            found += declared(_rows_of(Path(row)))
        elif isinstance(row, str) and Path(row).suffix in DATA:
            found.append(
                EvalSet(
                    name=Path(row).stem, data=Spec(name="file", params={"path": row}), prompt=BOXED
                )
            )
        else:
            found.append(recipes.eval_set(row))
    return found


def overlaps(
    train: Path, benchmarks: Sequence[str | Mapping[str, Any]], data: str | Path | None
) -> Iterator[tuple[str, Overlap]]:
    """The contamination of each benchmark by the problems of a file, or of a run's recipe; raises
    UserError.
    """
    if train.is_dir():
        sources = recipes.load(train / "recipe.yaml").train
    else:
        sources = (Source(data=Spec(name="file", params={"path": str(train)})),)
    problems = [p for i, source in enumerate(sources) for p in read_problems(source, f"train.{i}")]
    for row in [_asked(row, {}, None, (), data) for row in declared(benchmarks)]:
        yield row.name, overlap(problems, read_problems(row, f"benchmark {row.name}"))


def _rows_of(path: Path) -> list[Any]:
    read = tree.loaded(path, str(path))
    rows = read if isinstance(read, list) else [read]
    if not rows or not all(isinstance(row, str | Mapping) for row in rows):
        raise UserError(
            f"{path}: should be a list of benchmarks, each a name or a row {{name, data, task, prompt}}"
        )
    return rows


def _asked(
    row: EvalSet,
    given: Mapping[str, Any],
    prompt: Any,
    stop: tuple[str, ...],
    data: str | Path | None,
) -> EvalSet:
    """The row with what the caller says in place of its own."""
    changed = {key: value for key, value in given.items() if value is not None}
    if stop:
        changed["stop"] = stop
    if prompt is not None:
        changed["prompt"] = Spec.model_validate(prompt)
    if data is not None and row.data is not None and row.data.name == "shipped":
        changed["data"] = Spec(name="shipped", params={**row.data.params, "folder": str(data)})
    return row.model_copy(update=changed)


def _check(rows: Sequence[EvalSet], seeds: Sequence[int], batch: int) -> None:
    for row in rows:
        recipes.eval_set(row.model_dump(mode="json"))  # what the caller gave is checked as a row is
        for where, kind, spec in recipes.specs(row, row.name):
            registry.find(kind, spec.name, kind).check(spec.params, where)
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"benchmarks: two are called '{twice}'; give each its own name")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("seed: should be one number, or several that differ")
    if batch < 1:
        raise UserError("batch: should be at least 1")


@dataclass(frozen=True, slots=True)
class Version:
    """Weights to evaluate: `step` counts the updates they have seen, `path` is their checkpoint
    (None: as loaded).
    """

    step: int
    rollouts: Rollouts
    policy: Any = None
    path: Path | None = None

    def enter(self) -> None:
        """Load the weights into the engine."""
        if self.path is not None:
            self.policy.load(checkpoint.policy_weights(self.path))
            self.rollouts.load(self.policy.weights(), version=self.step)


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
        int(path.name.rpartition("-")[2]): path for path in checkpoint.saved(run / "checkpoints")
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
        return [Version(0, load_engine(Model(name=model), Spec(name="local")))]
    loaded = load(recipes.load(Path(model) / "recipe.yaml"))
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


def _small(record: Mapping[str, Any]) -> str:
    """What difference this benchmark could show at all."""
    n, least = record["counts"]["problems"], 100 * record["detectable"]
    told = (
        f"a difference below {least:.0f} points would rarely show"
        if least < 100
        else "no difference would show"
    )
    return f"{record['benchmark']}: one problem of {n} is {100 / n:.1f} points; {told} between two models (80 % power)"


def _settings(
    model: str,
    steps: Mapping[int, Path | None],
    rows: Sequence[EvalSet],
    held_out: Sequence[Benchmark],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """What has to be the same for an evaluation to go on; the problems and the weights by digest."""
    weights = (
        [_digest(path) for path in steps.values() if path]
        if steps
        else [_digest(Path(models.locate(model)))]
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


def _digest(folder: Path) -> str:
    """A digest of the names, sizes, beginnings and ends of a model's files; of a hub id its name."""
    digest = hashlib.sha256(folder.name.encode())
    for path in (
        sorted(folder.glob("*.safetensors"))
        + sorted(folder.glob("*.bin"))
        + sorted(folder.glob("*.json"))
    ):
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode() + file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


class Folder:
    """The folder of an evaluation: its settings, its samples as they come, and its results."""

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        self.path, self.samples = path, path / "samples.jsonl"
        kept = path / "settings.json"
        try:
            if overwrite:
                for name in ("samples.jsonl", "settings.json", "results.json"):
                    (path / name).unlink(missing_ok=True)
            if kept.is_file():
                key = tree.difference(settings, json.loads(kept.read_text(encoding="utf-8")))
                if key is not None:
                    fault = f"an evaluation with another '{key}' lies here"
                    raise UserError(f"{path}: {fault}; choose another --out, or --overwrite")
            elif self.samples.is_file():
                raise UserError(
                    f"{path}: holds samples but no settings.json; choose another --out, or --overwrite"
                )
            path.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(settings, indent=1), encoding="utf-8")
            self.log = JsonLines(self.samples)  # which repairs a torn last line
            self.done: dict[tuple[Any, ...], dict[str, Any]] = {
                self._key(r): r for r in JsonLines.read(self.samples)
            }
        except OSError as error:
            raise UserError(
                f"{error.filename or path}: {error.strerror or error}; choose another --out"
            ) from None
        except ValueError:
            raise UserError(
                f"{kept}: is not valid JSON; choose another --out, or --overwrite"
            ) from None

    @staticmethod
    def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("benchmark", "step", "seed", "id", "index"))

    def add(self, row: dict[str, Any]) -> None:
        """Keep a sample; it is on the disk when this returns."""
        self.log.append(row)
        self.done[self._key(row)] = row

    def finish(self, results: Sequence[Mapping[str, Any]]) -> None:
        self.log.close()
        write_whole(self.path / "results.json", json.dumps(results, indent=1))


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Goes through benchmarks with each seed, about `batch` samples at a time; what the folder
    holds is not asked.
    """

    seeds: Sequence[int]
    folder: Folder | None
    batch: int
    progress: Progress

    def results(
        self, versions: Sequence[Version], held_out: Sequence[Benchmark]
    ) -> list[dict[str, Any]]:
        """The records of all benchmarks for all weights."""
        results = []
        for version in versions:
            version.enter()
            for benchmark in held_out:
                record = self._record(benchmark, version)
                self.progress.evaluated(record)
                self.progress.note(_small(record))
                results.append(record)
        return results

    def _record(self, benchmark: Benchmark, version: Version) -> dict[str, Any]:
        """The record of one benchmark; the samples of all seeds are those of one evaluation."""
        columns = [list(self._samples(benchmark, version, seed)) for seed in self.seeds]
        rows = [row for column in columns for row in column]
        record = {
            "step": version.step,
            "benchmark": benchmark.name,
            **summarise(rows, benchmark.problems),
        }
        if len(self.seeds) > 1:
            alone = [
                summarise(column, benchmark.problems)["metrics"]["pass@1"] for column in columns
            ]
            record["seeds"] = {"pass@1": dict(zip(map(str, self.seeds), alone, strict=True))}
            record["seeds"] |= {
                "mean": statistics.fmean(alone),
                "deviation": statistics.stdev(alone),
            }
        return {**record, "time": {"seconds": sum(row["time"]["seconds"] for row in rows)}}

    def _samples(
        self, benchmark: Benchmark, version: Version, seed: int
    ) -> Iterator[dict[str, Any]]:
        """The samples of one seed in the order of the problems.

        The parts are the same whatever is there, since the neighbours of a sample decide its last
        bits.
        """
        count, place = benchmark.sampling.samples, (benchmark.name, version.step, seed)
        size, known = max(1, self.batch // count), self.folder.done if self.folder else {}
        for start in range(0, len(benchmark.problems), size):
            part = benchmark.problems[start : start + size]
            have = {
                (p.id, i): known[*place, p.id, i]
                for p in part
                for i in range(count)
                if (*place, p.id, i) in known
            }
            if len(have) < len(part) * count:
                where = f"{benchmark.name} at step {version.step}, seed {seed}"
                self.progress.stage(
                    f"{where}: {count * start} of {count * len(benchmark.problems)} samples"
                )
            for row in _missing(benchmark, version, seed, part, have):
                have[row["id"], row["index"]] = row
                if self.folder is not None:
                    self.folder.add(row)
            yield from (have[p.id, i] for p in part for i in range(count))


def _missing(
    benchmark: Benchmark,
    version: Version,
    seed: int,
    part: Sequence[Problem],
    have: Mapping[Any, Any],
) -> Iterator[dict[str, Any]]:
    """The samples of some problems that are not there: all of a problem at once, or one by one
    where some are.
    """
    numbers = range(benchmark.sampling.samples)
    lacking = {p.id: [i for i in numbers if (p.id, i) not in have] for p in part}
    whole = [Draw(p, 0) for p in part if len(lacking[p.id]) == len(numbers)]
    single = [
        Draw(p, 0, i) for p in part if len(lacking[p.id]) < len(numbers) for i in lacking[p.id]
    ]
    one_by_one = replace(benchmark, sampling=replace(benchmark.sampling, samples=1))
    for draws, asked in ((whole, benchmark), (single, one_by_one)):
        if draws:
            begun = time.perf_counter()
            found = ask(asked, version.rollouts, draws, version.step, seed, second=True)
            seconds = time.perf_counter() - begun
            for row in found:
                clock = {**row["time"], "seconds": seconds / len(found)}
                yield {"benchmark": benchmark.name, "seed": seed, **row, "copy": 0, "time": clock}
