"""The peer of bench/step.py: whole GRPO steps by TRL's GRPOTrainer, in an environment of its own
(.bench/trl).

Started by bench/step.py; imports nothing of rlvr. Prints one JSON line for each measured step.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import torch
from common import options
from transformers import AutoTokenizer


def main() -> None:
    # batch: sequences of one forward and backward pass; cache: cache_implementation of generate,
    # such as static
    args = options(workload="", warmup=1, batch=16, cache="")
    torch.set_num_threads(args.threads)
    measure(args)


def measure(args: argparse.Namespace) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    workload = json.loads(Path(args.workload).read_text())
    problems, samples = workload["problems_per_step"], workload["samples"]
    steps = len(workload["problems"]) // problems
    tokens: list[int] = []

    def last_number(
        completions: list[str], answer: list[str], completion_ids: list[Any], **_: Any
    ) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [float(given(text) == gold) for text, gold in zip(completions, answer, strict=True)]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()
            tokens.clear()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            seconds = time.perf_counter() - self.start
            if state.global_step > args.warmup:
                line = {
                    "seconds": seconds,
                    "response_tokens": sum(tokens),
                    "rollouts": problems * samples,
                }
                print(json.dumps(line), flush=True)

    config = GRPOConfig(
        output_dir=".bench/trl-run",
        use_cpu=True,
        bf16=args.dtype == "bfloat16",
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=problems * samples // args.batch,
        num_generations=samples,
        num_iterations=1,
        beta=0.0,
        max_completion_length=workload["max_tokens"],
        temperature=workload["temperature"],
        top_k=0,
        top_p=1.0,
        cache_implementation=args.cache or None,
        learning_rate=workload["learning_rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        max_steps=steps,
        shuffle_dataset=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=str(args.model),
        reward_funcs=last_number,
        args=config,
        train_dataset=Dataset.from_list(
            [
                {"prompt": problem["text"], "answer": problem["answer"]}
                for problem in workload["problems"]
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained(args.model, padding_side="left"),
        callbacks=[Clock()],
    )
    trainer.train()


def given(text: str) -> str | None:
    """The content of the last box, else the last number."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    numbers = re.findall(r"-?\d+", boxes[-1].replace(",", "") if boxes else text.replace(",", ""))
    return numbers[-1] if numbers else None


if __name__ == "__main__":
    main()
