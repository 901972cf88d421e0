"""One update of rlvr beside TRL's and beside the matrix products alone, and the memory that both
take.

    python bench/update.py [--rounds 2] [--threads 2] [--without memory]

Speed: 64 sequences (8 prompts of 64 tokens, 8 responses each of 16 to 128 tokens). Memory: 16
sequences of 1,024 tokens (2 prompts of 64 tokens, 8 responses each of 960), peaks of the whole
process in its first update.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from harness import Side, alternate, compared, dtype, facts, model_folder, peak, record

SPEED = {"--prompts": 8, "--samples": 8, "--tokens": 128, "--prompt-length": 64, "--varied": 1}
# The limit takes one length: the mean of the varied ones.
LIMIT = {"--prompts": 8, "--samples": 8, "--tokens": 72, "--prompt-length": 64, "--mode": "update"}
LONG = {
    "--prompts": 2,
    "--samples": 8,
    "--tokens": 960,
    "--prompt-length": 64,
    "--varied": 0,
    "--repeats": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], choices=["speed", "memory"])
    args = parser.parse_args()
    common = {"--model": model_folder(), "--dtype": dtype()}
    told = facts(args.threads, dtype=common["--dtype"])
    if "speed" not in args.without:
        sides = [*both(common | SPEED), Side("limit", "limit.py", options=common | LIMIT)]
        found = alternate(sides, args.rounds, args.threads)
        for name in ("trl", "limit"):
            result = compared(
                found["ours"], found[name], "seconds for one update from 64 sequences, median"
            )
            record(f"update_{name}", {**result, **told, "workload": printable(SPEED)})
    if "memory" not in args.without:
        found = alternate(both(common | LONG), 1, args.threads)
        result = compared(
            found["ours"], found["trl"], "seconds for one update from 16 sequences of 1,024 tokens"
        )
        record("update_long", {**result, **told, "workload": printable(LONG)})
        ours, peer = peak(found["ours"]), peak(found["trl"])
        memory = {
            "ours": ours,
            "peer": peer,
            "ratio": round(peer / ours, 3),
            "unit": "GiB at the peak",
        }
        record("update_memory", {**memory, **told, "workload": printable(LONG)})


def both(work: Mapping[str, Any]) -> list[Side]:
    return [Side("ours", "ours_update.py", options=work), Side("trl", "trl_update.py", "trl", work)]


def printable(work: Mapping[str, Any]) -> dict[str, Any]:
    return {key.strip("-").replace("-", "_"): value for key, value in work.items()}


if __name__ == "__main__":
    main()
