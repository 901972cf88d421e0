"""Rewards: what facts are worth.

Each is a function of one response or of a whole group, and its parts are logged.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rlvr.grading.compare import canonical, compare
from rlvr.metrics.text_quality import measure_repeated
from rlvr.registry import Count, Share, register
from rlvr.seeds import uniform
from rlvr.types import Context, Reward, Rollout, Verdict, VerifiedGroup

_NUMBERED_STEP = re.compile(r"(?im)^[ \t>*#-]*(?:step\s*[0-9]+|[0-9]+[.)]\s)")


@register("reward", "correct")
def correct(verdict: Verdict, *, right: float = 1.0, wrong: float = 0.0) -> Reward:
    """Pay 1 for a correct answer, else 0."""
    if verdict.correct:
        return Reward(right)
    return Reward(wrong)


@register("reward", "one_shot")
def one_shot(verdict: Verdict) -> Reward:
    """Pay 1 for a correct answer, else 0 (One-Shot-RLVR `deepscaler.py`, compute_score)."""
    return Reward(float(verdict.correct))


@register("reward", "simplerl_v0")
def simplerl_v0(
    verdict: Verdict, *, right: float = 1.0, wrong: float = -0.5, unboxed: float = -1.0
) -> Reward:
    """Pay +1 for right, -0.5 for wrong, -1 without a box even where the answer is right
    (SimpleRL-Zero, `experience_maker.py`).
    """
    if not verdict.formatted:
        return Reward(unboxed)
    if verdict.correct:
        return Reward(right)
    return Reward(wrong)


@register("reward", "simplerl_zoo")
def simplerl_zoo(
    verdict: Verdict, *, variant: Literal["mix", "independent"] = "mix", penalty: float = -1.0
) -> Reward:
    """Pay 1 or 0 (`mix`), or (`independent`) 1, 0.5 for right without a box, -0.5 for wrong in a
    box, else the penalty (SimpleRL-Zoo, `hf_math_verify.py`, compute_score).
    """
    if variant == "mix":
        return Reward(float(verdict.correct))
    match verdict.correct, verdict.formatted:
        case True, True:
            return Reward(1.0)
        case True, False:
            return Reward(0.5)
        case False, True:
            return Reward(-0.5)
    return Reward(penalty)


@register("reward", "format_only")
def format_only(verdict: Verdict, *, right: float = 1.0, wrong: float = 0.0) -> Reward:
    """Pay for the form alone (the box, the tags), whatever stands in it: the control that shows
    reward hacking.
    """
    if verdict.formatted:
        return Reward(right)
    return Reward(wrong)


@register("reward", "logic_rl")
def logic_rl(
    verdict: Verdict,
    *,
    format: float = 1.0,
    right: float = 2.0,
    wrong: float = -1.5,
    unparsed: float = -2.0,
) -> Reward:
    """Pay format +-1, and answer 2 / -1.5 / -2, where a badly formatted answer counts as unparsed
    (Logic-RL `kk.py`).

    Totals at the defaults: 3 right, -0.5 wrong, -1 unparsed, -3 badly formatted.
    """
    if not verdict.formatted or verdict.answer is None:
        answer_value = unparsed
    elif verdict.correct:
        answer_value = right
    else:
        answer_value = wrong
    format_value = format if verdict.formatted else -format
    return Reward(
        format_value + answer_value,
        {"format": format_value, "answer": answer_value},
    )


@register("reward", "random")
def random(
    group: VerifiedGroup,
    context: Context,
    *,
    right: float = 1.0,
    wrong: float = 0.0,
    share: Share = 0.5,
) -> list[Reward]:
    """Pay by chance, whatever the answer: the control of One-Shot-RLVR's critics (Shao et al.,
    Spurious Rewards).
    """
    rewards: list[Reward] = []
    for member in group.members:
        rollout = member.rollout
        draw = rollout.prompt.draw
        chance = uniform(
            "reward", context.seed, context.step, draw.problem.id, draw.copy, rollout.index
        )
        rewards.append(Reward(right if chance < share else wrong))
    return rewards


@register("reward", "majority_vote")
def majority_vote(group: VerifiedGroup, *, right: float = 1.0, wrong: float = 0.0) -> list[Reward]:
    """Pay for the answer that most of the group give, whatever the gold; the first wins a tie
    (TTRL, section 3).
    """
    votes = _unify_spellings([member.verdict.answer for member in group.members])
    counts = Counter(vote for vote in votes if vote is not None and canonical(vote))
    if not counts:
        return [Reward(wrong) for _ in votes]
    winner, _ = counts.most_common(1)[0]
    return [Reward(right if vote == winner else wrong) for vote in votes]


def _unify_spellings(answers: Sequence[str | None]) -> list[str | None]:
    """Return each answer in the spelling in which its value was given first.

    >>> _unify_spellings(["1/2", None, "0.5", "3"])
    ['1/2', None, '1/2', '3']
    """
    spellings: list[str] = []
    unified: list[str | None] = []
    for answer in answers:
        if answer is None:
            unified.append(None)
            continue
        spelling = _find_same(answer, spellings)
        if spelling is None:
            spellings.append(answer)
            spelling = answer
        unified.append(spelling)
    return unified


def _find_same(answer: str, spellings: Sequence[str]) -> str | None:
    for spelling in spellings:
        if compare(spelling, answer).same:
            return spelling
    return None


@register("reward", "step_count")
def step_count(response: str, verdict: Verdict, *, each: float = 0.1, most: float = 0.5) -> Reward:
    """Pay +1 or -1 for the answer, and a little for every written step (the example of the SimpleRL
    article).

    Four numbered steps before a right answer: 1 + min(4 * 0.1, 0.5) = 1.4.
    """
    steps = len(_NUMBERED_STEP.findall(response))
    answer_value = 1.0 if verdict.correct else -1.0
    steps_value = min(each * steps, most)
    return Reward(answer_value + steps_value, {"answer": answer_value, "steps": steps_value})


@register("reward", "overlong")
def overlong(
    rollout: Rollout,
    context: Context,
    *,
    buffer: Count,
    factor: float = 1.0,
    max_tokens: Count | None = None,
) -> Reward:
    """Charge a penalty that grows over the last `buffer` tokens before the limit (DAPO, equation
    13), at most `factor`.

    With a limit of 20, a buffer of 5 and a factor of 1, 16 tokens cost 0.2 and 20 tokens 1.
    """
    limit = max_tokens or context.max_tokens
    beyond = len(rollout.token_ids) - (limit - buffer)
    charged_share = min(max(beyond / buffer, 0.0), 1.0)
    return Reward(-charged_share * factor)


@register("reward", "repetition")
def repetition(rollout: Rollout, *, ngram: Count = 3, penalty: float = -1.0) -> Reward:
    """Charge the penalty times the share of token n-grams that are repeats (Yeo et al. 2025; TRL
    get_repetition_penalty_reward).

    1 1 0 1 1 with n=2: 3 different of 4, so a quarter of the penalty.
    """
    return Reward(measure_repeated(rollout.token_ids, ngram) * penalty)


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
    """Pay a value that goes with the length along half a cosine, from the first of a pair at no
    token to the second at the limit (Yeo et al. 2025, Demystifying Long Chain-of-Thought, section
    4): a right answer should be short.
    """
    shortest, longest = right if verdict.correct else wrong
    limit = max_tokens or context.max_tokens
    progress = min(len(rollout.token_ids) / limit, 1.0)
    return Reward(longest + 0.5 * (shortest - longest) * (1 + math.cos(progress * math.pi)))
