"""Generation by transformers: `generate`, or continuous batching (`--mode continuous`), with forced
lengths.
"""

from __future__ import annotations

from typing import Any

import torch
from common import measure, options, prompts
from transformers import AutoModelForCausalLM, GenerationConfig


def main() -> None:
    args = options(prompts=8, samples=8, tokens=128, prompt_length=64, mode="generate", cache="")
    torch.set_num_threads(args.threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype)
    ).eval()
    ids = [
        row
        for row in prompts(args.prompts, args.prompt_length, model.config.vocab_size)
        for _ in range(args.samples)
    ]

    def config(tokens: int) -> GenerationConfig:
        cached = {"cache_implementation": args.cache} if args.cache else {}
        return GenerationConfig(
            do_sample=True, temperature=0.7, top_k=0, top_p=1.0, max_new_tokens=tokens, min_new_tokens=tokens,
            eos_token_id=-1 if args.mode == "continuous" else None, pad_token_id=0, **cached,
        )  # fmt: skip

    def work(tokens: int = args.tokens) -> int:
        # has threads of its own, which inference mode would not reach
        if args.mode == "continuous":
            found = model.generate_batch(
                inputs=ids, generation_config=config(tokens), progress_bar=False
            )
            return sum(len(row.generated_tokens) for row in found.values())
        with torch.inference_mode():
            batch = torch.tensor(ids)
            out = model.generate(
                batch, attention_mask=torch.ones_like(batch), generation_config=config(tokens)
            )
            return (out.shape[1] - batch.shape[1]) * len(out)

    measure(work, args.repeats, lambda: work(4), args.prompts * args.samples * args.tokens)


if __name__ == "__main__":
    main()
