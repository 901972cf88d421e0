"""The command that writes pages: `report`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.errors import UserError

if TYPE_CHECKING:
    from rlvr.cli.arguments import Commands


def add_report(commands: Commands) -> None:
    parser = commands.add_parser("report", help="(re)build the report of a run, or compare several")
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="or one or two folders of rlvr eval",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("compare.html"), help="where a comparison goes"
    )
    parser.set_defaults(run=run_report)


def run_report(options: Namespace) -> None:
    from rlvr.report.evaluation_page import is_evaluation
    from rlvr.report.run_page import compare, write_report

    evaluations = [is_evaluation(path) for path in options.runs]
    if any(evaluations):
        if not all(evaluations) or len(evaluations) > 2:
            raise UserError("report: name one evaluation, two to set side by side, or runs alone")
        print(_write_evaluation_page(options.runs, options.out))
    elif len(options.runs) == 1:
        print(write_report(options.runs[0]))
    else:
        print(compare(options.runs, options.out))
        _print_pooled_gain(options.runs)


def _write_evaluation_page(folders: Sequence[Path], out: Path) -> Path:
    from rlvr.report.evaluation_page import write_beside, write_curves

    if len(folders) == 1:
        return write_curves(folders[0])
    first, second = folders
    return write_beside(first, second, out)


def _print_pooled_gain(runs: Sequence[Path]) -> None:
    from rlvr.sweeps.figures import pool_gains

    gain = pool_gains(runs)
    if gain is None or gain.ci95 is None:
        return
    low, high = gain.ci95
    bounds = f"{gain.value:+.3f} [{low:+.3f}, {high:+.3f}]"
    print(f"mean gain of {len(runs)} runs, paired over {gain.n} problems: {bounds}")
