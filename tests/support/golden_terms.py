"""Losses and reductions of the reference implementations as ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rlvr.models.policy import Forward
from rlvr.training import loss, reductions
from rlvr.training.batch import Batch
from support.golden_cases import Flat, cases


def named(family: str, *prefixes: str) -> list[dict[str, Any]]:
    return [case for case in cases(family) if case["name"].startswith(prefixes)]


Weights = tuple[Callable[[Batch], Tensor], dict[str, float]]


def reduced(mode: str, config: dict[str, Any], flat: Flat, count_eps: float) -> Weights:
    """Our reduction for an aggregation of verl's, and the denominators it is given there."""
    world = config.get("global_batch_info") or {}
    ranks = world.get("dp_size", 1)
    tokens = world.get("batch_num_tokens", float(flat.mask.sum())) / ranks
    filled = int((flat.padded.sum(1) > 0).sum())  # verl counts no row without a token
    samples = world.get("global_batch_size", filled) / ranks
    if mode == "token-mean":
        return (lambda b: reductions.token_mean(b)), {"tokens": tokens}
    if mode == "seq-mean-token-mean":
        return (lambda b: reductions.sequence_mean(b, count_eps=count_eps)), {"samples": samples}
    if mode == "seq-mean-token-sum":
        return reductions.sequence_sum, {"samples": samples}
    length = world.get("loss_scale_factor", flat.padded.shape[1])
    # verl divides by the length alone
    return (lambda b: reductions.constant(b, length=length)), {"samples": 1.0}


def policy_term(config: dict[str, Any]) -> Callable[[Forward, Batch], Any]:
    names = ("clip_ratio_low", "clip_eps_low", "cliprange", "clip_eps", "clip_ratio")
    low = next(config[name] for name in names if name in config)
    high = config.get("clip_ratio_high", config.get("clip_eps_high", low))
    dual = config.get("clip_ratio_c", config.get("dual_clip"))
    match config.get("loss", config.get("policy_loss_type", "vanilla")):
        case "gspo":
            return lambda out, batch: loss.gspo(out, batch, low=low, high=high)
        case "cispo":
            return lambda out, batch: loss.cispo(out, batch, low=low, high=high)
        case "sapo":
            return lambda out, batch: loss.sapo(
                out, batch, negative=config.get("sapo_negative", 1.05)
            )
        case "gpg":
            return loss.reinforce
    return lambda out, batch: loss.clip(out, batch, low=low, high=high, dual=dual)


def verl_micro(config: dict[str, Any], flat: Flat) -> Weights:
    """Newer verl's dp_actor: aggregation in each micro-batch, then the mean over those of a
    mini-batch.
    """
    mini, micro = config["ppo_mini_batch_size"], config["ppo_micro_batch_size_per_gpu"]
    mode, parts = config.get("loss_agg_mode", "token-mean"), mini // micro
    if mode == "token-mean":
        return (lambda b: reductions.micro_token_mean(b, size=micro, divisor=parts)), {}
    samples = float(micro * parts)
    if mode == "seq-mean-token-sum-norm":
        return (lambda b: reductions.constant(b, length=flat.padded.shape[1])), {
            "samples": float(parts)
        }
    return (
        (lambda b: reductions.sequence_mean(b, count_eps=1e-8))
        if "mean-token-mean" in mode
        else reductions.sequence_sum
    ), {"samples": samples}
