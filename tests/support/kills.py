"""Kill a run with SIGKILL at random moments, resume it, and compare it with the run that nothing
disturbed.

    python tests/kills.py --kills 100 --out bench/results/kills.jsonl

The moments are spread over the phases of a run: the n-th time that a phase begins, a random time
after that. What is compared, bit for bit: weights, optimiser states, samples, history, evaluations,
and all metrics but those under `time`. Each run is forked from this process, which has loaded
torch; there it notes its phase in shared memory, the product knows nothing of it. A third of the
resumed runs is killed once more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch
import torch.distributed.checkpoint
import transformers.models.llama  # noqa: F401  so that no fork has to load it
import yaml

from rlvr.cli import main as cli
from rlvr.rollouts.generate import Rollouts
from rlvr.rollouts.verify import Verifier
from rlvr.run import checkpoint, loop
from rlvr.run.writer import DiskRunWriter
from rlvr.training.learner import Learner
from support import tiny
from support.processes import PLUGINS, facts

PHASES: dict[str, tuple[Any, str]] = {
    "generation": (Rollouts, "__call__"),
    "verification": (Verifier, "verify"),
    "scoring": (Learner, "score"),
    "update": (Learner, "update"),
    "records": (DiskRunWriter, "record_step"),
    "saving": (checkpoint, "save"),
    "evaluation": (loop, "evaluate_one"),
}
NAMES = ["between the phases", *PHASES]
SLOWLY = """
from rlvr import registry


def slowly(problem, response):
    \"\"\"The verdict of the task `math`, after a while in which a kill may come.\"\"\"
    time.sleep(0.005)
    return registry.find("task", "math", "here").function(problem, response)
"""
ADD = {"name": "arithmetic", "kinds": ["add"], "levels": [1]}
RECIPES: dict[str, dict[str, Any]] = {
    "grpo": {
        "gather": {"name": "refill", "max_attempts": 2},
        "cold_start": {"steps": 1, "problems": 3},
        "loss": {"terms": ["clip", {"name": "kl", "coef": 0.1}]},
        "optimizer": {"lr": 1e-2, "schedule": "cosine", "warmup": 1},
    },
    "ppo": {
        "advantage": "gae",
        "critic": {"optimizer": {"lr": 1e-2}},
        "reward_kl": {"coef": 0.05, "target": 0.1, "horizon": 10},
        "reward_scale": "running",
        "learn": {"minibatches": 2},
        "stages": [{"steps": 2}, {"steps": 2, "reference": "renewed", "rollout.temperature": 1.1}],
    },
}


@dataclass(frozen=True)
class Moment:
    """The n-th beginning of a phase, and how long after it."""

    phase: str
    number: int
    delay: float


@dataclass(frozen=True)
class Whole:
    """The run that nothing disturbed: what it left, how often it entered each phase, and for how
    long.
    """

    left: dict[str, Any]
    times: dict[str, int]
    seconds: dict[str, float]


class Bench:
    """A folder of runs of the tiny model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plugins.py").write_text(PLUGINS + SLOWLY)
        model = tiny.save(folder / "tiny")
        for name, sections in RECIPES.items():
            tree = tiny.recipe(
                model, optimizer={"lr": 1e-2}, reward=f"{folder / 'plugins.py'}:digits"
            )
            tree["train"] = [
                {
                    "data": ADD | {"count": 5},
                    "task": f"{folder / 'plugins.py'}:slowly",
                    "adaptive": {},
                }
            ]
            tree |= {"checkpoint": {"every": 1, "keep": 2}, "trackers": [], **sections}
            tree["rollout"] = {"problems": 2, "samples": 3, "max_tokens": 5}
            tree["eval"] |= {"every": 2}  # type: ignore[operator]
            tree["run"] = {"steps": 4, "seed": 0, "folder": str(folder / "runs"), "threads": 1}
            if "stages" in sections:
                del tree["run"]["steps"]  # type: ignore[attr-defined]
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))

    def start(self, recipe: str, name: str, *words: str) -> tuple[BaseProcess, Any, Any]:
        context = multiprocessing.get_context("fork")
        board, spent = context.RawArray("i", len(NAMES)), context.RawArray("d", len(NAMES))
        given = ["train", str(self.folder / f"{recipe}.yaml"), f"run.name={name}", *words]
        process = context.Process(target=_child, args=(given, board, spent))
        process.start()
        return process, board, spent

    def left(self, name: str) -> dict[str, Any]:
        """Everything that a finished run leaves but its times."""
        folder = self.folder / "runs" / name
        last = checkpoint.list_checkpoints(folder / "checkpoints")[-1]
        tensors = {
            key: tensor.numpy().tobytes() for key, tensor in checkpoint.tensors(last).items()
        }
        return {**facts(folder), "checkpoint": (last.name, tensors)}

    def whole(self, recipe: str) -> Whole:
        process, board, spent = self.start(recipe, f"whole {recipe}")
        process.join()
        assert process.exitcode == 0, "the undisturbed run failed"
        rows = [(name, i) for i, name in enumerate(NAMES) if i]
        times = {name: board[i] for name, i in rows}
        return Whole(
            self.left(f"whole {recipe}"),
            times,
            {name: spent[i] / max(times[name], 1) for name, i in rows},
        )

    def killed(self, recipe: str, name: str, moment: Moment, *words: str) -> str | None:
        """The phase in which SIGKILL came; None where the run ended before."""
        process, board, _ = self.start(recipe, name, *words)
        index = NAMES.index(moment.phase)
        while process.is_alive() and board[index] < moment.number:
            time.sleep(0.0002)
        time.sleep(moment.delay)
        phase = NAMES[board[0]]
        if process.pid and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        return phase if process.exitcode == -signal.SIGKILL else None

    def resumed(self, recipe: str, name: str) -> int:
        """The exit status of the run taken up to its end; one that has left nothing yet is started
        again.
        """
        begun = (self.folder / "runs" / name / "recipe.yaml").exists()
        process, _, _ = self.start(recipe, name, "--resume" if begun else "--overwrite")
        process.join()
        return process.exitcode or 0


def _child(words: Sequence[str], board: Any, spent: Any) -> None:
    for index, (owner, name) in enumerate(PHASES.values(), 1):
        setattr(owner, name, _noted(getattr(owner, name), index, board, spent))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        sys.exit(cli.main(words))


def _noted(function: Callable[..., Any], index: int, board: Any, spent: Any) -> Callable[..., Any]:
    """The function with its phase on the board while it runs; what it calls belongs to it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if board[0]:
            return function(*args, **kwargs)
        board[index] += 1
        board[0], start = index, time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            board[0] = 0
            spent[index] += time.perf_counter() - start

    return call


def moments(whole: Whole, dice: random.Random) -> Iterator[Moment]:
    """Random moments, as many after the beginning of one phase as of another."""
    while True:
        for phase in dice.sample(list(PHASES), len(PHASES)):
            length = whole.seconds[phase]
            yield Moment(
                phase, dice.randint(1, max(1, whole.times[phase])), dice.uniform(0, length)
            )


def trial(
    bench: Bench, recipe: str, name: str, draws: Iterator[Moment], twice: bool, whole: Whole
) -> dict[str, Any]:
    """One run killed once or twice, resumed to its end and compared."""
    hits, start = list[str](), time.perf_counter()
    while not hits:
        shutil.rmtree(bench.folder / "runs" / name, ignore_errors=True)
        hits += filter(None, [bench.killed(recipe, name, next(draws))])
    if twice and (bench.folder / "runs" / name / "recipe.yaml").exists():
        again = next(draws)
        hits += filter(
            None, [bench.killed(recipe, name, Moment(again.phase, 1, again.delay), "--resume")]
        )
    status = bench.resumed(recipe, name)
    left = bench.left(name) if status == 0 else {"status": status}
    differs = [part for part, value in whole.left.items() if left.get(part) != value]
    shutil.rmtree(bench.folder / "runs" / name)
    return {
        "recipe": recipe,
        "killed_in": hits,
        "differs": differs,
        "seconds": round(time.perf_counter() - start, 2),
    }


def main(kills: int, out: Path | None, seed: int) -> int:
    """Kill so many times; the exit status is 0 where every resumed run equals the undisturbed one."""
    dice, rows, done = random.Random(seed), list[dict[str, Any]](), 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        wholes = {recipe: bench.whole(recipe) for recipe in RECIPES}
        draws = {recipe: moments(whole, dice) for recipe, whole in wholes.items()}
        while done < kills:
            recipe = list(RECIPES)[len(rows) % len(RECIPES)]
            twice = kills - done > 1 and len(rows) % 3 == 2
            rows.append(
                trial(bench, recipe, f"trial {len(rows)}", draws[recipe], twice, wholes[recipe])
            )
            done += len(rows[-1]["killed_in"])
            print(f"{done}/{kills} {json.dumps(rows[-1])}", flush=True)
    phases = Counter(phase for row in rows for phase in row["killed_in"])
    equal = sum(not row["differs"] for row in rows)
    head = {"kills": done, "runs": len(rows), "equal": equal, "phases": dict(phases), "seed": seed}
    head |= {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(head))
    if out:
        out.write_text("".join(json.dumps(row) + "\n" for row in (head, *rows)))
    return int(equal < len(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="kill a run at random moments and resume it")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    raise SystemExit(main(options.kills, options.out, options.seed))
