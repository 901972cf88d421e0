"""The ways in which a command may fail: by the user's input (exit status 2) or while running (1)."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Bad input: the message is one line that names the file, the key and the fix."""


class RunError(Exception):
    """A failure while running; what was saved before it stays."""


class Interrupted(Exception):
    """The user asked to stop; everything is saved."""


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
