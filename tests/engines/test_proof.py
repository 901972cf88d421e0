"""The proof of synchronisation: weights that did not arrive in an engine end the run within a step,
whatever engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.steps import made, stepped
from support.worlds import in_world
from torch import Tensor

import rlvr
from rlvr.build.models import load_policy
from rlvr.config import loader, staging
from rlvr.distributed.world import World
from rlvr.engines.decoder import Decoder
from rlvr.errors import RunError, UserError
from rlvr.registry import register
from rlvr.types import Request, Sampling

APART = f"{__name__}:apart"


class Apart(Decoder):
    """The local engine as one that holds its weights apart; what arrives from version `until` on is
    lost, or only what a name says.
    """

    until, lost = 1000, ""

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        # whoever loses them has asked for them
        every = [(name, weight) for name, weight in weights]
        arrived = [(n, w) for n, w in every if version < self.until or self.lost not in n]
        super().load(arrived, version)


@register("engine", "apart_for_tests", needs={"weight_sync"})
def apart(module: Any, tokenizer: Any, compute: torch.dtype, *, until: int = 1000) -> Apart:
    engine = Apart(module, tokenizer, compute, 128)
    engine.until = until
    return engine


def of(
    tiny_model: Path, tmp_path: Path, compute: str = "float32", lr: float = 1e-3, **engine: Any
) -> dict[str, Any]:
    sections: dict[str, Any] = {
        "run": {"name": "proven", "steps": 4, "folder": str(tmp_path), "threads": 1},
        "model": {"name": str(tiny_model), "compute": compute},
        "optimizer": {"lr": lr},
        "rollout": {
            "engine": {"name": APART, **engine},
            "problems": 2,
            "samples": 4,
            "max_tokens": 6,
        },
        "reward": f"{__name__}:some_reward",
    }
    return tiny.recipe(tiny_model, **sections)


def some_reward(verdict: Any) -> Any:
    """Different for different answers, so that every step moves the weights."""
    from rlvr.types import Reward

    return Reward(value := len(set(verdict.answer or "")) + float(verdict.correct), {"own": value})


def steps_done(folder: Path) -> int:
    return len((folder / "proven" / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_run_whose_weights_arrive_is_not_disturbed(
    tiny_model: Path, tmp_path: Path, compute: str
) -> None:
    rlvr.train(of(tiny_model, tmp_path, compute))
    assert steps_done(tmp_path) == 4


@pytest.mark.parametrize(
    ("compute", "lr"), [("float32", 1e-3), ("float32", 1e-6), ("bfloat16", 1e-3)]
)
@pytest.mark.parametrize("until", [1, 3])
def test_a_skipped_transfer_is_caught_within_one_step(
    tiny_model: Path, tmp_path: Path, compute: str, lr: float, until: int
) -> None:
    """Also where the update is so small that the log-probabilities are within the tolerance of the
    dtype.
    """
    with pytest.raises(
        RunError, match=rf"rollout.engine: the weights of version {until} did not arrive"
    ):
        rlvr.train(of(tiny_model, tmp_path, compute, lr, until=until))
    assert steps_done(tmp_path) == until - 1


@pytest.mark.parametrize("lost", ["embed_tokens", "k_proj", "layers.1.mlp.up_proj", "norm"])
def test_weights_of_one_kind_that_never_arrive_are_caught_before_the_first_step(
    tiny_model: Path, tmp_path: Path, lost: str
) -> None:
    """An engine begins with weights of its own; these are large, so that every one of them has a
    say.
    """
    tiny.sharpen(tiny.model(), 8).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    loaded = load_policy(loader.load(of(tmp_path / "model", tmp_path)))
    guarded: Any = loaded.rollouts.engine
    engine = guarded.made
    assert isinstance(engine, Apart)
    with torch.no_grad():
        for parameter in engine.reader.parameters.values():
            parameter.mul_(
                1 + 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    engine.until, engine.lost = 1, lost
    with pytest.raises(RunError, match="did not arrive"):
        loaded.rollouts.load(loaded.policy.weights(), version=1)
    engine.until = 1000
    loaded.rollouts.load(loaded.policy.weights(), version=1)


def test_a_step_that_moves_nothing_passes(tiny_model: Path, tmp_path: Path) -> None:
    rlvr.train(of(tiny_model, tmp_path, lr=0.0))
    assert steps_done(tmp_path) == 4


def test_the_local_engine_is_asked_no_probe(tiny_model: Path) -> None:
    run = made(tiny_model).run
    asked: list[int] = []
    generate = run.rollouts.engine.generate

    def counted(requests: list[Request], sampling: Sampling) -> Any:
        asked.append(len(requests))
        return generate(requests, sampling)

    run.rollouts.engine.generate = counted
    stepped(run, 2)
    assert asked == [2, 2]


def _stale_on_one_rank(world: World, recipe: dict[str, Any]) -> str:
    loaded = load_policy(loader.load(recipe), world)
    engine: Any = loaded.rollouts.engine
    engine.made.until = 1 if world.rank == 1 else 1000
    with torch.no_grad():
        for parameter in loaded.policy.master:
            parameter.mul_(1.01)
        loaded.policy.sync_compute_weights()
    try:
        loaded.rollouts.load(loaded.policy.weights(), version=1)
    except RunError as error:
        return str(error)
    return "passed"


def test_an_engine_of_another_process_that_is_stale_ends_all(
    tiny_model: Path, tmp_path: Path
) -> None:
    first, second = in_world(2, _stale_on_one_rank, of(tiny_model, tmp_path))
    assert "version 1 did not arrive" in first and first == second


# --- What follows in the recipe and in the metrics


def corrections(*given: Any, **sections: Any) -> str:
    recipe = loader.load({"train": [{"data": "arithmetic"}], **sections}, list(given))
    assert loader.load(recipe.model_dump(mode="json")) == recipe
    return recipe.loss.correction.name


def test_truncated_importance_sampling_is_on_by_itself_with_an_engine_apart() -> None:
    assert corrections() == "none"
    assert (
        corrections("rollout.engine=vllm") == corrections(f"rollout.engine={APART}") == "importance"
    )
    assert corrections("rollout.engine=vllm", "loss.correction=none") == "none"
    assert (
        corrections("rollout.engine=vllm", loss={"correction": {"name": "rejection", "limit": 1.0}})
        == "rejection"
    )
    assert corrections("rollout.engine=vllm", "rollout.top_p=0.9") == "none"
    stages = staging.split_stages(
        loader.load(
            {
                "train": [{"data": "arithmetic"}],
                "rollout": {"engine": "vllm"},
                "stages": [{"steps": 1}, {"steps": 2}],
            }
        )
    )
    assert [stage.loss.correction.name for stage in stages] == ["importance"] * 2


def test_the_options_of_vllm_are_checked_without_it() -> None:
    with pytest.raises(UserError, match=r"rollout\.engine\.memory"):
        loader.load(
            {
                "train": [{"data": "arithmetic"}],
                "rollout": {"engine": {"name": "vllm", "memory": 1.5}},
            }
        )


def test_the_mismatch_is_measured_by_hand(tiny_model: Path) -> None:
    """Engine log-probabilities that are off by known amounts."""
    run = made(tiny_model, optimizer={"lr": 0.0}).run
    off = torch.tensor([0.0, 0.1, -0.5, 0.9])
    generate = run.rollouts.engine.generate

    def shifted(requests: list[Request], sampling: Sampling) -> list[Any]:
        from dataclasses import replace

        return [
            replace(g, logprobs=tuple(x - float(off[i % 4]) for i, x in enumerate(g.logprobs)))
            for g in generate(requests, sampling)
        ]

    run.rollouts.engine.generate = shifted
    result = stepped(run)[0]
    record = result.metrics.record()
    lengths = [len(s.rollout.token_ids) for g in result.groups for s in g.samples]
    gaps = torch.cat([off.repeat(3)[:length] for length in lengths]).double()
    assert record["mismatch"] == pytest.approx(float(gaps.abs().mean()), abs=1e-5)
    assert record["mismatch_kl"] == pytest.approx(float((gaps.exp() - 1 - gaps).mean()), abs=1e-5)
    assert record["mismatch_beyond_2x"] == pytest.approx(
        float((gaps.abs() > 0.6931).double().mean()), abs=1e-9
    )
    assert 0 < record["mismatch_beyond_2x"] < 1
