"""Loss terms, KL estimates and reductions against the outputs and gradients of the reference implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden import Flat, cases, close, dtype_of, needs_golden, number
from torch import Tensor

from rlvr import loss
from rlvr.batch import Batch, Forward

pytestmark = needs_golden

ESTIMATORS = {"kl": "k1", "k1": "k1", "abs": "abs", "mse": "k2", "k2": "k2", "low_var_kl": "k3", "k3": "k3"}


def named(family: str, *prefixes: str) -> list[dict[str, Any]]:
    return [case for case in cases(family) if case["name"].startswith(prefixes)]


@pytest.mark.parametrize("case", named("kl", "kl_penalty", "openrlhf"), ids=lambda c: c["name"])
def test_kl_estimates_and_their_gradients(case: dict[str, Any]) -> None:
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    dtype = dtype_of(case)
    mask = torch.tensor(number(given.get("action_mask", [[1.0] * len(r) for r in given["logprob"]])), dtype=dtype)
    logprob = torch.tensor(number(given["logprob"]), dtype=dtype, requires_grad=True)
    ref = torch.tensor(number(given["ref_logprob"]), dtype=dtype)
    name = ESTIMATORS[config.get("kl_penalty") or config["estimator"]]
    # verl and its forks clamp low_var_kl to +-10, OpenRLHF 0.11 every estimator, v0 none
    fork = name == "k3" and "kl_penalty" in config
    clamp = 10.0 if fork or config.get("clamp") else None
    found = loss.kl_estimate(logprob, ref, name, clamp)  # type: ignore[arg-type]
    close(case, found.detach() * mask, wanted["kl"], mask)
    weights = torch.tensor(number(given["grad_weights"]), dtype=dtype) if "grad_weights" in given else mask
    gradient = wanted.get("grad_logprob") or wanted.get("grad_logprob_of_sum")
    if gradient:
        (found * weights).sum().backward()
        assert logprob.grad is not None
        close(case, logprob.grad, gradient)


@pytest.mark.parametrize("case", named("kl", "logprob_entropy"), ids=lambda c: c["name"])
def test_log_probabilities_and_entropy_at_a_temperature(case: dict[str, Any]) -> None:
    given, wanted = case["inputs"], case["outputs"]
    logits = torch.tensor(number(given["logits"]), dtype=torch.float64, requires_grad=True)
    out = forward(logits, torch.tensor(given["labels"]), case["config"]["temperature"])
    (out.logprob + out.entropy).sum().backward()
    close(case, out.logprob.detach(), wanted["log_probs"])
    close(case, out.entropy.detach(), wanted["entropy"])
    assert logits.grad is not None
    close(case, logits.grad, wanted["grad_logits_of_sum_logprob_plus_entropy"])


def forward(logits: Tensor, labels: Tensor, temperature: float) -> Forward:
    """Through the same chunked head that the policy uses: hidden states that are the logits, a head that is one."""
    from rlvr.policy import _LogProb

    flat = logits.reshape(-1, logits.shape[-1])
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    logprob, entropy = _LogProb.apply(flat, head, labels.reshape(-1), 1 / temperature)  # type: ignore[misc]
    return Forward(logprob.reshape(labels.shape), entropy.reshape(labels.shape))


def reduced(
    mode: str, config: dict[str, Any], flat: Flat, slack: float
) -> tuple[Callable[[Batch], Tensor], dict[str, float]]:
    """Our reduction for an aggregation of verl's, and the denominators it is given there."""
    world = config.get("global_batch_info") or {}
    ranks = world.get("dp_size", 1)
    tokens = world.get("batch_num_tokens", float(flat.mask.sum())) / ranks
    filled = int((flat.padded.sum(1) > 0).sum())  # verl counts no row without a token
    samples = world.get("global_batch_size", filled) / ranks
    if mode == "token-mean":
        return (lambda b: loss.token_mean(b)), {"tokens": tokens}
    if mode == "seq-mean-token-mean":
        return (lambda b: loss.sequence_mean(b, slack=slack)), {"samples": samples}
    if mode == "seq-mean-token-sum":
        return loss.sequence_sum, {"samples": samples}
    length = world.get("loss_scale_factor", flat.padded.shape[1])
    return (lambda b: loss.constant(b, length=length)), {"samples": 1.0}  # verl divides by the length alone


def policy_term(config: dict[str, Any]) -> Callable[[Forward, Batch], Any]:
    low = config.get("clip_ratio_low", config.get("clip_eps_low", config.get("cliprange", config.get("clip_eps"))))
    high = config.get("clip_ratio_high", config.get("clip_eps_high", low))
    dual = config.get("clip_ratio_c", config.get("dual_clip"))
    match config.get("loss", config.get("policy_loss_type", "vanilla")):
        case "gspo":
            return lambda out, batch: loss.gspo(out, batch, low=low, high=high)
        case "cispo":
            return lambda out, batch: loss.cispo(out, batch, low=low, high=high)
        case "sapo":
            return loss.sapo
        case "gpg":
            return loss.reinforce
    return lambda out, batch: loss.clip(out, batch, low=low, high=high, dual=dual)


POLICY = named("policy_loss", "ppo_clip_fork", "verl_vanilla", "verl_clip", "verl_dual", "verl_drgrpo", "verl_gspo",
               "verl_cispo", "verl_sapo", "verl_gpg", "openrlhf")  # fmt: skip


@pytest.mark.parametrize("case", POLICY, ids=lambda c: c["name"])
def test_policy_losses_and_their_gradients(case: dict[str, Any]) -> None:
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    flat = Flat(given["response_mask"], dtype_of(case))
    gspo = "gspo" in (config.get("loss"), config.get("policy_loss_type"))
    by_sequence = gspo or config.get("loss") == "sapo" or config.get("token_level_loss") is False
    by_sequence = by_sequence or case["name"].startswith("openrlhf_v0")
    mode = "seq-mean-token-mean" if by_sequence else config.get("loss_agg_mode", "token-mean")
    slack = 1e-8 if case["name"].startswith(("verl", "openrlhf011")) else 0.0
    weigh, totals = reduced(mode, config, flat, slack)
    batch = flat.batch(advantage=given["advantages"], old=given["old_log_prob"], **totals)
    if "rollout_is_weights" in given:
        batch = loss_with(batch, flat.flat(given["rollout_is_weights"]))
    logprob = flat.flat(given["log_prob"]).requires_grad_()
    result = policy_term(config)(Forward(logprob, torch.zeros_like(logprob)), batch)
    value, shares = result if isinstance(result, tuple) else (result, {})
    total = (weigh(batch) * value).sum()
    total.backward()
    close(case, total.detach(), wanted["loss"])
    assert logprob.grad is not None
    close(case, flat.rows(logprob.grad), wanted["grad_log_prob"])
    if "pg_clipfrac" in wanted:
        close(case, (shares["clipped"] * flat.mask).sum() / flat.mask.sum(), wanted["pg_clipfrac"])


def loss_with(batch: Batch, weight: Tensor) -> Batch:
    """Importance weights scale the advantage, in which every policy term is linear."""
    from dataclasses import replace

    return replace(batch, advantage=batch.advantage * weight)


@pytest.mark.parametrize("case", named("policy_loss", "verl_agg_loss"), ids=lambda c: c["name"])
def test_reductions(case: dict[str, Any]) -> None:
    given, wanted = case["inputs"], case["outputs"]
    flat = Flat(given["loss_mask"])
    values = flat.flat(given["loss_mat"])
    for name, expected in wanted.items():
        mode, _, options = name.partition("/")
        parsed = {k: float(v) for k, v in (pair.split("=") for pair in options.split(",") if pair)}
        known = {"dp": "dp_size", "scale": "loss_scale_factor"}
        info = {known.get(k, k): v for k, v in parsed.items()}
        weigh, totals = reduced(mode, {"global_batch_info": info}, flat, 1e-8)
        close(case, (weigh(flat.batch(advantage=None, **totals)) * values).sum(), expected)
