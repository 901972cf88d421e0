"""Our side of bench/step.py: a plain `rlvr.train` whose tracker is the clock: a step is timed with
all it writes.

Started by bench/step.py. Prints one JSON line for each measured step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import options


class Clock:
    """A tracker that times each step from the record of the step before it; the first steps are the
    warm-up.
    """

    def __init__(
        self, run_name: str, config: Mapping[str, Any], folder: Path, *, warmup: int = 1
    ) -> None:
        self.left = warmup
        self.last = time.perf_counter()

    def log(self, record: Mapping[str, Any], kind: str) -> None:
        if kind != "step":
            return
        now = time.perf_counter()
        line = {
            "seconds": now - self.last,
            "response_tokens": record["response_tokens"],
            "rollouts": record["samples"],
        }
        line["no_signal"] = record["no_signal"]
        if self.left <= 0:
            print(json.dumps(line), flush=True)
        self.last, self.left = now, self.left - 1

    def close(self) -> None:
        pass


def in_turns(rollout: Any) -> float:
    """A reward that gives every sample an advantage, whatever it says."""
    return float(rollout.index % 2)


def main() -> None:
    args = options(workload="", warmup=1, every=0)
    import rlvr

    rlvr.train(recipe(args, json.loads(Path(args.workload).read_text())), overwrite=True)


def recipe(args: argparse.Namespace, workload: Mapping[str, Any]) -> dict[str, Any]:
    """The workload as a recipe: GRPO, strictly on policy, one update from all samples of a step."""
    rows = Path(args.workload).with_suffix(".jsonl")
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in workload["problems"]))
    steps = len(workload["problems"]) // workload["problems_per_step"]
    return {
        "run": {"name": "step", "folder": ".bench/runs", "steps": steps, "threads": args.threads},
        "model": {"name": str(args.model), "compute": args.dtype, "device": "cpu"},
        "train": {
            "data": {"name": "file", "path": str(rows), "columns": {"question": "text"}},
            "task": {"name": "math", "extract": ["box", "number"]},
            "prompt": {"name": "plain", "template": "{question}"},
        },
        "rollout": {
            "problems": workload["problems_per_step"],
            "samples": workload["samples"],
            "max_tokens": workload["max_tokens"],
            "temperature": workload["temperature"],
        },
        "reward": f"{Path(__file__).resolve()}:in_turns" if args.every else "correct",
        "advantage": "grpo",
        "loss": {"terms": ["clip"]},
        "optimizer": {"lr": workload["learning_rate"]},
        "trackers": [{"name": f"{Path(__file__).resolve()}:Clock", "warmup": args.warmup}],
    }


if __name__ == "__main__":
    main()
