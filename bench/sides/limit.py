"""The matrix products alone of a workload, with the model's own weights: what no implementation can
beat.

`--mode generate`: those of reading each prompt once and of every decoded token, by the fastest of
the plain product and those of oneDNN and MKL with weights in layouts of their own. `--mode update`:
those of a forward and backward pass over the asked tokens, with the head over the response tokens
only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from common import measure, options
from transformers import AutoModelForCausalLM

Product = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    args = options(prompts=8, samples=8, tokens=128, prompt_length=64, mode="generate")
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    layers = [m.weight.detach() for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    head = model.get_output_embeddings().weight.detach()
    rows = args.prompts * args.samples

    @cache
    def chosen(count: int, ends: int) -> tuple[list[Product], Product]:
        """The fastest products for so many rows, of which so many meet the head; found before
        anything is timed.
        """
        return [product(weight, count) for weight in layers], product(head, ends)

    def generate() -> int:
        for count, ends, steps in (
            (args.prompts * args.prompt_length, args.prompts, 1),
            (rows, rows, args.tokens - 1),
        ):
            inputs = {
                size: torch.ones(count, size, dtype=dtype) for size in {w.shape[1] for w in layers}
            }
            products, final = chosen(count, ends)
            for _ in range(steps):
                for weight, multiply in zip(layers, products, strict=True):
                    multiply(inputs[weight.shape[1]])
                final(inputs[head.shape[1]][:ends])
        return rows * args.tokens

    @cache
    def room(use: str, *size: int) -> torch.Tensor:
        """Memory that is there before anything is timed."""
        return torch.ones(size, dtype=dtype)

    def update() -> int:
        total, trained = args.prompts * args.prompt_length + rows * args.tokens, rows * args.tokens
        for weight, count in [*((weight, total) for weight in layers), (head, trained)]:
            # forward, slope of the inputs, slope of the weights
            for start in range(0, count, 1024):
                part, (to, size) = min(1024, count - start), weight.shape
                inputs, slopes = room("inputs", part, size), room("slopes", part, to)
                torch.mm(inputs, weight.T, out=room("outputs", part, to))
                torch.mm(slopes, weight, out=room("to inputs", part, size))
                torch.mm(slopes.T, inputs, out=room("to weights", to, size))
        return trained

    with torch.inference_mode():
        measure({"generate": generate, "update": update}[args.mode], args.repeats)


def product(weight: torch.Tensor, rows: int) -> Product:
    """What multiplies so many rows with a weight the fastest."""
    known = [lambda inputs: torch.mm(inputs, weight.T)]
    if torch.backends.mkldnn.is_available():
        reordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        known.append(
            lambda inputs: torch.ops.mkldnn._linear_pointwise(
                inputs, reordered, None, "none", [], ""
            )
        )
    if weight.dtype is torch.float32 and torch.backends.mkl.is_available():
        laid = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
        known.append(lambda inputs: torch.ops.mkl._mkl_linear(inputs, laid, weight, None, rows))
    inputs = torch.randn(rows, weight.shape[1]).to(weight.dtype)
    return min(known, key=lambda multiply: min(seconds(multiply, inputs) for _ in range(3)))


def seconds(multiply: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    multiply(inputs)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
