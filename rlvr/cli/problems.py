"""The commands that print problems: `data`, `select`."""

from __future__ import annotations

import json
from argparse import REMAINDER, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.cli.arguments import check_output, open_output, read_parameters
from rlvr.errors import UserError

if TYPE_CHECKING:
    from rlvr.cli.arguments import Commands


def add_data(commands: Commands) -> None:
    # Without --help of its own: what stands behind the task belongs to the plug-in.
    parser = commands.add_parser(
        "data", help="write generated problems as JSON lines", add_help=False
    )
    parser.add_argument("task")
    parser.add_argument("options", nargs=REMAINDER, metavar="--key value")
    parser.set_defaults(run=run_data)


def run_data(options: Namespace) -> None:
    from rlvr import registry
    from rlvr.tasks.formats import to_json

    where = f"data {options.task}"
    parameters = read_parameters(options.options, where, "--count 100 --seed 0")
    generate = registry.find("data", options.task, "data").bind(parameters, where)
    for problem in generate():
        print(json.dumps(to_json(problem), ensure_ascii=False))


def add_select(commands: Commands) -> None:
    parser = commands.add_parser(
        "select",
        help="rank training problems by their accuracy history",
        epilog="options of the method: pass_rate has --low, --high, --target and --of mean|last, "
        "random has --seed",
    )
    parser.add_argument(
        "history",
        type=Path,
        metavar="HISTORY",
        help="a run, its history.jsonl, or JSON {id: [accuracy, …]}",
    )
    parser.add_argument(
        "--method",
        required=True,
        help="historical_variance, lim, pass_rate, random, or uncertainty (of the samples)",
    )
    parser.add_argument("--top", type=int, help="how many ranks; all where it is left out")
    parser.add_argument("--start", type=int, default=1, help="the first rank")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="OUT.jsonl",
        help="where the lines go; else standard output",
    )
    parser.set_defaults(run=run_select, method_options=[])


def run_select(options: Namespace) -> None:
    from rlvr.data.rankings import rank_problems

    parameters = read_parameters(
        options.method_options, f"--method {options.method}", "--low 0.2 --high 0.8"
    )
    rows = rank_problems(options.history, options.method, parameters, options.start, options.top)
    check_output(options.out, options.history, options.history / "history.jsonl")
    try:
        with open_output(options.out) as out:
            for row in rows:
                print(json.dumps(asdict(row)), file=out)
    except BrokenPipeError:  # nobody reads on, which is no fault of the file
        raise
    except OSError as error:
        raise UserError(f"{options.out or 'standard output'}: {error.strerror or error}") from None
