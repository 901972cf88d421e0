"""Verdicts a second of rlvr beside math-verify on the same responses: numbers, MATH-like answers,
and some that use up the time of the symbolic library, for which a stand-in spins.

    python bench/verify.py [--golds FILE.jsonl] [--problems 200]
    python bench/verify.py --against TREE [--rounds 7]

Each problem has eight responses of about 1.8 KB, 45 % of them right in another spelling, the others
near misses. Both sides run in this process, math-verify on the main thread with its own time
limits, so it is at its best; rlvr starts helper processes where it needs them. They take turns and
medians are compared. `--golds` takes the golds of a file of JSON lines with `answer` (MATH-500,
say) in place of the shipped ones. `--against` compares with the rlvr in another folder instead, such
as a worktree of an earlier commit: verdicts on the same responses, in turns, in processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import record

GOLDS = (
    r"\left( 3, \frac{\pi}{2} \right)", r"\frac{14}{3}", "9", r"\text{Evelyn}", "42", r"\frac{1}{64}", r"6 - 5i",
    r"3\sqrt{13}", r"\frac{\sqrt{3}}{3}", r"x^3+3x-6", r"(-\infty, 2) \cup (3, \infty)", r"p - q", r"28\%", r"90^\circ",
    r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"1 \pm \sqrt{19}", r"\{1,2,3\}", r"10080", r"2k + 2", r"\sqrt{51}",
    r"\frac{2x+7}{x^2+5x+6}", r"5x - 7y + 11z + 4 = 0", r"[-2, 7]", r"\frac{270}7", r"e^2", r"0.0625", r"11\sqrt2",
    r"\dfrac{9}{7}", r"-2,1", r"x \geq 5", r"\$32,348", r"15\text{ cm}^2", r"\frac{3\sqrt{3}}{4}", r"\log_2 3", "144",
    r"2220", r"\frac{-1+i\sqrt{3}}{2}", r"204_5", r"(2,12)", r"\frac{3}{56}", "120", r"\tan^2 x + 1", r"8n^2+4n+1",
)  # fmt: skip
FILLER = (
    "We look at the numbers that are given, write down what follows, and simplify step by step. "
)
GOLD_OF_SLOW = r"\int_0^1 x dx"
# No text here is slow in itself: the stand-in spins where it finds the mark.
SLOW = (r"\int_0^1 x dx + S", r"\int_0^1 S dx")
SIDES = Path(__file__).resolve().parent / "sides"
STAND_IN = SIDES / "slow_library.py"
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--golds", type=Path)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    golds = (
        [json.loads(line)["answer"] for line in args.golds.open()] if args.golds else list(GOLDS)
    )
    numbers = [str(n) for n in random.Random(1).sample(range(1, 100_000), args.problems)]
    mixes = {
        "integers": responses(numbers, args.problems),
        "math_like": responses(golds, args.problems),
    }
    if args.against:
        for name, pairs in mixes.items():
            print(name, json.dumps(compared(pairs, args.against, args.rounds)))
        return
    result = {name: measured(pairs, args.rounds) for name, pairs in mixes.items()}
    # The key under which stored results have had it from the start.
    result["hostile"] = with_slow_answers(mixes["math_like"])
    for name, row in result.items():
        print(name, json.dumps(row))
    record("verify", result)


def responses(golds: list[str], problems: int) -> list[tuple[str, str]]:
    """Pairs of a gold and a response, eight for each problem."""
    draw = random.Random(0)
    rewrites = [
        str,
        lambda g: g.replace(r"\frac", r"\dfrac"),
        lambda g: f" {g} ",
        lambda g: rf"\displaystyle {g}",
    ]
    found = []
    for number in range(problems):
        gold = golds[number % len(golds)]
        for _ in range(8):
            right = draw.random() < 0.45
            answer = draw.choice(rewrites)(gold) if right else near_miss(gold, draw)
            found.append(
                (gold, FILLER * draw.randint(10, 30) + rf"So the answer is $\boxed{{{answer}}}$.")
            )
    return found


def near_miss(gold: str, draw: random.Random) -> str:
    """The gold with one digit changed, a sign, or one more."""
    places = [i for i, letter in enumerate(gold) if letter.isdigit()]
    if places and draw.random() < 0.6:
        place = draw.choice(places)
        return gold[:place] + str((int(gold[place]) + draw.randint(1, 9)) % 10) + gold[place + 1 :]
    return draw.choice([f"-{gold}", f"{gold}+1", rf"\frac{{{gold}}}{{2}}"])


def measured(pairs: list[tuple[str, str]], rounds: int) -> dict[str, float]:
    """Verdicts a second of both sides, taking turns; nothing is remembered from one round to the
    next.
    """
    speed: dict[str, list[float]] = {"ours": [], "peer": []}
    latency: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        latency += ours(pairs)
        speed["ours"].append(len(pairs) / (time.perf_counter() - start))
        start = time.perf_counter()
        for pair in pairs:
            library(*pair)
        speed["peer"].append(len(pairs) / (time.perf_counter() - start))
    medians = {side: statistics.median(values) for side, values in speed.items()}
    return {
        "ours_per_second": round(medians["ours"]),
        "math_verify_per_second": round(medians["peer"]),
        "ratio": round(medians["ours"] / medians["peer"], 1),
        "ours_p50_ms": round(statistics.median(latency), 3),
        "ours_p99_ms": round(statistics.quantiles(latency, n=100)[98], 3),
        "ours_max_ms": round(max(latency), 1),
    }


def compared(pairs: list[tuple[str, str]], other: Path, rounds: int) -> dict[str, object]:
    """Best and median of this tree and another one, which take turns, and what this one takes of the other."""
    sides = {"this": Tree(ROOT, pairs), "other": Tree(other.resolve(), pairs)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, tree in sides.items():
            figures = tree.ask()
            if number:  # the first round is for warming up
                found[name].append(figures)
    rows: dict[str, object] = {}
    for figure in ("seconds", "p99_ms"):
        best = {name: min(row[figure] for row in found[name]) for name in sides}
        median = {name: statistics.median(row[figure] for row in found[name]) for name in sides}
        rows[figure] = {
            "best": {name: round(value, 4) for name, value in best.items()},
            "median": {name: round(value, 4) for name, value in median.items()},
            "ratio_of_best": round(best["this"] / best["other"], 3),
            "ratio_of_medians": round(median["this"] / median["other"], 3),
        }
    rows["right"] = {name: found[name][0]["right"] for name in sides}
    return rows


class Tree:
    """A process that gives verdicts by the rlvr of a folder, a round whenever it is asked."""

    def __init__(self, folder: Path, pairs: list[tuple[str, str]]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SIDES / "verdicts.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )
        self.write(json.dumps(pairs))

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ask(self) -> dict[str, float]:
        """The figures of one round."""
        assert self.process.stdout is not None
        self.write("again")
        return json.loads(self.process.stdout.readline())


def ours(pairs: list[tuple[str, str]]) -> list[float]:
    """Our verdicts with empty caches; the milliseconds of each."""
    from rlvr.grading import compare, exact
    from rlvr.grading import parser as latex
    from rlvr.tasks.judge import judge_safely, wait_all
    from rlvr.tasks.math import math
    from rlvr.types import Problem, Response

    for cached in (compare._compare_texts, latex._parse, exact.evaluate_exactly):
        cached.cache_clear()
    judged = [
        judge_safely(math, Problem("p", "math", "", gold), Response(text)) for gold, text in pairs
    ]
    return [verdict.ms for verdict in wait_all(judged)]


def library(gold: str, text: str) -> bool:
    """The verdict of math-verify as its own documentation calls it."""
    from math_verify import parse, verify

    cached: Callable[[], None] | None = getattr(parse, "cache_clear", None)
    assert cached is None  # it remembers nothing either
    return bool(verify(parse(rf"\boxed{{{gold}}}"), parse(text)))


def with_slow_answers(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """One response in a thousand uses up the time of the symbolic library, and as many benign ones
    need it.
    """
    from rlvr.grading import math_verify
    from rlvr.grading.worker import HelperPool

    cores = len(os.sched_getaffinity(0))
    size = min(math_verify.MAX_HELPERS, cores)
    helpers = HelperPool(str(STAND_IN), math_verify.ENVIRONMENT, size)
    math_verify._get_helpers = lambda: helpers
    slow = [(GOLD_OF_SLOW, rf"\boxed{{{text}}}") for text in SLOW]
    benign = [
        (GOLD_OF_SLOW, r"\boxed{\int_0^1 t dt}"),
        (r"F = \sum_{k=1}^n k", r"\boxed{F = \sum_{j=1}^n j}"),
    ]
    mixed: list[tuple[str, str]] = []
    while len(mixed) < 4000:
        mixed += pairs
    for number in range(4):
        mixed[500 + 1000 * number] = slow[number % 2]
        mixed[900 + 1000 * number] = benign[number % 2]
    ours(benign)  # the helpers are running
    start = time.perf_counter()
    latency = ours(mixed[:4000])
    seconds = time.perf_counter() - start
    harmless = [ms for ms, pair in zip(latency, mixed, strict=False) if pair not in slow]
    return {
        "per_second": round(4000 / seconds),
        "answered": len(latency),
        "benign_p99_ms": round(statistics.quantiles(harmless, n=1000)[989], 3),
        "benign_max_ms": round(max(harmless), 1),
        "cores": cores,
    }


if __name__ == "__main__":
    main()
