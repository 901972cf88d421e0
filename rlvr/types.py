"""The named, frozen values that travel through a training step, one per stage.

Letters used in shape comments everywhere: P problems of a step, G samples of one problem (a group),
N samples that are trained on, R tokens of one response, T response tokens of all samples end to end
(there is no padding), V vocabulary. This module imports nothing heavy, so verifiers and rewards run
anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Finish(StrEnum):
    """Why a response ended."""

    STOP = "stop"
    LENGTH = "length"


class Status(StrEnum):
    """What the verifier found; `timeout` and `error` are failures of ours, not of the answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    UNPARSEABLE = "unparseable"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with a checkable answer; `id` is its identity in groups, seeds, history and
    resume.

    Example: Problem("arithmetic/train/17", "math", "What is 7 + 8?", "15", {"kind": "add"})
    """

    id: str
    task: str
    question: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    solution: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a prompt template returns: the text to tokenise, and its tail that belongs to the answer.

    Such a tail is `<think>`. A text that `is_chat` is the chat template's, which writes the special
    tokens itself.
    """

    text: str
    prefill: str = ""
    is_chat: bool = False


@dataclass(frozen=True, slots=True)
class Draw:
    """One problem drawn for a step.

    `copy` tells repeats of one problem in one step apart; each is a group of its own.
    """

    problem: Problem
    source: int
    copy: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A drawn problem as the token ids that the engine receives."""

    draw: Draw
    token_ids: tuple[int, ...]
    text: str
    prefill: str = ""
    is_chat: bool = False

    @property
    def problem(self) -> Problem:
        return self.draw.problem


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    Log-probabilities are those of log-softmax(logits / temperature) over the whole vocabulary,
    before top-p and top-k. Temperature 0 is greedy decoding, whose log-probabilities are those of
    temperature 1. An engine that has quantised weights uses them unless it is to be `exact`.
    """

    samples: int = 1
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked: a prompt and one random key for each sample wanted of it."""

    token_ids: tuple[int, ...]
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine answers for one sample.

    The end-of-text token is included when the model emitted it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


@dataclass(frozen=True, slots=True)
class Response:
    """What a verifier may see of a rollout."""

    text: str
    truncated: bool = False
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response.

    Example: Rollout(prompt, 0, (17, 5, 2), (-0.1, -1.3, -0.0), (1, 1, 1), "42", Finish.STOP, 7)
    """

    prompt: Prompt
    index: int
    token_ids: tuple[int, ...]  # [R]
    logprobs: tuple[float, ...]  # [R] by the engine, see Sampling
    mask: tuple[int, ...]  # [R] 1 = sampled by the policy, 0 = written by a tool or the environment
    text: str  # the response only, never the prompt
    finish: Finish
    version: int  # how many updates the sampling policy had seen
    end: str = ""  # the special token that ended it, which `text` leaves out

    @property
    def response(self) -> Response:
        return Response(self.text, self.finish is Finish.LENGTH, self.prompt.prefill)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Facts about one response, decided by the task; evaluation reads only these.

    `formatted` is whether the answer stands where the task asks for it (a box, the tags). `rule`
    names what decided.
    """

    status: Status
    answer: str | None = None
    formatted: bool = False
    rule: str = ""
    ms: float = 0.0

    @property
    def correct(self) -> bool:
        return self.status is Status.CORRECT


@dataclass(frozen=True, slots=True)
class VerifiedSample:
    """A rollout and the facts about it, as a reward sees them."""

    rollout: Rollout
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class VerifiedGroup:
    """All samples of one drawn problem."""

    problem: Problem
    members: tuple[VerifiedSample, ...]  # [G]
    # left out because the verifier failed, not the answer; counted and logged
    failed: tuple[VerifiedSample, ...] = ()


@dataclass(frozen=True, slots=True)
class Reward:
    """What a response is worth to the recipe.

    Training reads only `value`; `parts` are logged by name.
    """

    value: float
    # none: the value itself is logged
    parts: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Context:
    """What a reward may know beside the group.

    That is a key for randomness of its own, and the limits of the rollout.
    """

    seed: int
    step: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A rollout with its facts and its value: what is logged and what is trained on.

    A sample that is not `trained` counts in its group, and its tokens carry no loss.
    """

    rollout: Rollout
    verdict: Verdict
    reward: Reward
    trained: bool = True


@dataclass(frozen=True, slots=True)
class RewardedGroup:
    """A rewarded group.

    `trained` is false where a filter found that it cannot change the weights; it is still counted.
    `baseline` is the reward of a greedy answer, None where no estimator asks for one.
    """

    problem: Problem
    samples: tuple[Sample, ...]  # [G]
    trained: bool = True
    failed: tuple[VerifiedSample, ...] = ()
    baseline: float | None = None

    @property
    def has_signal(self) -> bool:
        """Whether the rewards of the group differ, so that a group-relative advantage is not zero."""
        return len({sample.reward.value for sample in self.samples}) > 1


def flatten(groups: Sequence[RewardedGroup]) -> list[Sample]:
    """Return the samples of all groups, in order.   [P] groups -> [P*G] samples"""
    samples: list[Sample] = []
    for group in groups:
        samples += group.samples
    return samples
