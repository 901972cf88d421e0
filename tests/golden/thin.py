"""Thin golden outputs and labelled answers, so that a fresh clone checks every function and every kind.

`python tests/golden/thin.py GOLDEN GRADING` writes `tests/golden/cases/` and `tests/golden/grading/`. GOLDEN holds one
JSON list of cases a family, each with the reference that was executed (repository, commit, file and function) and its
environment; of every function the cases that take the least room are kept, as many as `LEAST` says for its family.
GRADING holds labelled answers; of those written by hand two of each kind are kept, one right and one wrong.
`RLVR_GOLDEN_DIR` and `RLVR_GRADING_DIR` name the whole folders where there are any.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
GRADING = Path(__file__).parent / "grading"
# How many cases of each function, 6 of families that are not named here.
LEAST = {
    "whole_loss": 1,
    "optimizer_step": 1,
    "advantages": 2,
    "token_rewards": 2,
    "importance": 3,
    "policy_loss": 2,
    "eval_metrics": 3,
    "value_loss": 2,
    "kl": 2,
    "qwen_grader": 24,
    "rewards_oneshot": 30,
    "rewards_logic_rl": 20,
    "rewards_simplerl_v0": 25,
    "rewards_simplerl_zoo": 25,
}


def thin(cases: list[dict[str, Any]], least: int) -> list[dict[str, Any]]:
    """Keep the smallest cases of each function, in the order of the file."""
    sizes = {case["name"]: len(json.dumps(case)) for case in cases}
    functions: dict[str, list[str]] = {}
    for name in sizes:
        functions.setdefault(name.split("/")[0], []).append(name)
    kept: set[str] = set()
    for names in functions.values():
        kept.update(sorted(names, key=lambda name: (sizes[name], name))[:least])
    return [case for case in cases if case["name"] in kept]


def thin_answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the first right and the first wrong answer of each kind among those written by hand."""
    kept: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for row in rows:
        if row["source"] == "hand" and not row.get("debatable"):
            kept.setdefault((row["category"], row["note"], row["expected"]), row)
    return list(kept.values())


def write_answers(folder: Path) -> None:
    """Write the thinned answers, and the answers to Knights and Knaves as they are."""
    GRADING.mkdir(exist_ok=True)
    lines = (folder / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    kept = thin_answers([json.loads(line) for line in lines])
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    (GRADING / "cases.jsonl").write_text(text, encoding="utf-8")
    knights = (folder / "knights_answers.jsonl").read_text(encoding="utf-8")
    (GRADING / "knights_answers.jsonl").write_text(knights, encoding="utf-8")
    print(f"answers: {len(kept)} of {len(lines)}", file=sys.stderr)


def write_cases(folder: Path) -> None:
    """Write the thinned golden outputs."""
    CASES.mkdir(exist_ok=True)
    total = 0
    for path in sorted(folder.glob("*.json")):
        cases = json.loads(path.read_text(encoding="utf-8"))
        kept = thin(cases, LEAST.get(path.stem, 6))
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in kept)
        (CASES / path.name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        total += (CASES / path.name).stat().st_size
        print(f"{path.stem}: {len(kept)} of {len(cases)}", file=sys.stderr)
    print(f"{total / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]))
    write_answers(Path(sys.argv[2]))
