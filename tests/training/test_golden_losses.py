"""Loss terms, KL estimates and reductions against the outputs and gradients of the reference
implementations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.golden_cases import Flat, close, dtype_of, number
from support.golden_terms import Weights, named, policy_term, reduced, verl_micro
from torch import Tensor

from rlvr.models.packing import Tokens
from rlvr.models.policy import Forward
from rlvr.training import corrections, loss, reductions, tensors
from rlvr.training.batch import Batch

ESTIMATORS = {
    "kl": "k1",
    "k1": "k1",
    "abs": "abs",
    "mse": "k2",
    "k2": "k2",
    "low_var_kl": "k3",
    "k3": "k3",
}


@pytest.mark.parametrize("case", named("kl", "kl_penalty", "openrlhf"), ids=lambda c: c["name"])
def test_kl_estimates_and_their_gradients(case: dict[str, Any]) -> None:
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    dtype = dtype_of(case)
    mask = torch.tensor(
        number(given.get("action_mask", [[1.0] * len(r) for r in given["logprob"]])), dtype=dtype
    )
    logprob = torch.tensor(number(given["logprob"]), dtype=dtype, requires_grad=True)
    ref = torch.tensor(number(given["ref_logprob"]), dtype=dtype)
    name = ESTIMATORS[config.get("kl_penalty") or config["estimator"]]
    # verl and its forks clamp low_var_kl to +-10, OpenRLHF 0.11 every estimator, v0 none
    fork = name == "k3" and "kl_penalty" in config
    clamp = 10.0 if fork or config.get("clamp") else None
    found = tensors.estimate_kl(logprob, ref, name, clamp)  # type: ignore[arg-type]
    close(case, found.detach() * mask, wanted["kl"], mask)
    weights = (
        torch.tensor(number(given["grad_weights"]), dtype=dtype)
        if "grad_weights" in given
        else mask
    )
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
    """Through the same chunked head that the policy uses: hidden states that are the logits, a head
    that is one.
    """
    from rlvr.models.token_logprobs import TokenLogProbs

    flat = logits.reshape(-1, logits.shape[-1])
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    logprob, entropy = TokenLogProbs.apply(flat, head, labels.reshape(-1), 1 / temperature)  # type: ignore[misc]
    return Forward(logprob.reshape(labels.shape), entropy.reshape(labels.shape))


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
    count_eps = 1e-8 if case["name"].startswith(("verl", "openrlhf011")) else 0.0
    weigh, totals = reduced(mode, config, flat, count_eps)
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
        close(
            case,
            (shares["clip_fraction"] * flat.mask).sum() / flat.mask.sum(),
            wanted["pg_clipfrac"],
        )


def loss_with(batch: Batch, weight: Tensor) -> Batch:
    """Importance weights scale the advantage, in which every policy term is linear."""
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


IMPORTANCE = named("importance", "verl_tis", "trl_is", "verl_rs")


@pytest.mark.parametrize("case", IMPORTANCE, ids=lambda c: c["name"])
def test_importance_weights(case: dict[str, Any]) -> None:
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    flat = Flat(given["response_mask"])
    old = given.get("old_log_probs", given.get("log_ratio"))
    rollout = given.get("sampling_log_probs", [[0.0] * len(row) for row in old])
    batch = flat.batch(advantage=None, old=old, rollout=rollout)
    if "mode" in config:
        level, _, mode = config["mode"].partition("_")
        options = {
            "level": level,
            "mode": mode,
            "low": config["clip_min"],
            "high": config["clip_max"],
        }
        close(
            case, flat.rows(corrections.importance(batch, **options)), wanted["ratio"], flat.padded
        )
    elif "level" in config:
        options = {
            "level": config["level"],
            "high": config["threshold"],
            "normalise": config["batch_normalize"],
            "count_eps": 1e-8,
        }
        close(
            case,
            flat.rows(corrections.importance(batch, **options)),
            wanted["weights"],
            flat.padded,
        )
    else:
        close(case, flat.rows(rejected(batch, config)), wanted["response_mask"])


def rejected(batch: Batch, config: dict[str, Any]) -> Tensor:
    """verl's rejection: a mask by the ratio (k1) or by the k3 estimate of the gap."""
    where, how = config["option"].rsplit("_", 1)
    level = {"token": "token", "seq_mean": "mean", "seq_sum": "sequence", "seq_max": "max"}[where]
    if how == "k1":
        low, high = (float(v) for v in config["threshold"].split("_"))
        return (
            corrections.importance(batch, level=level, mode="mask", low=low, high=high) > 0
        ) * batch.mask  # type: ignore[arg-type]
    return corrections.rejection(batch, level=level, limit=float(config["threshold"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", named("importance", "openrlhf011"), ids=lambda c: c["name"])
def test_corrected_policy_losses_and_their_gradients(case: dict[str, Any]) -> None:
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    low, high = config["vllm_is_truncated_threshold"]
    kind = config.get("vllm_is_correction_type", "tis")
    options = {
        "icepop": {"mode": "filter"},
        "seq-mask-tis": {"level": "mean", "mode": "filter"},
    }.get(kind, {})
    flat = Flat(given["response_mask"])
    batch = flat.batch(
        advantage=given["advantages"], old=given["old_log_prob"], rollout=given["rollout_log_probs"]
    )
    batch = corrections.weigh_advantages(
        batch, corrections.importance(batch, low=low, high=high, **options)
    )
    logprob = flat.flat(given["log_prob"]).requires_grad_()
    value, _ = policy_term(config)(Forward(logprob, torch.zeros_like(logprob)), batch)
    total = (reductions.token_mean(batch) * value).sum()
    total.backward()
    close(case, total.detach(), wanted["loss"])
    assert logprob.grad is not None
    close(case, flat.rows(logprob.grad), wanted["grad_log_prob"])


WHOLE = named("whole_loss", "dp_actor", "verl_dp_actor", "verl_engine", "openrlhf_v0", "trl_grpo", "trl_bnpo", "trl_dr",
              "trl_dapo", "trl_gspo", "trl_cispo", "trl_sapo", "openrlhf011")  # fmt: skip

# Out of scope, each with its reason; a case that none of these explains is run.
OUT_OF_SCOPE: list[tuple[Callable[[dict[str, Any]], bool], str]] = [
    (
        lambda c: c.get("top_entropy_quantile", 1.0) < 1,
        "TRL trains only the tokens of the highest entropy",
    ),
    (
        lambda c: c.get("off_policy_mask_threshold") is not None,
        "TRL drops whole sequences by their KL to the sampler",
    ),
]


def in_scope(case: dict[str, Any]) -> bool:
    return not any(where(case["config"]) for where, _ in OUT_OF_SCOPE)


@pytest.mark.parametrize("case", [c for c in WHOLE if in_scope(c)], ids=lambda c: c["name"])
def test_whole_losses_and_their_gradients(case: dict[str, Any]) -> None:
    """Terms, temperature and reduction together, through the objective that the learner uses, down
    to the logits.
    """
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    flat = Flat(given["response_mask"], dtype_of(case))
    logits = torch.tensor(number(given["logits"]), dtype=flat.dtype, requires_grad=True)
    temperature = config.get("temperature", config.get("temperature_used_for_logprobs", 1.0))
    every = forward(logits, torch.tensor(given["responses"]), temperature)
    out = Forward(every.logprob[flat.inside], every.entropy[flat.inside])
    old = None if "onpolicy" in case["name"] else given["old_log_probs"]
    rows = given["advantages"]
    spread = [[a] * flat.padded.shape[1] for a in rows] if not isinstance(rows[0], list) else rows
    batch = flat.batch(advantage=spread, old=old, ref=given.get("ref_log_prob"))
    if "attention_tokens_per_sample" in given:
        whole = zip(given["attention_tokens_per_sample"], flat.lengths, strict=True)
        sequences = tuple(Tokens((0,) * int(n - length), (0,) * length) for n, length in whole)
        batch = replace(batch, scored=replace(batch.scored, sequences=sequences))
    if "importance_sampling_ratio" in given:
        batch = corrections.weigh_advantages(batch, flat.flat(given["importance_sampling_ratio"]))
    total = torch.zeros((), dtype=flat.dtype)
    for term, weigh, totals in terms_of(case, flat):
        result = term(out, batch)
        value = result[0] if isinstance(result, tuple) else result
        total = total + (weigh(with_totals(batch, **totals)) * value).sum()
    total.backward()
    parts = (
        wanted.get("backward_loss_per_micro_batch")
        or wanted.get("loss_contribution_per_micro")
        or []
    )
    close(case, total.detach(), wanted.get("total_loss", sum(parts)))
    assert logits.grad is not None
    close(case, logits.grad, wanted["grad_logits"])


def with_totals(
    batch: Batch, *, samples: float | None = None, tokens: float | None = None
) -> Batch:
    scored = replace(
        batch.scored,
        total_samples=samples or batch.total_samples,
        total_tokens=tokens or batch.total_tokens,
    )
    return replace(batch, scored=scored)


Row = tuple[Callable[[Forward, Batch], Any], Callable[[Batch], Tensor], dict[str, float]]


def terms_of(case: dict[str, Any], flat: Flat) -> list[Row]:
    """The recipe of a case: its terms, each with its reduction."""
    config, name = case["config"], case["name"]
    policy_scale = config.get("pg_loss_coeff", 1.0)
    policy = policy_term(config | trl_clips(config))
    rows: list[Row] = []
    weigh, totals = whole_reduction(case, flat)
    by_token = (
        ((lambda b: reductions.token_mean(b)), {})
        if name.startswith(("trl", "openrlhf011"))
        else (weigh, totals)
    )
    if policy_scale:
        rows.append((lambda out, b: scaled(policy(out, b), policy_scale), weigh, totals))
    entropy = config.get("entropy_coeff", config.get("entropy_coef"))
    if entropy:
        micro = ((lambda b: reductions.micro_token_mean(b, size=config["per_device_batch"])), {})
        rows.append(
            (
                lambda out, b: loss.entropy(out, b, coef=entropy),
                *(micro if name.startswith("trl") else by_token),
            )
        )
    kl = config.get("kl_loss_coef") if config.get("use_kl_loss", "kl_loss_coef" in config) else None
    kl = kl or config.get("beta") or (config.get("kl_coef") if "kl_estimator" in config else None)
    if kl:
        estimator: Any = ESTIMATORS[config.get("kl_loss_type", config.get("kl_estimator", "k3"))]
        clamp = None if name.startswith("trl") else 10.0
        clamp = clamp if estimator == "k3" or name.startswith("openrlhf011") else None
        kl_row = (weigh, totals) if name.startswith("trl") else by_token
        rows.append(
            (lambda out, b: loss.kl(out, b, coef=kl, estimator=estimator, clamp=clamp), *kl_row)
        )
    return rows


def scaled(result: Any, by: float) -> Tensor:
    return by * (result[0] if isinstance(result, tuple) else result)


def trl_clips(config: dict[str, Any]) -> dict[str, Any]:
    if "epsilon_low" not in config:
        return {}
    kind = "gspo" if config.get("importance_sampling_level") == "sequence" else "vanilla"
    kind = config["loss_type"] if config.get("loss_type") in ("cispo", "sapo") else kind
    low, high = config["epsilon_low"], config["epsilon_high"]
    if kind == "cispo":  # a cap on the weight itself, and none below
        low, high = 1.0, high - 1
    # TRL's delta caps the ratio before clipping, which is the dual clip wherever it is above 1 +
    # high
    # TRL holds the temperatures of SAPO in float32
    single = float(torch.tensor(1.05, dtype=torch.float32))
    shared = {"dual_clip": config.get("delta"), "sapo_negative": single}
    return {"clip_ratio_low": low, "clip_ratio_high": high, "loss": kind, **shared}


def whole_reduction(case: dict[str, Any], flat: Flat) -> Weights:
    config, name, rows = case["config"], case["name"], len(flat.lengths)
    if config.get("use_dynamic_bsz"):
        return (
            lambda b: reductions.micro_token_mean(b, tokens=config["ppo_max_token_len_per_gpu"])
        ), {}
    if name.startswith("dp_actor"):
        micro = config.get("ppo_micro_batch_size_per_gpu", config.get("ppo_micro_batch_size"))
        divisor = config["ppo_mini_batch_size"] // micro
        return (lambda b: reductions.micro_token_mean(b, size=micro, divisor=divisor)), {}
    if name.startswith("verl_dp_actor"):
        return verl_micro(config, flat)
    if name.startswith("verl_engine"):
        info = {
            "batch_num_tokens": config["batch_num_tokens"],
            "global_batch_size": config["global_batch_size"],
        }
        return reduced(config["loss_agg_mode"], {"global_batch_info": info}, flat, 1e-8)
    if name.startswith("openrlhf_v0"):
        return reductions.sequence_mean, {}
    if name.startswith("openrlhf011"):
        by_token = config["token_level_loss"]
        return (
            (reductions.token_mean, {})
            if by_token
            else ((lambda b: reductions.sequence_mean(b, count_eps=1e-8)), {})
        )
    kind = config["loss_type"]
    if kind == "bnpo":
        size = config["per_device_batch"]
        return (lambda b: reductions.micro_token_mean(b, size=size)), {}
    if kind == "dr_grpo":
        length = config.get("max_completion_length", flat.padded.shape[1])
        return (lambda b: reductions.constant(b, length=length)), {"samples": float(rows)}
    return (
        (reductions.token_mean, {}) if kind in ("dapo", "cispo") else (reductions.sequence_mean, {})
    )
