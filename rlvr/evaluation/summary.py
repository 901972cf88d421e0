"""The figures of one evaluation: its verdicts counted, and how sure the shares are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rlvr.grading.extract import find_last_box
from rlvr.metrics import statistics, text_quality, votes
from rlvr.metrics.statistics import Interval
from rlvr.storage.estimate import Estimate
from rlvr.storage.eval_record import EvalCounts, EvalRecord
from rlvr.storage.sample_record import SampleRecord
from rlvr.types import Finish, Problem, Status

Samples = Sequence[SampleRecord]


def has_box(text: str) -> bool:
    """Return whether the text holds a \\boxed{} that is not empty."""
    return bool(find_last_box(text))


# What is measured of the text of every sample.
MEASURES: Mapping[str, Callable[[str], float]] = {
    "keywords": text_quality.count_keywords,
    "non_ascii": text_quality.measure_foreign,
    "repetition": text_quality.measure_repetition,
    "repeats": text_quality.is_repetitive,
    "boxed": has_box,
    "reflection": text_quality.has_reflection,
}

FAILURES = (Status.ERROR, Status.TIMEOUT)  # of the verifier, not of the answer


@dataclass(slots=True)
class ProblemSamples:
    """All samples of one problem."""

    samples: list[SampleRecord] = field(default_factory=list)

    @property
    def verdicts(self) -> list[bool]:
        return [sample.correct for sample in self.samples]

    @property
    def accuracy(self) -> float:
        """The share of samples that are right."""
        return sum(self.verdicts) / len(self.samples)

    def pass_at_k(self, k: int) -> float:
        return statistics.pass_at_k(len(self.samples), sum(self.verdicts), k)

    @property
    def majority_is_right(self) -> bool:
        """Whether the answer given most often is right; False where none was given."""
        chosen = votes.find_majority([sample.answer for sample in self.samples])
        return chosen is not None and self.samples[chosen].correct


def summarise(
    step: int,
    benchmark: str,
    samples: Samples,
    problems: Sequence[Problem],
    seconds: float = 0.0,
) -> EvalRecord:
    """Return the record of one evaluation: metrics, counts, intervals, categories and levels."""
    groups = _group_by_problem(samples)
    accuracies: dict[str, float] = {}
    verdicts: list[list[bool]] = []
    for name, group in groups.items():
        accuracies[name] = group.accuracy
        verdicts.append(group.verdicts)
    metrics: dict[str, float | None] = {}
    intervals: dict[str, Interval] = {}
    for name, of_problems in _measure_problems(list(groups.values())).items():
        metrics[name] = fmean(of_problems)
        intervals[name] = statistics.estimate_interval(of_problems)
    metrics.update(_measure_samples(samples))
    over_samples = statistics.estimate_sampling_interval(verdicts)
    if over_samples:
        intervals["pass@1_samples"] = over_samples
    return EvalRecord(
        step=step,
        benchmark=benchmark,
        metrics=metrics,
        counts=_count(samples, len(groups)),
        ci95=intervals,
        detectable=statistics.estimate_detectable(list(accuracies.values())),
        categories=_average_by(problems, accuracies, "category"),
        levels=_average_by(problems, accuracies, "level"),
        seconds=seconds,
    )


def _group_by_problem(samples: Samples) -> dict[str, ProblemSamples]:
    groups: dict[str, ProblemSamples] = {}
    for sample in samples:
        groups.setdefault(sample.id, ProblemSamples()).samples.append(sample)
    return groups


def _measure_problems(groups: Sequence[ProblemSamples]) -> Mapping[str, list[float]]:
    """Return the value of each problem for every metric over problems.

    pass@1, and where every problem has several samples avg@n (the same figure), pass@k and maj@n.
    Each problem counts once with all of its samples.
    """
    count = min(len(group.samples) for group in groups)
    ks = statistics.choose_ks(count)[1:]
    values: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        values["pass@1"].append(group.accuracy)
        if count == 1:
            continue
        values[f"avg@{count}"].append(group.accuracy)
        for k in ks:
            values[f"pass@{k}"].append(group.pass_at_k(k))
        values[f"maj@{count}"].append(float(group.majority_is_right))
    return values


def _measure_samples(samples: Samples) -> dict[str, float | None]:
    """Return shares and means over all samples; None where there is nothing to take the mean of."""
    values = _collect_values(samples)
    metrics: dict[str, float | None] = {}
    for name in ("formatted", "pass@1_formatted", "no_answer"):
        metrics[name] = _mean_or_none(values[name])
    metrics["truncated"] = 1 - len(values["length_stopped"]) / len(samples)
    for name in ("length", "length_correct", "length_wrong", "length_stopped", *MEASURES):
        metrics[name] = _mean_or_none(values[name])
    return metrics


def _collect_values(samples: Samples) -> Mapping[str, list[float]]:
    """Return the values of every metric over samples: of all, or of those that it is about."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for sample in samples:
        values["formatted"].append(sample.formatted)
        values["no_answer"].append(sample.answer is None)
        values["length"].append(sample.tokens)
        if sample.formatted:
            values["pass@1_formatted"].append(sample.correct)
        if sample.correct:
            values["length_correct"].append(sample.tokens)
        else:
            values["length_wrong"].append(sample.tokens)
        if sample.finish != Finish.LENGTH:
            values["length_stopped"].append(sample.tokens)
        for name, measure in MEASURES.items():
            values[name].append(float(measure(sample.text)))
    return values


def _mean_or_none(values: Sequence[float]) -> float | None:
    if not values:
        return None
    return fmean(values)


def _count(samples: Samples, problems: int) -> EvalCounts:
    """Return what the shares are shares of."""
    counts = Counter[str]()
    for sample in samples:
        counts["correct"] += sample.correct
        counts["formatted"] += sample.formatted
        counts["no_answer"] += sample.answer is None
        counts["truncated"] += sample.finish == Finish.LENGTH
        counts["error"] += sample.status in FAILURES
        counts["response_tokens"] += sample.tokens
        if sample.second is not None:
            counts["second_verifier"] += 1
            counts["only_ours_accepts"] += sample.correct and not sample.second
            counts["only_second_accepts"] += sample.second and not sample.correct
    return EvalCounts(problems=problems, samples=len(samples), **counts)


def _average_by(
    problems: Sequence[Problem],
    accuracies: Mapping[str, float],
    key: str,
) -> dict[str, Estimate]:
    """Return the accuracy of each category or level, in the order of their names."""
    by_name: dict[str, list[float]] = {}
    for problem in problems:
        name = str(problem.meta.get(key, ""))
        if name and problem.id in accuracies:
            by_name.setdefault(name, []).append(accuracies[problem.id])
    averages: dict[str, Estimate] = {}
    for name, values in sorted(by_name.items()):
        averages[name] = Estimate(value=fmean(values), n=len(values))
    return averages
