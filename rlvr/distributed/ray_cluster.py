"""Start the processes of a run on the nodes of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from rlvr.distributed.launch import NODE_GRACE, Entry, LocalLauncher, forward_interrupts
from rlvr.distributed.world import LOST
from rlvr.errors import UserError


def launch_on_ray(
    address: str, nodes: int, count: int, argv: Sequence[str], entry: Entry
) -> tuple[int, str]:
    """Run `entry(argv)` in so many processes on each of so many nodes of a Ray cluster (`auto`, `local`
    or its address).

    An actor does on its node what `launch` does here.   -> as `launch`; raises UserError where the
    cluster is too small
    """
    _join(address)
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    gpus = count if ray.cluster_resources().get("GPU") else 0
    needs: dict[str, float] = {"CPU": count, "GPU": gpus} if gpus else {"CPU": count}
    each = " and ".join(f"{many} {what}" for what, many in needs.items())
    able = [
        n
        for n in ray.nodes()
        if n["Alive"] and all(n["Resources"].get(k, 0) >= v for k, v in needs.items())
    ]
    if len(able) < nodes:
        raise UserError(
            f"--nodes: {nodes} with {each} each are asked for, and the cluster has {len(able)} such"
        )
    group, crews = placement_group([needs] * nodes, strategy="STRICT_SPREAD"), list[Any]()
    place = partial(
        ray.remote(LocalLauncher).options, max_concurrency=2, num_cpus=count, num_gpus=gpus
    )
    try:
        if not group.wait(10):
            print(f"waiting for {nodes} nodes with {each} free on each", flush=True)
        ray.get(group.ready())
        with tempfile.NamedTemporaryFile(prefix=".rlvr-", dir=os.getcwd()) as marker:
            for node in range(nodes):
                where = PlacementGroupSchedulingStrategy(group, node)
                crews.append(place(scheduling_strategy=where).remote(os.getcwd(), marker.name))
            return _run_on_ray(crews, count, argv, entry)
    finally:
        for crew in crews:
            ray.kill(crew)
        remove_placement_group(group)


def _join(address: str) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise UserError(f"--ray: Ray cannot be loaded ({error}): pip install 'rlvr[ray]'") from None
    try:
        host, _, port = address.rpartition(":")
        if host:  # Ray itself would try for five minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, logging_level=logging.WARNING, ignore_reinit_error=True)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise UserError(
            f"--ray: no cluster answers at '{address}' ({' '.join(str(error).split())})"
        ) from None


def _run_on_ray(
    crews: Sequence[Any], count: int, argv: Sequence[str], entry: Entry
) -> tuple[int, str]:
    """Wait for all nodes, or for the first reason of a failure; a lost node may be seen after what
    it caused.
    """
    import ray
    from ray.exceptions import RayError

    try:
        meet = ray.get(crews[0].address.remote())
    except RayError as error:
        return 1, _lost(error, 0, len(crews))
    running = {
        crew.run.remote(count, argv, entry, i, len(crews), meet): i for i, crew in enumerate(crews)
    }
    left, until, failed = list(running), float("inf"), 0
    with forward_interrupts(crews[0].interrupt.remote):
        while left and time.monotonic() < until:
            done, left = ray.wait(left, timeout=1)
            for answer in done:
                try:
                    status, reason = ray.get(answer)
                except RayError as error:
                    status, reason = 1, _lost(error, running[answer], len(crews))
                if status and reason != LOST:
                    return status, reason
                if status:
                    failed, until = status, min(until, time.monotonic() + NODE_GRACE)
    silent = (
        f"node {running[left[0]]} of {len(crews)} does not answer; --resume goes on"
        if left
        else LOST
    )
    return failed, silent if failed else ""


def _lost(error: Exception, node: int, nodes: int) -> str:
    if getattr(error, "actor_init_failed", False):
        return f"node {node} of {nodes} cannot start rlvr: {str(error).strip().splitlines()[-1]}"
    return f"node {node} of {nodes} was lost ({type(error).__name__}); --resume goes on"
