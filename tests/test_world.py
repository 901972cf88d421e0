"""The number of processes changes nothing: gradients, samples, metrics and files are those of one
process.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from test_resume import Ended, assert_same, facts, in_process, rows
from worlds import in_world

from rlvr.build.run import build
from rlvr.config import loader, schema
from rlvr.distributed.world import SINGLE_PROCESS, World, full_tensor
from rlvr.errors import UserError
from rlvr.metrics.mergeable import Metrics
from rlvr.models.packing import Tokens, passes
from rlvr.training.batch import pack
from rlvr.types import (
    Draw,
    Finish,
    Problem,
    Prompt,
    Reward,
    RewardedGroup,
    Rollout,
    Sample,
    Status,
    Verdict,
)

PPO: dict[str, Any] = {
    "advantage": "gae",
    "critic": {"optimizer": {"lr": 1e-2}},
    "loss": {"terms": ["clip", {"name": "kl", "coef": 0.1}, {"name": "entropy", "coef": 0.01}]},
    "reward_scale": "running",
}
GRPO: dict[str, Any] = {
    "loss": {"terms": ["clip", {"name": "kl", "coef": 0.1}], "reduction": "sequence"}
}
WHITE: dict[str, Any] = {
    "advantage": "reinforce_pp",
    "reward_kl": {"coef": 0.05, "target": 0.1, "horizon": 10},
}
CASES: dict[str, dict[str, Any]] = {
    "grpo float32": {**GRPO, "dtype": "float32", "compute": "float32"},
    "grpo float64": {**GRPO, "dtype": "float64"},
    "ppo float32": {**PPO, "dtype": "float32", "compute": "float32"},
    "ppo float64": {**PPO, "dtype": "float64"},
    "reinforce_pp float64": {**WHITE, "dtype": "float64"},
    # Ranks that round otherwise have to agree all the same on what has no backward pass.
    "grpo with equal rewards float64": {"dtype": "float64", "equal": (1, 4), "jitter": 1e-18},
    "micro_token float64": {
        "loss": {"reduction": {"name": "micro_token", "size": 2, "ranks": 3}},
        "dtype": "float64",
    },
}
MAIN = {name: case for name, case in CASES.items() if name.startswith(("grpo", "ppo"))}
SHARDED = MAIN | {
    "ppo float64, layers computed again": {
        **PPO,
        "dtype": "float64",
        "gradient_checkpointing": True,
    }
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def scripted(equal: tuple[int, ...] = ()) -> list[RewardedGroup]:
    """Five groups of three responses of 1 to 9 tokens, one of them filtered out and some of equal
    rewards.
    """
    dice, groups = random.Random(3), []
    for number in range(5):
        problem = Problem(f"p/{number}", "math", "?", "1")
        prompt = Prompt(
            Draw(problem, 0), tuple(dice.randrange(3, 80) for _ in range(4 + number)), ""
        )
        samples = []
        for index in range(3):
            ids = tuple(dice.randrange(3, 80) for _ in range(dice.randrange(1, 10)))
            logprobs = tuple(-dice.random() for _ in ids)
            rollout = Rollout(prompt, index, ids, logprobs, (1,) * len(ids), "", Finish.STOP, 0)
            reward = Reward(1.0 if number in equal else dice.random(), {})
            samples.append(Sample(rollout, Verdict(Status.WRONG), reward))
        groups.append(RewardedGroup(problem, tuple(samples), trained=number != 2))
    return groups


def learned(
    world: World, folder: str, case: dict[str, Any], shard: str, few: bool = False
) -> dict[str, Any]:
    """Gradients of every update, metrics, and the weights after a step on the same groups."""
    model = {"name": folder, "shard": shard, "dtype": case["dtype"]}
    model |= {key: case[key] for key in ("compute", "gradient_checkpointing") if key in case}
    sections = {key: value for key, value in case.items() if key in schema.Recipe.model_fields}
    tree = tiny.recipe(
        Path(folder), learn={"minibatches": 3, "tokens_per_pass": 40}, **sections
    ) | {"model": model}
    tree["rollout"] = {"problems": 5, "samples": 3, "max_tokens": 9}
    run = build(loader.load(tree), world=world).run
    found: list[dict[str, torch.Tensor]] = []
    clip = torch.nn.utils.clip_grad_norm_

    def note(parameters: list[torch.nn.Parameter], most: float) -> torch.Tensor:
        found.append(
            {
                str(i): full_tensor(p.grad).clone()
                for i, p in enumerate(parameters)
                if p.grad is not None
            }
        )
        return clip(parameters, most)

    torch.nn.utils.clip_grad_norm_ = note
    metrics, groups = Metrics(), scripted(case.get("equal", ()))[: 1 if few else None]
    scored = run.learner.score(groups)
    advantage = run.advantage(scored, world) + case.get("jitter", 0.0) * world.rank
    for part in pack(groups, scored, advantage).minibatches(run.split, 0):
        metrics += run.learner.update(part)
    torch.nn.utils.clip_grad_norm_ = clip
    weights = {name: weight.clone() for name, weight in run.learner.weights()}
    return {"gradients": found, "metrics": metrics.record(), "weights": weights}


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


def assert_close(found: dict[str, Any], wanted: dict[str, Any], tolerance: float) -> None:
    assert len(found["gradients"]) == len(wanted["gradients"])
    for ours, theirs in zip(found["gradients"], wanted["gradients"], strict=True):
        assert ours.keys() == theirs.keys()
        largest = max(float(grad.abs().max()) for grad in theirs.values())
        assert largest > 0
        for name, grad in theirs.items():
            assert float((ours[name] - grad).abs().max()) <= tolerance * largest, name
    for name, weight in wanted["weights"].items():
        assert float((found["weights"][name] - weight).abs().max()) <= max(tolerance, 1e-9) * 10, (
            name
        )
    for name, value in wanted["metrics"].items():
        assert found["metrics"][name] == pytest.approx(
            value, rel=max(100 * tolerance, 1e-8), abs=tolerance
        ), name


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


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_world_deals_every_sample_to_one_rank_and_about_as_many_tokens_to_each(
    size: int, shared: bool
) -> None:
    dice = random.Random(0)
    sequences = [Tokens((7, 8, i // 4 + 9), (5,) * dice.randrange(1, 200)) for i in range(40)]
    dealt = [
        list(passes(sequences, 300, shared, World(rank, size), even=True)) for rank in range(size)
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

PLUGINS = '''
import multiprocessing
import os
import signal
import time
from pathlib import Path

from rlvr.types import Reward


def digits(group, context):
    """The share of digits; on the rank and at the step that the file `fail` names it fails as it says there."""
    kind, *where = Path("fail").read_text().split() or [""]
    if where == [os.environ.get("RANK"), str(context.step)]:
        if kind in ("killed", "lost"):  # this process, or what launched it
            Path("killed_at").write_text(str(time.time()))
            os.kill(os.getpid() if kind == "killed" else multiprocessing.parent_process().pid, signal.SIGKILL)
            time.sleep(60)
        raise ValueError("no digits today")
    texts = [member.rollout.text for member in group.members]
    return [Reward(sum(c.isdigit() for c in text) / (1 + len(text)), {}) for text in texts]


class CtrlC:
    """Ctrl-C, as the terminal sends it to what was started there."""

    def __init__(self, run_name, config, folder, *, step: int):
        self.step = step

    def log(self, record, kind):
        if kind == "step" and record["step"] == self.step:
            launcher, came = multiprocessing.parent_process(), []
            handler = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, lambda *given: came.append(handler(*given)))
            os.kill(launcher.pid if "RANK" in os.environ else os.getpid(), signal.SIGINT)
            until = time.monotonic() + 60
            # it is passed on while this step still runs
            while not came and time.monotonic() < until:
                time.sleep(0.01)
            signal.signal(signal.SIGINT, handler)

    def close(self):
        pass
'''
ADD = {"name": "arithmetic", "kinds": ["add"], "levels": [1], "count": 6}
MUL = {"name": "arithmetic", "kinds": ["mul"], "levels": [1], "count": 5}
RUNS: dict[str, dict[str, Any]] = {
    "grpo": {
        "train": [
            {"data": ADD, "adaptive": {"low": 0.1, "high": 0.9}},
            {"data": MUL, "weight": 0.5},
        ],
        "gather": {"name": "refill", "max_attempts": 2},
        "loss": {"terms": ["clip", {"name": "kl", "coef": 0.1}]},
        "cold_start": {"steps": 1, "problems": 3},
        "filter": ["no_signal"],
    },
    "ppo": {
        **PPO,
        "train": [{"data": ADD}],
        "learn": {"minibatches": 3, "epochs": 2},
        "checkpoint": {"every": 2, "keep": 3, "background": True},
    },
}


class Place:
    """A folder of runs by recipes for one process or several."""

    def __init__(self, path: Path, model: Path) -> None:
        self.path = path
        (path / "plugins.py").write_text(PLUGINS)
        (path / "fail").write_text("")
        for name, sections in RUNS.items():
            base: dict[str, Any] = {
                "optimizer": {"lr": 1e-2},
                "checkpoint": {"every": 2, "keep": 3},
                "reward": f"{path / 'plugins.py'}:digits",
                "rollout": {"problems": 3, "samples": 3, "max_tokens": 5},
            }
            tree = tiny.recipe(model, **base | sections)
            tree["model"] = {"name": str(model), "dtype": "float64"}
            tree["run"] = {"steps": 4, "seed": 0, "folder": "runs", "threads": 1}
            (path / f"{name}.yaml").write_text(yaml.safe_dump(tree))

    def train(self, recipe: str, name: str, size: int, *words: str, fail: str = "") -> Ended:
        several = ["--nproc", str(size)] if size > 1 else []
        given = ["train", f"{recipe}.yaml", f"run.name={name}", *words, *several]
        (self.path / "fail").write_text(fail)
        return in_process(*given, cwd=self.path)

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    def whole(self, recipe: str, size: int, *words: str) -> Path:
        """The run that nothing disturbed; made once."""
        name = f"{recipe} {size} {' '.join(words)}".strip().replace("=", " ")
        if not self.run(name).exists():
            ended = self.train(recipe, name, size, *words)
            assert ended.status == 0, ended.err
        return self.run(name)

    def interrupted(self, name: str, size: int, *words: str) -> None:
        tracker = f"trackers=[{{name: '{self.path / 'plugins.py'}:CtrlC', step: 3}}]"
        ended = self.train("grpo", name, size, tracker, *words)
        assert ended.status == 130, ended.err
        assert "stopped after step 3 and saved" in ended.err
        assert ended.err.count("\n") == 1
        assert ("--nproc 2" in ended.err) == (size == 2)
        assert rows(self.run(name) / "metrics.jsonl")[-1]["step"] == 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    return Place(tmp_path_factory.mktemp("world"), tiny_model)


def assert_near(found: Any, wanted: Any, where: str = "") -> None:
    """Equal, but for the last digits of numbers."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_near(found[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for i, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            assert_near(ours, theirs, f"{where}/{i}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-11), where
    else:
        assert found == wanted, where


def records(run: Path) -> dict[str, Any]:
    return {part: value for part, value in facts(run).items() if part != "weights"}


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
        "rlvr: reward 'digits' raised ValueError: no digits today (problem '"
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
