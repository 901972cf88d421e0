"""The outer loop around the step: evaluate, log, save."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict
from typing import Any

from rlvr.errors import Interrupted
from rlvr.evaluation.ask import evaluate_one
from rlvr.metrics import timing
from rlvr.models.policy import Policy
from rlvr.run import checkpoint
from rlvr.run.session import Phase, Session
from rlvr.run.summary import best_step
from rlvr.step import State, StepResult


def run_phases(session: Session, state: State) -> State:
    if state.step == 0:
        _evaluate(session, state)
    before = None
    for phase in session.phases:
        if state.step >= phase.start:
            state = _enter(session, phase, before, state)
        while state.step < phase.end:
            result = timing.timed("step")(phase.advance)(state)
            state = result.state
            _log(session, phase, result)
            _evaluate_if_due(session, phase, state)
            _save_if_due(session, phase, state)
        before = phase
    return state


def _enter(session: Session, phase: Phase, before: Phase | None, state: State) -> State:
    """A phase begins where the one before it ended: counters are carried over, problems of its own
    start anew.
    """
    _renew(session, phase, state)
    if before is None or state.step != phase.start:
        return state
    if before.cold:
        before.learner.updates.optimizer.state.clear()
    else:
        phase.learner.carry(before.learner)
    return State(state.step, phase.sources.start()) if phase.own_problems else state


def _renew(session: Session, phase: Phase, state: State) -> None:
    """The reference becomes the policy as the phase began, which is kept in a file for a resume."""
    reference = session.built.reference
    if not phase.renews or not isinstance(reference, Policy):
        return
    kept = session.folder.checkpoints / f"reference-{phase.start:06d}"
    if session.world.broadcast(lambda: state.step == phase.start and not kept.is_dir()):
        checkpoint.save_weights(kept, phase.learner.weights(), session.world)
    reference.load(checkpoint.load_weights(kept))


def _log(session: Session, phase: Phase, result: StepResult) -> None:
    measured = result.metrics.record()
    seconds = timing.pop_timings()
    tokens = measured.get("response_tokens", 0.0)
    assert isinstance(tokens, float | int)
    speed = {"tokens_per_second": tokens / seconds["step"]} if tokens else {}
    spent = {**seconds, **speed, "peak_memory_gb": _peak_memory()}
    record = {"step": result.state.step, "phase": phase.name, **measured, "time": spent}
    session.folder.record_step(result, record)
    session.progress.step(record, _one_sample(result))
    for tracker in session.trackers:
        tracker.log(record, "step")


def _one_sample(result: StepResult) -> dict[str, Any] | None:
    """A sample to look at: each step shows another group."""
    groups = [group for group in result.groups if group.samples]
    if not groups:
        return None
    sample = groups[result.state.step % len(groups)].samples[0]
    problem, verdict = sample.rollout.prompt.problem, sample.verdict
    facts = {"status": verdict.status, "answer": verdict.answer, "reward": sample.reward.value}
    return {
        "question": problem.question,
        "gold": problem.answer,
        "text": sample.rollout.text,
        **facts,
    }


def _evaluate_if_due(session: Session, phase: Phase, state: State) -> None:
    every = session.recipe.eval.every
    if state.step == phase.end or (every and not phase.cold and state.step % every == 0):
        _evaluate(session, state)


def _evaluate(session: Session, state: State) -> None:
    for benchmark in session.built.benchmarks:
        session.progress.stage(f"evaluating {benchmark.name} ({len(benchmark.problems)} problems)")
        recipe, rollouts = session.recipe, session.built.run.rollouts
        second = recipe.eval.second_verifier
        evaluation = evaluate_one(
            benchmark, rollouts, state.step, recipe.run.seed, second, session.world
        )
        session.folder.record_eval(evaluation)
        session.progress.evaluated(evaluation.record)
        for tracker in session.trackers:
            tracker.log(evaluation.record, "eval")
    timing.pop_timings()


def _save_if_due(session: Session, phase: Phase, state: State) -> None:
    every, stopping = session.recipe.checkpoint.every, session.world.any(session.stopping)
    last = state.step == session.phases[-1].end
    best = _best(session)
    session.saver.check()
    if stopping or last or (every and state.step % every == 0) or state.step == best:
        _save(session, phase, state, best)
    if stopping or last:
        session.saver.wait()
    if stopping:
        raise Interrupted(f"stopped after step {state.step} and saved; go on with")


def _save(session: Session, phase: Phase, state: State, best: int | None) -> None:
    session.progress.stage("saving a checkpoint")
    source = asdict(state.source) | {"problems": session.built.problems_key}
    position = {"step": state.step, "phase": phase.name, "source": source}
    session.saver(phase.learner.saved(), phase.learner.state(), position, best)
    timing.pop_timings()


def _best(session: Session) -> int | None:
    """The step whose evaluation on checkpoint.best was the highest so far; None where none is asked
    for.
    """
    found = session.world.broadcast(
        lambda: best_step(session.folder.path, session.recipe.checkpoint.best)
    )
    return found["step"] if found else None


def _peak_memory() -> float:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30
