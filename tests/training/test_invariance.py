"""What may not change a gradient: the split into passes, order, shared prompts, chunks, padding,
silent groups.

Everything is compared in float64, to 1e-12 of the largest entry.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.batches import (
    Recorder,
    close,
    exact_norms,  # noqa: F401
    groups_of,
    sharp,
    tokens,
)
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.models.llama.modeling_llama import LlamaMLP

from rlvr import registry
from rlvr.build.models import load_policy
from rlvr.build.run import build
from rlvr.config import loader
from rlvr.distributed.world import World
from rlvr.models import (
    attention,
    loading,
    packed_attention,
    packing,
    tensors,
    token_logprobs,
)
from rlvr.models.packing import Rows, Tokens
from rlvr.models.policy import Forward, Policy
from rlvr.models.prefix_tree import Segment, Segments
from rlvr.models.value import ValueModel, value_head
from rlvr.rollouts.filters import no_signal
from rlvr.step import State, train_step
from rlvr.training import loss, reductions
from rlvr.training.advantage import grpo
from rlvr.training.batch import Batch, MinibatchPlan
from rlvr.training.learner import Learner
from rlvr.training.objective import Objective
from rlvr.training.optimizer import LrSchedule, OptimizerStepper
from rlvr.types import (
    RewardedGroup,
)

TEMPERATURE = 0.7
TERMS: dict[str, Any] = {
    "clip": partial(loss.clip, low=0.1, high=0.2),
    "kl": partial(loss.kl, coef=0.3, estimator="k3"),
    "entropy": partial(loss.entropy, coef=0.2),
    "gspo": partial(loss.gspo, low=0.1, high=0.2),
    "cispo": partial(loss.cispo, low=0.1, high=0.2),
    "sapo": loss.sapo,
    "reinforce": loss.reinforce,
}
REDUCTIONS: dict[str, Callable[[Batch], Tensor]] = {
    "token": reductions.token_mean,
    "sequence": reductions.sequence_mean,
    "sequence_sum": reductions.sequence_sum,
    "constant": partial(reductions.constant, length=16),
}
# Those of the published runs weigh by position, so the order of samples is theirs, and the split
# into passes is ours.
POSITIONAL: dict[str, Callable[[Batch], Tensor]] = {
    "micro size": partial(reductions.micro_token_mean, size=2),
    "micro size on ranks": partial(reductions.micro_token_mean, size=2, ranks=3),
    "micro tokens": partial(reductions.micro_token_mean, tokens=30),
    "micro tokens on ranks": partial(reductions.micro_token_mean, tokens=30, ranks=2),
}
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_split = pytest.mark.parametrize("reduction", [*REDUCTIONS, *POSITIONAL])


def policy_of(seed: int = 0, budget: int = 100_000, compute: torch.dtype = torch.float64) -> Policy:
    master = torch.float32 if compute is torch.bfloat16 else compute
    return Policy(sharp(seed, master), compute, budget, tiny.tokenizer())


def learner_of(
    actor: Policy,
    reduction: str = "token",
    terms: Sequence[str] = tuple(TERMS),
    signal: Sequence[str] = (),
) -> Learner:
    bound = [(name, TERMS[name]) for name in terms]
    objective = Objective(bound, (REDUCTIONS | POSITIONAL)[reduction], signal=frozenset(signal))
    recorder: Any = Recorder(actor.master)
    updates = OptimizerStepper(actor, recorder, LrSchedule(1, 0, 1, lambda at: 1), None)
    return Learner(actor, policy_of(1), objective, updates, temperature=TEMPERATURE, keeps_old=True)


def gradients(learner: Learner, batches: Sequence[Batch]) -> Tensor:
    """The sum of the gradients of the batches, all at the same weights, as one vector."""
    recorder: Any = learner.updates.optimizer
    recorder.seen.clear()
    for batch in batches:
        assert learner.update(batch).record()["skipped_updates"] == 0
    return sum(torch.cat([grad.flatten() for grad in grads]) for grads in recorder.seen)  # type: ignore[return-value]


def batch_of(learner: Learner, groups: Sequence[RewardedGroup], moved: float = 0.3) -> Batch:
    """The batch of a later update: the old log-probabilities are the policy's no more, so that some
    ratios clip.
    """
    scored = learner.score(groups)
    assert scored.old_logprob is not None
    noise = torch.randn(
        scored.old_logprob.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    scored = replace(scored, old_logprob=scored.old_logprob + moved * noise)
    return Batch(scored, grpo(scored, World()))


@every_split
@pytest.mark.parametrize("budget", [1, 16, 64])
def test_the_split_into_passes_changes_no_gradient(reduction: str, budget: int) -> None:
    learner = learner_of(policy_of(), reduction)
    batch = batch_of(learner, groups_of())
    assert len(list(learner.policy.passes(batch.sequences))) == 1
    whole = gradients(learner, [batch])
    learner.policy.tokens_per_pass = budget
    assert len(list(learner.policy.passes(batch.sequences))) >= 2
    assert close(gradients(learner, [batch]), whole)


@every_reduction
def test_the_split_into_passes_changes_no_metric(reduction: str) -> None:
    learner = learner_of(policy_of(), reduction)
    batch = batch_of(learner, groups_of())
    whole = learner.update(batch).record()
    assert {"entropy", "mismatch", "kl", "clip_fraction", "loss", "grad_norm"} <= set(whole)
    learner.policy.tokens_per_pass = 16
    split = learner.update(batch).record()
    assert split.pop("losses") == pytest.approx(whole.pop("losses"), rel=1e-10)
    assert split == pytest.approx(whole, rel=1e-10)


@every_reduction
def test_the_order_of_the_samples_changes_no_gradient(reduction: str) -> None:
    learner = learner_of(policy_of(budget=64), reduction)
    batch = batch_of(learner, groups_of())
    for order in (range(11, -1, -1), [5, 0, 8, 2, 11, 1, 7, 3, 10, 4, 9, 6]):
        assert close(gradients(learner, [batch.select(order)]), gradients(learner, [batch]))


@every_split
@pytest.mark.parametrize("sharing", packing.Sharing)
@pytest.mark.parametrize("budget", [16, 100_000])
def test_sharing_what_texts_begin_with_changes_no_gradient(
    reduction: str, budget: int, sharing: packing.Sharing
) -> None:
    learner = learner_of(policy_of(budget=budget), reduction)
    batch = batch_of(learner, groups_of())
    assert learner.policy.packed is packing.Sharing.PREFIXES
    learner.policy.packed = sharing
    shared = gradients(learner, [batch])
    assert any(
        any(len(segments) > 2 for segments in part.rows or ())
        for part in learner.policy.passes(batch.sequences)
    )
    learner.policy.packed = None
    assert all(part.rows is None for part in learner.policy.passes(batch.sequences))
    assert close(gradients(learner, [batch]), shared)


@every_split
@pytest.mark.parametrize("chunk", [1, 3 * 84, 10**9])
def test_chunks_of_the_head_change_no_gradient(
    reduction: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(policy_of(), reduction)
    batch = batch_of(learner, groups_of())
    assert learner.policy.chunked_head
    learner.policy.chunked_head = False
    plain = gradients(learner, [batch])
    learner.policy.chunked_head = True
    monkeypatch.setattr(token_logprobs, "CHUNK_LOGITS", chunk)
    assert close(gradients(learner, [batch]), plain)


@every_reduction
@pytest.mark.parametrize("budget", [16, 100_000])
def test_gradients_are_those_of_a_loop_over_single_samples(reduction: str, budget: int) -> None:
    """No padding, no prompt and no tool's token is in the loop, so none is in the loss."""
    learner = learner_of(policy_of(budget=budget), reduction, ("clip", "kl", "entropy"))
    groups = groups_of()
    batch = batch_of(learner, groups)
    found = gradients(learner, [batch])
    assert close(found, by_hand(learner.policy.module, batch, groups, reduction))


def by_hand(module: Any, batch: Batch, groups: Sequence[RewardedGroup], reduction: str) -> Tensor:
    assert batch.old_logprob is not None
    module.zero_grad()
    reference, at = sharp(1), 0
    samples = [sample for group in groups for sample in group.samples]
    rewards = [[s.reward.value for s in group.samples] for group in groups for _ in group.samples]
    for sample, peers in zip(samples, rewards, strict=True):
        prompt, response, mask = (
            sample.rollout.prompt.token_ids,
            sample.rollout.token_ids,
            sample.rollout.mask,
        )
        mean = sum(peers) / 3
        deviation = (sum((r - mean) ** 2 for r in peers) / 2) ** 0.5
        advantage = (sample.reward.value - mean) / (deviation + 1e-6)
        logp = distributions(module, prompt, response)
        with torch.no_grad():
            ref = distributions(reference, prompt, response)
        total = torch.zeros((), dtype=torch.float64)
        for t, token in enumerate(response):
            if mask[t]:
                ratio = (logp[t, token] - batch.old_logprob[at + t]).exp()
                d = ref[t, token] - logp[t, token]
                gain = torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.2) * advantage)
                entropy = -(logp[t].exp() * logp[t]).sum()
                total = total - gain + 0.3 * (d.exp() - d - 1) - 0.2 * entropy
        at += len(response)
        everything = sum(sum(s.rollout.mask) for s in samples)
        weights = {
            "token": 1 / everything,
            "sequence": 1 / sum(mask) / 12,
            "constant": 1 / (12 * 16),
        }
        weight = (weights | {"sequence_sum": 1 / 12})[reduction]
        (total * weight).backward()
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def distributions(module: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """The log-probabilities of every token at each place of the response, by the plain model.   ->
    [R, V]
    """
    logits = module(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    return (logits[len(prompt) - 1 : -1] / TEMPERATURE).log_softmax(-1)


@every_reduction
def test_leaving_groups_without_signal_out_changes_no_gradient_of_the_policy_loss(
    reduction: str,
) -> None:
    learner = learner_of(policy_of(), reduction, ["clip"])
    groups = groups_of([[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 2, 1]])
    kept, left = batch_of(learner, groups, moved=0), batch_of(learner, no_signal(groups), moved=0)
    assert (len(kept.sequences), len(left.sequences)) == (12, 6)
    assert close(gradients(learner, [left]), gradients(learner, [kept]))


@every_reduction
@pytest.mark.parametrize("silent", [1, 2])
@pytest.mark.parametrize("equal_lengths", [True, False])
def test_leaving_groups_out_changes_no_sum_over_minibatches(
    reduction: str, silent: int, equal_lengths: bool
) -> None:
    """The parts differ, but at the same weights their gradients add up to the same: a token weighs
    as before.
    """
    learner = learner_of(policy_of(), reduction, ["clip"])
    groups = groups_of(
        [[1, 0, 1], [1, 1, 1], [0, 0, 0 if silent == 2 else 1], [0, 2, 1]], equal_lengths
    )
    kept, left = batch_of(learner, groups, moved=0), batch_of(learner, no_signal(groups), moved=0)
    assert len(left.sequences) == 12 - 3 * silent
    sums = [
        gradients(learner, list(batch.minibatches(MinibatchPlan(2), 0))) for batch in (left, kept)
    ]
    assert close(*sums)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> Counter[bool]:
    """How many samples went through the policy with gradients, and how many without."""
    found, forward = Counter[bool](), Policy.forward

    def counted(self: Policy, part: packing.Pass, temperature: float) -> Forward:
        found[torch.is_grad_enabled()] += len(part.samples)
        return forward(self, part, temperature)

    monkeypatch.setattr(Policy, "forward", counted)
    return found


SILENT = [[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 3, 1]]


@every_split
@pytest.mark.parametrize("term", ["clip", "gspo", "cispo", "sapo", "reinforce"])
def test_samples_without_an_advantage_are_only_measured(
    reduction: str, term: str, trained_on: Counter[bool]
) -> None:
    plain, learner = (
        learner_of(policy_of(budget=40), reduction, [term], signal) for signal in ([], [term])
    )
    batch = batch_of(learner, groups_of(SILENT))
    whole, metrics = gradients(plain, [batch]), plain.update(batch).record()
    trained_on.clear()
    assert close(gradients(learner, [batch]), whole)
    assert trained_on == {True: 6, False: 6}
    found = learner.update(batch).record()
    assert found.pop("losses") == pytest.approx(metrics.pop("losses"), rel=1e-10)
    assert found == pytest.approx(metrics, rel=1e-10)


@pytest.mark.parametrize("term", ["kl", "entropy"])
def test_a_term_that_needs_no_signal_is_trained_on_every_sample_that_counts(
    term: str, trained_on: Counter[bool]
) -> None:
    plain, learner = (
        learner_of(policy_of(), "token", ["clip", term], signal) for signal in ([], ["clip"])
    )
    batch = batch_of(learner, groups_of(SILENT))
    # one of a silent group, whose error was masked
    scored = replace(batch.scored, mask=batch.mask * (batch.sample != 4))
    batch = replace(batch, scored=scored)
    trained_on.clear()
    whole = gradients(learner, [batch])
    assert trained_on == {True: 11, False: 1}
    assert close(whole, gradients(plain, [batch]))


def test_without_any_signal_the_optimiser_moves_on_by_what_it_remembers(
    trained_on: Counter[bool],
) -> None:
    made = []
    for signal in ([], ["clip"]):
        learner = learner_of(policy_of(), "token", ["clip"], signal)
        learner.updates.optimizer = torch.optim.AdamW(
            learner.policy.master, lr=1e-3, weight_decay=0.1
        )
        trained_on.clear()
        for rewards in (SILENT, [[1, 1, 1]] * 4):
            learner.update(batch_of(learner, groups_of(rewards), moved=0))
        made.append(torch.cat([weight.detach().flatten() for weight in learner.policy.master]))
    assert trained_on[True] == 6 + 1
    assert close(*made)


@pytest.mark.parametrize("name", registry.list_names("loss"))
def test_a_term_that_says_so_and_no_other_is_zero_with_its_slope_without_an_advantage(
    name: str,
) -> None:
    plugin = registry.find("loss", name, "loss")
    batch = batch_of(learner_of(policy_of()), groups_of([[1, 1, 1]] * 4))
    out = Forward(
        *(
            (torch.linspace(low, -0.1, len(batch.mask)).double().requires_grad_())
            for low in (-9, -4)
        )
    )
    options = {"coef": 1.0} if "coef" in plugin.schema.model_fields else {}
    found = plugin.function(out, batch, **options)
    value = found[0] if isinstance(found, tuple) else found
    slopes = torch.autograd.grad(value.sum(), [out.logprob, out.entropy], allow_unused=True)
    zero = all(bool((x == 0).all()) for x in (value, *slopes) if x is not None)
    assert zero == ("signal" in plugin.needs)


def test_minibatches_take_every_sample_once_an_epoch_in_an_order_of_their_own() -> None:
    learner = learner_of(policy_of())
    batch = batch_of(learner, groups_of())
    parts = list(batch.minibatches(MinibatchPlan(3, 2), 0, 5))
    assert len(parts) == 6 and {len(part.sequences) for part in parts} == {4}
    for epoch in (parts[:3], parts[3:]):
        assert sorted(s.response for part in epoch for s in part.sequences) == sorted(
            s.response for s in batch.sequences
        )
    assert parts[0].sequences != parts[3].sequences
    assert [part.sequences for part in batch.minibatches(MinibatchPlan(3, 2), 0, 5)] == [
        part.sequences for part in parts
    ]


def test_minibatches_carry_the_numbers_of_their_samples() -> None:
    learner = learner_of(policy_of())
    batch = batch_of(learner, groups_of())
    rows = dict(
        zip(
            batch.sequences,
            batch.advantage.split([len(s.response) for s in batch.sequences]),
            strict=True,
        )
    )
    for part in batch.minibatches(MinibatchPlan(2), 0):
        pieces = part.advantage.split([len(s.response) for s in part.sequences])
        assert all(
            torch.equal(rows[s], piece) for s, piece in zip(part.sequences, pieces, strict=True)
        )
        owners = [i for i, s in enumerate(part.sequences) for _ in s.response]
        assert part.sample.tolist() == owners


def function_of(which: str, target: Tensor, scale: float) -> Callable[..., Any]:
    def run(hidden: Tensor, weight: Tensor) -> Any:
        logprob, entropy = token_logprobs.TokenLogProbs.apply(hidden, weight, target, scale)
        return {"logprob": logprob, "entropy": entropy, "both": (logprob, entropy)}[which]

    return run


@pytest.mark.parametrize("scale", [1.0, 1 / 0.6])
@pytest.mark.parametrize("which", ["logprob", "entropy", "both"])
@pytest.mark.parametrize(("chunk", "cached"), [(11, 11), (33, 22), (10**6, 22), (10**6, 10**6)])
def test_the_chunked_head_passes_gradcheck(
    which: str, scale: float, chunk: int, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_logprobs, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(token_logprobs, "CACHED_LOGITS", cached)
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    target = torch.randint(11, (7,), generator=draw)
    assert torch.autograd.gradcheck(
        function_of(which, target, scale), (hidden, weight), check_undefined_grad=False
    )
    logp = (hidden @ weight.T * scale).log_softmax(-1)
    found = function_of("both", target, scale)(hidden, weight)
    assert torch.allclose(found[0], logp.gather(1, target[:, None])[:, 0], rtol=0, atol=1e-12)
    assert torch.allclose(found[1], -(logp.exp() * logp).sum(-1), rtol=0, atol=1e-12)


def test_several_updates_move_the_policy_until_ratios_clip(tiny_model: Path) -> None:
    sections = {"learn": {"epochs": 2, "minibatches": 2}, "optimizer": {"lr": 2e-2}}
    built = build(
        loader.load(tiny.recipe(tiny_model, **sections)),
        None,
        lambda response: float(len(set(response))),
    )
    result = train_step(built.run, State(0, built.run.sources.start()))
    record = result.metrics.record()
    assert built.run.learner.updates.count == 4 and result.metrics.means["grad_norm"][1] == 4
    assert 0 < record["clip_fraction"] < 1  # type: ignore[operator]
    assert result.metrics.means["clip_fraction"][1] == 2 * sum(
        len(s.rollout.token_ids) for g in result.groups for s in g.samples
    )


def test_one_update_a_step_never_clips(tiny_model: Path) -> None:
    built = build(
        loader.load(tiny.recipe(tiny_model, optimizer={"lr": 2e-2})),
        None,
        lambda response: len(set(response)),
    )
    state = State(0, built.run.sources.start())
    for _ in range(3):
        result = train_step(built.run, state)
        state = result.state
        assert result.metrics.record()["clip_fraction"] == 0


def test_bf16_gradients_are_added_up_in_float32() -> None:
    actor = policy_of(budget=1, compute=torch.bfloat16)
    learner = learner_of(actor, terms=["clip"])
    assert {p.dtype for p in actor.master} == {torch.float32}
    assert {p.dtype for p in actor.module.parameters()} == {torch.bfloat16}
    batch = batch_of(learner, groups_of(), moved=0)
    assert len(list(actor.passes(batch.sequences))) >= 3
    found = gradients(learner, [batch])
    assert found.dtype is torch.float32 and {
        p.dtype for p in learner.updates.optimizer.parameters
    } == {torch.float32}  # type: ignore[attr-defined]
    weight, total = reductions.token_mean(batch), torch.zeros_like(found)
    for part in actor.passes(batch.sequences):
        piece = batch.select(part.samples)
        rows = torch.cat(
            [weight.split([len(s.response) for s in batch.sequences])[i] for i in part.samples]
        )
        (
            rows * loss.clip(actor.forward(part, TEMPERATURE), piece, low=0.1, high=0.2)[0]
        ).sum().backward()
        grads = [p.grad for p in actor.module.parameters()]
        assert {g.dtype for g in grads if g is not None} == {torch.bfloat16}
        total += torch.cat([g.flatten().float() for g in grads if g is not None])
        actor.module.zero_grad()
    assert torch.equal(found, total)


def test_updates_too_small_for_bf16_add_up_in_the_master_weights(tiny_model: Path) -> None:
    sections = {
        "model": {"name": str(tiny_model), "compute": "bfloat16"},
        "optimizer": {"lr": 1e-7},
    }
    built = build(
        loader.load(tiny.recipe(tiny_model, **sections)),
        None,
        lambda response: float(len(set(response))),
    )
    actor = built.run.learner.policy
    before = [
        (m.detach().clone(), c.detach().clone())
        for m, c in zip(actor.master, actor.module.parameters(), strict=True)
    ]
    train_step(built.run, State(0, built.run.sources.start()))
    after = list(zip(actor.master, actor.module.parameters(), strict=True))
    assert all(not torch.equal(m, old) for (m, _), (old, _) in zip(after, before, strict=True))
    assert all(torch.equal(c, m.to(torch.bfloat16)) for m, c in after)
    norms = [(c, old) for (_, c), (_, old) in zip(after, before, strict=True) if c.dim() == 1]
    assert norms and all(torch.equal(c, old) for c, old in norms)  # near 1 a bf16 step is 0.004


def test_gradient_checkpointing_computes_each_layer_twice_and_changes_no_gradient(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward, found = [], LlamaMLP.forward, []
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: calls.append(1) or forward(self, x))
    for checkpointing in (False, True):
        model = {
            "name": str(tiny_model),
            "compute": "float32",
            "gradient_checkpointing": checkpointing,
        }
        actor = load_policy(loader.load(tiny.recipe(tiny_model, model=model))).policy
        calls.clear()
        for part in actor.passes([Tokens((5, 6, 7), (8, 9, 10))]):
            actor.forward(part, 1.0).logprob.sum().backward()
        found.append(
            (len(calls), torch.cat([p.grad.flatten() for p in actor.master if p.grad is not None]))
        )
    (once, plain), (twice, checkpointed) = found
    assert (once, twice) == (2, 4) and torch.equal(plain, checkpointed)


SMALL = {"vocab_size": 84, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SMALL |= {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
SMALL |= {"initializer_range": 0.3}
WINDOW = {"sliding_window": 8}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "a head without bias": lambda: Qwen2Config(**SMALL),
    "a window": lambda: MistralConfig(**SMALL, **WINDOW),
    "a window in some layers": lambda: Qwen2Config(
        **SMALL, **WINDOW, use_sliding_window=True, max_window_layers=1
    ),
    "a window in most layers": lambda: Gemma3TextConfig(
        **SMALL, **WINDOW, head_dim=8, query_pre_attn_scalar=8
    ),
    "scaled logits": lambda: GraniteConfig(**SMALL, logits_scaling=8.0),
    "scaled logits again": lambda: CohereConfig(**SMALL, logit_scale=0.25),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_log_probabilities_are_those_of_the_plain_model_whatever_its_kind(kind: str) -> None:
    """Prompts are longer than the windows, so that what a short probe cannot see matters."""
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(CONFIGS[kind](), attn_implementation="sdpa").double()
    actor = Policy(module, torch.float64, 100_000, tiny.tokenizer())
    draw = torch.Generator().manual_seed(1)
    prompt = tokens(20, draw)
    sequences = [Tokens(prompt, tokens(length, draw)) for length in (5, 9, 3)]
    with torch.no_grad():
        plain = [
            distributions(module, s.prompt, s.response).gather(1, torch.tensor(s.response)[:, None])
            for s in sequences
        ]
    assert torch.allclose(
        actor.logprobs(sequences, TEMPERATURE), torch.cat(plain)[:, 0], rtol=0, atol=1e-5
    )


def test_a_head_with_a_bias_is_not_chunked() -> None:
    module = sharp(0)
    module.lm_head = nn.Linear(32, 84, bias=True, dtype=torch.float64)
    actor = Policy(module, torch.float64, 100_000, tiny.tokenizer())
    assert not actor.chunked_head


def test_a_published_partition_weighs_tokens_by_their_micro_batch() -> None:
    """Two ranks, two samples a micro-batch: each micro-batch has a quarter of the weight, however
    long it is.
    """
    learner = learner_of(policy_of())
    batch = batch_of(learner, groups_of()).select(range(8))
    weight = reductions.micro_token_mean(batch, size=2, ranks=2)
    parts = [float((weight * (batch.sample // 2 == part)).sum()) for part in range(4)]
    assert parts == pytest.approx([0.25] * 4)
    by_tokens = reductions.micro_token_mean(batch, tokens=40)
    lengths = [len(s.prompt) + len(s.response) for s in batch.sequences]
    groups = reductions.balance_lengths(lengths, -(-sum(lengths) // 40))
    assert len(groups) > 1 and sorted(i for g in groups for i in g) == list(range(8))
    for rows in groups:
        inside = torch.isin(batch.sample, torch.tensor(rows))
        assert float(by_tokens[inside].sum()) == pytest.approx(len(rows) / 8)


def test_scores_are_in_the_order_of_the_samples() -> None:
    actor = policy_of(budget=16)
    sequences = [
        Tokens(s.rollout.prompt.token_ids, s.rollout.token_ids)
        for g in groups_of()
        for s in g.samples
    ]
    one_by_one = torch.cat([actor.logprobs([s], TEMPERATURE) for s in sequences])
    assert torch.allclose(actor.logprobs(sequences, TEMPERATURE), one_by_one, rtol=0, atol=1e-12)


def test_rows_of_packed_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(policy_of())
    batch = batch_of(learner, groups_of())
    whole = gradients(learner, [batch])
    monkeypatch.setattr(packing, "ROW_TOKENS", 20)
    widths = [
        part.input_ids.shape[1]
        for part in packing.split_into_passes(batch.sequences, 1, packing.Sharing.PROMPTS)
    ]
    # a prompt and one response may be longer
    assert max(widths) == 23 > sorted(widths)[-2] and len(widths) > 4
    assert close(gradients(learner, [batch]), whole)


def fan(*sizes: int) -> Segments:
    """A prompt and responses that go on from it."""
    first, *others = sizes
    return (Segment(first, -1), *(Segment(size, 0) for size in others))


# Responses that begin alike, and one text within another.
TREE = (Segment(5, -1), Segment(3, 0), Segment(4, 1), Segment(1, 1), Segment(7, 0), Segment(2, 3))


@pytest.mark.parametrize("block", [3, 20, 256])
@pytest.mark.parametrize(
    "rows",
    [
        (fan(7),),
        (fan(5, 3, 4),),
        (fan(2, 19, 1, 8), fan(30), fan(1, 1, 1), fan(9, 40)),
        (TREE, fan(3, 2), TREE),
    ],
    ids=["one", "fan", "several", "tree"],
)
@pytest.mark.parametrize("offset", [0, 30])
def test_attention_in_products_has_the_outcome_and_gradients_of_the_plain_one_in_bf16(
    offset: int, rows: Rows, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all keys lie far off, as those of models with large biases do; values are narrower
    than keys, and blocks of a few queries split texts as well as they put several together.
    """
    monkeypatch.setattr(packed_attention, "QUERIES", block)
    draw, size = torch.Generator().manual_seed(0), 16
    length = sum(packing.list_lengths(rows))
    shapes = [(1, 6, length, size), (1, 2, length, size), (1, 2, length, 8), (1, length, 6, 8)]
    *lowered, slope = (torch.randn(shape, generator=draw).to(torch.bfloat16) for shape in shapes)
    lowered[1] = lowered[1] + offset
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        given = [part.detach().clone().to(dtype).requires_grad_() for part in lowered]
        out, _ = attention.attend(None, *given, None, 0.3, rows)
        out.backward(slope.to(dtype))
        found.append([out.detach(), *(part.grad for part in given)])
    assert all(part.dtype is torch.bfloat16 for part in found[0])
    assert all(
        float((a.double() - b).norm() / b.norm()) < 0.015 for a, b in zip(*found, strict=True)
    )


def test_attention_in_products_does_not_depend_on_the_other_rows_of_a_pass() -> None:
    """Keys of another row lie far off, which must not move what is taken off the keys of this one."""
    draw, sizes = torch.Generator().manual_seed(0), (40, 30, 20)
    both = [
        torch.randn(1, heads, 2 * sum(sizes), 16, generator=draw).to(torch.bfloat16)
        for heads in (6, 2, 2)
    ]
    both[1][:, :, sum(sizes) :] += 30
    alone = [part[:, :, : sum(sizes)] for part in both]
    row = fan(*sizes)
    wanted, _ = attention.attend(None, *alone, None, 0.3, (row,))
    found, _ = attention.attend(None, *both, None, 0.3, (row, row))
    assert float((found[:, : sum(sizes)] - wanted).abs().max()) <= 2**-8 * float(wanted.abs().max())


def test_short_answers_to_a_long_prompt_are_not_gathered_all_at_once() -> None:
    blocks = packed_attention._plan_blocks((fan(600, *[1] * 128), *[fan(1, 2)] * 128), 256)
    assert sum(len(block.query_tokens) for block in blocks) == 128 + 3 + 2 * 128
    assert max(block.key_tokens.numel() for block in blocks) <= 1024


def test_checkpointed_layers_have_the_gradients_of_plain_ones_in_bf16() -> None:
    def gradients_of(checkpointed: bool) -> list[torch.Tensor]:
        actor = Policy(tiny.model(0, torch.float32), torch.bfloat16, 4096, tiny.tokenizer())
        assert actor.packed
        if checkpointed:
            loading.checkpoint_layers(actor.module)
        (part,) = actor.passes([Tokens((5, 6, 7), (8, 9)), Tokens((5, 6, 7), (9, 8, 5))])
        actor.forward(part, 1.0).logprob.sum().backward()
        return [parameter.grad for parameter in actor.compute_params if parameter.grad is not None]

    plain, again = gradients_of(False), gradients_of(True)
    assert len(plain) == len(again) > 4
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("shape", [(), (3,), (1000,), (7, 5), (300, 3)], ids=str)
def test_numbers_of_another_dtype_are_added_in_pieces(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "PIECE", 16)
    total, part = torch.randn(shape), torch.randn(shape).to(torch.bfloat16)
    wanted = total + part.float()
    tensors.add_to(total, part)
    assert torch.equal(total, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_does_not_see_where_its_rows_end_is_given_padded_ones(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both() -> tuple[packing.Sharing | None, packing.Sharing | None]:
        module = tiny.sharpen(tiny.model(0, torch.float32))
        body, head = (
            copy.deepcopy(module).model,
            value_head(module.config.hidden_size, torch.float32, module.device, 0),
        )
        return Policy(module, dtype, 4096, tiny.tokenizer()).packed, ValueModel(
            body, head, dtype, 4096
        ).packed

    assert both() == (packing.Sharing.PREFIXES,) * 2
    row, blocks = attention._attend_row, packed_attention._plan_blocks
    monkeypatch.setattr(
        attention,
        "_attend_row",
        lambda q, k, v, segments, scaling: row(
            q, k, v, fan(*packing.list_lengths([segments])), scaling
        ),
    )
    monkeypatch.setattr(
        packed_attention,
        "_plan_blocks",
        lambda rows, most: blocks(
            tuple(fan(length) for length in packing.list_lengths(rows)), most
        ),
    )
    assert both() == (None, None)


def test_a_policy_may_have_a_vocabulary_of_a_few_letters() -> None:
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    assert Policy(LlamaForCausalLM(config), torch.float32, 4096, tiny.tokenizer()).packed
