"""What a few steps learn in worlds of several processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlvr.build.run import build
from rlvr.config import loader, schema
from rlvr.distributed.world import World, full_tensor
from rlvr.metrics.mergeable import Metrics
from rlvr.training.batch import Batch
from rlvr.types import Problem, RewardedGroup
from support import tiny
from support.processes import Ended, facts, in_process, rows
from support.rollouts import give_reward, make_prompt, make_rollout

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


TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def scripted(equal: tuple[int, ...] = ()) -> list[RewardedGroup]:
    """Five groups of three responses of 1 to 9 tokens, one of them filtered out and some of equal
    rewards.
    """
    dice, groups = random.Random(3), []
    for number in range(5):
        problem = Problem(f"p/{number}", "math", "?", "1")
        prompt = make_prompt(problem, tuple(dice.randrange(3, 80) for _ in range(4 + number)))
        samples = []
        for index in range(3):
            ids = tuple(dice.randrange(3, 80) for _ in range(dice.randrange(1, 10)))
            logprobs = tuple(-dice.random() for _ in ids)
            value = 1.0 if number in equal else dice.random()
            samples.append(give_reward(make_rollout(prompt, index, ids, logprobs=logprobs), value))
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
    scored = run.learner.shape_rewards(run.learner.score(groups))
    scored = run.learner.estimate_values(scored)
    advantage = run.advantage(scored, world) + case.get("jitter", 0.0) * world.rank
    for part in Batch(scored, advantage).minibatches(run.split, 0):
        metrics += run.learner.update(part)
    torch.nn.utils.clip_grad_norm_ = clip
    weights = {name: weight.clone() for name, weight in run.learner.weights()}
    return {"gradients": found, "metrics": metrics.record(), "weights": weights}


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


ADD = {**tiny.SUMS, "count": 6}


MUL = {**tiny.SUMS, "kinds": ["mul"], "count": 5}


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
