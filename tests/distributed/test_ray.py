"""Under Ray a run is what it is anywhere: on two nodes, with a worker killed, and where the cluster
is too small.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.learned_worlds import (
    MAIN,
    TOLERANCE,
    Place,
    assert_close,
    assert_near,
    learned,
    records,
)
from support.processes import assert_same, importable_folders, in_process, rows

from rlvr.distributed.launch import LocalLauncher
from rlvr.distributed.world import SINGLE_PROCESS, init_world

ray = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes of one processor each, simulated on this machine."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([*importable_folders(), before])
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8}
    )
    nodes.add_node(num_cpus=1, object_store_memory=10**8)
    yield str(nodes.address)
    ray.shutdown()
    nodes.shutdown()
    os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    return Place(tmp_path_factory.mktemp("ray"), tiny_model)


def test_a_run_on_two_nodes_is_the_run_of_one_process(place: Place, cluster: str) -> None:
    for name in ("grpo", "ppo"):
        ended = place.train(name, f"{name} ray", 1, "--ray", cluster, "--nodes", "2")
        assert ended.status == 0, ended.err
        assert_near(records(place.run(f"{name} ray")), records(place.whole(name, 1)))
    assert_same(place.run("grpo ray"), place.whole("grpo", 2))


def test_gradients_on_two_nodes_are_those_of_one_process(tiny_model: Path, cluster: str) -> None:
    ray.init(cluster, ignore_reinit_error=True)
    meet = ray.util.get_node_ip_address(), LocalLauncher().find_address()[1]
    ends = [ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(gradients) for _ in range(2)]
    found = ray.get([end.remote(rank, meet, str(tiny_model)) for rank, end in enumerate(ends)])
    assert len({node for node, _ in found}) == 2
    for name, case in MAIN.items():
        alone = learned(SINGLE_PROCESS, str(tiny_model), case, "none")
        for _, answers in found:
            assert_close(answers[name], alone, TOLERANCE[name.split()[-1]])


def gradients(rank: int, meet: tuple[str, str], folder: str) -> tuple[str, dict[str, Any]]:
    """The node, and what it learned in each case as one of two."""
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "MASTER_ADDR": meet[0],
        "MASTER_PORT": meet[1],
    }
    with init_world() as world:
        answers = {name: learned(world, folder, case, "none") for name, case in MAIN.items()}
    return ray.get_runtime_context().get_node_id(), answers


def own(err: str) -> list[str]:
    """What the run said; the cluster adds notices of its own, such as of a disk that is nearly
    full.
    """
    return [line for line in err.splitlines() if "(raylet)" not in line]


def test_a_killed_worker_ends_the_run_with_its_reason_and_the_run_resumes(
    place: Place, cluster: str
) -> None:
    where = ("--ray", cluster, "--nodes", "2")
    ended = place.train("grpo", "killed", 1, *where, fail="killed 1 3")
    assert time.time() - float((place.path / "killed_at").read_text()) < 60
    assert (ended.status, own(ended.err)) == (
        1,
        ["rlvr: process 1 of 2 was killed by SIGKILL; --resume goes on"],
    )
    ended = place.train("grpo", "killed", 1, *where, "--resume")
    assert ended.status == 0, ended.err
    assert_same(place.run("killed"), place.whole("grpo", 2))


def test_a_lost_node_ends_the_run_with_its_reason_and_one_process_resumes_it(
    place: Place, cluster: str
) -> None:
    ended = place.train("grpo", "lost", 1, "--ray", cluster, "--nodes", "2", fail="lost 1 3")
    assert time.time() - float((place.path / "killed_at").read_text()) < 60
    assert (ended.status, own(ended.err)) == (
        1,
        ["rlvr: node 1 of 2 was lost (ActorDiedError); --resume goes on"],
    )
    ended = place.train("grpo", "lost", 1, "--resume")
    assert ended.status == 0, ended.err
    assert_near(records(place.run("lost")), records(place.whole("grpo", 1)))


def test_ctrl_c_saves_the_step_on_both_nodes(place: Place, cluster: str) -> None:
    record = place.run("stopped") / "metrics.jsonl"
    stop = threading.Thread(target=interrupt_once_there_is, args=[record])
    stop.start()
    ended = place.train("grpo", "stopped", 1, "run.steps=500", "--ray", cluster, "--nodes", "2")
    stop.join()
    assert ended.status == 130, ended.err
    last = rows(record)[-1]["step"]
    assert last < 500
    assert f"stopped after step {last} and saved" in ended.err
    assert f"--ray {cluster} --nodes 2 --resume" in ended.err


def interrupt_once_there_is(record: Path) -> None:
    while not record.is_file() or not record.read_text():
        time.sleep(0.1)
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGINT)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ["--ray", "ADDRESS", "--nodes", "3"],
            "--nodes: 3 with 1 CPU each are asked for, and the cluster has 2 such",
        ),
        (["--ray", "127.0.0.1:1"], "--ray: no cluster answers at '127.0.0.1:1'"),
        (
            ["--nodes", "2"],
            "--nodes: 2 machines need --ray with the address of their cluster, such as auto",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused_in_one_line(
    place: Place, cluster: str, words: list[str], fault: str
) -> None:
    words = [cluster if word == "ADDRESS" else word for word in words]
    ended = in_process("train", "grpo.yaml", *words, cwd=place.path)
    assert ended.status == 2
    assert ended.err.startswith(f"rlvr: {fault}")
    assert ended.err.count("\n") == 1
