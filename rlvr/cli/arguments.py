"""Arguments that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rlvr.errors import UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction

    Commands = _SubParsersAction[ArgumentParser]


def add_recipe(parser: ArgumentParser) -> None:
    """Add a recipe and the overrides of its keys."""
    parser.add_argument("recipe", help="a YAML file or the name of a shipped recipe")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="dotted keys, such as rollout.samples=4",
    )


def add_data_folder(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where the files of published benchmarks lie",
    )


def read_benchmarks(text: str) -> list[Any]:
    """Read names with commas between them, or rows in YAML's flow style."""
    if not _is_flow(text):
        return [name for name in text.split(",") if name]
    rows = read_flow("--benchmarks", text)
    return rows if isinstance(rows, list) else [rows]


def read_flow(option: str, text: str) -> Any:
    """Read a name, or a mapping or list in YAML's flow style; raises UserError naming the option."""
    import yaml

    if not _is_flow(text):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{option}: not valid YAML: {str(error).splitlines()[0]}") from None


def _is_flow(text: str) -> bool:
    return text.lstrip().startswith(("{", "["))


def read_numbers(option: str, text: str) -> list[int]:
    """Read whole numbers with commas between them; raises UserError naming the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option}: should be whole numbers with commas between them, not '{text}'"
        ) from None


def read_parameters(arguments: Sequence[str], where: str, example: str) -> dict[str, Any]:
    """Read the parameters of a plug-in: `--key value` or `--key=value`, the values in YAML.

    Raises UserError with the `example` where they do not come in pairs.
    """
    import yaml

    words: list[str] = []
    for argument in arguments:
        words += argument.split("=", 1)
    options = words[::2]
    values = words[1::2]
    if len(options) != len(values) or any(not option.startswith("--") for option in options):
        raise UserError(f"{where}: options come in pairs, such as {example}")
    parameters = {}
    for option, value in zip(options, values, strict=True):
        key = option.removeprefix("--").replace("-", "_")
        parameters[key] = yaml.safe_load(value)
    return parameters


def check_output(out: Path | None, *inputs: Path) -> None:
    """Refuse an output that is one of the inputs, which writing would empty; raises UserError."""
    if out is None or not out.is_file():
        return
    for path in inputs:
        if path.is_file() and path.samefile(out):
            raise UserError(f"--out: {out} is the input itself; name another file")


def print_line(text: object) -> None:
    """Print one line on standard output without control codes, which data may hold."""
    from rlvr.report.formatting import make_printable

    encoding = sys.stdout.encoding or "utf-8"
    line = make_printable(str(text)).encode(encoding, "replace")
    print(line.decode(encoding))


def open_output(path: Path | None) -> AbstractContextManager[TextIO]:
    """Open the file that `--out` names, or standard output, which stays open."""
    if path is None:
        return nullcontext(sys.stdout)
    return path.open("w", encoding="utf-8")
