"""The program `rlvr`: parse a command, run it, return its exit status.

Exit status 2 is bad input (one line on standard error), 1 a failure while running, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from rlvr.cli.evaluating import add_audit, add_eval, add_grade
from rlvr.cli.problems import add_data, add_select
from rlvr.cli.reports import add_report
from rlvr.cli.training import add_show, add_sweep, add_train
from rlvr.errors import Interrupted, RunError, UserError

# In the order in which `rlvr --help` lists them.
COMMANDS = (
    add_train,
    add_show,
    add_eval,
    add_data,
    add_grade,
    add_audit,
    add_report,
    add_select,
    add_sweep,
)


# What a disk or its owner may answer to any command that writes.
REFUSALS = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM})


def _say(message: str) -> None:
    from rlvr.report.formatting import make_printable

    encoding = sys.stderr.encoding or "utf-8"
    line = make_printable(f"rlvr: {message}").encode(encoding, "replace")
    print(line.decode(encoding), file=sys.stderr)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = _say) -> int:
    """Run one command and return its exit status; `say` gets the reason of a failure.

    Launchers pickle this function for their child processes, so it stays at the top of a module.
    """
    options = parse(arguments)
    options.say = say
    options.main = main
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _discard_output()
        return 0
    except UserError as error:
        say(str(error))
        return 2
    except RunError as error:
        say(str(error))
        return 1
    except Interrupted as stop:
        say(str(stop))
        return 130
    except KeyboardInterrupt:
        say("stopped at once; what was saved stays")
        return 130
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        say(f"{error.filename or 'a file'}: {error.strerror}; what was saved before it stays")
        return 1


def _discard_output() -> None:
    """Write what is left in the buffer nowhere: `head` has seen enough."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command and its options.

    Overrides may also stand behind an option, where argparse does not look for them; `select`
    passes what it does not know to its method.
    """
    parser = _build_parser()
    options, unparsed = parser.parse_known_args(arguments)
    if hasattr(options, "method_options"):
        options.method_options = unparsed
        return options
    takes_overrides = hasattr(options, "overrides")
    if any(word.startswith("-") or not takes_overrides for word in unparsed):
        parser.error(f"unrecognized arguments: {' '.join(unparsed)}")
    if takes_overrides:
        options.overrides += unparsed
    return options


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlvr", description="Reinforcement learning with verifiable rewards."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(commands)
    return parser
