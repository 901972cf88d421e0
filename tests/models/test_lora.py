"""Adapters: only they train, the engine and the export hold them merged, the reference is the model
without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.learning import gain, rewards
from transformers import AutoModelForCausalLM

import rlvr
from rlvr.build.models import load_policy
from rlvr.build.run import build
from rlvr.config import loader
from rlvr.errors import UserError
from rlvr.models import lora as lora_
from rlvr.models.packing import Tokens
from rlvr.models.policy import Policy
from rlvr.step import State, train_step

pytest.importorskip("peft", reason="the extra lora (peft) is not installed")

SEQUENCES = [Tokens((5, 6, 7, 8), (9, 10, 11)), Tokens((5, 6), (12, 13))]


@pytest.fixture(scope="module")
def bold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with embeddings so large that its head, frozen with the rest, can prefer a
    token.
    """
    folder = tiny.save(tmp_path_factory.mktemp("models") / "bold")
    module = tiny.model()
    with torch.no_grad():
        module.model.embed_tokens.weight.mul_(10)
    module.save_pretrained(folder)
    return folder


def lora(folder: Path, **options: Any) -> dict[str, Any]:
    return {
        "model": {
            "name": str(folder),
            "compute": "float32",
            "lora": {"rank": 4, "alpha": 8},
            **options,
        }
    }


def variety(response: str) -> float:
    return float(len(set(response)))


def test_only_the_adapters_train(tiny_model: Path) -> None:
    run = build(
        loader.load(tiny.recipe(tiny_model, **lora(tiny_model), optimizer={"lr": 1e-2})),
        None,
        variety,
    ).run
    policy = run.learner.policy
    assert policy.names and all(".lora_" in name for name in policy.names)
    assert sum(p.numel() for p in policy.master) < 0.25 * sum(
        p.numel() for p in policy.module.parameters()
    )
    frozen = {
        n: p.detach().clone() for n, p in policy.module.named_parameters() if ".lora_" not in n
    }
    before = [p.detach().clone() for p in policy.master]
    train_step(run, State(0, run.sources.start()))
    assert all(
        torch.equal(p, frozen[n]) for n, p in policy.module.named_parameters() if n in frozen
    )
    assert any(not torch.equal(p, q) for p, q in zip(policy.master, before, strict=True))


def test_the_reward_rises_with_adapters(bold: Path) -> None:
    assert gain(rewards(bold, 25, **lora(bold), optimizer={"lr": 1e-2})) > 0.3


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_merged_weights_give_the_log_probabilities_of_the_adapted_model(
    bold: Path, compute: str
) -> None:
    policy = load_policy(loader.load(tiny.recipe(bold, **lora(bold, compute=compute)))).policy
    draw = torch.Generator().manual_seed(0)
    for master in policy.master:
        master.data = torch.randn(master.shape, generator=draw) * 0.5
    policy.sync_compute_weights()
    plain, untouched = (AutoModelForCausalLM.from_pretrained(bold) for _ in range(2))
    base = policy.logprobs(SEQUENCES, 1.0)
    merged = dict(policy.weights())
    parameters = dict(plain.named_parameters())
    assert set(merged) == set(parameters)
    with torch.no_grad():
        for name, weight in merged.items():
            parameters[name].copy_(weight)
    ours = Policy(plain, torch.float32, 64, tiny.tokenizer()).logprobs(SEQUENCES, 1.0)
    tolerance = 1e-4 if compute == "float32" else 0.15
    assert (ours - base).abs().max() < tolerance
    before = Policy(untouched, torch.float32, 64, tiny.tokenizer()).logprobs(SEQUENCES, 1.0)
    assert (before - base).abs().max() > 3 * tolerance


def test_the_reference_is_the_model_without_adapters(tiny_model: Path) -> None:
    made = tiny.recipe(
        tiny_model, **lora(tiny_model), loss={"terms": ["clip", {"name": "kl", "coef": 0.1}]}
    )
    learner = build(loader.load(made), None, variety).run.learner
    start = learner.policy.logprobs(SEQUENCES, 0.7)
    for master in learner.policy.master:
        master.data += 0.1
    learner.policy.sync_compute_weights()
    assert learner.reference is not None
    assert torch.equal(learner.reference.logprobs(SEQUENCES, 0.7), start)
    assert (learner.policy.logprobs(SEQUENCES, 0.7) - start).abs().max() > 1e-3


def test_the_exported_model_is_plain_and_a_resume_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    found = []
    for name, parts in (("whole", [4]), ("halves", [2, 4])):
        made = tiny.recipe(
            tiny_model, **lora(tiny_model), optimizer={"lr": 1e-2}, checkpoint={"every": 1}
        )
        made["run"] |= {"folder": str(tmp_path), "name": name}  # type: ignore[operator]
        for i, steps in enumerate(parts):
            rlvr.train(made, reward=variety, resume=i > 0, overrides=[f"run.steps={steps}"])
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / name / "model")
        assert not lora_.find_adapter_layers(exported)
        found.append(exported.state_dict())
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    start = tiny.model().state_dict()
    assert any(not torch.equal(found[0][k], start[k]) for k in start)


def test_a_wrong_target_is_one_line(tiny_model: Path) -> None:
    made = tiny.recipe(tiny_model, **lora(tiny_model))
    with pytest.raises(UserError, match=r"model\.lora\.targets"):
        load_policy(loader.load(made, {"model.lora.targets": ["nothing_like_this"]}))


def test_adapters_cannot_follow_a_renewed_reference(tiny_model: Path) -> None:
    made = tiny.recipe(
        tiny_model,
        **lora(tiny_model),
        loss={"terms": ["clip", {"name": "kl", "coef": 0.1}]},
        stages=[{"steps": 1}, {"steps": 1, "reference": "renewed"}],
    )
    with pytest.raises(UserError, match=r"model\.lora: the reference"):
        loader.load(made)
