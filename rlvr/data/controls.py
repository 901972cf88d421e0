"""Refuse a task that pays for answers which solve nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template

from rlvr.errors import UserError
from rlvr.tasks.judge import Judge, judge_safely, wait_all
from rlvr.types import Problem, Response

CONTROL_PROBLEMS = 64

# Open brackets, a power of a power and invisible characters, on which a parser may give way; small
# enough to do no harm to a task that works out what it is given.
_JUNK = "\\boxed{" + 20 * "(" + "2^{2^{2}}} </answer> " + 20 * "\u200b"

# What a model could write without solving anything, from a problem ($question, $answer) and the
# text of its $prompt.
CONTROLS: Mapping[str, str] = {
    "empty": "",
    "empty box": "\\boxed{}",
    "empty tags": "<think>\n</think>\n<answer></answer>",
    "echo of the question": "$question",
    "echo of the prompt": "$prompt",
    "all candidates in one box": "\\boxed{$answer \\text{ or } 0 \\text{ or } 1}",
    "several boxes": "\\boxed{$answer}, \\boxed{0}, \\boxed{1}",
    "a formula without a value": "\\boxed{\\binom{-1}{\\frac12}}",
    "junk": _JUNK,
}

# An empty answer may never be correct; an echo may, on a limited share of problems.
NEVER = ("empty", "empty box", "empty tags")
ECHOES = ("echo of the question", "echo of the prompt")


def score_controls(
    judge: Judge, problems: Sequence[Problem], prompts: Sequence[str] = ()
) -> dict[str, float]:
    """Return the share of problems on which each control is judged correct."""
    probed = list(problems[:CONTROL_PROBLEMS])
    facts = _gather_facts(probed, prompts)
    scores: dict[str, float] = {}
    for name, control in CONTROLS.items():
        template = Template(control)
        pending = []
        for problem, known in zip(probed, facts, strict=True):
            response = Response(template.substitute(known))
            pending.append(judge_safely(judge, problem, response))
        correct = sum(verdict.correct for verdict in wait_all(pending))
        scores[name] = correct / max(1, len(probed))
    return scores


def _gather_facts(problems: Sequence[Problem], prompts: Sequence[str]) -> list[dict[str, str]]:
    """Return what a control may repeat of each problem; without its prompt that is the question."""
    facts = []
    for index, problem in enumerate(problems):
        prompt = prompts[index] if index < len(prompts) else ""
        facts.append(
            {
                "question": problem.question,
                "answer": problem.answer,
                "prompt": prompt or problem.question,
            }
        )
    return facts


def check_controls(
    where: str, judge: Judge, problems: Sequence[Problem], prompts: Sequence[str], limit: float
) -> None:
    """Refuse a task that rewards an empty answer at all, or an echo too often.

    `limit` is the largest share of problems on which an echo may be correct.
    """
    scores = score_controls(judge, problems, prompts)
    limits = dict.fromkeys(NEVER, 0.0) | dict.fromkeys(ECHOES, limit)
    for name, allowed in limits.items():
        if scores[name] > allowed:
            raise UserError(
                f"{where}: the task takes the control '{name}' for correct on {scores[name]:.0%} of"
                f" {min(len(problems), CONTROL_PROBLEMS)} problems, so a model could earn the reward without solving"
                " anything; mend the task, or raise verify.echo_limit where the answers stand in the questions"
            )
