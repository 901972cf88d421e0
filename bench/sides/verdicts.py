"""Verdicts of the task math by the `rlvr` that is imported first, of any version.

`bench/verify.py --against TREE` runs it once for each tree: the first line of its input is the pairs of a gold and a
response, every further line asks for one round, whose figures it prints. Times are processor time, so that what else
runs on the machine is not counted.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rlvr.tasks.math import math
from rlvr.types import Problem, Response

REMEMBERED = 20_000  # texts and trees that one cache keeps


def main() -> None:
    pairs = json.loads(sys.stdin.readline())
    judge = find_judge()
    for _ in sys.stdin:
        print(json.dumps(measure(judge, pairs)), flush=True)


def find_judge() -> Callable[..., Any]:
    """The function that calls a verifier safely, wherever this version has it."""
    try:
        from rlvr.tasks.judge import judge_safely
    except ImportError:
        from rlvr.verify import judge_safely  # pyright: ignore[reportMissingImports]
    return judge_safely


def measure(judge: Callable[..., Any], pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Seconds of all verdicts and the milliseconds that 99 of 100 take at most, with empty caches."""
    forget()
    gc.collect()
    latency: list[float] = []
    right = 0
    start = time.process_time()
    for gold, text in pairs:
        begin = time.thread_time()
        verdict = judge(math, Problem("p", "math", "", gold), Response(text))
        latency.append(1000 * (time.thread_time() - begin))
        if isinstance(verdict, Future):
            verdict = verdict.result()
        right += verdict.correct
    seconds = time.process_time() - start
    return {
        "seconds": seconds,
        "p99_ms": statistics.quantiles(latency, n=100)[98],
        "right": right,
    }


def forget() -> None:
    """Empties whatever remembers texts and trees."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("rlvr.grading"):
            continue
        for value in vars(module).values():
            parameters = getattr(value, "cache_parameters", None)
            if parameters and parameters()["maxsize"] == REMEMBERED:
                value.cache_clear()


if __name__ == "__main__":
    main()
