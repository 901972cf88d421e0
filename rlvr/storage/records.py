"""What each line of each file of a run holds."""

from __future__ import annotations

from typing import Any

from rlvr.types import Rollout, Verdict


def sample_row(step: int, rollout: Rollout, verdict: Verdict) -> dict[str, Any]:
    """One rollout as a line of `samples/`."""
    problem = rollout.prompt.problem
    return {
        "step": step,
        "id": problem.id,
        "task": problem.task,
        "copy": rollout.prompt.draw.copy,
        "index": rollout.index,
        "question": problem.question,
        "gold": problem.answer,
        "text": rollout.text,
        "tokens": len(rollout.token_ids),
        "finish": rollout.finish,
        "status": verdict.status,
        "answer": verdict.answer,
        "formatted": verdict.formatted,
        "rule": verdict.rule,
        "version": rollout.version,
        "time": {"verify_ms": verdict.ms},
    }
