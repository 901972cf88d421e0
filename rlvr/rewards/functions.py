"""Rewards: what facts are worth. Each is a function of one response or of a whole group, and its
parts are logged.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Literal

from rlvr.grading.compare import canonical, compare
from rlvr.metrics.text_quality import repeated
from rlvr.registry import Count, Share, register
from rlvr.seeds import uniform
from rlvr.types import Context, Reward, Rollout, Verdict, VerifiedGroup


@register("reward", "correct")
def correct(verdict: Verdict, *, right: float = 1.0, wrong: float = 0.0) -> Reward:
    """1 for a correct answer, else 0."""
    return Reward(right if verdict.correct else wrong)


@register("reward", "one_shot")
def one_shot(verdict: Verdict) -> Reward:
    """1 for a correct answer, else 0 (One-Shot-RLVR `deepscaler.py`, compute_score)."""
    return Reward(float(verdict.correct))


@register("reward", "simplerl_v0")
def simplerl_v0(
    verdict: Verdict, *, right: float = 1.0, wrong: float = -0.5, unboxed: float = -1.0
) -> Reward:
    """+1 right, -0.5 wrong, -1 without a box even where the answer is right (SimpleRL-Zero,
    `experience_maker.py`).
    """
    return Reward((right if verdict.correct else wrong) if verdict.formatted else unboxed)


@register("reward", "simplerl_zoo")
def simplerl_zoo(
    verdict: Verdict, *, variant: Literal["mix", "independent"] = "mix", penalty: float = -1.0
) -> Reward:
    """`mix` is 1 or 0; `independent` is 1, 0.5 right without a box, -0.5 wrong in a box, else the
    penalty (SimpleRL-Zoo, `hf_math_verify.py`, compute_score).
    """
    if variant == "mix":
        return Reward(float(verdict.correct))
    if verdict.correct:
        return Reward(1.0 if verdict.formatted else 0.5)
    return Reward(-0.5 if verdict.formatted else penalty)


@register("reward", "format_only")
def format_only(verdict: Verdict, *, right: float = 1.0, wrong: float = 0.0) -> Reward:
    """Pays for the form alone (the box, the tags), whatever stands in it: the control that shows
    reward hacking.
    """
    return Reward(right if verdict.formatted else wrong)


@register("reward", "logic_rl")
def logic_rl(
    verdict: Verdict,
    *,
    format: float = 1.0,
    right: float = 2.0,
    wrong: float = -1.5,
    unparsed: float = -2.0,
) -> Reward:
    """Format +-1, and answer 2 / -1.5 / -2, where a badly formatted answer counts as unparsed
    (Logic-RL `kk.py`).

    Totals at the defaults: 3 right, -0.5 wrong, -1 unparsed, -3 badly formatted.
    """
    readable = verdict.formatted and verdict.answer is not None
    answer = (right if verdict.correct else wrong) if readable else unparsed
    parts = {"format": format if verdict.formatted else -format, "answer": answer}
    return Reward(sum(parts.values()), parts)


@register("reward", "random")
def random(
    group: VerifiedGroup,
    context: Context,
    *,
    right: float = 1.0,
    wrong: float = 0.0,
    share: Share = 0.5,
) -> list[Reward]:
    """Paid by chance, whatever the answer: the control of One-Shot-RLVR's critics (Shao et al.,
    Spurious Rewards).
    """
    draws = [
        uniform(
            "reward", context.seed, context.step, r.prompt.problem.id, r.prompt.draw.copy, r.index
        )
        for r in (member.rollout for member in group.members)
    ]
    return [Reward(right if draw < share else wrong) for draw in draws]


@register("reward", "majority_vote")
def majority_vote(group: VerifiedGroup, *, right: float = 1.0, wrong: float = 0.0) -> list[Reward]:
    """Paid for the answer that most of the group give, whatever the gold; the first wins a tie
    (TTRL, section 3).
    """
    answers = [member.verdict.answer for member in group.members]
    kinds: list[str] = []  # one spelling of each different answer
    votes: list[str | None] = []
    for answer in answers:
        known = (
            None
            if answer is None
            else next((kind for kind in kinds if compare(kind, answer).same), None)
        )
        if answer is not None and known is None:
            kinds.append(known := answer)
        votes.append(known)
    counted = Counter(vote for vote in votes if vote is not None and canonical(vote))
    winner = counted.most_common(1)[0][0] if counted else None
    return [Reward(right if winner is not None and vote == winner else wrong) for vote in votes]


_STEP = re.compile(r"(?im)^[ \t>*#-]*(?:step\s*[0-9]+|[0-9]+[.)]\s)")


@register("reward", "step_count")
def step_count(response: str, verdict: Verdict, *, each: float = 0.1, most: float = 0.5) -> Reward:
    """+1 or -1 for the answer, and a little for every written step (the example of the SimpleRL
    article).

    Four numbered steps before a right answer: 1 + min(4 * 0.1, 0.5) = 1.4.
    """
    parts = {
        "answer": 1.0 if verdict.correct else -1.0,
        "steps": min(each * len(_STEP.findall(response)), most),
    }
    return Reward(sum(parts.values()), parts)


@register("reward", "overlong")
def overlong(
    rollout: Rollout,
    context: Context,
    *,
    buffer: Count,
    factor: float = 1.0,
    max_tokens: Count | None = None,
) -> Reward:
    """A penalty that grows over the last `buffer` tokens before the limit (DAPO, equation 13), at
    most `factor`.

    With a limit of 20, a buffer of 5 and a factor of 1, 16 tokens cost 0.2 and 20 tokens 1.
    """
    beyond = len(rollout.token_ids) - ((max_tokens or context.max_tokens) - buffer)
    return Reward(-min(max(beyond / buffer, 0.0), 1.0) * factor)


@register("reward", "repetition")
def repetition(rollout: Rollout, *, ngram: Count = 3, penalty: float = -1.0) -> Reward:
    """The penalty times the share of token n-grams that are repeats (Yeo et al. 2025; TRL
    get_repetition_penalty_reward).   1 1 0 1 1 with n=2: 3 different of 4, so a quarter of the
    penalty.
    """
    return Reward(repeated(rollout.token_ids, ngram) * penalty)


@register("reward", "cosine")
def cosine(
    verdict: Verdict,
    rollout: Rollout,
    context: Context,
    *,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    max_tokens: Count | None = None,
) -> Reward:
    """A value that goes with the length along half a cosine, from the first of a pair at no token
    to the second at the limit (Yeo et al. 2025, Demystifying Long Chain-of-Thought, section 4): a
    right answer should be short.
    """
    shortest, longest = right if verdict.correct else wrong
    progress = min(len(rollout.token_ids) / (max_tokens or context.max_tokens), 1.0)
    return Reward(longest + 0.5 * (shortest - longest) * (1 + math.cos(progress * math.pi)))
