"""Engines of vLLM in Ray actors, apart from the processes of the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlvr.engines.vllm_engine import Vllm
from rlvr.engines.vllm_weights import split_weights
from rlvr.errors import RunError, UserError, import_optional
from rlvr.types import Generation, Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor


class _Actor(Vllm):
    """An engine in a Ray actor, which fetches the parts of the weights from the object store."""

    def load_parts(self, parts: Sequence[Any], version: int) -> None:
        import ray

        self.load((pair for part in parts for pair in ray.get(part)), version)


class RayVllm:
    """Engines in Ray actors, each on `gpus` of its own; a request is answered by one of them.

    The cluster is that of the run, or else one on this machine.
    """

    def __init__(
        self,
        count: int,
        gpus: int,
        files: Mapping[str, bytes],
        end_tokens: list[int],
        options: Mapping[str, Any],
    ) -> None:
        ray = import_optional(
            "ray", "rollout.engine.engines: they need Ray ({error}): pip install 'rlvr[ray]'"
        )
        ray.init(logging_level=logging.WARNING, ignore_reinit_error=True)
        # Every process of the run has so many.
        wanted = count * gpus * int(os.environ.get("WORLD_SIZE", "1"))
        available = ray.cluster_resources().get("GPU", 0)
        if wanted > available:
            raise UserError(
                f"rollout.engine.engines: {wanted} GPUs are asked for, and the cluster has {available:g}"
            )
        actor_class: Any = ray.remote(_Actor).options(num_gpus=gpus, num_cpus=0)
        self.actors = [actor_class.remote(files, end_tokens, options) for _ in range(count)]
        self.count = count
        self.version = -1

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Put each part once into the object store, from which all engines take it."""
        import ray

        references: list[Any] = []
        for part in split_weights(weights):
            references.append(ray.put([(name, weight.detach().cpu()) for name, weight in part]))
        self._wait_all([actor.load_parts.remote(references, version) for actor in self.actors])
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """Return one generation for each key of each request, in order, as Vllm.generate does."""
        pending: list[Any] = []
        for number, actor in enumerate(self.actors):
            own_requests = requests[number :: self.count]
            pending.append(actor.generate.remote(own_requests, sampling))
        answers = [iter(answer) for answer in self._wait_all(pending)]
        generations: list[Generation] = []
        for number, request in enumerate(requests):
            answers_of_engine = answers[number % self.count]
            for _ in request.keys:
                generations.append(next(answers_of_engine))
        return generations

    def _wait_all(self, pending: Sequence[Any]) -> list[Any]:
        """Return the answers of all engines; raises RunError where one is lost."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(list(pending))
        except RayTaskError as error:
            # what the engine itself raised
            raise error.cause from None
        except RayError as error:
            what = "was lost, --resume goes on"
            if getattr(error, "actor_init_failed", False):
                what = "did not start"
            reason = str(error).strip().splitlines()[-1]
            raise RunError(f"rollout.engine: an engine of vllm {what}: {reason}") from error
