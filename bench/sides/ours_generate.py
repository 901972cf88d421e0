"""Generation by rlvr's local engine: every response has exactly the asked number of tokens."""

from __future__ import annotations

import torch
from common import measure, options, prompts

from rlvr.build import load_engine
from rlvr.recipe import Model, Spec
from rlvr.types import Request, Sampling


def main() -> None:
    args = options(prompts=8, samples=8, tokens=128, prompt_length=64)
    torch.set_num_threads(args.threads)
    wave = Spec(name="local", params={"max_sequences": args.prompts * args.samples})
    engine = load_engine(Model(name=str(args.model), compute=args.dtype, device="cpu"), wave).engine
    engine.ends = frozenset()  # type: ignore[attr-defined]
    vocabulary = engine.module.config.vocab_size  # type: ignore[attr-defined]
    asked = [
        Request(tuple(ids), tuple(range(1000 * i, 1000 * i + args.samples)))
        for i, ids in enumerate(prompts(args.prompts, args.prompt_length, vocabulary))
    ]

    def work(tokens: int = args.tokens) -> int:
        return sum(len(done.token_ids) for done in engine.generate(asked, Sampling(args.samples, tokens, 0.7)))

    measure(work, args.repeats, lambda: work(4), args.prompts * args.samples * args.tokens)


if __name__ == "__main__":
    main()
