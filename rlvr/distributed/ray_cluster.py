"""Start the processes of a run on the nodes of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlvr.distributed.launch import NODE_GRACE, Entry, LocalLauncher, forward_interrupts
from rlvr.distributed.world import LOST
from rlvr.errors import UserError


def launch_on_ray(
    address: str,
    nodes: int,
    count: int,
    argv: Sequence[str],
    entry: Entry,
) -> tuple[int, str]:
    """Run `entry(argv)` in so many processes on each of so many nodes of a Ray cluster (`auto`, `local`
    or its address).

    An actor does on its node what `launch` does here.   -> as `launch`; raises UserError where the
    cluster is too small
    """
    _join_cluster(address)
    needs = _find_needs(count)
    _check_size(nodes, needs)
    # where all nodes see this file they share the folder
    with (
        _reserve(nodes, needs) as group,
        tempfile.NamedTemporaryFile(prefix=".rlvr-", dir=os.getcwd()) as marker,
        _start_launchers(group, nodes, needs, marker.name) as launchers,
    ):
        return _run_launchers(launchers, count, argv, entry)


def _join_cluster(address: str) -> None:
    """Connect to the cluster; raises UserError where none answers or Ray is not installed."""
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
        reason = " ".join(str(error).split())
        raise UserError(f"--ray: no cluster answers at '{address}' ({reason})") from None


def _find_needs(count: int) -> dict[str, float]:
    """Return what a node needs for so many processes; GPUs only where the cluster has any."""
    import ray

    needs: dict[str, float] = {"CPU": count}
    if ray.cluster_resources().get("GPU"):
        needs["GPU"] = count
    return needs


def _check_size(nodes: int, needs: Mapping[str, float]) -> None:
    """Raise UserError where the cluster has too few nodes with what is needed."""
    import ray

    able = 0
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            able += all(resources.get(name, 0) >= many for name, many in needs.items())
    if able < nodes:
        each = _join_needs(needs)
        raise UserError(
            f"--nodes: {nodes} with {each} each are asked for, and the cluster has {able} such"
        )


def _join_needs(needs: Mapping[str, float]) -> str:
    return " and ".join(f"{many} {name}" for name, many in needs.items())


@contextmanager
def _reserve(nodes: int, needs: dict[str, float]) -> Iterator[Any]:
    """Hold what is needed on so many nodes, once it is free."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([needs] * nodes, strategy="STRICT_SPREAD")
    try:
        if not group.wait(10):
            each = _join_needs(needs)
            print(f"waiting for {nodes} nodes with {each} free on each", flush=True)
        ray.get(group.ready())
        yield group
    finally:
        remove_placement_group(group)


@contextmanager
def _start_launchers(
    group: Any,
    nodes: int,
    needs: Mapping[str, float],
    marker: str,
) -> Iterator[list[Any]]:
    """Hold an actor on each node that can start processes there."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    launchers: list[Any] = []
    try:
        for node in range(nodes):
            actor = ray.remote(LocalLauncher).options(
                max_concurrency=2,  # it is interrupted while it runs
                num_cpus=needs["CPU"],
                num_gpus=needs.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, node),
            )
            launchers.append(actor.remote(os.getcwd(), marker))
        yield launchers
    finally:
        for launcher in launchers:
            ray.kill(launcher)


def _run_launchers(
    launchers: Sequence[Any],
    count: int,
    argv: Sequence[str],
    entry: Entry,
) -> tuple[int, str]:
    """Start the processes of all nodes and wait for them, or for the first reason of a failure."""
    import ray
    from ray.exceptions import RayError

    nodes = len(launchers)
    try:
        meet = ray.get(launchers[0].find_address.remote())
    except RayError as error:
        return 1, _explain_loss(error, 0, nodes)
    node_of: dict[Any, int] = {}
    for node, launcher in enumerate(launchers):
        node_of[launcher.run.remote(count, argv, entry, node, nodes, meet)] = node
    with forward_interrupts(launchers[0].interrupt.remote):
        return _wait_for_nodes(node_of)


def _wait_for_nodes(node_of: Mapping[Any, int]) -> tuple[int, str]:
    """Return the first failure by itself; a lost node may be seen after what it caused."""
    import ray

    nodes = len(node_of)
    running = list(node_of)
    until = float("inf")
    failed = 0
    while running and time.monotonic() < until:
        done, running = ray.wait(running, timeout=1)
        for answer in done:
            status, reason = _read_answer(answer, node_of[answer], nodes)
            if status and reason != LOST:
                return status, reason
            if status:
                failed = status
                until = min(until, time.monotonic() + NODE_GRACE)
    if not failed:
        return 0, ""
    if running:
        node = node_of[running[0]]
        return failed, f"node {node} of {nodes} does not answer; --resume goes on"
    return failed, LOST


def _read_answer(answer: Any, node: int, nodes: int) -> tuple[int, str]:
    """Return the exit status and reason of a node, also of one that is lost."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(answer)
    except RayError as error:
        return 1, _explain_loss(error, node, nodes)


def _explain_loss(error: Exception, node: int, nodes: int) -> str:
    if getattr(error, "actor_init_failed", False):
        return f"node {node} of {nodes} cannot start rlvr: {str(error).strip().splitlines()[-1]}"
    return f"node {node} of {nodes} was lost ({type(error).__name__}); --resume goes on"
