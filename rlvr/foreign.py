"""The door for code of a user's file: it ends no process, leaves no folder, and fails in a line that names it.

What calls such code for one row or one response (`tasks`, `rewards`) names that too; every other
plug-in of a user's file is guarded where it is bound.
"""

from __future__ import annotations

import dis
import inspect
import os
import signal
import sysconfig
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rlvr.errors import RunError, UserError

_PACKAGE = str(Path(__file__).parent)
_LIBRARIES = (_PACKAGE, "<", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))

# By it a watch ends code that takes too long. Rewards have alarms of their own (SIGALRM), and
# schedulers of clusters send SIGUSR1.
_WAKE = signal.SIGVTALRM
_AGAIN = 1.0  # seconds until code that has caught what woke it is woken again


class ForeignExit(Exception):
    """Code that is not ours asked the process to end."""


class ForeignTimeout(Exception):
    """Code that is not ours took longer than it may."""


class _OutOfTime(BaseException):
    """Wakes code that takes too long; no `except Exception` there catches it."""


class ContainedCode:
    """Code of a user's file, which may neither end the process nor leave its working folder.

    It is a `with` block: what would end the process is a ForeignExit there. The user's own Ctrl-C
    passes. With `seconds` (of the recipe's `key`) what has not ended by then is a ForeignTimeout,
    in the main thread alone, which is the one that signals reach.
    """

    __slots__ = ("_folder", "_key", "_watch")

    def __init__(self, seconds: float | None = None, key: str = "reward_timeout") -> None:
        self._key = key
        self._watch: _Watch | None = None
        if seconds is not None and threading.current_thread() is threading.main_thread():
            self._watch = _Watch(seconds)

    def __enter__(self) -> None:
        self._folder = os.getcwd()
        if self._watch is not None:
            self._watch.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watch is not None:
            self._watch.stop()
        os.chdir(self._folder)
        if error is None or isinstance(error, Exception):
            return
        reason = self._explain(error, traceback)
        if reason is not None:
            raise reason.with_traceback(traceback) from None

    def _explain(self, error: BaseException, traceback: TracebackType | None) -> Exception | None:
        """Return what an end of the process is called here; None for the user's own Ctrl-C."""
        if isinstance(error, _OutOfTime):
            assert self._watch is not None
            return ForeignTimeout(
                f"it has not answered for {self._watch.seconds:g} seconds ({self._key})"
            )
        if isinstance(error, SystemExit):
            return ForeignExit(f"it ended the process by sys.exit({error.code!r})")
        if not isinstance(error, KeyboardInterrupt) or _is_raised_by_foreign_code(traceback):
            return ForeignExit(f"it raised {type(error).__name__}")
        return None


class _Watch:
    """Wakes the main thread when time is up, and again while it does not stop."""

    __slots__ = ("_done", "_end", "_outer", "seconds")

    _current: _Watch | None = None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._done = threading.Event()
        self._end = 0.0
        self._outer: _Watch | None = None

    def start(self) -> None:
        signal.signal(_WAKE, _Watch._interrupt)
        self._outer = _Watch._current
        self._end = time.monotonic() + self.seconds
        _Watch._current = self
        threading.Thread(target=self._wake, name="time limit", daemon=True).start()

    def stop(self) -> None:
        _Watch._current = self._outer
        self._done.set()

    def _wake(self) -> None:
        pause = self.seconds
        while not self._done.wait(pause):
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
            pause = _AGAIN

    @staticmethod
    def _interrupt(number: int, frame: FrameType | None) -> None:
        """Raise in the code that is watched; a signal that comes late finds no watch, or a newer one."""
        watch = _Watch._current
        if watch is not None and time.monotonic() >= watch._end:
            raise _OutOfTime


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


def run_foreign(
    call: Callable[[], Any],
    complaint: str,
    fault: type[UserError] | type[RunError] = UserError,
) -> Any:
    """Call a user's own code; whatever it raises is a fault that begins with the complaint."""
    try:
        with ContainedCode():
            return call()
    except (UserError, RunError):
        raise
    except Exception as error:
        line = f"{complaint}: {describe_error(error)}{name_place(error)}"
        raise fault(line) from error


def describe_error(error: BaseException) -> str:
    """Return the kind of an exception and the first line that it says.   "KeyError: 'score'" """
    try:
        lines = str(error).splitlines() or [""]
    except Exception:  # an exception of a user's file may fail to say what it is
        lines = [""]
    return f"{type(error).__name__}: {lines[0]}"


def name_place(error: BaseException) -> str:
    """Return ` (mine.py, line 3)`, the last line of a user's file that an exception came through."""
    place = ""
    for frame, line in tracebacks.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARIES):
            place = f" ({Path(file).name}, line {line})"
    return place


# --- Plug-ins of a user's file


@dataclass(frozen=True, slots=True)
class GuardedFunction:
    """A plug-in of a user's file with its parameters, whose failure is one line with its name."""

    function: Callable[..., Any]
    kind: str
    name: str

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        call = partial(self.function, *arguments, **keywords)
        what = f"{self.kind} '{self.name}'"
        returned = run_foreign(call, f"{what} raised", RunError)
        if self.kind in _METHODS:
            return GuardedObject(returned, self.kind, self.name)
        if self.kind in _RETURNS:
            wanted, is_wanted = _RETURNS[self.kind]
            if not is_wanted(returned, arguments):
                raise RunError(f"{what} returned {_describe(returned)}; it should return {wanted}")
        if self.kind == "filter" and len(returned) != len(arguments[0]):
            raise RunError(
                f"{what} returned {len(returned)} of {len(arguments[0])} groups; one that is not to"
                f" be trained on stays, with trained=False"
            )
        return returned


class GuardedObject:
    """An object that a plug-in of a user's file made: each of its methods is guarded."""

    def __init__(self, made: Any, kind: str, name: str) -> None:
        self.made = made
        self._kind = kind
        self._name = name
        for method in _METHODS[kind]:
            if not callable(getattr(made, method, None)):
                raise RunError(f"{kind} '{name}': {_describe(made)} has no method '{method}'")

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self.made, attribute)
        # A method may also be a function that is kept as an attribute, or one that asks for no object.
        if not inspect.ismethod(value) and attribute not in _METHODS[self._kind]:
            return value
        complaint = f"{self._kind} '{self._name}': {attribute} raised"
        return lambda *arguments, **keywords: run_foreign(
            partial(value, *arguments, **keywords), complaint, RunError
        )


def guard(function: Callable[..., Any], kind: str, name: str) -> Callable[..., Any]:
    """Return a bound plug-in, guarded where it is of a user's file, or of a library that is not ours.

    Callers that name the row, problem or response that was asked for guard it themselves.
    """
    if kind in _GUARDED_BY_CALLERS:
        return function
    if kind not in _OF_LIBRARIES and not is_foreign(function):
        return function
    return GuardedFunction(function, kind, name)


_GUARDED_BY_CALLERS = ("data", "task", "reward")

# Ours of these kinds hand everything to a library, which may find no disk, no network, no account.
_OF_LIBRARIES = ("tracker",)

# The methods of what these kinds make.
_METHODS: Mapping[str, Sequence[str]] = {
    "engine": ("load", "generate"),
    "tracker": ("log", "close"),
}


def _is_one(value: object, *names: str) -> bool:
    """Return whether a value is of a type of one of these names; this file can import none of them."""
    return any(base.__name__ in names for base in type(value).__mro__)


def _are_all(values: object, name: str) -> bool:
    return isinstance(values, list | tuple) and all(_is_one(value, name) for value in values)


def _is_advantage(value: Any, arguments: Sequence[Any]) -> bool:
    return _is_one(value, "Tensor") and value.shape == arguments[0].mask.shape


def _is_term(value: Any, _: Sequence[Any]) -> bool:
    """Return whether a loss term is a tensor, alone or with what it measured."""
    if isinstance(value, tuple):
        return len(value) == 2 and _is_one(value[0], "Tensor") and isinstance(value[1], Mapping)
    return _is_one(value, "Tensor")


# What a plug-in of a kind returns: in words, and whether a value is that, given the arguments.
_RETURNS: Mapping[str, tuple[str, Callable[[Any, Sequence[Any]], bool]]] = {
    "prompt": ("a Rendered(text)", lambda value, _: _is_one(value, "Rendered")),
    "gather": ("CollectedGroups", lambda value, _: _is_one(value, "CollectedGroups")),
    "filter": ("a list of RewardedGroups", lambda value, _: _are_all(value, "RewardedGroup")),
    "select": ("a list of Problems", lambda value, _: _are_all(value, "Problem")),
    "benchmark": ("an EvalSetConfig", lambda value, _: _is_one(value, "EvalSetConfig")),
    "advantage": (
        "a tensor with one number for each token (the shape of scored.mask)",
        _is_advantage,
    ),
    "loss": ("a tensor, or a tensor and a mapping of what it measured", _is_term),
    "reduction": ("a tensor", lambda value, _: _is_one(value, "Tensor")),
    "correction": ("a tensor or None", lambda value, _: _is_one(value, "Tensor", "NoneType")),
    "schedule": ("a number", lambda value, _: isinstance(value, Real)),
}


def _describe(value: Any) -> str:
    """Return what a value is, in words; a coroutine is ended."""
    name = type(value).__name__
    if inspect.iscoroutine(value):
        value.close()
        return f"{name} (call it without async)"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{name} of the shape {list(shape)}"
    if isinstance(value, list | tuple) and value:
        return f"{name} of {type(value[0]).__name__}"
    return name
