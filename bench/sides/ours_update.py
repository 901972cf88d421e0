"""One update by rlvr: the loss of given samples forward and backward, and the step of AdamW."""

from __future__ import annotations

import torch
from common import measure, options, prompts, responses

from rlvr.build.run import build
from rlvr.config import loader
from rlvr.models.packing import Tokens
from rlvr.training.batch import Batch
from rlvr.training.scored import Scored


def main() -> None:
    args = options(prompts=8, samples=8, tokens=128, prompt_length=64, varied=1)
    asked = {
        "run": {"steps": 1, "threads": args.threads},
        "model": {"name": str(args.model), "compute": args.dtype, "device": "cpu"},
        "train": {"data": {"name": "inline", "rows": [{"question": "1+1", "answer": "2"}]}},
        "optimizer": {"lr": 1e-6},
    }
    learner = build(loader.load(asked)).run.learner
    vocabulary = learner.policy.module.config.vocab_size
    rows = prompts(args.prompts, args.prompt_length, vocabulary)
    answers = responses(args.prompts * args.samples, args.tokens, vocabulary, bool(args.varied))
    batch = batch_of(
        [(rows[i // args.samples], answer) for i, answer in enumerate(answers)], args.samples
    )

    def work() -> int:
        learner.update(batch)
        return len(batch.sample)

    measure(work, args.repeats)


def batch_of(pairs: list[tuple[list[int], list[int]]], samples: int) -> Batch:
    """Samples of a strictly on-policy step with advantages of both signs."""
    lengths = torch.tensor([len(answer) for _, answer in pairs])
    sample = torch.repeat_interleave(lengths)
    ones = torch.ones(len(sample))
    scored = Scored(
        sequences=tuple(Tokens(tuple(prompt), tuple(answer)) for prompt, answer in pairs),
        total_samples=float(len(pairs)),
        total_tokens=float(len(sample)),
        reward=torch.zeros(len(pairs)),
        group=torch.arange(len(pairs)) // samples,
        sample=sample,
        mask=ones,
        rollout_logprob=-ones,
    )
    return Batch(scored, advantage=1.0 - 2.0 * (sample % 2))


if __name__ == "__main__":
    main()
