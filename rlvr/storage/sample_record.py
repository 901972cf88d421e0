"""What a line of `samples/*.jsonl` holds, or of the `samples.jsonl` of an evaluation: a response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.storage import fields
from rlvr.storage.fields import Row, keep_finite
from rlvr.types import Rollout, Status, Verdict


@dataclass(frozen=True, slots=True)
class Credit:
    """What training made of a sample."""

    reward: float | None
    """What the sample was paid; None where its verifier failed."""

    parts: Mapping[str, float] = field(default_factory=dict)
    """The named parts of the reward."""

    advantage: float | None = None
    """Mean advantage of its tokens; None where it was not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One line of `samples/*.jsonl` or of an evaluation's `samples.jsonl`: one response."""

    step: int = 0
    """The step that sampled it; in an evaluation the updates that the weights had seen."""

    id: str = ""
    """Identity of the problem."""

    task: str = ""
    """Name of the task that judged it."""

    copy: int = 0
    """Tells repeats of one problem in one step apart."""

    index: int = 0
    """Number of the sample in its group, from 0."""

    question: str = ""
    """The problem as it was asked, without the prompt template."""

    gold: str = ""
    """The right answer."""

    text: str = ""
    """The response, without the prompt."""

    tokens: int = 0
    """Number of tokens of the response; 0 where the line does not say."""

    finish: str = ""
    """Why the response ended, a value of `Finish`."""

    status: str = ""
    """The verdict, a value of `Status`; "" where the line does not say."""

    answer: str | None = None
    """The answer that was found in the response, None for none."""

    formatted: bool = False
    """Whether the answer stands where the task asks for it."""

    rule: str = ""
    """Which rule of the verifier decided."""

    version: int = 0
    """Number of updates that the sampling policy had seen."""

    verify_ms: float = 0.0
    """Milliseconds of the verifier; under `time` in the files."""

    seconds: float | None = None
    """Its share of the seconds of an evaluation; None in a run. Under `time` in the files."""

    second: bool | None = None
    """Whether math-verify accepts it too; None where it was not asked."""

    credit: Credit | None = None
    """Reward and advantage of a training sample; None in an evaluation."""

    benchmark: str | None = None
    """Name of the benchmark; only in the folder of an evaluation."""

    seed: int | None = None
    """Seed of the sampling; only in the folder of an evaluation."""

    @classmethod
    def parse_row(cls, row: Row) -> SampleRecord:
        """Read a line; raises WrongShape."""
        time = fields.read_mapping(row, "time")
        return cls(
            step=fields.read_count(row, "step"),
            id=fields.read_text(row, "id"),
            task=fields.read_text(row, "task"),
            copy=fields.read_count(row, "copy"),
            index=fields.read_count(row, "index"),
            question=fields.read_text(row, "question"),
            gold=fields.read_text(row, "gold"),
            text=fields.read_text(row, "text"),
            tokens=fields.read_count(row, "tokens"),
            finish=fields.read_text(row, "finish"),
            status=fields.read_text(row, "status"),
            answer=fields.read_optional_text(row, "answer"),
            formatted=fields.read_flag(row, "formatted"),
            rule=fields.read_text(row, "rule"),
            version=fields.read_count(row, "version"),
            verify_ms=fields.read_number(time, "verify_ms"),
            seconds=fields.read_optional_number(time, "seconds"),
            second=fields.read_optional_flag(row, "second"),
            credit=_parse_credit(row),
            benchmark=fields.read_optional_text(row, "benchmark"),
            seed=fields.read_optional_int(row, "seed"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the line as the file has it: an evaluation's begins with benchmark and seed."""
        row: dict[str, Any] = {}
        if self.benchmark is not None:
            row |= {"benchmark": self.benchmark, "seed": self.seed}
        row |= {
            "step": self.step,
            "id": self.id,
            "task": self.task,
            "copy": self.copy,
            "index": self.index,
            "question": self.question,
            "gold": self.gold,
            "text": self.text,
            "tokens": self.tokens,
            "finish": self.finish,
            "status": self.status,
            "answer": self.answer,
            "formatted": self.formatted,
            "rule": self.rule,
            "version": self.version,
            "time": {"verify_ms": self.verify_ms},
        }
        if self.seconds is not None:
            row["time"]["seconds"] = self.seconds
        if self.second is not None:
            row["second"] = self.second
        if self.credit is not None:
            row["reward"] = self.credit.reward
            row["parts"] = dict(self.credit.parts)
            row["advantage"] = self.credit.advantage
        return row

    @property
    def correct(self) -> bool:
        """Whether the verifier found it right."""
        return self.status == Status.CORRECT

    @property
    def reward(self) -> float | None:
        """What the sample was paid; None in an evaluation and where its verifier failed."""
        return self.credit.reward if self.credit else None


def _parse_credit(row: Row) -> Credit | None:
    if "reward" not in row:
        return None
    return Credit(
        reward=keep_finite(fields.read_optional_number(row, "reward")),
        parts=fields.read_mapping(row, "parts"),
        advantage=fields.read_optional_number(row, "advantage"),
    )


def make_sample(step: int, rollout: Rollout, verdict: Verdict) -> SampleRecord:
    """Return the record of a rollout and its verdict, without reward and without second opinion."""
    problem = rollout.prompt.problem
    return SampleRecord(
        step=step,
        id=problem.id,
        task=problem.task,
        copy=rollout.prompt.draw.copy,
        index=rollout.index,
        question=problem.question,
        gold=problem.answer,
        text=rollout.text,
        tokens=len(rollout.token_ids),
        finish=rollout.finish,
        status=verdict.status,
        answer=verdict.answer,
        formatted=verdict.formatted,
        rule=verdict.rule,
        version=rollout.version,
        verify_ms=verdict.ms,
    )
