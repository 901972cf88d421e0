"""What a line of `metrics.jsonl` holds: a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.storage import fields
from rlvr.storage.fields import Row, keep_finite

COLD_START = "cold_start"  # the phase of supervised steps

# A metric, or metrics under one name such as `losses`; null stands for what was not finite.
Measured = float | None | Mapping[str, float | None]


# What stands beside the seconds of the stages: the whole step, speeds, memory, and of guesses at coming
# tokens how many each response got a pass, the share that held and the seconds that they saved.
NOT_STAGES = (
    "step",
    "tokens_per_second",
    "tokens_per_pass",
    "guesses_held",
    "guess_seconds_saved",
    "peak_memory_gb",
)


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
    """Seconds of each timed part and of the whole `step`, and NOT_STAGES."""

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
        return {name: value for name, value in self.time.items() if name not in NOT_STAGES}

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
