"""One update by TRL's GRPOTrainer: its whole step with rollouts that are given, so that it
generates nothing.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from common import options, peak_gb, prompts, responses
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def main() -> None:
    args = options(prompts=8, samples=8, tokens=128, prompt_length=64, varied=1, batch=8)
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    rows, count = (
        prompts(args.prompts, args.prompt_length, len(tokenizer)),
        args.prompts * args.samples,
    )
    answers = responses(count, args.tokens, len(tokenizer), bool(args.varied))

    def given(asked: list[str], trainer: Any) -> dict[str, Any]:
        ids = [rows[i // args.samples] for i in range(count)]
        return {"prompt_ids": ids, "completion_ids": answers, "logprobs": None}

    def alternating(completions: list[str], **_: Any) -> list[float]:
        return [float(i % 2) for i in range(len(completions))]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            seconds = time.perf_counter() - self.start
            # the first warms up, unless it is the only one
            if state.global_step > min(1, args.repeats):
                line = {"seconds": seconds, "tokens": sum(map(len, answers)), "peak_gb": peak_gb()}
                print(json.dumps(line), flush=True)

    config = GRPOConfig(
        output_dir=".bench/trl-run", use_cpu=True, bf16=args.dtype == "bfloat16",
        model_init_kwargs={"dtype": "float32"}, gradient_checkpointing=False,
        per_device_train_batch_size=args.batch, gradient_accumulation_steps=count // args.batch,
        num_generations=args.samples, num_iterations=1, beta=0.0, max_completion_length=args.tokens,
        learning_rate=1e-6, lr_scheduler_type="constant", optim="adamw_torch_fused", max_steps=1 + args.repeats,
        shuffle_dataset=False, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    texts = [{"prompt": f"question {i}"} for i in range(args.prompts * (1 + args.repeats))]
    trainer = GRPOTrainer(
        model=str(args.model), reward_funcs=alternating, args=config, train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer, callbacks=[Clock()], rollout_func=given,
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    main()
