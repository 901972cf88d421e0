"""Generation by vLLM with forced lengths; one prompt asked for several samples shares its cache
there, too.
"""

from __future__ import annotations

import os

from common import measure, options, prompts


def main() -> None:
    args = options(prompts=8, samples=8, tokens=128, prompt_length=64)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import torch
    from vllm import LLM, SamplingParams

    torch.set_num_threads(args.threads)
    room = args.prompt_length + args.tokens + 8
    model = LLM(
        str(args.model),
        dtype=args.dtype,
        max_model_len=room,
        max_num_seqs=args.prompts * args.samples,
        seed=0,
    )
    rows = prompts(args.prompts, args.prompt_length, model.get_tokenizer().vocab_size)
    asked = [{"prompt_token_ids": ids} for ids in rows]

    def work(tokens: int = args.tokens) -> int:
        sampling = SamplingParams(
            n=args.samples, temperature=0.7, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, logprobs=0,
            detokenize=False,
        )  # fmt: skip
        found = model.generate(asked, sampling, use_tqdm=False)
        return sum(len(done.token_ids) for row in found for done in row.outputs)

    measure(work, args.repeats, lambda: work(4), args.prompts * args.samples * args.tokens)


if __name__ == "__main__":
    main()
