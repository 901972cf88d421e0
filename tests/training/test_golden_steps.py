"""Critic losses, whole optimiser steps and sequence masks against the reference implementations,
through the learner, the critic and the updates that the trainer uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.golden_cases import Flat, cases, close, dtype_of, number
from support.golden_terms import named, policy_term, reduced, verl_micro
from torch import Tensor, nn

from rlvr.models.packing import Tokens
from rlvr.models.policy import Policy
from rlvr.models.value import ValueModel
from rlvr.rollouts.generate import Rollouts
from rlvr.training import loss, reductions
from rlvr.training.batch import Batch
from rlvr.training.critic import Critic
from rlvr.training.learner import Learner
from rlvr.training.objective import Objective
from rlvr.training.optimizer import LrSchedule, OptimizerStepper
from rlvr.training.scored import collate
from rlvr.types import (
    Draw,
    Finish,
    Generation,
    Problem,
    Prompt,
    Reward,
    RewardedGroup,
    Sample,
    Sampling,
    Status,
    Verdict,
)


class Bigram(nn.Module):
    """The references' model of these cases: the logits of a token depend on the token before it
    alone.
    """

    _supports_attention_backend = False

    def __init__(self, emb: Any, head: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.emb = nn.Parameter(torch.tensor(number(emb), dtype=dtype))
        head = torch.tensor(number(head), dtype=dtype)
        self.head = nn.Linear(*head.shape, bias=False, dtype=dtype) if head.dim() > 1 else None
        if self.head is not None:
            self.head.weight.data = head.T.contiguous()
        self.config = SimpleNamespace(layer_types=None, sliding_window=None)
        self.device = torch.device("cpu")

    @property
    def base_model(self) -> Callable[..., Any]:
        return self.body

    def body(self, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.emb[input_ids])

    def get_output_embeddings(self) -> nn.Module | None:
        return self.head

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        found = self.body(input_ids)
        return (
            found
            if self.head is None
            else SimpleNamespace(logits=self.head(found.last_hidden_state))
        )


class Watched(torch.optim.AdamW):
    """AdamW that remembers the weights after each step."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self.seen = [
            *getattr(self, "seen", []),
            [p.detach().clone() for g in self.param_groups for p in g["params"]],
        ]


def adamw(parameters: list[Any], config: dict[str, Any]) -> Watched:
    options = {key: value for key, value in config["optimizer"].items() if key != "name"}
    return Watched(parameters, **{**options, "betas": tuple(options["betas"])}, fused=True)


def updates_of(model: Any, config: dict[str, Any]) -> OptimizerStepper:
    return OptimizerStepper(
        model,
        adamw(model.master, config),
        LrSchedule(config["optimizer"]["lr"], 0, 1, lambda at: 1),
        config["grad_clip"],
    )


def rows_of(case: dict[str, Any], flat: Flat) -> tuple[Tokens, ...]:
    """Prompts and responses of the padded ids."""
    start = case["inputs"]["prompt_length"]
    ids = [tuple(int(i) for i in row) for row in case["inputs"]["input_ids"]]
    return tuple(
        Tokens(row[:start], row[start : start + n])
        for row, n in zip(ids, flat.lengths, strict=True)
    )


# --- Value losses


VALUE = named("value_loss", "value_clip_fork", "verl_value", "openrlhf")


@pytest.mark.parametrize("case", VALUE, ids=lambda c: c["name"])
def test_value_losses_and_their_gradients(case: dict[str, Any]) -> None:
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    flat = Flat(given["response_mask"], dtype_of(case))
    by_sequence = case["name"].startswith("openrlhf_v0") or config.get("token_level_loss") is False
    mode = "seq-mean-token-mean" if by_sequence else config.get("loss_agg_mode", "token-mean")
    count_eps = 1e-8 if case["name"].startswith(("verl", "openrlhf011")) else 0.0
    weigh, totals = reduced(mode, config, flat, count_eps)
    batch = flat.batch(advantage=None, value=given["values"], returns=given["returns"], **totals)
    value = flat.flat(given["vpreds"]).requires_grad_()
    error, clipped = loss.value_loss(value, batch, config["cliprange_value"])
    total = (weigh(batch) * error).sum()
    total.backward()
    close(case, total.detach(), wanted["loss"])
    assert value.grad is not None
    close(case, flat.rows(value.grad), wanted["grad_vpreds"])
    if "vf_clipfrac" in wanted:
        close(case, (clipped * flat.mask).sum() / flat.mask.sum(), wanted["vf_clipfrac"])


@pytest.mark.parametrize("case", named("value_loss", "dp_critic"), ids=lambda c: c["name"])
def test_an_update_of_the_critic(case: dict[str, Any]) -> None:
    """The forks train one value more, that at the end-of-text token: their critic's mask is taken
    as ours.
    """
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    flat = Flat(wanted["critic_mask_used"], dtype_of(case))
    body = Bigram(given["emb"], given["head"], flat.dtype)
    head = nn.Linear(len(given["head"]), 1, bias=False, dtype=flat.dtype)
    head.weight.data = torch.tensor([number(given["head"])], dtype=flat.dtype)
    model = ValueModel(body, head, flat.dtype, 64)
    sequences = rows_of(case, flat)
    close(case, flat.rows(model.values(sequences)), wanted["values_before"], flat.padded)
    batch = flat.batch(advantage=None, value=given["old_values"], returns=given["returns"])
    micro = config["micro_batch"]
    critic = Critic(
        model=model,
        updates=updates_of(model, config),
        target=lambda scored: scored.mask,
        reduction=lambda b: reductions.micro_token_mean(b, size=micro),
        clip=config["cliprange_value"],
        warmup=0,
    )
    found = critic.update(with_sequences(batch, sequences)).record()["critic"]
    assert isinstance(found, dict)
    losses = wanted["vf_loss_per_micro"]
    close(case, found["loss"], sum(losses) / len(losses))
    close(case, found["grad_norm"], wanted["grad_norm"][0])
    weights = dict(model.module.named_parameters())
    close(case, weights["body.emb"].detach(), wanted["emb_after"])
    close(case, weights["head.weight"].detach()[0], wanted["head_after"])


def with_sequences(batch: Batch, sequences: tuple[Tokens, ...]) -> Batch:
    return replace(batch, scored=replace(batch.scored, sequences=sequences))


# --- Optimiser steps


@pytest.mark.parametrize("case", cases("optimizer_step"), ids=lambda c: c["name"])
def test_whole_updates_of_the_policy(case: dict[str, Any]) -> None:
    """Log-probabilities, terms, reduction, clipping and AdamW together, one mini-batch after the
    other.
    """
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    flat = Flat(given["response_mask"], dtype_of(case))
    policy = Policy(Bigram(given["emb"], given["head"], flat.dtype), flat.dtype, 64, None)
    assert policy.chunked_head
    objective, size, totals = objective_of(case, flat)
    learner = Learner(
        policy,
        None,
        objective,
        updates_of(policy, config),
        temperature=config.get("temperature", 1.0),
        keeps_old=True,
    )
    whole = flat.batch(
        advantage=given["advantages"],
        old=given["old_log_probs"],
        ref=given.get("ref_log_prob"),
        **totals,
    )
    whole = with_sequences(whole, rows_of(case, flat))
    norms, losses = [], []
    for start in range(0, len(flat.lengths), size):
        part = whole.select(range(start, min(start + size, len(flat.lengths))))
        record = learner.update(part).record()
        norms.append(record["grad_norm"])
        losses.append(record["loss"])
    watched: Any = learner.updates.optimizer
    close(case, norms, wanted.get("grad_norm_per_update", [wanted.get("grad_norm")]))
    after = wanted.get("weights_after_each_update", [wanted.get("weights_after")])
    assert len(watched.seen) == len(after)
    for (emb, head), expected in zip(watched.seen, after, strict=True):
        close(case, emb, expected["emb"])
        close(case, head.T, expected["head"])
    if len(losses) == 1 and "total_loss" in wanted:
        close(case, losses[0], wanted["total_loss"])


def objective_of(case: dict[str, Any], flat: Flat) -> tuple[Objective, int, dict[str, float]]:
    """The recipe of a case: terms, reduction, samples in a mini-batch, denominators."""
    config, name = case["config"], case["name"]
    if name.startswith("openrlhf_v0"):
        return (
            Objective([("clip", policy_term(config))], reductions.sequence_mean),
            len(flat.lengths),
            {},
        )
    terms: list[tuple[str, Any]] = (
        [("clip", policy_term(config))] if config.get("pg_loss_coeff", 1.0) else []
    )
    if config["entropy_coeff"]:
        terms.append(("entropy", lambda out, b: loss.entropy(out, b, coef=config["entropy_coeff"])))
    if config.get("use_kl_loss", True):
        options = {"coef": config["kl_loss_coef"], "estimator": "k3", "clamp": 10.0}
        terms.append(("kl", lambda out, b: loss.kl(out, b, **options)))
    if name.startswith("verl_engine"):
        totals = {
            "tokens": float(config["batch_num_tokens"]),
            "samples": float(config["global_batch_size"]),
        }
        return Objective(terms, reductions.token_mean), len(flat.lengths), totals
    mini = config["ppo_mini_batch_size"]
    if name.startswith("verl_dp_actor"):
        weigh, totals = verl_micro(
            config | {"ppo_micro_batch_size_per_gpu": config["micro_batch"]}, flat
        )
        return Objective(terms, weigh), mini, totals
    micro = config.get("ppo_micro_batch_size_per_gpu", config.get("ppo_micro_batch_size"))
    return (
        Objective(
            terms, lambda b: reductions.micro_token_mean(b, size=micro, divisor=mini // micro)
        ),
        mini,
        {},
    )


# --- Sequence masks


class Replayed:
    """An engine that answers with given tokens up to the end of text, as an engine does."""

    version = 0

    def __init__(self, responses: list[tuple[int, ...]], end: int) -> None:
        self.responses, self.end = responses, end

    def load(self, weights: Any, version: int) -> None: ...

    def generate(self, requests: Any, sampling: Sampling) -> list[Generation]:
        cut = [r[: r.index(self.end) + 1] if self.end in r else r for r in self.responses]
        return [
            Generation(r, (0.0,) * len(r), Finish.STOP if self.end in r else Finish.LENGTH)
            for r in cut
        ]


@pytest.mark.parametrize("case", cases("sequence_masks"), ids=lambda c: c["name"])
def test_what_is_trained_of_a_response(case: dict[str, Any]) -> None:
    """Every sampled token including the end of text, and nothing after it.

    Where the reference overwrites the last token of a truncated answer with the end of text, ours
    stays as sampled.
    """
    config, given, wanted = case["config"], case["inputs"], case["outputs"]
    start, end = config["input_len"], config["eos_token_id"]
    responses = [tuple(row[start:]) for row in given["sequences"]]
    decoded = SimpleNamespace(decode=lambda ids, skip_special_tokens: "")
    prompts = [
        Prompt(Draw(Problem(str(i), "math", "", ""), 0), (1,), "") for i in range(len(responses))
    ]
    found = Rollouts(Replayed(responses, end), decoded)(prompts, Sampling(), 0)
    samples = [Sample(r, Verdict(Status.WRONG), Reward(0.0, {})) for r in found]
    groups = [RewardedGroup(s.rollout.prompt.problem, (s,)) for s in samples]
    scored = collate(groups, torch.float64, torch.device("cpu"))
    masks = scored.mask.split([len(r.token_ids) for r in found])
    for mask, rollout, kind, ids, expected in zip(
        masks, found, given["row_kind"], wanted["sequences"], wanted["action_mask"], strict=True
    ):
        padded = [*mask.tolist(), *[0] * (len(expected) - len(mask))]
        assert padded == [float(m) for m in expected], kind
        kept = len(mask) - (kind == "trunc")
        assert list(rollout.token_ids[:kept]) == ids[start : start + kept], kind
        assert kind != "trunc" or (ids[start + kept] == end and rollout.token_ids[kept] != end)
