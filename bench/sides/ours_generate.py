"""Generation by rlvr's local engine: every response has exactly the asked number of tokens. Says
what of the time the attention of decoded tokens took.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from common import measure, options, prompts
from transformers import AutoConfig

from rlvr.build.models import load_engine
from rlvr.config.schema import ModelConfig, Spec
from rlvr.models import kv_cache
from rlvr.types import Request, Sampling


def main() -> None:
    args = options(prompts=8, samples=8, tokens=128, prompt_length=64, engine="{}")
    torch.set_num_threads(args.threads)
    sizes = {"max_sequences": args.prompts * args.samples}
    wave = Spec(name="local", params={**sizes, **json.loads(args.engine)})
    engine = load_engine(
        ModelConfig(name=str(args.model), compute=args.dtype, device="cpu"), wave
    ).engine
    engine.end_tokens = frozenset()  # type: ignore[attr-defined]
    vocabulary = AutoConfig.from_pretrained(args.model).vocab_size
    asked = [
        Request(tuple(ids), tuple(range(1000 * i, 1000 * i + args.samples)))
        for i, ids in enumerate(prompts(args.prompts, args.prompt_length, vocabulary))
    ]

    spent, attend = [0.0], kv_cache.DecodingStep.attend

    def clocked(*given: Any) -> torch.Tensor:
        start = time.perf_counter()
        out = attend(*given)
        spent[0] += time.perf_counter() - start
        return out

    def attention() -> dict[str, float]:
        taken, spent[0] = spent[0], 0.0
        return {"attention": taken}

    kv_cache.DecodingStep.attend = clocked  # type: ignore[method-assign]

    def work(tokens: int = args.tokens) -> int:
        return sum(
            len(done.token_ids)
            for done in engine.generate(asked, Sampling(args.samples, tokens, 0.7))
        )

    warm = lambda: (work(4), attention())  # noqa: E731
    measure(work, args.repeats, warm, args.prompts * args.samples * args.tokens, attention)


if __name__ == "__main__":
    main()
