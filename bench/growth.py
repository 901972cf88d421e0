"""How the time for one token grows with sequences, group size, response length, prompt length and
vocabulary.

    python bench/growth.py [--threads 2] [--of sequences samples tokens prompt_length vocabulary]

Each row doubles one dimension of the generation benchmark and keeps the others; the exponent is the
slope of the logarithms (0: the time for one token stays the same; 1: it doubles with the
dimension). The attention term, which alone may grow with the length, is measured and shown apart;
`rest_over_first` is the largest of the rest over the first.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from harness import Side, dtype, facts, model_folder, record, resized

BASE = {"--prompts": 8, "--samples": 8, "--tokens": 64, "--prompt-length": 64}
DIMENSIONS: dict[str, list[dict[str, int]]] = {
    "sequences": [{"--prompts": n // 8} for n in (16, 32, 64, 128, 256)],
    "samples": [{"--prompts": 64 // n, "--samples": n} for n in (1, 4, 16, 64)],
    "tokens": [{"--prompts": 2, "--tokens": n} for n in (64, 128, 256, 512, 1024)],
    "prompt_length": [{"--prompt-length": n} for n in (32, 64, 128, 256, 512)],
    "vocabulary": [{"--vocabulary": n} for n in (6144, 12288, 24576, 49152)],
}
VARIED = {
    "sequences": "--prompts",
    "samples": "--samples",
    "tokens": "--tokens",
    "prompt_length": "--prompt-length",
}
VARIED |= {"vocabulary": "--vocabulary"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--of", nargs="*", default=list(DIMENSIONS), choices=list(DIMENSIONS))
    args = parser.parse_args()
    work = {"--model": model_folder(), "--dtype": dtype(), "--repeats": 1}
    found = {
        name: [cost(work | BASE | change, args.threads) for change in DIMENSIONS[name]]
        for name in args.of
    }
    for name, rows in found.items():
        sizes = [change[VARIED[name]] for change in DIMENSIONS[name]]
        times = [row["ours_us"] for row in rows]
        slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
        rest = [row["ours_us"] - row["attention_us"] for row in rows]
        result = {
            "rows": rows,
            "exponent": round(slope, 3),
            "last_over_first": round(times[-1] / times[0], 3),
        }
        result["rest_over_first"] = round(max(rest) / rest[0], 3)
        record(f"growth_{name}", {**result, **facts(args.threads, dtype=work["--dtype"])})
        print(
            name,
            *(f"{size}: {row['ours_us']} us" for size, row in zip(sizes, rows, strict=True)),
            sep="   ",
        )


def cost(work: dict[str, Any], threads: int) -> dict[str, Any]:
    """Microseconds for one token, and of them for its attention."""
    if vocabulary := work.pop("--vocabulary", None):
        work["--model"] = resized(vocabulary)
    ours = Side("ours", "ours_generate.py", options=work).measure(threads)[0]
    shape = {key.strip("-").replace("-", "_"): work[key] for key in BASE}
    return {
        **shape,
        "ours_us": round(1e6 * ours["seconds"] / ours["tokens"]),
        "attention_us": round(1e6 * ours["attention"] / ours["tokens"]),
    }


if __name__ == "__main__":
    main()
