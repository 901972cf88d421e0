"""Make the pinned numbers of six tiny runs: `python tests/golden/tiny_runs.py` writes
`tests/golden/tiny_runs.json`.

Each run trains the tiny model for three steps in float64 on one thread. What is kept: the metrics
of each step, the token ids of each response in the order in which rewards saw them, the
evaluations, and the sum and norm of each final weight. A change of the code that is not meant to
move numbers leaves the file as it is (`tests/test_golden_tiny_runs.py`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors.torch import load_file
from support import tiny

import rlvr

FILE = Path(__file__).with_suffix(".json")
FLOAT64 = {"dtype": "float64", "compute": "float64"}
TWO_PARTS = {"minibatches": 2}

# What each run has beside the tiny recipe.
RUNS: dict[str, dict[str, Any]] = {
    "grpo": {"loss": {"terms": ["clip", {"name": "entropy", "coef": 0.01}]}, "learn": TWO_PARTS},
    "ppo_with_critic": {
        "advantage": {"name": "gae", "lam": 0.95},
        "critic": {"optimizer": {"lr": 1e-3}, "warmup": 1},
        "learn": {"minibatches": 2, "epochs": 2},
    },
    "reinforce_pp_with_kl_in_the_reward": {
        "advantage": "reinforce_pp",
        "reward_kl": {"coef": 0.05, "estimator": "k2", "target": 0.1, "horizon": 64},
        "reward_scale": "running",
        "learn": TWO_PARTS,
    },
    "dapo_with_refill": {
        "rollout": {"problems": 2, "samples": 8, "max_tokens": 6, "top_p": 0.9},
        "gather": {"name": "refill", "max_attempts": 3},
        "filter": "no_signal",
        "loss": {"terms": [{"name": "clip", "low": 0.2, "high": 0.28}], "reduction": "token"},
        "learn": {"minibatch_prompts": 1},
    },
    "two_stages": {
        "loss": {"terms": ["clip", {"name": "kl", "coef": 0.01}], "reduction": "sequence"},
        "stages": [
            {"name": "first", "steps": 2},
            {"name": "second", "steps": 1, "reference": "renewed", "rollout.temperature": 1.2},
        ],
    },
    "lora": {"model": {"lora": {"rank": 4, "alpha": 8}}, "learn": TWO_PARTS},
}


def run_of(name: str, folder: Path) -> dict[str, Any]:
    """Train one of the runs below a folder and return what is pinned of it."""
    sections = {**RUNS[name]}
    own_model = sections.pop("model", {})
    recipe = tiny.recipe(tiny.save(folder / "tiny"), **sections)
    recipe["run"] = {**recipe["run"], "name": name}  # type: ignore[dict-item]
    recipe["model"] = {**recipe["model"], **FLOAT64, **own_model}  # type: ignore[dict-item]
    responses: list[list[int]] = []

    value_of = starts_with_a_digit if name == "dapo_with_refill" else count_characters

    def recorded(group: Any, context: Any) -> list[float]:
        responses.extend(list(member.rollout.token_ids) for member in group.members)
        return [value_of(member.rollout.text) for member in group.members]

    rlvr.train(recipe, reward=recorded)
    written = folder / "runs" / name
    weights = load_file(written / "model" / "model.safetensors")
    return {
        "steps": read_without_time(written / "metrics.jsonl"),
        "evals": read_without_time(written / "evals.jsonl"),
        "advantages": [
            row["advantage"]
            for path in sorted(written.glob("samples/train-*"))
            for row in rows_of(path)
        ],
        "responses": responses,
        "weights": {
            key: [float(w.double().sum()), float(w.double().norm())]
            for key, w in sorted(weights.items())
        },
    }


def count_characters(text: str) -> float:
    """A value that differs within most groups."""
    return float(len(set(text)))


def starts_with_a_digit(text: str) -> float:
    """A value that is alike in many groups, so that a step has to be filled again."""
    return float(text[:1].isdigit())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_without_time(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of a run without what depends on the clock."""
    return [{key: value for key, value in row.items() if key != "time"} for row in rows_of(path)]


def main() -> None:
    made: dict[str, Any] = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            made[name] = run_of(name, Path(folder))
    FILE.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
