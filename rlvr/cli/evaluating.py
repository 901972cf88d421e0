"""The commands that judge answers: `eval`, `grade`, `audit`."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.cli.arguments import (
    add_data_folder,
    check_output,
    open_output,
    print_line,
    read_benchmarks,
    read_flow,
    read_numbers,
)
from rlvr.errors import UserError

if TYPE_CHECKING:
    from rlvr.cli.arguments import Commands


def add_eval(commands: Commands) -> None:
    parser = commands.add_parser(
        "eval", help="evaluate a model on benchmarks; the same command goes on where it ended"
    )
    parser.add_argument(
        "model", help="a model folder, hub id or built-in model, or a run with --checkpoints"
    )
    parser.add_argument(
        "--benchmarks",
        required=True,
        metavar="A,B",
        help="names, data files, a YAML file of rows, or '{name: …}'",
    )
    parser.add_argument(
        "--prompt",
        help="a template in place of the benchmark's own; a name or '{name: …, …}'",
    )
    parser.add_argument("--samples", type=int, help="answers to each problem")
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--max-tokens", type=int, help="of an answer")
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="ends an answer; may be repeated",
    )
    parser.add_argument(
        "--bos",
        choices=["auto", "add", "none"],
        help="whether a prompt begins with the token that begins a text, as rollout.bos",
    )
    parser.add_argument(
        "--seed", default="0", metavar="S[,S]", help="several are pooled and shown apart"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first problems of each benchmark"
    )
    add_data_folder(parser)
    parser.add_argument(
        "--checkpoints",
        metavar="all|STEP,STEP",
        help="those of a run, into one table and curves; 0 is before training",
    )
    parser.add_argument(
        "--batch", type=int, default=64, help="samples asked at once; a kill loses at most so many"
    )
    parser.add_argument("--out", type=Path, default=Path("eval"))
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an evaluation that lies in --out"
    )
    parser.set_defaults(run=run_eval)


def run_eval(options: Namespace) -> None:
    from rlvr.run.evaluate import evaluate

    rows = read_benchmarks(options.benchmarks)
    if not rows:
        raise UserError("--benchmarks: name at least one, such as --benchmarks arithmetic,knights")
    prompt = None
    if options.prompt:
        prompt = read_flow("--prompt", options.prompt)
    seeds = read_numbers("--seed", options.seed)
    checkpoints = options.checkpoints
    if checkpoints not in (None, "all"):
        checkpoints = read_numbers("--checkpoints", checkpoints)
    evaluate(
        options.model,
        rows,
        prompt=prompt,
        seed=seeds,
        checkpoints=checkpoints,
        samples=options.samples,
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        stop=options.stop,
        bos=options.bos,
        limit=options.limit,
        data=options.data,
        batch=options.batch,
        out=options.out,
        overwrite=options.overwrite,
    )


def add_grade(commands: Commands) -> None:
    parser = commands.add_parser(
        "grade", help="verify answers: JSON lines with gold and prediction"
    )
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="OUT.jsonl",
        help="where the verdicts go; else standard output",
    )
    parser.add_argument("--task", choices=["math", "knights"], default="math")
    parser.set_defaults(run=run_grade)


def run_grade(options: Namespace) -> None:
    from rlvr.evaluation.grade import grade

    check_output(options.out, options.file)
    try:
        with (
            options.file.open(encoding="utf-8-sig", errors="replace") as lines,
            open_output(options.out) as out,
        ):
            for verdict in grade(lines, options.task):
                print(json.dumps(verdict), file=out)
    except BrokenPipeError:  # nobody reads on, which is no fault of the file
        raise
    except OSError as error:
        raise UserError(f"{error.filename or options.file}: {error.strerror or error}") from None


def add_audit(commands: Commands) -> None:
    parser = commands.add_parser(
        "audit", help="compare the verdicts of a run or file with other graders"
    )
    parser.add_argument("path", type=Path, metavar="RUN-or-FILE")
    parser.add_argument("--out", type=Path, metavar="PAGE.html")
    parser.add_argument(
        "--benchmarks",
        metavar="A,B",
        help="which of their problems stand in the training problems",
    )
    add_data_folder(parser)
    parser.set_defaults(run=run_audit)


def run_audit(options: Namespace) -> None:
    if options.benchmarks:
        _print_overlaps(options)
        return

    from rlvr.evaluation.agreement import audit_responses, describe_audit, write_page

    check_output(options.out, options.path)
    audit = audit_responses(options.path)
    for line in describe_audit(audit):
        print_line(line)
    out = options.out
    if out is None:
        folder = options.path if options.path.is_dir() else Path()
        out = folder / "audit.html"
    print_line(f"page: {write_page(audit, options.path.name, out)}")


def _print_overlaps(options: Namespace) -> None:
    from rlvr.run.overlaps import find_overlaps

    benchmarks = read_benchmarks(options.benchmarks)
    for name, overlap in find_overlaps(options.path, benchmarks, options.data):
        print_line(overlap.describe(name))
