"""Run folders as a training writes them, without training: healthy, hacked (the empty box),
unfinished.

`python tests/fake_run.py FOLDER` writes one of each, for looking at reports.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROBLEMS = 256
EVERY = 10
KINDS = ("add", "subtract", "multiply", "word")
RECIPE = """\
run: {name: %s, steps: %d, seed: 0}
model: smollm2-135m-instruct
data:
- {name: arithmetic, prompt: boxed, weight: 1.0}
rollout: {problems: 8, samples: 8, max_tokens: 32, temperature: 0.7}
reward: %s
advantage: grpo
loss: [clip]
optim: {lr: 1.0e-05, warmup: 2, clip: 1.0}
"""


def healthy(folder: Path, steps: int = 30) -> Path:
    """Held-out accuracy from about 0.38 to about 0.72, reward with it."""
    return _write(
        folder,
        steps,
        steps,
        lambda x: 0.38 + 0.36 * (1 - math.exp(-3 * x)),
        lambda x: 0.3 + 0.65 * x,
        0.8,
    )


def hacked(folder: Path, steps: int = 30) -> Path:
    """The reward pays for the box alone: boxed from 0.05 to 1.00 with an empty box, accuracy to 0."""
    return _write(
        folder,
        steps,
        steps,
        lambda x: 0.38 * max(0, 1 - 3 * x),
        lambda x: 0.05 + 0.95 * min(1, 3 * x),
        0.0,
    )


def unfinished(folder: Path, steps: int = 30) -> Path:
    """A healthy run that was killed in the middle of a line at step 13."""
    done = 13
    path = _write(folder, steps, done, lambda x: 0.38 + 0.3 * x, lambda x: 0.3 + 0.6 * x, 0.8)
    (path / "summary.json").unlink()
    for name in ("metrics.jsonl", "evals.jsonl", "samples/train-000013.jsonl"):
        with open(path / name, "a") as file:
            file.write('{"step": 14, "rewa')
    return path


Curve = Callable[[float], float]


def _write(
    folder: Path, steps: int, done: int, accuracy: Curve, formatted: Curve, for_answer: float
) -> Path:
    """`for_answer` is the share of the reward that the answer earns; the format earns the rest."""
    draw = random.Random(7)
    (folder / "samples").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        RECIPE % (folder.name, steps, "box_only" if for_answer == 0 else "answer")
    )
    problems = [_problem(draw, f"arithmetic/heldout/{index}") for index in range(PROBLEMS)]
    evals, metrics, history = [], [], []
    for step in range(done + 1):
        x = step / steps
        if step:
            lines = _training(draw, step, accuracy(x), formatted(x), for_answer)
            _save(folder / f"samples/train-{step:06}.jsonl", lines)
            metrics.append(_step(draw, step, x, lines))
            history += _history(step, lines)
        if step % EVERY == 0:
            lines = [_evaluated(draw, problem, accuracy(x), formatted(x)) for problem in problems]
            _save(
                folder / f"samples/eval-heldout-{step:06}.jsonl",
                [{"step": step, **line} for line in lines],
            )
            evals.append(_evaluation(step, lines))
    for name, records in (("metrics", metrics), ("evals", evals), ("history", history)):
        _save(folder / f"{name}.jsonl", records)
    (folder / "summary.json").write_text(json.dumps(_summary(done, metrics, evals)))
    return folder


def _problem(draw: random.Random, name: str) -> dict[str, Any]:
    kind, a, b = draw.choice(KINDS), draw.randint(2, 60), draw.randint(2, 20)
    gold = {"add": a + b, "subtract": a - b, "multiply": a * b, "word": a + b}[kind]
    sign = {"add": "+", "subtract": "-", "multiply": "*"}.get(kind)
    story = f"Tom has {a} apples and buys {b} more. How many apples does he have now?"
    question = f"What is {a} {sign} {b}? Put your answer in \\boxed{{}}." if sign else story
    return {
        "id": name,
        "question": question,
        "gold": str(gold),
        "kind": kind,
        "hard": draw.random(),
    }


def _evaluated(
    draw: random.Random, problem: Mapping[str, Any], accuracy: float, boxed: float
) -> dict[str, Any]:
    correct = problem["hard"] + draw.gauss(0, 0.04) < accuracy
    formatted = draw.random() < boxed
    empty = formatted and not correct and boxed > 0.6 and accuracy < 0.2
    answer = problem["gold"] if correct else str(int(problem["gold"]) + draw.randint(1, 12))
    box = f"\\boxed{{{'' if empty else answer}}}"
    text = box if empty else f"Let me work it out.\n\nThe answer is {box if formatted else answer}."
    status = "correct" if correct else "no_answer" if empty else "wrong"
    return {
        **{key: problem[key] for key in ("id", "question", "gold")},
        **{
            "index": 0,
            "text": text,
            "tokens": 3 if empty else draw.randint(10, 30),
            "finish": "stop",
        },
        **{"status": status, "answer": None if empty else answer, "formatted": formatted},
        **{"rule": "box" if formatted else "last_number", "category": problem["kind"]},
    }


def _training(
    draw: random.Random, step: int, accuracy: float, boxed: float, for_answer: float
) -> list[dict[str, Any]]:
    lines = []
    for _ in range(8):
        problem = _problem(draw, f"arithmetic/train/{draw.randint(0, 4000)}")
        for index in range(8):
            line = _evaluated(draw, {**problem, "hard": draw.random()}, accuracy, boxed)
            parts = {
                "answer": for_answer * (line["status"] == "correct"),
                "format": (1 - for_answer) * line["formatted"],
            }
            value = sum(parts.values())
            more = {
                "step": step,
                "index": index,
                "reward": value,
                "parts": parts,
                "advantage": 0.0,
                "version": step - 1,
            }
            lines.append({**line, **more})
    return lines


def _step(draw: random.Random, step: int, x: float, lines: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(of: Callable[[dict[str, Any]], float]) -> float:
        return sum(map(of, lines)) / len(lines)

    groups = [
        {line["reward"] for line in lines[start : start + 8]} for start in range(0, len(lines), 8)
    ]
    tokens = sum(line["tokens"] for line in lines)
    seconds = {
        "generate": draw.uniform(5, 6),
        "verify": 0.02,
        "score": 1.1,
        "update": draw.uniform(3, 4),
        "load": 0.1,
    }
    return {
        **{"step": step, "phase": "rl", "reward": mean(lambda line: line["reward"])},
        "reward_parts": {
            part: mean(lambda line, part=part: line["parts"][part]) for part in ("answer", "format")
        },
        "accuracy": mean(lambda line: line["status"] == "correct"),
        "formatted": mean(lambda line: line["formatted"]),
        **{
            "truncated": max(0, draw.gauss(0.02, 0.01)),
            "length": mean(lambda line: line["tokens"]),
        },
        "no_answer": mean(lambda line: line["status"] == "no_answer"),
        **{
            "entropy": 0.9 * math.exp(-1.5 * x) + draw.uniform(0, 0.05),
            "kl": 0.02 * x,
            "mismatch": 0.004,
        },
        **{
            "clipped": 0.01,
            "no_signal": sum(len(group) == 1 for group in groups) / 8,
            "groups": 8,
            "samples": 64,
        },
        **{
            "response_tokens": tokens,
            "loss": None if step == 4 else draw.gauss(0, 0.02),
            "losses": {"clip": 0.0},
        },
        **{"grad_norm": draw.uniform(0.6, 1.4), "lr": 1e-5, "skipped_updates": 0},
        "verdicts": {
            s: sum(line["status"] == s for line in lines) for s in ("correct", "wrong", "no_answer")
        },
        "time": {
            **seconds,
            "step": sum(seconds.values()) + 0.3,
            "tokens_per_second": 320 + 20 * x,
            "peak_memory_gb": 2.4,
        },
    }


def _evaluation(step: int, lines: list[dict[str, Any]]) -> dict[str, Any]:
    def share(of: list[bool]) -> float:
        return sum(of) / len(of)

    correct = [line["status"] == "correct" for line in lines]
    formatted = [line["formatted"] for line in lines]
    kinds = {
        kind: [line["status"] == "correct" for line in lines if line["category"] == kind]
        for kind in KINDS
    }
    among = [right for right, well in zip(correct, formatted, strict=True) if well]
    metrics = {
        "pass@1": share(correct),
        "formatted": share(formatted),
        "truncated": 0.01,
        "length": 20.1,
    }
    return {
        **{"step": step, "benchmark": "heldout"},
        "metrics": {**metrics, "pass@1_formatted": share(among) if among else None},
        "counts": {
            "problems": len(lines),
            "samples": len(lines),
            "correct": sum(correct),
            "formatted": sum(formatted),
        },
        "ci95": {"pass@1": _wilson(share(correct), len(lines))},
        "categories": {
            kind: {"pass@1": share(right), "n": len(right)} for kind, right in kinds.items()
        },
        "time": {"seconds": 9.1},
    }


def _wilson(share: float, n: int) -> list[float]:
    z = 1.96
    middle, half = (
        share + z * z / (2 * n),
        z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)),
    )
    return [
        max(0.0, (middle - half) / (1 + z * z / n)),
        min(1.0, (middle + half) / (1 + z * z / n)),
    ]


def _history(step: int, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups = [lines[start : start + 8] for start in range(0, len(lines), 8)]
    right = [sum(line["status"] == "correct" for line in group) for group in groups]
    return [
        {"step": step, "id": g[0]["id"], "accuracy": r / 8, "n": 8}
        for g, r in zip(groups, right, strict=True)
    ]


def _summary(
    steps: int, metrics: list[dict[str, Any]], evals: list[dict[str, Any]]
) -> dict[str, Any]:
    def scored(record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "pass@1": record["metrics"]["pass@1"],
            "ci95": record["ci95"]["pass@1"],
            "n": PROBLEMS,
        }

    before, after = scored(evals[0]), scored(evals[-1])
    gain = after["pass@1"] - before["pass@1"]
    heldout = {
        "before": before,
        "after": after,
        "gain": {"pass@1": gain, "ci95": [gain - 0.06, gain + 0.06]},
    }
    return {
        **{"recipe": "demo", "model": "smollm2-135m-instruct", "steps": steps},
        "seconds": sum(record["time"]["step"] for record in metrics) + 9.1 * len(evals) + 12,
        "response_tokens": sum(record["response_tokens"] for record in metrics),
        "evals": {"heldout": heldout},
        "hardware": "2 cores, Intel Xeon (AVX512-BF16), 8 GB",
        "versions": {
            "rlvr": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.1.0",
        },
        "finished": True,
    }


def _save(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    for make in (healthy, hacked, unfinished):
        print(make(Path(sys.argv[1]) / make.__name__))
