"""PPO: the critic learns, the policy learns from it, and neither depends on how the work is split."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.batches import Recorder, close, exact_norms, groups_of, sharp  # noqa: F401
from support.learning import gain, rewards
from torch import Tensor

from rlvr.build.run import build
from rlvr.config import loader
from rlvr.distributed.world import World
from rlvr.errors import UserError
from rlvr.models.packing import Sharing
from rlvr.models.value import ValueModel, value_head
from rlvr.step import State, train_step
from rlvr.training import reductions
from rlvr.training.advantage import estimate_gae, gae
from rlvr.training.batch import Batch
from rlvr.training.critic import Critic
from rlvr.training.optimizer import LrSchedule, OptimizerStepper
from rlvr.training.scored import collate, trained

PPO: dict[str, Any] = {
    "advantage": {"name": "gae", "lam": 1.0},
    "critic": {"optimizer": {"lr": 1e-2}},
    "learn": {"epochs": 2, "minibatches": 2},
}


def test_the_reward_rises_with_ppo(tiny_model: Path) -> None:
    assert gain(rewards(tiny_model, 15, **PPO)) > 0.4


@pytest.mark.parametrize("lam", [0.95, 1.0])
def test_the_reward_rises_with_kl_in_the_reward_and_a_scaled_reward(
    tiny_model: Path, lam: float
) -> None:
    sections = {
        **PPO,
        "advantage": {"name": "gae", "lam": lam},
        "reward_kl": {"coef": 0.01, "clip": 10.0},
    }
    assert gain(rewards(tiny_model, 15, **sections, reward_scale="running")) > 0.4


def variety(response: str) -> float:
    return float(len(set(response)))


def stepped(
    folder: Path, steps: int, reward: Any = variety, **sections: Any
) -> tuple[Any, list[dict[str, Any]]]:
    recipe = tiny.recipe(
        folder, **{"rollout": {"problems": 4, "samples": 4, "max_tokens": 6}, **PPO, **sections}
    )
    run = build(loader.load(recipe), None, reward).run
    state, found = State(0, run.sources.start()), []
    for _ in range(steps):
        result = train_step(run, state)
        state = result.state
        found.append(result.metrics.record())
    return run, found


def lower(response: str) -> float:
    return sum(letter.islower() for letter in response) / 6


def test_the_critic_comes_to_explain_the_returns(tiny_model: Path) -> None:
    """The policy stands still, so the returns keep their distribution and their explained share
    rises.
    """
    sections = {"optimizer": {"lr": 0.0}, "critic": {"optimizer": {"lr": 3e-3}}}
    _, found = stepped(tiny_model, 60, lower, **sections)
    explained = [record["critic"]["explained_variance"] for record in found]
    losses = [record["critic"]["loss"] for record in found]
    assert sum(explained[:5]) / 5 < 0.05 and 0.1 < sum(explained[-20:]) / 20 < 1
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_metrics_of_the_critic_stand_under_its_name(tiny_model: Path) -> None:
    _, found = stepped(tiny_model, 1)
    assert set(found[0]["critic"]) == {
        "loss", "clip_fraction", "grad_norm", "lr", "skipped_updates", "explained_variance",
    }  # fmt: skip
    assert 0 <= found[0]["critic"]["clip_fraction"] <= 1


def test_the_critic_alone_moves_while_it_warms_up(tiny_model: Path) -> None:
    sections = {
        **PPO,
        "critic": {"warmup": 2, "optimizer": {"lr": 1e-2}},
        "optimizer": {"lr": 1e-2},
    }
    recipe = tiny.recipe(tiny_model, **sections)
    run = build(loader.load(recipe), None, lambda response: float(len(set(response)))).run
    state, moved = State(0, run.sources.start()), []
    for _ in range(4):
        before = [p.detach().clone() for p in run.learner.policy.master]
        value = [p.detach().clone() for p in run.learner.critic.model.master]  # type: ignore[union-attr]
        result = train_step(run, state)
        state = result.state
        moved.append(
            any(
                not torch.equal(p, q)
                for p, q in zip(run.learner.policy.master, before, strict=True)
            )
        )
        assert any(
            not torch.equal(p, q)
            for p, q in zip(run.learner.critic.model.master, value, strict=True)  # type: ignore[union-attr]
        )
        assert ("loss" in result.metrics.record()) == moved[-1]
    assert moved == [False, False, True, True]
    assert run.learner.updates.count == 8 and run.learner.critic.updates.count == 16  # type: ignore[union-attr]


def test_policy_and_critic_share_no_weights(tiny_model: Path) -> None:
    run, _ = stepped(tiny_model, 1, optimizer={"lr": 0.0})
    policy, critic = run.learner.policy, run.learner.critic.model
    own = {p.data_ptr() for p in policy.master}
    assert not own & {p.data_ptr() for p in critic.master}
    fresh = build(loader.load(tiny.recipe(tiny_model))).run.learner.policy
    assert all(torch.equal(p, q) for p, q in zip(policy.master, fresh.master, strict=True))


def test_a_critic_of_another_model(tiny_model: Path, tmp_path: Path) -> None:
    other = tiny.save(tmp_path / "other", seed=3)
    run, _ = stepped(tiny_model, 1, critic={"model": str(other), "optimizer": {"lr": 0.0}})
    wanted = tiny.model(3).model.state_dict()
    found = dict(run.learner.critic.model.module.body.named_parameters())
    assert all(torch.equal(found[name], wanted[name]) for name in found)


# --- By hand


def test_the_target_of_the_critic_is_the_unwhitened_advantage_plus_the_value(
    tiny_model: Path,
) -> None:
    """With lambda 1 and no discount every token should have expected the reward."""
    run, _ = stepped(tiny_model, 1)
    groups = run.keep(run.gather(lambda n, s: (first(run), s), run.sources.start(), 4).groups)
    scored = run.learner.estimate_values(run.learner.score(groups))
    rewards = torch.tensor([s.reward.value for s in trained(groups)], dtype=scored.mask.dtype)
    assert torch.allclose(scored.returns, rewards[scored.sample], atol=1e-5)


def first(run: Any) -> Any:
    from rlvr.step import sample_groups

    return sample_groups(run, 0, 0, run.sources.start())[0]


# --- Invariance of the critic's gradient


def critic_of(
    budget: int = 100_000, sharing: Sharing | None = Sharing.PREFIXES, reduction: str = "token"
) -> Critic:
    body = sharp(0).base_model
    head = value_head(32, torch.float64, torch.device("cpu"), 1)
    with torch.no_grad():
        head.weight.mul_(30)
    model = ValueModel(body, head, torch.float64, budget)
    assert model.packed
    model.packed = sharing
    reduce = {
        "token": reductions.token_mean,
        "sequence": reductions.sequence_mean,
        "micro": partial(reductions.micro_token_mean, size=3),
    }
    recorder: Any = Recorder(model.master)
    updates = OptimizerStepper(model, recorder, LrSchedule(1, 0, 1, lambda at: 1), None)
    return Critic(
        model, updates, partial(estimate_gae, gamma=1.0, lam=0.9), reduce[reduction], 0.2, 0
    )


def critic_batch(critic: Critic) -> Batch:
    groups = groups_of()
    scored = critic.estimate_values(collate(groups, torch.float64, torch.device("cpu")))
    noise = torch.randn(
        scored.mask.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    # as in a later epoch, so that some values clip
    moved = replace(scored, value=scored.value + 0.3 * noise)
    return Batch(moved, gae(moved, World()))


def gradient(critic: Critic, batch: Batch) -> Tensor:
    recorder: Any = critic.updates.optimizer
    recorder.seen.clear()
    record = critic.update(batch).record()["critic"]
    assert isinstance(record, dict) and 0 < record["clip_fraction"] < 1
    return torch.cat([grad.flatten() for grad in recorder.seen[0]])


@pytest.mark.parametrize("reduction", ["token", "sequence", "micro"])
def test_neither_passes_nor_order_nor_packed_change_the_critics_gradient(reduction: str) -> None:
    whole = critic_of(reduction=reduction)
    batch = critic_batch(whole)
    expected = gradient(whole, batch)
    for budget, sharing in (
        (1, Sharing.PREFIXES),
        (16, Sharing.PROMPTS),
        (64, None),
        (100_000, None),
    ):
        assert close(gradient(critic_of(budget, sharing, reduction), batch), expected)
    if reduction != "micro":  # whose partition is by position, as in the references
        order = [5, 0, 8, 2, 11, 1, 7, 3, 10, 4, 9, 6]
        assert close(gradient(whole, batch.select(order)), expected)


# --- Recipes


def test_an_estimator_that_reads_values_needs_a_critic_and_a_critic_a_reader(
    tiny_model: Path,
) -> None:
    with pytest.raises(UserError, match=r"critic: \{\}"):
        loader.load(tiny.recipe(tiny_model, advantage="gae"))
    with pytest.raises(UserError, match="reads no values"):
        loader.load(tiny.recipe(tiny_model, critic={}))
