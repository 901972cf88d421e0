"""Verdicts for rollouts, in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.errors import RunError
from rlvr.metrics.timing import timed
from rlvr.tasks.judge import Judge, Pending, judge_safely, wait_all
from rlvr.types import Rollout, Status, Verdict, VerifiedGroup, VerifiedSample


@dataclass(frozen=True, slots=True)
class Verifier:
    """Judges each response by the task of its source, or where the source names none by that of its
    problem.
    """

    judges: Sequence[Judge]  # by source
    masked: frozenset[Status]
    stop_above: float
    world: World = SINGLE_PROCESS

    @timed("verify")
    def verify(self, rollouts: Sequence[Rollout], samples: int) -> list[VerifiedGroup]:
        """Return verdicts for all, in groups of `samples`; what `masked` names leaves its group.

        [P*G] -> [P]. Raises RunError where more verifications fail than `stop_above` allows.
        """
        verdicts = wait_all([self._judge(rollout) for rollout in rollouts])
        self._check_failures(verdicts)
        members: list[VerifiedSample] = []
        for rollout, verdict in zip(rollouts, verdicts, strict=True):
            members.append(VerifiedSample(rollout, verdict))
        groups: list[VerifiedGroup] = []
        for start in range(0, len(members), samples):
            groups.append(self._group(members[start : start + samples]))
        return groups

    def _check_failures(self, verdicts: Sequence[Verdict]) -> None:
        """Raise RunError where too many verifications of all ranks failed."""
        rules: list[str] = []
        for verdict in verdicts:
            if verdict.status in (Status.ERROR, Status.TIMEOUT):
                rules.append(verdict.rule)
        failed = self.world.all_gather(rules)
        total = self.world.all_reduce_dict({"verdicts": len(verdicts)})["verdicts"]
        if len(failed) > self.stop_above * total:
            raise RunError(
                f"verification failed on {len(failed)} of {total:.0f} responses (the last: {failed[-1]}), more"
                f" than verify.stop_above {self.stop_above} allows; mend the task or raise the limit"
            )

    def _group(self, members: Sequence[VerifiedSample]) -> VerifiedGroup:
        """Part the samples of one problem from those whose verdict is masked."""
        verified: list[VerifiedSample] = []
        failed: list[VerifiedSample] = []
        for member in members:
            if member.verdict.status in self.masked:
                failed.append(member)
            else:
                verified.append(member)
        problem = members[0].rollout.prompt.problem
        return VerifiedGroup(problem, tuple(verified), tuple(failed))

    def _judge(self, rollout: Rollout) -> Pending:
        """Ask the task of the rollout's source for a verdict."""
        judge = self.judges[rollout.prompt.draw.source]
        return judge_safely(judge, rollout.prompt.problem, rollout.response)
