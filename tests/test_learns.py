"""Learning itself: from a fixed seed the tiny model earns a reward that it hardly earns by chance."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.learning import digits, gain, rewards


@pytest.mark.parametrize("term", ["clip", "reinforce"])
@pytest.mark.parametrize("advantage", ["grpo", {"name": "grpo", "std": False}, "rloo"], ids=str)
def test_the_reward_rises(tiny_model: Path, advantage: object, term: str) -> None:
    found = rewards(tiny_model, 25, advantage=advantage, loss={"terms": [term]})
    assert found[0] < 0.3 and gain(found) > 0.4


@pytest.mark.parametrize(
    "advantage", ["reinforce_pp", "reinforce_pp_baseline", "opo", "gpg", "grpo_passk"], ids=str
)
def test_the_reward_rises_with_every_estimator(tiny_model: Path, advantage: str) -> None:
    assert gain(rewards(tiny_model, 25, advantage=advantage)) > 0.3


def test_the_reward_rises_with_normalised_reinforce(tiny_model: Path) -> None:
    assert gain(rewards(tiny_model, 25, advantage={"name": "reinforce", "normalise": True})) > 0.3


@pytest.mark.parametrize("term", ["gspo", "cispo", "sapo"])
def test_the_reward_rises_with_every_policy_loss(tiny_model: Path, term: str) -> None:
    assert gain(rewards(tiny_model, 25, loss={"terms": [term], "reduction": "sequence"})) > 0.3


@pytest.mark.parametrize("correction", ["importance", {"name": "rejection", "limit": 5.0}], ids=str)
def test_the_reward_rises_with_a_correction(tiny_model: Path, correction: object) -> None:
    assert gain(rewards(tiny_model, 25, loss={"correction": correction})) > 0.3


def test_the_reward_rises_with_kl_in_the_reward_and_a_strong_one_holds_it_back(
    tiny_model: Path,
) -> None:
    weak = {"coef": 0.001, "clip": 10.0, "target": 0.5, "horizon": 1000}
    assert gain(rewards(tiny_model, 25, reward_kl=weak, advantage="reinforce_pp")) > 0.3
    assert gain(rewards(tiny_model, 25, reward_kl={"coef": 5.0}, advantage="reinforce_pp")) < 0.3


def test_a_term_may_name_its_own_reduction(tiny_model: Path) -> None:
    terms = [
        "clip",
        {"name": "entropy", "coef": 0.001, "reduction": {"name": "constant", "length": 6}},
    ]
    assert gain(rewards(tiny_model, 25, loss={"terms": terms, "reduction": "sequence"})) > 0.3


REDUCTIONS = [
    "token",
    "sequence",
    {"name": "constant", "length": 6},
    {"name": "micro_token", "size": 8},
]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_the_reward_rises_with_every_reduction(tiny_model: Path, reduction: object) -> None:
    assert gain(rewards(tiny_model, 25, loss={"reduction": reduction})) > 0.4


def test_the_reward_rises_with_several_updates_a_step(tiny_model: Path) -> None:
    learn = {"epochs": 2, "minibatches": 2}
    assert gain(rewards(tiny_model, 15, learn=learn)) > 0.4


def test_the_reward_rises_in_bf16(tiny_model: Path) -> None:
    assert (
        gain(rewards(tiny_model, 25, model={"name": str(tiny_model), "compute": "bfloat16"})) > 0.4
    )


def test_what_is_punished_is_unlearned(tiny_model: Path) -> None:
    """The same reward with its sign turned: a digit in nine letters, and then hardly any."""
    found = rewards(tiny_model, 25, lambda response: -digits(response))
    assert found[0] < -0.05 and found[-1] > -0.02


def test_a_strong_kl_term_holds_the_policy_back(tiny_model: Path) -> None:
    terms = ["clip", {"name": "kl", "coef": 50.0}]
    assert gain(rewards(tiny_model, 25, loss={"terms": terms})) < 0.1  # 0.84 without the term


def test_nothing_is_learned_without_a_rate(tiny_model: Path) -> None:
    assert abs(gain(rewards(tiny_model, 8, optimizer={"lr": 0.0}))) < 0.1
