"""How long the shell waits: for help, for a mistake in a recipe, and until a model has said its
first token.

python bench/start.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

from harness import facts, model_folder, record

COMMANDS = {
    "help": ["--help"],
    "mistake": ["train", "demo", "rollout.sampels=4"],
    "show": ["show", "demo"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    first = [
        "eval",
        str(model_folder()),
        "--benchmarks",
        "arithmetic",
        "--max-tokens",
        "1",
        "--out",
        ".bench/eval",
    ]
    commands = {**COMMANDS, "one_token_of_256_problems": first}
    seconds = {
        name: median(timed(words) for _ in range(args.rounds)) for name, words in commands.items()
    }
    record(
        "start", {"seconds": {name: round(value, 2) for name, value in seconds.items()}, **facts(1)}
    )
    print(seconds)


def timed(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rlvr", *words], capture_output=True, check=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
