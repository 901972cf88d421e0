"""One training step, top to bottom; the page to read first.

What a recipe chooses is bound into `Run` before the first step, so nothing here reads configuration
and nothing branches. Attempts belong to the gatherer, timers to the callees, logs to the outer
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rlvr.data.prompts import Renderer
from rlvr.data.sources import Sources, SourceState
from rlvr.distributed.world import World
from rlvr.metrics.mergeable import Metrics
from rlvr.rewards.rewarder import Rewarder
from rlvr.rollouts.describe import describe
from rlvr.rollouts.gather import Attempt, CollectedGroups
from rlvr.rollouts.generate import Rollouts
from rlvr.rollouts.verify import Verifier
from rlvr.training.batch import Batch, MinibatchPlan, average_advantages
from rlvr.training.learner import Learner
from rlvr.training.scored import Scored
from rlvr.types import Context, Prompt, RewardedGroup, Sampling


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of a run, each with its options bound."""

    seed: int
    problems: int
    split: MinibatchPlan
    world: World
    sources: Sources
    render: Renderer
    rollouts: Rollouts
    sampling: Sampling
    verifier: Verifier
    reward: Rewarder
    baseline: Callable[
        [Sequence[RewardedGroup], Sequence[Prompt], Context], Sequence[RewardedGroup]
    ]
    gather: Callable[[Attempt, SourceState, int], CollectedGroups]
    keep: Callable[[Sequence[RewardedGroup]], Sequence[RewardedGroup]]
    learner: Learner
    advantage: Callable[[Scored, World], Tensor]


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is: the steps done and the source after them.

    With weights and optimiser this is all a resume needs.
    """

    step: int
    source: SourceState


@dataclass(frozen=True, slots=True)
class StepResult:
    """The state after a step, what it measured, and the groups that it saw.

    `advantages` has the mean advantage of each of their samples, None where its group is not
    trained.
    """

    state: State
    metrics: Metrics
    groups: Sequence[RewardedGroup]
    advantages: Sequence[float | None]  # [P*G] in the order of `flatten(groups)`


def sample_groups(
    run: Run, step: int, number: int, source: SourceState
) -> tuple[Sequence[RewardedGroup], SourceState]:
    """Problems -> prompts -> rollouts -> verdicts -> rewards, for one attempt at filling a step.

    -> [P] groups. Each rank asks its shard of the problems; from then on all have all groups.
    """
    draws, after = run.sources.draw(source, run.problems)
    prompts = run.render(run.world.local_shard(draws))
    rollouts = run.rollouts(prompts, run.sampling, run.seed, step, number)
    groups = run.verifier.verify(rollouts, run.sampling.samples)
    context = Context(run.seed, step, run.sampling.max_tokens)
    rewarded = [run.reward(group, context) for group in groups]
    compared = run.baseline(rewarded, prompts, context)
    return run.world.all_gather(compared), after


def train_step(run: Run, state: State) -> StepResult:
    """Groups -> scores -> shaped rewards -> values -> advantages -> batch -> updates -> new weights
    in the engine.
    """
    attempt = partial(sample_groups, run, state.step)
    gathered = run.gather(attempt, state.source, run.problems)
    groups = run.keep(gathered.groups)
    scored = run.learner.score(groups)
    scored = run.learner.shape_rewards(scored)
    scored = run.learner.estimate_values(scored)
    advantage = run.advantage(scored, run.world)
    batch = Batch(scored, advantage)
    metrics = describe(groups, gathered)
    for minibatch in batch.minibatches(run.split, run.seed, state.step):
        metrics += run.learner.update(minibatch)
    run.rollouts.load(run.learner.weights(), version=state.step + 1)
    visited = [*gathered.left_out, *groups]
    source = run.sources.note_accuracy(gathered.source, visited)
    after = State(state.step + 1, source)
    return StepResult(after, metrics, groups, average_advantages(groups, batch))
