"""One whole training step of rlvr beside one of TRL's GRPOTrainer: the same model, prompts, limits
and threads.

    python bench/step.py [--rounds 2] [--steps 2] [--threads 2] [--without trl every]

The first two steps of each process are a warm-up, in which its memory grows to what steps need;
medians are compared. A step is 64 rollouts (8 problems times 8 samples, at most 128 new tokens,
temperature 0.7), their reward, and one AdamW update from all of them. Few answers are right, and
samples of groups whose rewards are all equal are only measured by ours; `every` gives them rewards
in turns, so that each has its share in the gradient. `_limit` sets ours beside the matrix products
of the tokens that it generated and, as if all had a backward pass, of an update from them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from statistics import median
from typing import Any

from harness import CACHE, Side, alternate, compared, dtype, facts, model_folder, record

WORKLOAD = CACHE / "workload.json"
SETTINGS = {
    "problems_per_step": 8,
    "samples": 8,
    "max_tokens": 128,
    "temperature": 0.7,
    "learning_rate": 1e-5,
}

CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
ASK = "Explain in three short sentences."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], choices=["trl", "every"])
    args = parser.parse_args()
    work = {"--model": model_folder(), "--dtype": dtype()}
    WORKLOAD.write_text(
        json.dumps({**SETTINGS, "problems": list(problems(args.steps + 2))}, indent=1)
    )
    given = work | {"--workload": WORKLOAD, "--warmup": 2}
    told = facts(args.threads, dtype=work["--dtype"], workload=SETTINGS)
    ours = [Side("ours", "ours_step.py", options=given)]
    ours += (
        [Side("every", "ours_step.py", options=given | {"--every": 1})]
        if "every" not in args.without
        else []
    )
    peers = [Side("trl", "trl_step.py", "trl", given)] if "trl" not in args.without else []
    found = alternate([*ours, *peers], args.rounds, args.threads)
    for side, name in (("ours", "step"), ("every", "step_every")):
        if side not in found:
            continue
        if peers:
            result = compared(found[side], found["trl"], "seconds for one whole step, median")
            record(name, {**result, **per_token(found[side], found["trl"]), **told})
        silent = {"no_signal": [round(line["no_signal"], 3) for line in found[side]]}
        bounds = limits(work, round(median(mean_lengths(found[side]))), args.threads)
        total = [{"seconds": sum(median(line["seconds"] for line in lines) for lines in bounds)}]
        record(
            f"{name}_limit",
            {
                **compared(found[side], total, "seconds; peer: the matrix products alone"),
                **silent,
                **told,
            },
        )


def limits(work: dict[str, Any], tokens: int, threads: int) -> list[list[dict[str, float]]]:
    """The matrix products of generating and of training on so many tokens a response."""
    shape = {"--prompts": 8, "--samples": 8, "--tokens": tokens, "--prompt-length": 80}
    modes = [
        Side(f"limit-{mode}", "limit.py", options={**work, **shape, "--mode": mode})
        for mode in ("generate", "update")
    ]
    return list(alternate(modes, 1, threads).values())


def mean_lengths(lines: list[dict[str, float]]) -> list[float]:
    return [line["response_tokens"] / line["rollouts"] for line in lines]


def per_token(ours: list[dict[str, float]], peer: list[dict[str, float]]) -> dict[str, float]:
    """Each side samples its own responses, so the seconds for 1,000 of their tokens are compared,
    too.
    """
    mine, other = (
        median(1000 * line["seconds"] / line["response_tokens"] for line in side)
        for side in (ours, peer)
    )
    return {
        "ours_s_per_ktoken": round(mine, 3),
        "peer_s_per_ktoken": round(other, 3),
        "ratio_per_token": round(other / mine, 3),
        "ours_mean_tokens": round(median(mean_lengths(ours)), 1),
        "peer_mean_tokens": round(median(mean_lengths(peer)), 1),
    }


def problems(steps: int) -> Iterator[dict[str, str]]:
    """Word problems that the model answers in about 60 tokens, as prompt texts that both sides
    tokenise unchanged.
    """
    draw = random.Random(0)
    kinds = [
        ("A bus starts with {a} people. At the first stop {b} get on, at the second stop {c} get on. "
         "How many people are on the bus?", lambda a, b, c: a + b + c),
        ("There are {a} boxes with {b} apples each. {c} more apples lie on the table. How many apples are there?",
         lambda a, b, c: a * b + c),
        ("Anna walks {a} km on each of {b} days and then {c} km on Sunday. How many km does she walk in all?",
         lambda a, b, c: a * b + c),
        ("Tom has {a} pens and buys {b} more. Then he finds {c} pens. How many pens does he have?",
         lambda a, b, c: a + b + c),
    ]  # fmt: skip
    for index in range(steps * SETTINGS["problems_per_step"]):
        text, solve = kinds[index % len(kinds)]
        a, b, c = draw.randint(2, 9), draw.randint(2, 5), draw.randint(1, 9)
        question = f"{text.format(a=a, b=b, c=c)} {ASK}"
        yield {
            "id": f"bench/{index}",
            "text": CHAT.format(question=question),
            "answer": str(solve(a, b, c)),
        }


if __name__ == "__main__":
    main()
