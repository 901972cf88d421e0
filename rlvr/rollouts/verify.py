"""Verdicts for rollouts, in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.errors import RunError
from rlvr.metrics.timing import timed
from rlvr.tasks.judge import Judge, Pending, judge_safely, wait_all
from rlvr.types import Rollout, Status, VerifiedGroup, VerifiedSample


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
    def groups(self, rollouts: Sequence[Rollout], samples: int) -> list[VerifiedGroup]:
        """Verdicts for all, in groups of `samples`; what `masked` names leaves its group.   [P*G]
        -> [P]
        """
        verdicts = wait_all([self._judge(rollout) for rollout in rollouts])
        failed = self.world.all_gather(
            [v.rule for v in verdicts if v.status in (Status.ERROR, Status.TIMEOUT)]
        )
        asked = self.world.all_reduce_dict({"asked": len(verdicts)})["asked"]
        if len(failed) > self.stop_above * asked:
            raise RunError(
                f"verification failed on {len(failed)} of {asked:.0f} responses (the last: {failed[-1]}), more"
                f" than verify.stop_above {self.stop_above} allows; mend the task or raise the limit"
            )
        members = [
            VerifiedSample(rollout, verdict)
            for rollout, verdict in zip(rollouts, verdicts, strict=True)
        ]
        groups = [members[i : i + samples] for i in range(0, len(members), samples)]
        return [self._group(group) for group in groups]

    def _group(self, members: Sequence[VerifiedSample]) -> VerifiedGroup:
        failed = tuple(m for m in members if m.verdict.status in self.masked)
        kept = tuple(m for m in members if m.verdict.status not in self.masked)
        return VerifiedGroup(members[0].rollout.prompt.problem, kept, failed)

    def _judge(self, rollout: Rollout) -> Pending:
        return judge_safely(
            self.judges[rollout.prompt.draw.source], rollout.prompt.problem, rollout.response
        )
