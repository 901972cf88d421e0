"""The ways in which a command may fail: by the user's input (exit status 2) or while running (1)."""

from __future__ import annotations

import difflib
import dis
import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

_PACKAGE = str(Path(__file__).parent)


class UserError(Exception):
    """Bad input: the message is one line that names the file, the key and the fix."""


class RunError(Exception):
    """A failure while running; what was saved before it stays."""


class Interrupted(Exception):
    """The user asked to stop; everything is saved."""


class ForeignExit(Exception):
    """Code that is not ours asked the process to end."""


class ContainedCode:
    """Code of a user's file, which may neither end the process nor leave its working folder.

    It is a `with` block: what would end the process is a ForeignExit there. The user's own Ctrl-C
    passes.
    """

    __slots__ = ("_folder",)

    def __enter__(self) -> None:
        self._folder = os.getcwd()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.chdir(self._folder)
        if error is None or isinstance(error, Exception):
            return
        if isinstance(error, SystemExit):
            raise ForeignExit(f"it ended the process by sys.exit({error.code!r})") from None
        if not isinstance(error, KeyboardInterrupt) or _is_raised_by_foreign_code(traceback):
            raise ForeignExit(f"it raised {type(error).__name__}") from None


def is_foreign(function: Callable[..., Any]) -> bool:
    """Return whether a function, or what a partial of it calls, lies outside of this package."""
    called = getattr(function, "func", function)
    return not str(getattr(called, "__module__", "")).startswith("rlvr.")


def _is_raised_by_foreign_code(traceback: TracebackType | None) -> bool:
    """Return whether a `raise` outside of this package made an exception.

    An exception of a signal comes between two instructions, or from a handler of ours.
    """
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    instruction = dis.opname[code.co_code[traceback.tb_lasti]]
    return instruction == "RAISE_VARARGS" and not code.co_filename.startswith(_PACKAGE)


def import_optional(module: str, fault: str) -> Any:
    """Return a module of an extra.

    Raises UserError where it cannot be imported, with the reason in place of `{error}`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(fault.replace("{error}", str(error))) from None


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for a near miss, else the list of what is known.

    >>> suggest("gpro", ["grpo", "rloo"])
    " (did you mean 'grpo'?)"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names) or 'none'})"
