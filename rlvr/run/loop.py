"""The outer loop around the step: evaluate, log, save."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace

from rlvr.errors import Interrupted
from rlvr.evaluation.ask import evaluate_one
from rlvr.metrics.timing import Stopwatch, timed
from rlvr.models.policy import Policy
from rlvr.run import checkpoint
from rlvr.run.session import Phase, Session
from rlvr.run.summary import best_step
from rlvr.step import State, StepResult
from rlvr.storage.sample_record import Credit, SampleRecord, make_sample
from rlvr.storage.step_record import Measured, StepRecord


def run_phases(session: Session, state: State) -> State:
    """Make the steps of every phase from a state on; return the state after the last of them."""
    if state.step == 0:
        _evaluate(session, state)
    previous = None
    for phase in session.phases:
        if state.step >= phase.start:
            state = _enter(session, phase, previous, state)
        while state.step < phase.end:
            state = _make_step(session, phase, state)
            _evaluate_if_due(session, phase, state)
            _save_if_due(session, phase, state)
        previous = phase
    return state


def _enter(session: Session, phase: Phase, previous: Phase | None, state: State) -> State:
    """Begin a phase where the one before it ended.

    Counters are carried over, problems of its own start anew. A run that is taken up in the middle
    of a phase has entered it before.
    """
    _renew_reference(session, phase, state)
    if previous is None or state.step != phase.start:
        return state
    if previous.cold:
        previous.learner.updates.optimizer.state.clear()
    else:
        phase.learner.carry(previous.learner)
    if phase.own_problems:
        return State(state.step, phase.sources.start())
    return state


def _renew_reference(session: Session, phase: Phase, state: State) -> None:
    """Make the policy as the phase began the reference; a file keeps it for a resume."""
    reference = session.built.reference
    if not phase.renews or not isinstance(reference, Policy):
        return
    saved = session.folder.checkpoints / f"reference-{phase.start:06d}"
    if session.world.broadcast(lambda: state.step == phase.start and not saved.is_dir()):
        checkpoint.save_weights(saved, phase.learner.weights(), session.world)
    reference.load(checkpoint.load_weights(saved))


def _make_step(session: Session, phase: Phase, state: State) -> State:
    with Stopwatch() as stopwatch, timed("step"):
        result = phase.advance(state)
    _log(session, phase, result, stopwatch)
    return result.state


def _log(
    session: Session,
    phase: Phase,
    result: StepResult,
    stopwatch: Stopwatch,
) -> None:
    """Hand the record of a step to the folder, the display and the trackers."""
    measured = result.metrics.record()
    record = StepRecord(
        step=result.state.step,
        phase=phase.name,
        metrics=measured,
        time=_describe_time(measured, stopwatch),
    )
    session.writer.record_step(record, result)
    session.progress.step(record, _pick_sample(result))
    for tracker in session.trackers:
        tracker.log(record.dump_row(), "step")


def _describe_time(
    measured: Mapping[str, Measured],
    stopwatch: Stopwatch,
) -> dict[str, float | None]:
    """Return the seconds of each stage, the speed of a step that generates, and the memory."""
    seconds = stopwatch.seconds
    described: dict[str, float | None] = dict(seconds)
    tokens = measured.get("response_tokens")  # a supervised step has none
    if isinstance(tokens, float | int) and tokens:
        described["tokens_per_second"] = tokens / seconds["step"]
    described.update(_describe_guesses(stopwatch.counts))
    described["peak_memory_gb"] = _peak_memory()
    return described


def _describe_guesses(counts: Mapping[str, float]) -> dict[str, float | None]:
    """Return how many tokens a pass gave each response, and what guesses at them did."""
    sequences = counts.get("guesses.sequences", 0.0)
    if not sequences:
        return {}
    described: dict[str, float | None] = {
        "tokens_per_pass": counts["guesses.tokens"] / sequences,
        "guess_seconds_saved": counts["guesses.saved"],
    }
    if counts["guesses.read"]:
        described["guesses_held"] = counts["guesses.held"] / counts["guesses.read"]
    return described


def _pick_sample(result: StepResult) -> SampleRecord | None:
    """Return a sample to look at; each step shows another group."""
    groups = [group for group in result.groups if group.samples]
    if not groups:
        return None
    step = result.state.step
    sample = groups[step % len(groups)].samples[0]
    record = make_sample(step, sample.rollout, sample.verdict)
    return replace(record, credit=Credit(sample.reward.value, sample.reward.parts))


def _evaluate_if_due(session: Session, phase: Phase, state: State) -> None:
    every = session.recipe.eval.every
    is_due = every and not phase.cold and state.step % every == 0
    if is_due or state.step == phase.end:
        _evaluate(session, state)


def _evaluate(session: Session, state: State) -> None:
    recipe = session.recipe
    for benchmark in session.built.benchmarks:
        session.progress.stage(f"evaluating {benchmark.name} ({len(benchmark.problems)} problems)")
        evaluation = evaluate_one(
            benchmark,
            session.built.run.rollouts,
            state.step,
            recipe.run.seed,
            recipe.eval.second_verifier,
            session.world,
        )
        session.writer.record_eval(evaluation)
        session.progress.evaluated(evaluation.record)
        for tracker in session.trackers:
            tracker.log(evaluation.record.dump_row(), "eval")


def _save_if_due(session: Session, phase: Phase, state: State) -> None:
    """Save where a checkpoint is due, the run ends, or the step is the best so far.

    Raises Interrupted where the run was asked to stop.
    """
    every = session.recipe.checkpoint.every
    stopping = session.world.any(session.stopping)
    is_last = state.step == session.phases[-1].end
    best = _find_best(session)
    session.saver.check()
    is_due = every and state.step % every == 0
    if stopping or is_last or is_due or state.step == best:
        _save(session, phase, state, best)
    if stopping or is_last:
        session.saver.wait()
    if stopping:
        raise Interrupted(f"stopped after step {state.step} and saved; go on with")


def _save(session: Session, phase: Phase, state: State, best: int | None) -> None:
    session.progress.stage("saving a checkpoint")
    position = {
        "step": state.step,
        "phase": phase.name,
        "source": asdict(state.source) | {"problems": session.built.problems_key},
    }
    session.saver(phase.learner.saved(), phase.learner.state(), position, best)


def _find_best(session: Session) -> int | None:
    """Return the step whose evaluation on checkpoint.best was the highest so far; None where none
    is asked for.
    """
    benchmark = session.recipe.checkpoint.best
    best = session.world.broadcast(lambda: best_step(session.folder, benchmark))
    if best is None:
        return None
    return best.step


def _peak_memory() -> float:
    """Return the most memory that this process has held, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bytes_each = 1024
    if sys.platform == "darwin":
        bytes_each = 1
    return peak * bytes_each / 2**30
