"""What the scripts of all sides share: options, prompts and the line of one measurement. Imports
nothing of rlvr.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def options(**more: int | str) -> argparse.Namespace:
    """The options of a side; `more` names further ones with their defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=2)
    for name, default in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """So many different prompts of that many token ids, none of which is special."""
    return [
        [100 + (7919 * (i + 1) + 104729 * at) % (vocabulary - 200) for at in range(length)]
        for i in range(count)
    ]


def measure(
    work: Callable[[], int],
    repeats: int,
    warm: Callable[[], object] | None = None,
    wanted: int | None = None,
    more: Callable[[], dict[str, float]] = dict,
) -> None:
    """Prints the seconds of each call of `work`, which returns the number of tokens, after an
    unmeasured one; with no repeats those of a single call, where memory is what counts. `more` says
    what else is known of the call.

    SystemExit where it is another number than `wanted`, since a side that fails may be quick.
    """
    if repeats:
        (warm or work)()
    for _ in range(max(1, repeats)):
        start = time.perf_counter()
        tokens = work()
        seconds = time.perf_counter() - start
        if tokens != (wanted or tokens):
            sys.exit(f"{tokens} tokens in place of {wanted}")
        print(
            json.dumps({"seconds": seconds, "tokens": tokens, "peak_gb": peak_gb(), **more()}),
            flush=True,
        )


def peak_gb() -> float:
    """The largest resident memory of this process so far, in GiB."""
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
        / 2**30
    )


def responses(count: int, length: int, vocabulary: int, varied: bool) -> list[list[int]]:
    """So many different responses, of that many tokens or, `varied`, of an eighth of it up to all
    of it.
    """
    shares = [(1 + 5 * i % 8) / 8 if varied else 1.0 for i in range(count)]
    return [
        row[: max(1, round(length * share))]
        for row, share in zip(prompts(count, length, vocabulary), shares, strict=True)
    ]
