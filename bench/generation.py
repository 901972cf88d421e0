"""Generation of rlvr beside transformers, its continuous batching, vLLM, and the matrix products
alone.

    python bench/generation.py [--rounds 2] [--threads 2] [--without vllm]

64 sequences (8 prompts of 64 tokens, 8 samples each) of exactly 128 new tokens, the same model and
dtype on all sides.
"""

from __future__ import annotations

import argparse

from harness import LIMIT, Side, alternate, compared, dtype, facts, model_folder, record

WORK = {"--prompts": 8, "--samples": 8, "--tokens": 128, "--prompt-length": 64}
PEERS = {
    "transformers": Side("transformers", "transformers_generate.py", "trl"),
    "continuous": Side("continuous", "transformers_generate.py", "trl", {"--mode": "continuous"}),
    "vllm": Side("vllm", "vllm_generate.py", "vllm"),
    "limit": Side("limit", "limit.py", options={"--mode": "generate"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], choices=list(PEERS))
    args = parser.parse_args()
    work = {"--model": model_folder(), "--dtype": dtype(), **WORK}
    chosen = [
        Side("ours", "ours_generate.py"),
        *(side for name, side in PEERS.items() if name not in args.without),
    ]
    sides = [
        Side(side.name, side.script, side.environment, {**work, **side.options}) for side in chosen
    ]
    told = facts(
        args.threads,
        workload={key.strip("-"): str(value) for key, value in {**work, "--model": ""}.items()},
    )
    found = alternate(sides, args.rounds, args.threads)
    for name in [side.name for side in sides[1:]]:
        if not found[name]:
            record(f"generation_{name}", {"not_done_within": LIMIT, **told})
            continue
        result = compared(
            found["ours"], found[name], "seconds for 64 sequences of 128 new tokens, median"
        )
        record(f"generation_{name}", {**result, **told})


if __name__ == "__main__":
    main()
