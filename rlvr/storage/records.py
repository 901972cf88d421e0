"""What each line of each file of a run holds.

Every type has one writer, `dump_row`, whose keys and order are those of the file, and one reader,
`parse_row`, which raises WrongShape. `read_records` reads a whole file and says which line is wrong.
Keys that a reader does not know are passed over; keys that a line lacks have the defaults that the
fields name. Imports no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from rlvr.errors import UserError
from rlvr.storage import fields
from rlvr.storage.fields import Row, WrongShape, keep_finite
from rlvr.storage.jsonl import JsonLines
from rlvr.types import Rollout, Status, Verdict

COLD_START = "cold_start"  # the phase of supervised steps

# A metric, or metrics under one name such as `losses`; null stands for what was not finite.
Measured = float | None | Mapping[str, float | None]


class Record(Protocol):
    """What every line of a file is read as."""

    @classmethod
    def parse_row(cls, row: Row) -> Self: ...

    def dump_row(self) -> dict[str, Any]: ...


RecordType = TypeVar("RecordType", bound=Record)


def read_records(path: Path, kind: type[RecordType]) -> list[RecordType]:
    """Read a file of one record a line, such as `read_records(run / "evals.jsonl", EvalRecord)`.

    A half-written last line is passed over. Raises UserError with file and line for another shape.
    """
    records = []
    for number, row in JsonLines.read_numbered(path):
        try:
            records.append(kind.parse_row(row))
        except WrongShape as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return records


def _parse_each(row: Row, key: str, kind: type[RecordType]) -> dict[str, RecordType]:
    """Read the objects of an object under `key`; raises WrongShape."""
    objects = fields.read_mapping(row, key)
    return {name: kind.parse_row(fields.read_mapping(objects, name)) for name in objects}


def _dump_each(records: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """Return the objects of an object as the file has them."""
    return {name: record.dump_row() for name, record in records.items()}


# --- metrics.jsonl


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of `metrics.jsonl`: what a step measured."""

    step: int
    """Number of the step that was done, from 1; cold-start steps count."""

    phase: str = "rl"
    """`cold_start`, the name of a stage, or `rl` in a run without stages."""

    metrics: Mapping[str, Measured] = field(default_factory=dict)
    """Everything measured, in the order of the file: plug-ins add metrics of their own."""

    time: Mapping[str, float | None] = field(default_factory=dict)
    """Seconds of each timed part and of the whole `step`, `tokens_per_second`, `peak_memory_gb`."""

    @classmethod
    def parse_row(cls, row: Row) -> StepRecord:
        """Read a line; `step` has to be there. Raises WrongShape."""
        named = ("step", "phase", "time")
        for key in ("reward_parts", "losses", "verdicts", "critic"):
            fields.read_mapping(row, key)
        return cls(
            step=fields.read_int(row, "step"),
            phase=fields.read_text(row, "phase") or "rl",
            metrics={key: value for key, value in row.items() if key not in named},
            time=fields.read_mapping(row, "time"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the line as the file has it."""
        return {"step": self.step, "phase": self.phase, **self.metrics, "time": dict(self.time)}

    def metric(self, path: str) -> float | None:
        """Return a metric by its path, such as `entropy`, `critic/loss` or `time/step`.

        None where it was not measured or was not finite.
        """
        name, _, part = path.partition("/")
        if name == "time":
            return keep_finite(self.time.get(part))
        if not part:
            return keep_finite(self.metrics.get(name))
        return keep_finite(self._parts(name).get(part))

    def _parts(self, name: str) -> Mapping[str, Any]:
        value = self.metrics.get(name)
        return value if isinstance(value, Mapping) else {}

    @property
    def is_cold_start(self) -> bool:
        """Whether the step was a supervised one."""
        return self.phase == COLD_START

    @property
    def reward(self) -> float | None:
        """Mean reward of the samples."""
        return self.metric("reward")

    @property
    def reward_parts(self) -> Mapping[str, float | None]:
        """Mean of each named part of the reward."""
        return self._parts("reward_parts")

    @property
    def accuracy(self) -> float | None:
        """Share of the samples that are right."""
        return self.metric("accuracy")

    @property
    def formatted(self) -> float | None:
        """Share of the samples whose answer stands where the task asks for it."""
        return self.metric("formatted")

    @property
    def truncated(self) -> float | None:
        """Share of the samples that ran into the token limit."""
        return self.metric("truncated")

    @property
    def no_answer(self) -> float | None:
        """Share of the samples in which no answer was found."""
        return self.metric("no_answer")

    @property
    def length(self) -> float | None:
        """Mean number of tokens of a response."""
        return self.metric("length")

    @property
    def no_signal(self) -> float | None:
        """Share of the groups whose rewards are all equal."""
        return self.metric("no_signal")

    @property
    def entropy(self) -> float | None:
        """Mean entropy of the policy per token, in nats."""
        return self.metric("entropy")

    @property
    def loss(self) -> float | None:
        """Sum of the loss terms."""
        return self.metric("loss")

    @property
    def losses(self) -> Mapping[str, float | None]:
        """Each loss term by its name."""
        return self._parts("losses")

    @property
    def critic(self) -> Mapping[str, float | None]:
        """Metrics of the critic, empty without one."""
        return self._parts("critic")

    @property
    def verdicts(self) -> Mapping[str, float | None]:
        """How often the verifier gave each verdict."""
        return self._parts("verdicts")

    @property
    def samples(self) -> float | None:
        """Number of samples of all groups."""
        return self.metric("samples")

    @property
    def response_tokens(self) -> float | None:
        """Number of tokens of all responses; None in a supervised step."""
        return self.metric("response_tokens")

    @property
    def skipped_updates(self) -> int:
        """Number of updates of the policy left out because loss or gradient was not finite."""
        return int(self.metric("skipped_updates") or 0)

    @property
    def skipped_critic_updates(self) -> int:
        """Number of updates of the critic left out for the same reason."""
        return int(self.metric("critic/skipped_updates") or 0)

    @property
    def stage_seconds(self) -> Mapping[str, float | None]:
        """Seconds of each timed part of the step."""
        others = ("step", "tokens_per_second", "peak_memory_gb")
        return {name: value for name, value in self.time.items() if name not in others}

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole step."""
        return self.metric("time/step")

    @property
    def tokens_per_second(self) -> float | None:
        """Response tokens per second of the whole step."""
        return self.metric("time/tokens_per_second")

    @property
    def peak_memory_gb(self) -> float | None:
        """Highest memory of the process so far, in GiB."""
        return self.metric("time/peak_memory_gb")


# --- evals.jsonl and results.json


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share, or a change of one, with its interval."""

    value: float
    """The share or the change, 0 to 1; `pass@1` in the files."""

    ci95: Sequence[float] | None = None
    """Low and high end of the 95 % interval; None where none was computed."""

    n: int | None = None
    """Number of problems; None where the line does not say."""

    @classmethod
    def parse_row(cls, row: Row) -> Estimate:
        """Read an object of a line; `pass@1` has to be there. Raises WrongShape."""
        value = keep_finite(fields.read_optional_number(row, "pass@1"))
        if value is None:
            raise WrongShape("has no 'pass@1'")
        return cls(
            value=value,
            ci95=fields.read_interval(row, "ci95"),
            n=fields.read_optional_int(row, "n"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the files have it."""
        row: dict[str, Any] = {"pass@1": self.value}
        if self.ci95 is not None:
            row["ci95"] = list(self.ci95)
        if self.n is not None:
            row["n"] = self.n
        return row


@dataclass(frozen=True, slots=True)
class EvalCounts:
    """The counts of an evaluation; 0 where the line does not say."""

    problems: int = 0
    """Problems of the benchmark."""

    samples: int = 0
    """Samples of all problems."""

    correct: int = 0
    """Samples that are right."""

    formatted: int = 0
    """Samples whose answer stands where the task asks for it."""

    no_answer: int = 0
    """Samples in which no answer was found."""

    truncated: int = 0
    """Samples that ran into the token limit."""

    error: int = 0
    """Samples whose verifier failed or ran out of time."""

    second_verifier: int = 0
    """Samples that math-verify judged too."""

    only_ours_accepts: int = 0
    """Samples that only our verifier accepts, of those that both judged."""

    only_second_accepts: int = 0
    """Samples that only math-verify accepts, of those that both judged."""

    response_tokens: int = 0
    """Tokens of all responses."""

    @classmethod
    def parse_row(cls, row: Row) -> EvalCounts:
        """Read an object of a line; raises WrongShape."""
        return cls(**{name: fields.read_count(row, name) for name in cls.__slots__})

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the files have it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """How the accuracies of several seeds lie apart."""

    accuracies: Mapping[str, float]
    """Accuracy of each seed; `pass@1` in the files."""

    mean: float
    """Mean over the seeds."""

    deviation: float
    """Standard deviation over the seeds."""

    @classmethod
    def parse_row(cls, row: Row) -> SeedSpread:
        """Read an object of a line; raises WrongShape."""
        return cls(
            accuracies=fields.read_mapping(row, "pass@1"),
            mean=fields.read_number(row, "mean"),
            deviation=fields.read_number(row, "deviation"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the files have it."""
        return {
            "pass@1": dict(self.accuracies),
            "mean": self.mean,
            "deviation": self.deviation,
        }


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One line of `evals.jsonl`, one object of `results.json`: a benchmark asked once."""

    step: int
    """Number of updates that the weights had seen, 0 before training."""

    benchmark: str
    """Name of the held-out set."""

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Shares and means by name, such as `pass@1`, `maj@8`, `formatted`; None for a mean of nothing."""

    counts: EvalCounts = EvalCounts()
    """What the shares are shares of."""

    ci95: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """95 % intervals of metrics over problems, and `pass@1_samples` over samples."""

    detectable: float | None = None
    """Smallest difference between two models that would mostly show (80 % power)."""

    categories: Mapping[str, Estimate] = field(default_factory=dict)
    """Accuracy of the problems of each category."""

    levels: Mapping[str, Estimate] = field(default_factory=dict)
    """Accuracy of the problems of each level."""

    seconds: float = 0.0
    """How long it took; `time` in the files."""

    seeds: SeedSpread | None = None
    """The accuracies of several seeds; None for one seed."""

    @classmethod
    def parse_row(cls, row: Row) -> EvalRecord:
        """Read a line; `step` and `benchmark` have to be there. Raises WrongShape."""
        benchmark = fields.read_text(row, "benchmark")
        if not benchmark:
            raise WrongShape("has no 'benchmark'")
        seeds = fields.read_mapping(row, "seeds")
        return cls(
            step=fields.read_int(row, "step"),
            benchmark=benchmark,
            metrics=fields.read_mapping(row, "metrics"),
            counts=EvalCounts.parse_row(fields.read_mapping(row, "counts")),
            ci95=_parse_intervals(row),
            detectable=fields.read_optional_number(row, "detectable"),
            categories=_parse_parts(row, "categories"),
            levels=_parse_parts(row, "levels"),
            seconds=fields.read_number(fields.read_mapping(row, "time"), "seconds"),
            seeds=SeedSpread.parse_row(seeds) if seeds else None,
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the line as the file has it."""
        row: dict[str, Any] = {
            "step": self.step,
            "benchmark": self.benchmark,
            "metrics": dict(self.metrics),
            "counts": self.counts.dump_row(),
            "ci95": {name: list(ends) for name, ends in self.ci95.items()},
            "detectable": self.detectable,
            "categories": _dump_each(self.categories),
            "levels": _dump_each(self.levels),
        }
        if self.seeds is not None:
            row["seeds"] = self.seeds.dump_row()
        row["time"] = {"seconds": self.seconds}
        return row

    def metric(self, name: str) -> float | None:
        """Return a metric; None where it was not measured or was not finite."""
        return keep_finite(self.metrics.get(name))

    @property
    def accuracy(self) -> Estimate | None:
        """The share of problems solved, `pass@1`, with its interval; None where it is not there."""
        value = self.metric("pass@1")
        if value is None:
            return None
        return Estimate(value, self.ci95.get("pass@1"), self.counts.problems or None)


def _parse_intervals(row: Row) -> dict[str, Sequence[float]]:
    intervals = {}
    by_name = fields.read_mapping(row, "ci95")
    for name in by_name:
        ends = fields.read_interval(by_name, name)
        if ends is not None:
            intervals[name] = ends
    return intervals


def _parse_parts(row: Row, key: str) -> dict[str, Estimate]:
    estimates = {}
    parts = fields.read_mapping(row, key)
    for name in parts:
        estimate = _parse_estimate(parts, name)
        if estimate is not None:
            estimates[name] = estimate
    return estimates


def _parse_estimate(row: Row, key: str) -> Estimate | None:
    """Read an estimate that may be absent, or empty where nothing could be compared."""
    estimate = fields.read_mapping(row, key)
    if estimate.get("pass@1") is None:
        return None
    return Estimate.parse_row(estimate)


# --- samples/*.jsonl and the samples.jsonl of an evaluation


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


# --- history.jsonl


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """One line of `history.jsonl`: a problem visited in a step."""

    step: int
    """The step that drew the problem."""

    id: str
    """Identity of the problem."""

    accuracy: float
    """Share of its samples that are right."""

    n: int
    """Number of its samples."""

    @classmethod
    def parse_row(cls, row: Row) -> HistoryRecord:
        """Read a line; raises WrongShape."""
        return cls(
            step=fields.read_int(row, "step"),
            id=fields.read_text(row, "id"),
            accuracy=fields.read_number(row, "accuracy"),
            n=fields.read_count(row, "n"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the line as the file has it."""
        return asdict(self)


# --- summary.json


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """What a run changed on one benchmark."""

    before: Estimate | None = None
    """Accuracy before the first step."""

    after: Estimate | None = None
    """Accuracy after the last step."""

    gain: Estimate | None = None
    """Change from before to after, paired by problem."""

    after_cold_start: Estimate | None = None
    """Accuracy after the cold start; None in a run without one."""

    gain_over_cold_start: Estimate | None = None
    """Change from the end of the cold start to after, paired by problem."""

    @classmethod
    def parse_row(cls, row: Row) -> BeforeAfter:
        """Read an object of the file; raises WrongShape."""
        return cls(**{name: _parse_estimate(row, name) for name in cls.__slots__})

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it; what is None is left out."""
        row = {}
        for name in self.__slots__:
            estimate = getattr(self, name)
            if estimate is not None:
                row[name] = estimate.dump_row()
        return row


@dataclass(frozen=True, slots=True)
class BestStep:
    """The step with the highest accuracy on `checkpoint.best`."""

    benchmark: str
    """The held-out set that decides."""

    step: int
    """The first of the steps with the highest accuracy."""

    accuracy: float
    """Its accuracy; `pass@1` in the file."""

    checkpoint: str | None
    """Its checkpoint within the run folder; None where none was saved."""

    @classmethod
    def parse_row(cls, row: Row) -> BestStep:
        """Read an object of the file; raises WrongShape."""
        return cls(
            benchmark=fields.read_text(row, "benchmark"),
            step=fields.read_int(row, "step"),
            accuracy=fields.read_number(row, "pass@1"),
            checkpoint=fields.read_optional_text(row, "checkpoint"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return {
            "benchmark": self.benchmark,
            "step": self.step,
            "pass@1": self.accuracy,
            "checkpoint": self.checkpoint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`summary.json`: what a finished run says of itself."""

    recipe: str = ""
    """Name of the run."""

    model: str = ""
    """The model that was trained, as the recipe names it."""

    steps: int = 0
    """Number of steps, those of the cold start among them."""

    seconds: float = 0.0
    """Seconds of all steps and evaluations."""

    response_tokens: float = 0.0
    """Tokens of all training responses."""

    evals: Mapping[str, BeforeAfter] = field(default_factory=dict)
    """What the run changed on each benchmark."""

    hardware: str = ""
    """The processor or accelerator, and the threads."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and of libraries."""

    finished: bool = False
    """Whether the last step was reached."""

    best: BestStep | None = None
    """The best step; None where the recipe names no benchmark for it."""

    @classmethod
    def parse_row(cls, row: Row) -> Summary:
        """Read the file; raises WrongShape."""
        best = fields.read_mapping(row, "best")
        return cls(
            recipe=fields.read_text(row, "recipe"),
            model=fields.read_text(row, "model"),
            steps=fields.read_count(row, "steps"),
            seconds=fields.read_number(row, "seconds"),
            response_tokens=fields.read_number(row, "response_tokens"),
            evals=_parse_each(row, "evals", BeforeAfter),
            hardware=fields.read_text(row, "hardware"),
            versions=fields.read_mapping(row, "versions"),
            finished=fields.read_flag(row, "finished"),
            best=BestStep.parse_row(best) if best else None,
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        row: dict[str, Any] = {
            "recipe": self.recipe,
            "model": self.model,
            "steps": self.steps,
            "seconds": self.seconds,
            "response_tokens": self.response_tokens,
            "evals": _dump_each(self.evals),
            "hardware": self.hardware,
            "versions": dict(self.versions),
            "finished": self.finished,
        }
        if self.best is not None:
            row["best"] = self.best.dump_row()
        return row


# --- sweep.json


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Accuracy of an arm's runs together at one step."""

    step: int
    """The step of the evaluations."""

    accuracy: Estimate
    """Mean over problems and seeds with its interval."""

    @classmethod
    def parse_row(cls, row: Row) -> CurvePoint:
        """Read an object of the file; raises WrongShape."""
        return cls(fields.read_int(row, "step"), Estimate.parse_row(row))

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return {"step": self.step, **self.accuracy.dump_row()}


@dataclass(frozen=True, slots=True)
class GainSplit:
    """A gain as its three parts, see `split_gain`."""

    form: float
    """What more well-formed answers brought."""

    content: float
    """What better answers in that form brought."""

    rest: float
    """What lies outside the form."""

    @classmethod
    def parse_row(cls, row: Row) -> GainSplit:
        """Read an object of the file; raises WrongShape."""
        return cls(**{name: fields.read_number(row, name) for name in cls.__slots__})

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """What the finished runs of an arm show together."""

    before: CurvePoint
    """Accuracy before the first step."""

    after: CurvePoint
    """Accuracy after the last step."""

    gain: Estimate
    """Change from before to after, paired by problem."""

    formatted: tuple[float, float]
    """Share of well-formed answers before and after."""

    accuracy_formatted: tuple[float | None, float | None]
    """Accuracy among these before and after; `pass@1_formatted` in the file."""

    gain_split: GainSplit
    """The gain as form, content and rest."""

    training_accuracy: float | None
    """Accuracy of the training rollouts of the last five steps."""

    curve: tuple[CurvePoint, ...]
    """Accuracy at each step that all runs evaluated."""

    difference: Estimate | None = None
    """Accuracy after training against the baseline's; None for the baseline itself."""

    @classmethod
    def parse_row(cls, row: Row) -> ArmFigures:
        """Read the figures of an arm; raises WrongShape."""
        return cls(
            before=CurvePoint.parse_row(fields.read_mapping(row, "before")),
            after=CurvePoint.parse_row(fields.read_mapping(row, "after")),
            gain=Estimate.parse_row(fields.read_mapping(row, "gain")),
            formatted=_parse_pair(row, "formatted"),
            accuracy_formatted=_parse_pair(row, "pass@1_formatted"),
            gain_split=GainSplit.parse_row(fields.read_mapping(row, "gain_split")),
            training_accuracy=fields.read_optional_number(row, "training_accuracy"),
            curve=tuple(CurvePoint.parse_row(point) for point in fields.read_list(row, "curve")),
            difference=_parse_estimate(row, "difference"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the figures as the file has them."""
        row: dict[str, Any] = {
            "before": self.before.dump_row(),
            "after": self.after.dump_row(),
            "gain": self.gain.dump_row(),
            "formatted": list(self.formatted),
            "pass@1_formatted": list(self.accuracy_formatted),
            "gain_split": self.gain_split.dump_row(),
            "training_accuracy": self.training_accuracy,
            "curve": [point.dump_row() for point in self.curve],
        }
        if self.difference is not None:
            row["difference"] = self.difference.dump_row()
        return row


def _parse_pair(row: Row, key: str) -> tuple[Any, Any]:
    values = fields.read_list(row, key)
    if len(values) != 2:
        raise WrongShape(f"{key}: should be the shares before and after, not {values!r:.60}")
    return values[0], values[1]


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm of a sweep."""

    seeds: tuple[int, ...] = ()
    """The seeds whose runs are finished."""

    figures: ArmFigures | None = None
    """What these runs show; None where none is finished."""

    @classmethod
    def parse_row(cls, row: Row) -> ArmResult:
        """Read an arm of the file; raises WrongShape."""
        seeds = tuple(fields.read_list(row, "seeds"))
        return cls(seeds, ArmFigures.parse_row(row) if seeds else None)

    def dump_row(self) -> dict[str, Any]:
        """Return the arm as the file has it."""
        row: dict[str, Any] = {"seeds": list(self.seeds)}
        if self.figures is not None:
            row |= self.figures.dump_row()
        return row


@dataclass(frozen=True, slots=True)
class SweepResult:
    """`sweep.json`: the arms of a sweep beside each other."""

    name: str
    """Name of the sweep."""

    benchmark: str
    """The held-out set that the arms are compared on."""

    baseline: str
    """Name of the arm that the others are compared with."""

    arms: Mapping[str, ArmResult]
    """The arms by name, in the order of the sweep's file."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """Why the runs that are not finished are not, by the name of their folder."""

    @classmethod
    def parse_row(cls, row: Row) -> SweepResult:
        """Read the file; raises WrongShape."""
        return cls(
            name=fields.read_text(row, "name"),
            benchmark=fields.read_text(row, "benchmark"),
            baseline=fields.read_text(row, "baseline"),
            arms=_parse_each(row, "arms", ArmResult),
            missing=fields.read_mapping(row, "missing"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the file has it."""
        return {
            "name": self.name,
            "benchmark": self.benchmark,
            "baseline": self.baseline,
            "arms": _dump_each(self.arms),
            "missing": dict(self.missing),
        }
