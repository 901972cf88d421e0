"""The number of processes changes nothing: gradients, samples, metrics and files are those of one
process.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.learned_worlds import (
    CASES,
    MAIN,
    PPO,
    TOLERANCE,
    Place,
    assert_close,
    assert_near,
    learned,
    records,
)
from support.processes import assert_same, in_process
from support.worlds import in_world

from rlvr.config import loader
from rlvr.distributed.world import LOOPBACK, SINGLE_PROCESS, World, open_store
from rlvr.errors import UserError
from rlvr.models.packing import Sharing, Tokens, split_into_passes

SHARDED = MAIN | {
    "ppo float64, layers computed again": {
        **PPO,
        "dtype": "float64",
        "gradient_checkpointing": True,
    }
}


def every_case(world: World, folder: str, shard: str, cases: dict[str, Any]) -> dict[str, Any]:
    return {name: learned(world, folder, case, shard) for name, case in cases.items()} | {
        "one group": learned(world, folder, CASES["ppo float64"], shard, few=True)
    }


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> dict[str, Any]:
    return every_case(SINGLE_PROCESS, str(tiny_model), "none", CASES)


@pytest.fixture(scope="module")
def together(tiny_model: Path) -> dict[tuple[int, str], list[dict[str, Any]]]:
    folder = str(tiny_model)
    return {
        (2, "none"): in_world(2, every_case, folder, "none", CASES),
        (4, "none"): in_world(4, every_case, folder, "none", MAIN),
        (2, "full"): in_world(2, every_case, folder, "full", SHARDED),
    }


@pytest.mark.parametrize(
    ("size", "name"), [*((2, name) for name in CASES), *((4, name) for name in MAIN)]
)
def test_world_of_several_processes_gives_the_gradients_of_one(
    alone: dict[str, Any], together: Any, size: int, name: str
) -> None:
    ranks = together[size, "none"]
    for rank in ranks:
        assert_close(rank[name], alone[name], TOLERANCE[name.split()[-1]])
    for weight in ranks[0][name]["weights"]:
        assert torch.equal(ranks[0][name]["weights"][weight], ranks[-1][name]["weights"][weight])


@pytest.mark.parametrize("name", SHARDED)
def test_world_of_two_with_sharded_models_gives_the_gradients_of_one(
    alone: dict[str, Any], together: Any, name: str
) -> None:
    for rank in together[2, "full"]:
        assert_close(
            rank[name], alone[name.partition(",")[0]], TOLERANCE[name.partition(",")[0].split()[-1]]
        )


@pytest.mark.parametrize("where", [(4, "none"), (2, "full")])
def test_world_in_which_a_rank_has_nothing_left_joins_every_exchange(
    alone: dict[str, Any], together: Any, where: tuple[int, str]
) -> None:
    """One group of three responses in three mini-batches: one row at a time."""
    for rank in together[where]:
        assert_close(rank["one group"], alone["one group"], 1e-12)


@pytest.mark.parametrize("sharing", [*Sharing, None])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_world_deals_every_sample_to_one_rank_and_about_as_many_tokens_to_each(
    size: int, sharing: Sharing | None
) -> None:
    dice = random.Random(0)
    sequences = [
        Tokens((7, 8, i // 4 + 9), tuple(dice.choices(range(9), k=dice.randrange(1, 200))))
        for i in range(40)
    ]
    dealt = [
        list(split_into_passes(sequences, 300, sharing, World(rank, size), even=True))
        for rank in range(size)
    ]
    assert len({len(parts) for parts in dealt}) == 1, (
        "a sharded model needs as many passes on every rank"
    )
    assert sorted(i for parts in dealt for part in parts for i in part.samples) == list(range(40))
    tokens = [sum(len(part.target) for part in parts) for parts in dealt]
    assert max(tokens) - min(tokens) <= 768
    empty = [part for parts in dealt for part in parts if not part.samples]
    assert all(part.input_ids.tolist() == [[0]] and not len(part.target) for part in empty)


def test_world_of_one_makes_no_exchange() -> None:
    items = [1, 2, 3]
    assert SINGLE_PROCESS.local_shard(items) == items
    assert SINGLE_PROCESS.all_gather(items) is items
    assert SINGLE_PROCESS.all_reduce_dict({"a": 1.0}) == {"a": 1.0}
    assert SINGLE_PROCESS.any(True) and not SINGLE_PROCESS.any(False)
    assert SINGLE_PROCESS.broadcast(lambda: 5) == 5
    assert SINGLE_PROCESS.writes


def exchanges(world: World) -> dict[str, Any]:
    items = list(range(5))
    return {
        "joined": list(world.all_gather([10 * i for i in world.local_shard(items)])),
        "sum": dict(world.all_reduce_dict({"both": 1.0, f"only {world.rank}": 2.0})),
        "any": (world.any(world.rank == 1), world.any(False)),
        "told": world.broadcast(lambda: f"by rank {world.rank}"),
        "add": world.all_reduce(torch.tensor([1.0, world.rank])).tolist(),
        "nothing": world.all_reduce(torch.zeros(0)).tolist(),
    }


def test_world_of_three_says_the_same_on_every_rank() -> None:
    wanted = {
        "joined": [0, 10, 20, 30, 40],
        "sum": {"both": 3.0, "only 0": 2.0, "only 1": 2.0, "only 2": 2.0},
        "any": (True, False),
        "told": "by rank 0",
        "add": [3.0, 3.0],
        "nothing": [],
    }
    assert in_world(3, exchanges) == [wanted] * 3


# --- Whole runs
# -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    return Place(tmp_path_factory.mktemp("world"), tiny_model)


@pytest.mark.parametrize("words", [[], ["model.shard=full"]])
def test_world_of_two_writes_the_samples_metrics_and_files_of_one(
    place: Place, words: list[str]
) -> None:
    """Draws, dynamic sampling, rests of problems, shuffles, evaluation and its order come out the
    same.
    """
    one, two = place.whole("grpo", 1), place.whole("grpo", 2, *words)
    assert_near(records(two), records(one))
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


def test_world_started_by_torchrun_writes_the_ppo_run_of_one(place: Place) -> None:
    """The variables of torchrun are all that a process needs to find its place."""
    found = in_world(2, under_torchrun, str(place.path), joined=False)
    assert [summary["steps"] for summary in found] == [4, 4]
    assert_near(records(place.run("torchrun")), records(place.whole("ppo", 1)))


def under_torchrun(path: str) -> dict[str, Any]:
    import rlvr

    os.chdir(path)
    return rlvr.train("ppo.yaml", run__name="torchrun", model__shard="full")


def test_world_of_two_is_resumed_bit_for_bit_after_ctrl_c(place: Place) -> None:
    place.interrupted("stopped", 2, "model.shard=full")
    shutil.copytree(place.run("stopped"), place.run("stopped too"))
    ended = place.train("grpo", "stopped", 2, "--resume", "model.shard=full")
    assert ended.status == 0, ended.err
    assert_same(place.run("stopped"), place.whole("grpo", 2, "model.shard=full"))
    ended = place.train("grpo", "stopped too", 1, "--resume")
    assert ended.status == 0, ended.err
    assert_near(records(place.run("stopped too")), records(place.whole("grpo", 1)))


def test_world_of_two_resumes_the_run_of_one(place: Place) -> None:
    place.interrupted("grown", 1)
    ended = place.train("grpo", "grown", 2, "model.shard=full", "--resume")
    assert ended.status == 0, ended.err
    assert_near(records(place.run("grown")), records(place.whole("grpo", 1)))


def test_world_in_which_a_process_is_killed_ends_with_the_reason_and_resumes(place: Place) -> None:
    ended = place.train("grpo", "killed", 2, fail="killed 1 3")
    assert time.time() - float((place.path / "killed_at").read_text()) < 60
    assert ended.status == 1
    assert ended.err == "rlvr: process 1 of 2 was killed by SIGKILL; --resume goes on\n"
    ended = place.train("grpo", "killed", 2, "--resume")
    assert ended.status == 0, ended.err
    assert_same(place.run("killed"), place.whole("grpo", 2))


def test_world_in_which_one_rank_fails_says_why_in_one_line(place: Place) -> None:
    ended = place.train("grpo", "raised", 2, fail="raised 1 2")
    assert ended.status == 1
    assert ended.err.startswith(
        "rlvr: reward 'digits' raised ValueError: no digits today (plugins.py, line "
    )
    assert ended.err.count("\n") == 1


def test_world_whose_run_lies_there_already_says_so_once(place: Place) -> None:
    place.whole("grpo", 2)
    ended = place.train("grpo", "grpo 2", 2)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "a run lies here already" in ended.err


def test_world_of_no_process_is_refused(place: Place) -> None:
    ended = in_process("train", "grpo.yaml", "--nproc", "0", cwd=place.path)
    assert (ended.status, ended.err) == (
        2,
        "rlvr: --nproc: 0 cannot run anything; give 1 or more\n",
    )


def test_world_that_another_launcher_made_is_not_started_again(place: Place) -> None:
    ended = in_process(
        "train", "grpo.yaml", "--nproc", "2", cwd=place.path, env={"WORLD_SIZE": "1"}
    )
    assert ended.status == 2
    assert ended.err.startswith("rlvr: WORLD_SIZE: another launcher has set it")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"model": {"shard": "full", "lora": {}}}, "model.lora: .*what they stand on is not split"),
        (
            {"model": {"shard": "full"}, "optimizer": {"states": "8bit"}},
            "optimizer.states: 8bit states are not split",
        ),
    ],
)
def test_world_refuses_what_cannot_be_split(
    tiny_model: Path, sections: dict[str, Any], fault: str
) -> None:
    sections["model"] = {"name": str(tiny_model), **sections["model"]}
    with pytest.raises(UserError, match=fault):
        loader.load({**tiny.recipe(tiny_model), **sections})


def test_the_processes_of_one_machine_meet_on_the_loopback_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server((LOOPBACK, 0)) as probe:
        port = probe.getsockname()[1]
    for name, value in {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port), "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    met_by = open_store(1)
    listening: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            listening += [line.split()[1] for line in Path(table).read_text().splitlines()[1:]]
    there = [address for address in listening if address.endswith(f":{port:04X}")]
    assert set(there) <= {f"0100007F:{port:04X}"} and (there or sys.platform != "linux")
    assert met_by["rank"] == 0 and met_by["world_size"] == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "given")
    assert open_store(1) == {}
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("MASTER_ADDR", "node7")
    assert open_store(1) == {}
