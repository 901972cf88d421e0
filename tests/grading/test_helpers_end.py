"""A process that ends gives up the questions that wait for helpers, and ends the helpers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands for a library that works on each answer for long.
SLOW = """
import os, sys, time
from rlvr.grading.worker import serve

def handle(request):
    if request != "ready?":
        with open(sys.argv[0] + ".pids", "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(30)
    return True

serve(handle)
"""

ASKING = """
import os, signal, sys, time
from rlvr.grading.worker import HelperPool

helpers = HelperPool(sys.argv[1], {}, 2)
pending = [helpers.ask(number, 60) for number in range(20)]
while not os.path.exists(sys.argv[1] + ".pids"):
    time.sleep(0.05)
if sys.argv[2] == "interrupted":
    signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize("how", ["finished", "interrupted"])
def test_a_process_ends_at_once_while_questions_wait(tmp_path: Path, how: str) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", ASKING, str(script), how],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=25,
    )
    assert time.monotonic() - begin < 20
    for pid in Path(f"{script}.pids").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
