"""Stands for the helper of the symbolic library: spins where an answer has the mark `S`, and asks the
library otherwise.

It is run by path (`rlvr/grading/worker.py`) from `bench/verify.py`.
"""

from __future__ import annotations

import time
from typing import Any

from rlvr.grading import math_verify
from rlvr.grading.worker import serve

MARK = "S"
SPIN_SECONDS = 5.0  # of processor time, beyond every limit of the benchmark


def answer_request(request: Any) -> Any:
    """Return the verdict of the library, late where the answer has the mark."""
    if isinstance(request, list) and MARK in request[1]:
        end = time.process_time() + SPIN_SECONDS
        while time.process_time() < end:
            pass
        return False
    return math_verify._handle(request)


if __name__ == "__main__":
    serve(answer_request)
