"""Loading, exporting and recomputing: what models.py promises of any model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny

import rlvr
from rlvr.build.models import load_policy
from rlvr.build.run import build
from rlvr.config import loader
from rlvr.errors import RunError, UserError
from rlvr.models import export, loading
from rlvr.models.packing import Tokens
from rlvr.types import Request, Sampling

SEQUENCES = [Tokens((5, 6, 7), (8, 9, 10, 1)), Tokens((11, 12), (13, 1))]


def gradients(tiny_model: Path, checkpointing: bool) -> tuple[list[torch.Tensor], int]:
    """The gradients of the summed log-probabilities, and how many tensors the forward pass kept for
    them.
    """
    options = {"name": str(tiny_model), "dtype": "float64", "gradient_checkpointing": checkpointing}
    policy = load_policy(loader.load(tiny.recipe(tiny_model, model=options))).policy
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        for part in policy.passes(SEQUENCES):
            policy.forward(part, 1.0).logprob.sum().backward()
    return [p.grad for p in policy.master if p.grad is not None], len(kept)


def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(tiny_model: Path) -> None:
    plain, much = gradients(tiny_model, False)
    recomputed, little = gradients(tiny_model, True)
    assert little < much / 2
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_the_engine_of_a_checkpointed_policy_decodes_as_before(tiny_model: Path) -> None:
    answers = []
    for checkpointing in (False, True):
        options = {
            "name": str(tiny_model),
            "compute": "float32",
            "gradient_checkpointing": checkpointing,
        }
        engine = load_policy(loader.load(tiny.recipe(tiny_model, model=options))).rollouts.engine
        answers.append(engine.generate([Request((5, 6, 7), (1, 2))], Sampling(2, 8)))
    assert answers[0] == answers[1]


def test_a_model_that_cannot_be_saved_ends_the_run_in_one_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    policy = load_policy(loader.load(tiny.recipe(tiny_model))).policy
    (tmp_path / "model").write_text("in the way")
    with pytest.raises(RunError, match=r"^cannot save the model .*model: [^\n]*$"):
        export.export(policy, tmp_path / "model")


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_the_compute_dtype_can_be_chosen(wanted: str) -> None:
    assert loading.compute_dtype(wanted, torch.float32, torch.device("cpu")) is getattr(
        torch, wanted
    )


def test_float64_weights_compute_in_float64() -> None:
    assert loading.compute_dtype("auto", torch.float64, torch.device("cpu")) is torch.float64


def test_cuda_where_there_is_none_is_refused_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(UserError, match=r"model\.device: no CUDA device"):
        loading.device_of("cuda")


def test_the_folder_of_a_run_is_a_model_and_a_reference(tiny_model: Path, tmp_path: Path) -> None:
    """A warm start from another run's weights, with the KL still measured from the first model."""
    made = tiny.recipe(tiny_model, optimizer={"lr": 1e-2})
    made["run"] |= {"folder": str(tmp_path), "name": "first"}  # type: ignore[operator]
    rlvr.train(made, reward=lambda response: float(len(response)))
    options = {"name": str(tmp_path / "first"), "compute": "float32", "reference": str(tiny_model)}
    terms = {"terms": ["clip", {"name": "kl", "coef": 0.1}]}
    learner = build(loader.load(tiny.recipe(tiny_model, model=options, loss=terms))).run.learner
    plain = load_policy(loader.load(tiny.recipe(tiny_model))).policy.logprobs(SEQUENCES, 1.0)
    assert learner.reference is not None and torch.equal(
        learner.reference.logprobs(SEQUENCES, 1.0), plain
    )
    assert (learner.policy.logprobs(SEQUENCES, 1.0) - plain).abs().max() > 1e-3
