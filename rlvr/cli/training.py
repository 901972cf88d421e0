"""The commands that read a recipe or a sweep: `train`, `show`, `sweep`."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rlvr.cli.arguments import add_recipe, print_line
from rlvr.errors import Interrupted, UserError

if TYPE_CHECKING:
    from rlvr.cli.arguments import Commands


def add_train(commands: Commands) -> None:
    parser = commands.add_parser("train", help="train by a recipe")
    add_recipe(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the run's last checkpoint"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing run of this name"
    )
    parser.add_argument(
        "--nproc",
        type=int,
        default=1,
        metavar="N",
        help="so many processes on each machine",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="on a Ray cluster: auto, its address, or local for one made here",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="so many machines of the Ray cluster",
    )
    parser.set_defaults(run=run_train)


def run_train(options: Namespace) -> int:
    from rlvr.config import loader
    from rlvr.distributed.launch import LAUNCHED

    # Mistakes are found before torch is loaded.
    loader.load(options.recipe, options.overrides)
    _check_process_counts(options)
    if options.nodes > 1 and not options.ray:
        raise UserError(
            f"--nodes: {options.nodes} machines need --ray with the address of their cluster, such as auto"
        )
    process_options = _list_process_options(options)
    argv = ["train", options.recipe, *options.overrides, *process_options]
    if process_options and LAUNCHED not in os.environ:
        return _launch(options, argv)

    from rlvr.run.train import train

    try:
        train(
            options.recipe,
            overrides=options.overrides,
            resume=options.resume,
            overwrite=options.overwrite,
        )
    except Interrupted as stop:
        raise _name_resuming_command(stop, argv) from None
    return 0


def _check_process_counts(options: Namespace) -> None:
    for name in ("nproc", "nodes"):
        count = getattr(options, name)
        if count < 1:
            raise UserError(f"--{name}: {count} cannot run anything; give 1 or more")


def _list_process_options(options: Namespace) -> list[str]:
    """Return the options that ask for other processes than this one, as words of a command."""
    argv: list[str] = []
    for name in ("nproc", "ray", "nodes"):
        value = getattr(options, name)
        if value not in (1, None):
            argv += [f"--{name}", str(value)]
    return argv


def _launch(options: Namespace, argv: Sequence[str]) -> int:
    """Run the same command in several processes and return the exit status."""
    from rlvr.distributed.launch import launch
    from rlvr.distributed.ray_cluster import launch_on_ray

    if "WORLD_SIZE" in os.environ:
        raise UserError(
            "WORLD_SIZE: another launcher has set it; unset it, or leave --nproc, --nodes and --ray to it"
        )
    flags = [f"--{name}" for name in ("resume", "overwrite") if getattr(options, name)]
    start = launch
    if options.ray:
        start = partial(launch_on_ray, options.ray, options.nodes)
    status, reason = start(options.nproc, [*argv, *flags], options.main)
    if status:
        options.say(reason)
    return status


def _name_resuming_command(stop: Interrupted, argv: Sequence[str]) -> Interrupted:
    command = shlex.join(["rlvr", *argv, "--resume"])
    return Interrupted(f"{stop}: {command}")


def add_show(commands: Commands) -> None:
    parser = commands.add_parser(
        "show", help="print the resolved recipe and what it will cost; starts nothing"
    )
    add_recipe(parser)
    parser.add_argument(
        "--nproc",
        type=int,
        default=1,
        metavar="N",
        help="plan for so many processes, a GPU each",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="with so many processes on each of N machines",
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="refuse what cannot fit into so much for a process",
    )
    parser.add_argument(
        "--prompts",
        action="store_true",
        help="also print the first prompts with their special tokens, and who opens the thinking;"
        " reads the data and the tokenizer",
    )
    parser.set_defaults(run=run_show)


def run_show(options: Namespace) -> None:
    from rlvr.build.estimate import estimate
    from rlvr.config import loader

    _check_process_counts(options)
    recipe = loader.load(options.recipe, options.overrides)
    lines = estimate(recipe, options.nproc * options.nodes, options.memory)
    print(loader.dump(recipe), end="")
    if options.prompts:
        from rlvr.build.first_prompts import show_first_prompts

        lines += show_first_prompts(recipe)
    for line in lines:
        print_line(f"# {line}")


def add_sweep(commands: Commands) -> None:
    parser = commands.add_parser("sweep", help="run the arms of an experiment with several seeds")
    parser.add_argument("file", metavar="FILE", help="a YAML file or the name of a shipped sweep")
    parser.add_argument(
        "--resume", action="store_true", help="go on; finished runs are not run again"
    )
    parser.add_argument("--overwrite", action="store_true", help="train all runs again")
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="so many runs side by side"
    )
    parser.add_argument(
        "--table", action="store_true", help="only make the table and the figure again"
    )
    parser.set_defaults(run=run_sweep)


def run_sweep(options: Namespace) -> None:
    from rlvr.sweeps.runner import sweep

    argv = ["sweep", options.file]
    if options.parallel > 1:
        argv += ["--parallel", str(options.parallel)]
    try:
        sweep(
            options.file,
            resume=options.resume,
            overwrite=options.overwrite,
            parallel=options.parallel,
            table=options.table,
        )
    except Interrupted as stop:
        raise _name_resuming_command(stop, argv) from None
