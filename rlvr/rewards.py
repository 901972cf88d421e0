"""Rewards: what facts are worth. Each is a function of one verdict or of a whole group, and its parts are logged."""

from __future__ import annotations

from rlvr.registry import register
from rlvr.types import Reward, Verdict


@register("reward", "correct")
def correct(verdict: Verdict, *, right: float = 1.0, wrong: float = 0.0) -> Reward:
    """1 for a correct answer, else 0 (One-Shot-RLVR; SimpleRL-Zoo)."""
    value = right if verdict.correct else wrong
    return Reward(value, {"correct": value})


@register("reward", "format")
def format_only(verdict: Verdict, *, right: float = 1.0, wrong: float = 0.0) -> Reward:
    """Pays for the form alone (the box, the tags), whatever stands in it: the control that shows reward hacking."""
    value = right if verdict.formatted else wrong
    return Reward(value, {"format": value})


@register("reward", "logic_rl")
def logic_rl(
    verdict: Verdict,
    *,
    format: float = 1.0,
    right: float = 2.0,
    wrong: float = -1.5,
    unparsed: float = -2.0,
) -> Reward:
    """Format +-1, and answer 2 / -1.5 / -2, where a badly formatted answer counts as unparsed (Logic-RL `kk.py`).

    Totals at the defaults: 3 right, -0.5 wrong, -1 unparsed, -3 badly formatted.
    """
    readable = verdict.formatted and verdict.answer is not None
    answer = (right if verdict.correct else wrong) if readable else unparsed
    parts = {"format": format if verdict.formatted else -format, "answer": answer}
    return Reward(sum(parts.values()), parts)
