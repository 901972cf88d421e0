"""How many samples change when only their neighbours in the batch do, by dtype.

    python bench/flips.py [--problems 32] [--samples 4] [--tokens 64]

The embedded model answers the same requests with the same keys in waves of 128, 32 and 7 sequences.
In exact arithmetic no sample would differ; the shares that do are written to bench/results beside
the other figures.
"""

from __future__ import annotations

import argparse
import json

from harness import record

from rlvr import registry
from rlvr.build.models import load_engine
from rlvr.config import loader
from rlvr.config.schema import ModelConfig, Spec
from rlvr.data.prompts import Renderer
from rlvr.types import Draw, Generation, Sampling

WAVES = (128, 32, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    result = {dtype: share(dtype, options) for dtype in ("bfloat16", "float32", "float64")}
    record("flips", {"waves": WAVES, **vars(options), "share_of_samples_changed": result})
    print(json.dumps(result))


def share(dtype: str, options: argparse.Namespace) -> float:
    """The share of samples whose tokens are not the same in every wave size."""
    demo = loader.load("demo")
    rollouts = load_engine(
        ModelConfig(dtype="float64" if dtype == "float64" else "float32", compute=dtype),
        Spec(name="local"),
    )
    data, prompt = demo.eval.sets[0].data, demo.train[0].prompt
    assert data is not None
    problems = registry.find("data", data.name, "data").bind(data.params, "data")()[
        : options.problems
    ]
    template = registry.find("prompt", prompt.name, "prompt").bind(prompt.params, "prompt")
    prompts = Renderer([template], rollouts.tokenizer, 1024)(
        [Draw(problem, 0) for problem in problems]
    )
    found: list[list[Generation]] = []
    for wave in WAVES:
        rollouts.engine.max_sequences = wave  # type: ignore[attr-defined]
        asked = Sampling(options.samples, options.tokens, demo.rollout.temperature)
        found.append([r.token_ids for r in rollouts(prompts, asked, "flips")])  # type: ignore[misc]
    rows = list(zip(*found, strict=True))
    return sum(len(set(row)) > 1 for row in rows) / len(rows)


if __name__ == "__main__":
    main()
