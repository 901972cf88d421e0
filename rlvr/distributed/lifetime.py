"""End a process with the one that started it, so that a kill leaves nothing behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

# In the environment of a process whose standard input is held open by the one that started it.
HOLDS_INPUT = "RLVR_PARENT_HOLDS_INPUT"


def environment_of_child() -> Mapping[str, str]:
    """Return the environment for a process that is to end with this one."""
    return os.environ | {HOLDS_INPUT: "yes"}


def end_with_parent() -> None:
    """Kill this process once its standard input ends, where its parent holds the other end."""
    if os.environ.pop(HOLDS_INPUT, None) is None:
        return

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
