"""Refuse a task that pays for answers which solve nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template

from rlvr.errors import UserError
from rlvr.resources import asset
from rlvr.tasks.judge import Judge, judge_safely, wait_all
from rlvr.types import Problem, Response

CONTROL_PROBLEMS = 64


# What a model could write without solving anything, from a problem and the text of its prompt.
CONTROLS: Mapping[str, str] = asset("data/controls")


NEVER = ("empty", "empty box", "empty tags")


ECHOES = ("echo of the question", "echo of the prompt")


def control_scores(
    judge: Judge, problems: Sequence[Problem], prompts: Sequence[str] = ()
) -> dict[str, float]:
    """The share of problems on which each control is judged correct."""
    asked = list(problems[:CONTROL_PROBLEMS])
    texts = [*prompts[: len(asked)], *[""] * (len(asked) - len(prompts))]
    found = {}
    pairs = zip(asked, texts, strict=True)
    given = [
        {"question": p.question, "answer": p.answer, "prompt": t or p.question} for p, t in pairs
    ]
    for name, control in CONTROLS.items():
        written = [Template(control).substitute(known) for known in given]
        pending = [
            judge_safely(judge, p, Response(text)) for p, text in zip(asked, written, strict=True)
        ]
        found[name] = sum(verdict.correct for verdict in wait_all(pending)) / max(1, len(asked))
    return found


def check_controls(
    where: str, judge: Judge, problems: Sequence[Problem], prompts: Sequence[str], limit: float
) -> None:
    """Refuse a task that rewards an empty answer at all, or an echo on a larger share of problems
    than `limit`.
    """
    scores = control_scores(judge, problems, prompts)
    for name in (*NEVER, *ECHOES):
        if scores[name] > (0.0 if name in NEVER else limit):
            raise UserError(
                f"{where}: the task takes the control '{name}' for correct on {scores[name]:.0%} of"
                f" {min(len(problems), CONTROL_PROBLEMS)} problems, so a model could earn the reward without solving"
                " anything; mend the task, or raise verify.echo_limit where the answers stand in the questions"
            )
