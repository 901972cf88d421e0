"""The command line: a thin shell over `rlvr.train`, `rlvr.evaluate` and the report.

Exit status 2 is bad input (one line on standard error), 1 a failure while running, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rlvr.distributed.launch import LAUNCHED, launch
from rlvr.distributed.ray_cluster import launch_on_ray
from rlvr.errors import Interrupted, RunError, UserError
from rlvr.resources import asset


def _say(message: str) -> None:
    print(f"rlvr: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = _say) -> int:
    """Run one command and return its exit status; `say` gets the reason of a failure."""
    options = parse(arguments)
    options.say = say
    try:
        return options.run(options) or 0
    except (UserError, RunError) as error:
        say(str(error))
        return 2 if isinstance(error, UserError) else 1
    except Interrupted as stop:
        say(f"{stop}: {shlex.join(['rlvr', *options.again, '--resume'])}")
        return 130
    except KeyboardInterrupt:
        say("stopped at once; what was saved stays")
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command and its options; overrides may also stand behind an option, where argparse does
    not look for them.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.run is _select:
        options.options = rest  # those of the method
    elif any(word.startswith("-") or not hasattr(options, "overrides") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    elif rest:
        options.overrides += rest
    return options


TYPES = {"int": int, "float": float, "path": Path}


def _parser() -> argparse.ArgumentParser:
    """The commands of `assets/commands.yaml`."""
    parser = argparse.ArgumentParser(
        prog="rlvr", description="Reinforcement learning with verifiable rewards."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    runs = {
        "train": _train,
        "show": _show,
        "eval": _eval,
        "data": _data,
        "grade": _grade,
        "audit": _audit,
    }
    runs |= {"report": _report, "select": _select, "sweep": _sweep}
    for name, settings in asset("commands").items():
        arguments = settings.pop("arguments")
        command = commands.add_parser(name, **settings)
        command.set_defaults(run=runs[name])
        for argument, options in arguments.items():
            told: dict[str, Any] = {
                key: TYPES[value] if key == "type" else value for key, value in options.items()
            }
            command.add_argument(argument, **told)
    return parser


def _train(options: argparse.Namespace) -> int:
    from rlvr.config import loader as recipe

    recipe.load(options.recipe, options.overrides)  # mistakes are found before torch is loaded
    where = {"--nproc": options.nproc, "--ray": options.ray, "--nodes": options.nodes}
    given = [str(part) for pair in where.items() if pair[1] not in (1, None) for part in pair]
    words = ["train", options.recipe, *options.overrides, *given]
    _check_processes(options)
    if options.nodes > 1 and not options.ray:
        raise UserError(
            f"--nodes: {options.nodes} machines need --ray with the address of their cluster, such as auto"
        )
    if given and LAUNCHED not in os.environ:
        return _launch(options, words)
    from rlvr.run.train import train

    options.again = words
    train(
        options.recipe,
        overrides=options.overrides,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    return 0


def _check_processes(options: argparse.Namespace) -> None:
    for name in ("nproc", "nodes"):
        if getattr(options, name) < 1:
            raise UserError(
                f"--{name}: {getattr(options, name)} cannot run anything; give 1 or more"
            )


def _sweep(options: argparse.Namespace) -> None:
    from rlvr.sweeps.runner import sweep

    options.again = [
        "sweep",
        options.file,
        *(["--parallel", str(options.parallel)] * (options.parallel > 1)),
    ]
    sweep(
        options.file,
        **{key: getattr(options, key) for key in ("resume", "overwrite", "parallel", "table")},
    )


def _launch(options: argparse.Namespace, words: Sequence[str]) -> int:
    """The same command in several processes."""
    if "WORLD_SIZE" in os.environ:
        raise UserError(
            "WORLD_SIZE: another launcher has set it; unset it, or leave --nproc, --nodes and --ray to it"
        )
    words = [*words, *(f"--{name}" for name in ("resume", "overwrite") if getattr(options, name))]
    start = partial(launch_on_ray, options.ray, options.nodes) if options.ray else launch
    status, reason = start(options.nproc, words, main)
    if status:
        options.say(reason)
    return status


def _show(options: argparse.Namespace) -> None:
    from rlvr.config import loader as recipe

    _check_processes(options)
    # mistakes are found before torch is loaded
    resolved = recipe.load(options.recipe, options.overrides)
    from rlvr.build.estimate import estimate

    lines = estimate(resolved, options.nproc * options.nodes, options.memory)
    print(recipe.dump(resolved), end="")
    print("\n".join(f"# {line}" for line in lines))


def _eval(options: argparse.Namespace) -> None:
    from rlvr.run.evaluate import evaluate

    rows = _benchmarks(options.benchmarks)
    if not rows:
        raise UserError("--benchmarks: name at least one, such as --benchmarks arithmetic,knights")
    keys = "samples temperature top_p max_tokens stop limit data batch out overwrite".split()
    steps = options.checkpoints
    evaluate(
        options.model,
        rows,
        prompt=_flow("--prompt", options.prompt) if options.prompt else None,
        seed=_numbers("--seed", options.seed),
        checkpoints=steps if steps in (None, "all") else _numbers("--checkpoints", steps),
        **{key: getattr(options, key) for key in keys},
    )


def _benchmarks(text: str) -> list[Any]:
    """Names with commas between them, or rows in YAML's flow style."""
    if not text.lstrip().startswith(("{", "[")):
        return [name for name in text.split(",") if name]
    rows = _flow("--benchmarks", text)
    return rows if isinstance(rows, list) else [rows]


def _flow(option: str, text: str) -> Any:
    """An option that is a name, or a mapping or list in YAML's flow style."""
    try:
        return yaml.safe_load(text) if text.lstrip().startswith(("{", "[")) else text
    except yaml.YAMLError as error:
        raise UserError(f"{option}: not valid YAML: {str(error).splitlines()[0]}") from None


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option}: should be whole numbers with commas between them, not '{text}'"
        ) from None


def _data(options: argparse.Namespace) -> None:
    from rlvr import registry
    from rlvr.tasks.files import to_json

    params = _pairs(options.options, f"data {options.task}", "--count 100 --seed 0")
    for problem in registry.find("data", options.task, "data").bind(
        params, f"data {options.task}"
    )():
        print(json.dumps(to_json(problem), ensure_ascii=False))


def _pairs(options: Sequence[str], where: str, such: str) -> dict[str, Any]:
    """The parameters of a plug-in from words of the command line."""
    words = [part for word in options for part in word.split("=", 1)]
    if len(words) % 2 or any(not key.startswith("--") for key in words[::2]):
        raise UserError(f"{where}: options come in pairs, such as {such}")
    values = [yaml.safe_load(value) for value in words[1::2]]
    return dict(zip((key[2:].replace("-", "_") for key in words[::2]), values, strict=True))


def _grade(options: argparse.Namespace) -> None:
    from rlvr.evaluation.grade import grade

    try:
        with (
            options.file.open(encoding="utf-8-sig", errors="replace") as lines,
            _output(options.out) as out,
        ):
            for verdict in grade(lines, options.task):
                print(json.dumps(verdict), file=out)
    except OSError as error:
        raise UserError(f"{error.filename or options.file}: {error.strerror or error}") from None


def _output(path: Path | None) -> Any:
    return path.open("w", encoding="utf-8") if path else nullcontext(sys.stdout)


def _select(options: argparse.Namespace) -> None:
    from rlvr.data.run_history import ranked

    asked = _pairs(options.options, f"--method {options.method}", "--low 0.2 --high 0.8")
    rows = ranked(options.history, options.method, asked, options.start, options.top)
    try:
        with _output(options.out) as out:
            for row in rows:
                print(json.dumps(asdict(row)), file=out, flush=True)
    # `head` has seen enough; what is still in the buffer must not be written while Python ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise UserError(f"{options.out or 'standard output'}: {error.strerror or error}") from None


def _audit(options: argparse.Namespace) -> None:
    from rlvr.evaluation.agreement import audit_responses, lines_of, write_page

    if options.benchmarks:
        from rlvr.run.evaluate import overlaps

        for name, found in overlaps(options.path, _benchmarks(options.benchmarks), options.data):
            print(found.line(name))
        return
    found = audit_responses(options.path)
    print("\n".join(lines_of(found)))
    folder = options.path if options.path.is_dir() else Path()
    print(f"page: {write_page(found, options.path.name, options.out or folder / 'audit.html')}")


def _report(options: argparse.Namespace) -> None:
    from rlvr.report.evaluation_page import is_evaluation, write_beside, write_curves
    from rlvr.report.run_page import compare, write_report
    from rlvr.sweeps.table import pooled_gain

    evaluations = [is_evaluation(path) for path in options.runs]
    if any(evaluations):
        if not all(evaluations) or len(evaluations) > 2:
            raise UserError("report: name one evaluation, two to set side by side, or runs alone")
        first, *others = options.runs
        print(write_beside(first, others[0], options.out) if others else write_curves(first))
        return
    if len(options.runs) == 1:
        print(write_report(options.runs[0]))
        return
    print(compare(options.runs, options.out))
    gain = pooled_gain(options.runs)
    if gain is not None:
        low, high = gain["ci95"]  # type: ignore[misc]
        bounds = f"{gain['pass@1']:+.3f} [{low:+.3f}, {high:+.3f}]"
        print(f"mean gain of {len(options.runs)} runs, paired over {gain['n']} problems: {bounds}")
