"""The engine: the tokens of transformers, the policy's log-probabilities, samples that depend on
their key alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import chisquare
from support import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DiffLlamaConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    JetMoeConfig,
    Lfm2Config,
    MistralConfig,
    NemotronConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from rlvr import seeds
from rlvr.engines import decoder as decoding
from rlvr.engines import module_reader
from rlvr.engines import sampling as sampling_
from rlvr.engines.decoder import Decoder
from rlvr.engines.packed_linear import PackedLinear
from rlvr.engines.sampling import sample_tokens
from rlvr.errors import RunError
from rlvr.models import kv_cache, loading
from rlvr.models.packing import Tokens
from rlvr.models.policy import Policy
from rlvr.rollouts.generate import Rollouts
from rlvr.types import Draw, Finish, Generation, Problem, Prompt, Request, Sampling

VOCABULARY = len(tiny.tokenizer())
SAMPLING = Sampling(max_tokens=24, temperature=0.9)
ENDS = [1, *range(5, 84, 12)]  # so many ends that responses finish at different steps


def sharp(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    return tiny.sharpen(tiny.model(seed, dtype))


def decoder(module: Any = None, max_sequences: int = 128, ends: Sequence[int] = (1,)) -> Decoder:
    module = module or sharp()
    module.generation_config.eos_token_id = list(ends)
    engine = Decoder(module, tiny.tokenizer(), torch.float64, max_sequences)
    engine.load(module.named_parameters(), 0)
    return engine


def prompts(*sizes: int, seed: int = 0) -> list[tuple[int, ...]]:
    draw = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 80, (size,), generator=draw).tolist()) for size in sizes]


def requests(samples: int = 3, sizes: Sequence[int] = (4, 1, 19, 7, 7)) -> list[Request]:
    return [
        Request(p, tuple(seeds.key_of(i, k) for k in range(samples)))
        for i, p in enumerate(prompts(*sizes))
    ]


def same(one: Sequence[Generation], other: Sequence[Generation]) -> bool:
    """The tokens are equal, the log-probabilities to the last few digits: matrix products round by
    their shape.
    """
    close = all(
        np.allclose(a.logprobs, b.logprobs, rtol=0, atol=1e-9)
        for a, b in zip(one, other, strict=True)
    )
    return close and all(
        (a.token_ids, a.finish) == (b.token_ids, b.finish) for a, b in zip(one, other, strict=True)
    )


BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
}
BASE |= {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
BASE |= {"initializer_range": 0.3, "max_position_embeddings": 128}
WINDOW = {"sliding_window": 8}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "mistral with a window": lambda: MistralConfig(**BASE, **WINDOW),
    "mistral without": lambda: MistralConfig(**BASE, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**BASE),
    "qwen2 with windows": lambda: Qwen2Config(
        **BASE, **WINDOW, use_sliding_window=True, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**BASE, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**BASE, **WINDOW, head_dim=8, query_pre_attn_scalar=8),
    "granite, whose logits are scaled": lambda: GraniteConfig(
        **BASE, logits_scaling=8.0, residual_multiplier=0.5
    ),
    "cohere, whose logits are scaled": lambda: CohereConfig(**BASE, logit_scale=0.25),
    "phi, whose head has a bias": lambda: PhiConfig(**BASE),
    "gpt2, with learned positions": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        eos_token_id=1,
        initializer_range=0.3,
    ),
}


def made(config: PreTrainedConfig, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).double().eval()


def generated(module: Any, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """What transformers generates greedily, alone and without padding."""
    ids = torch.tensor([prompt])
    out = module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        pad_token_id=0,
        eos_token_id=1,
    )
    return tuple(out[0, len(prompt) :].tolist())


def matches_transformers(module: Any, count: int = 20) -> None:
    asked = prompts(1, 4, 13, 21)
    found = decoder(module).generate(
        [Request(p, (1,)) for p in asked], Sampling(max_tokens=count, temperature=0)
    )
    assert [g.token_ids for g in found] == [generated(module, p, count) for p in asked]
    assert len({g.token_ids for g in found}) == len(asked)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_tokens_are_those_of_transformers(seed: int) -> None:
    matches_transformers(sharp(seed))


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_tokens_are_those_of_transformers_for_other_architectures(kind: str) -> None:
    matches_transformers(made(CONFIGS[kind]()))


def test_our_attention_is_used_only_where_it_is_full() -> None:
    ours = {
        kind: decoder(made(config())).reader.has_own_attention
        for kind, config in CONFIGS.items()
        if "window" in kind or kind == "gemma3"
    }
    assert ours == dict.fromkeys(ours, False) and len(ours) == 3
    assert decoder().reader.has_own_attention
    assert decoder(made(CONFIGS["mistral without"]())).reader.has_own_attention


def test_a_hybrid_with_convolutions_generates_as_transformers_does() -> None:
    matches_transformers(made(Lfm2Config(**BASE, layer_types=["conv", "full_attention"])))


def test_a_model_without_fused_attention_generates_as_transformers_does(tmp_path: Path) -> None:
    """Gemma 2 bounds its attention scores, so it has no `sdpa`; `model.name` may still name it."""
    config = Gemma2Config(
        **BASE, **WINDOW, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=3.0
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, attn_implementation="eager").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    module, tokenizer = loading.load(str(tmp_path), torch.float32)
    engine = Decoder(module, tokenizer, torch.float32, 128)
    engine.load(module.named_parameters(), 0)
    asked = prompts(4, 13)
    found = engine.generate(
        [Request(p, (1,)) for p in asked], Sampling(max_tokens=12, temperature=0)
    )
    assert [g.token_ids for g in found] == [generated(module, p, 12) for p in asked]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
@pytest.mark.parametrize("seed", range(2))
def test_log_probabilities_are_those_of_the_policy(temperature: float, seed: int) -> None:
    module, asked = sharp(seed), requests()
    sampling = Sampling(max_tokens=30, temperature=temperature, top_p=0.8, top_k=20)
    found = decoder(module).generate(asked, sampling)
    actor = Policy(module, torch.float64, 100_000, tiny.tokenizer())
    rows = [
        Tokens(r.token_ids, g.token_ids)
        for r, g in zip([r for r in asked for _ in r.keys], found, strict=True)
    ]
    engine = torch.tensor([x for g in found for x in g.logprobs], dtype=torch.float64)
    assert len(engine) > 300 and len(engine.unique()) > 100
    assert torch.allclose(engine, actor.logprobs(rows, temperature), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", CONFIGS)
def test_log_probabilities_are_those_of_the_plain_model_for_other_architectures(kind: str) -> None:
    module, asked = made(CONFIGS[kind]()), requests(2)
    found = decoder(module).generate(asked, SAMPLING)
    for request, answer in zip([r for r in asked for _ in r.keys], found, strict=True):
        with torch.no_grad():
            logits = module(
                torch.tensor([[*request.token_ids, *answer.token_ids]]), use_cache=False
            ).logits[0]
        logp = (logits[len(request.token_ids) - 1 : -1] / SAMPLING.temperature).log_softmax(-1)
        plain = logp.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        assert np.allclose(answer.logprobs, plain.tolist(), rtol=0, atol=1e-5)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="oneDNN is what lays weights out"
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.3)])
def test_weights_are_laid_out_while_responses_are_generated_and_say_the_same(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype is torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor does not multiply bf16")
    laid = list[int]()
    pack = PackedLinear.pack_weight
    monkeypatch.setattr(
        PackedLinear, "pack_weight", lambda layer, rows: (laid.append(rows), pack(layer, rows))[1]
    )
    module = made(CONFIGS["qwen2"]()).float()  # with biases
    module.generation_config.eos_token_id = ENDS
    engine = Decoder(module, tiny.tokenizer(), dtype, 32)
    engine.load(module.named_parameters(), 0)
    answers = engine.generate([Request(prompts(1, 9)[0], tuple(range(40)))], SAMPLING)
    # once for all waves
    assert list(dict.fromkeys(laid)) == [32, 0] and len(laid) == 2 * len(
        engine.reader.packed_linears
    )
    assert all(
        layer.packed_weight is None for layer in engine.reader.packed_linears
    )  # the memory is given back
    policy = Policy(module, dtype, 4096, tiny.tokenizer())
    scores = policy.logprobs(
        [Tokens(prompts(1, 9)[0], a.token_ids) for a in answers], SAMPLING.temperature
    )
    gap = (scores - torch.tensor([x for a in answers for x in a.logprobs])).abs()
    assert gap.max() < tolerance and scores.std() > 0.5


def test_prompts_are_read_once_for_all_their_samples_and_say_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = list[int]()
    attend = kv_cache.DecodingStep.attend
    monkeypatch.setattr(
        kv_cache.DecodingStep,
        "attend",
        lambda self, *x: (kept.append(len(self.cache.lengths)), attend(self, *x))[1],
    )
    engine, asked = decoder(ends=ENDS), requests(3)
    kept.clear()
    shared = engine.generate(asked, SAMPLING)
    # a prompt leaves with its last sample
    assert kept[0] == 5 and kept[-1] < 5 and kept == sorted(kept, reverse=True)
    kept.clear()
    engine.reader.shares_prompts = False
    assert same(engine.generate(asked, SAMPLING), shared) and not kept


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("owner", [[0, 0, 1, 2, 2, 2], [0, 0, 1, 1, 2, 2]])
def test_attention_in_parts_is_that_over_the_whole(
    owner: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    """Prompts of other lengths, blocks that fill up and move, several tokens at a time, branches that
    part and leave: as if each branch had all its keys to itself.
    """
    draw = torch.Generator().manual_seed(0)
    heads, each, size, lengths = 2, 3, 8, [5, 1, 3]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).mul(2).to(dtype)

    # keys that all lie far off, as large biases make them
    first, said = random(1, heads, 9, size) + 9, random(1, heads, 9, size)
    layer = kv_cache.KvCacheLayer()
    layer.update(first, said)
    shared = kv_cache.SharedPromptCache.start([layer], lengths)
    shared = shared.take_branches(torch.tensor(owner))
    prompts = [
        (keys.double(), values.double())
        for keys, values in zip(first[0].split(lengths, 1), said[0].split(lengths, 1), strict=True)
    ]
    histories = [prompts[number] for number in owner]
    counts, owners, distances = [0] * len(owner), list(owner), list[float]()
    for turn in range(2 * kv_cache.BLOCK_TOKENS):
        length = 1 + turn % 3
        key = random(len(counts), heads, length, size) + 9
        value = random(len(counts), heads, length, size)
        query = random(len(counts), heads, each, length, size)
        starts = [lengths[owner] + count for owner, count in zip(owners, counts, strict=True)]
        step = shared.open_step(starts, length)
        found = step.attend(0, query * 0.5, key, value)
        assert found.dtype is dtype
        assert shared.even == (len({*Counter(owners).values()}) == 1)
        for row, answer in enumerate(found.double()):
            keys = torch.cat([histories[row][0], key[row].double()], 1)
            values = torch.cat([histories[row][1], value[row].double()], 1)
            for number in range(length):
                seen = keys.shape[1] - length + number + 1
                scores = 0.5 * query[row, :, :, number].double() @ keys[:, :seen].mT
                whole = scores.softmax(-1) @ values[:, :seen]
                distances.append(float((answer[:, :, number] - whole).norm() / whole.norm()))
        # Each branch keeps some of the tokens; the others are written over.
        kept = [1 + (turn + row) % length for row in range(len(counts))]
        for row, number in enumerate(kept):
            past_keys, past_values = histories[row]
            new_keys, new_values = key[row, :, :number], value[row, :, :number]
            histories[row] = (
                torch.cat([past_keys, new_keys.double()], 1),
                torch.cat([past_values, new_values.double()], 1),
            )
            counts[row] += number
        if turn in (3, kv_cache.BLOCK_TOKENS + 1):
            # The first leaves, the second parts in two.
            parents = [1, *range(1, len(counts))]
            shared = shared.take_branches(torch.tensor(parents))
            histories, counts, owners = (
                [column[parent] for parent in parents] for column in (histories, counts, owners)
            )
    assert len(distances) > 500 and np.mean(distances) < tolerance / 2
    assert max(distances) < 2 * tolerance


def test_responses_of_one_batch_end_at_different_steps() -> None:
    """What the tests of independence below rest on: waves shrink while others go on."""
    found = decoder(ends=ENDS).generate(requests(8), SAMPLING)
    assert len({len(g.token_ids) for g in found}) > 5 and {g.finish for g in found} == {
        Finish.STOP,
        Finish.LENGTH,
    }
    assert len({g.token_ids for g in found}) > 30


def test_a_sample_is_the_same_alone() -> None:
    engine, asked = decoder(ends=ENDS), requests(4)
    alone = [
        engine.generate([Request(r.token_ids, (key,))], SAMPLING)[0]
        for r in asked
        for key in r.keys
    ]
    assert same(engine.generate(asked, SAMPLING), alone)


@pytest.mark.parametrize("max_sequences", [1, 2, 7, 19])
def test_a_sample_is_the_same_in_any_wave(max_sequences: int) -> None:
    asked = requests(4)
    whole = decoder(ends=ENDS).generate(asked, SAMPLING)
    assert same(decoder(ends=ENDS, max_sequences=max_sequences).generate(asked, SAMPLING), whole)


def test_a_sample_is_the_same_in_any_order() -> None:
    engine, asked = decoder(ends=ENDS), requests(4)
    whole = engine.generate(asked, SAMPLING)
    turned = [Request(r.token_ids, r.keys[::-1]) for r in asked[::-1]]
    assert same(engine.generate(turned, SAMPLING)[::-1], whole)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_sample_does_not_depend_on_when_the_finished_leave(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = decoder(ends=ENDS), requests(4)
    whole = engine.generate(asked, SAMPLING)
    monkeypatch.setattr(module_reader.ModuleCache, "waiting_share", share)
    assert same(engine.generate(asked, SAMPLING), whole)


@pytest.mark.parametrize(
    "kind", ["mistral with a window", "gemma3", "gpt2, with learned positions"]
)
def test_a_sample_is_the_same_in_any_company_for_other_architectures(kind: str) -> None:
    module, asked = made(CONFIGS[kind]()), requests(2)
    engine = decoder(module, ends=ENDS)
    alone = [
        engine.generate([Request(r.token_ids, (key,))], SAMPLING)[0]
        for r in asked
        for key in r.keys
    ]
    assert same(engine.generate(asked, SAMPLING), alone)
    assert same(decoder(module, 3, ENDS).generate(asked, SAMPLING), alone)


UNSHARED: dict[str, Callable[[], PreTrainedConfig]] = {
    "nemotron, which tells its attention nothing": lambda: NemotronConfig(**BASE),
    "diffllama, which rearranges the values that its cache gives": lambda: DiffLlamaConfig(**BASE),
    "jetmoe, which repeats the keys that its cache gives": lambda: JetMoeConfig(
        **BASE, kv_channels=8, num_local_experts=2, num_experts_per_tok=2
    ),
}


@pytest.mark.parametrize("kind", UNSHARED)
def test_a_model_that_would_lose_its_prompts_shares_none(kind: str) -> None:
    module, asked = made(UNSHARED[kind]()), requests(3)
    engine = decoder(module, ends=ENDS)
    assert (
        engine.reader.has_own_attention
        and not engine.reader.shares_prompts
        and decoder().reader.shares_prompts
    )
    alone = [
        engine.generate([Request(r.token_ids, (key,))], SAMPLING)[0]
        for r in asked
        for key in r.keys
    ]
    assert same(engine.generate(asked, SAMPLING), alone)


def test_a_longer_limit_only_adds_tokens() -> None:
    engine, asked = decoder(ends=ENDS), requests(4)
    long, short = (engine.generate(asked, replace(SAMPLING, max_tokens=n)) for n in (24, 5))
    assert [g.token_ids[:5] for g in long] == [g.token_ids for g in short]


def test_equal_keys_give_equal_samples_and_others_differ() -> None:
    engine, prompt = decoder(), prompts(6)[0]
    first = engine.generate([Request(prompt, (1, 2, 1))], SAMPLING)
    assert first == engine.generate([Request(prompt, (1, 2, 1))], SAMPLING)
    assert same(first[:1], first[2:]) and first[0].token_ids != first[1].token_ids


def test_answers_come_in_the_order_of_the_requests() -> None:
    """A model without layers repeats the last token of its prompt, so that a mix-up shows."""
    module = sharp()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "down_proj" in name or "o_proj" in name:
                parameter.zero_()
        module.model.norm.weight.fill_(100)
    asked = [Request(p, (1, 2)) for p in prompts(3, 9, 1, 30, 4, 9)]
    found = decoder(module, max_sequences=5).generate(asked, Sampling(max_tokens=3))
    assert [g.token_ids for g in found] == [(r.token_ids[-1],) * 3 for r in asked for _ in r.keys]


# --- Ends


def scripted(monkeypatch: pytest.MonkeyPatch, *rows: Sequence[int]) -> None:
    """Make the sampler answer with the given tokens, one row for each key 0, 1, …"""

    def answer(
        logits: Tensor,
        keys: Sequence[int],
        positions: Sequence[int],
        sampling: Sampling,
        source: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        tokens = [rows[key][position] for key, position in zip(keys, positions, strict=True)]
        return torch.tensor(tokens), torch.zeros(len(keys))

    monkeypatch.setattr(decoding, "sample_tokens", answer)


def ids(text: str) -> list[int]:
    return tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]


def rollouts(sampling: Sampling, engine: Decoder | None = None) -> list[Any]:
    prompt = Prompt(Draw(Problem("p", "math", "q", "a"), 0), prompts(5)[0], "q")
    return Rollouts(engine or decoder(), tiny.tokenizer())([prompt], sampling, 0)


def test_the_end_of_text_ends_a_response_and_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(
        monkeypatch, [7, 8, 1, 9, 9, 9], [7, 8, 9, 9, 9, 9], [1, 9, 9, 9, 9, 9], [9, 9, 9, 9, 9, 1]
    )
    found = decoder().generate([Request((5, 6), (0, 1, 2, 3))], Sampling(max_tokens=6))
    assert [(g.token_ids, g.finish.value) for g in found] == [
        ((7, 8, 1), "stop"),
        ((7, 8, 9, 9, 9, 9), "length"),
        ((1,), "stop"),
        ((9, 9, 9, 9, 9, 1), "stop"),
    ]
    assert [len(g.logprobs) for g in found] == [3, 6, 1, 6]


def test_every_configured_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [7, 40, 9], [7, 1, 9])
    found = decoder(ends=[40, 41]).generate([Request((5, 6), (0, 1))], Sampling(max_tokens=3))
    # the tokenizer's own end is one as well
    assert [g.token_ids for g in found] == [(7, 40), (7, 1)]


def test_the_text_has_neither_the_end_nor_the_stop_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.rollouts.generate.key_of", lambda *parts: parts[-1])
    scripted(monkeypatch, [*ids("ab"), 1, 9], ids("a;;b"), ids("a;bc"))
    found = rollouts(Sampling(3, 4, stop=(";;",)))
    assert [r.text for r in found] == ["ab", "a", "a;bc"]
    assert [r.token_ids for r in found] == [(*ids("ab"), 1), tuple(ids("a;;")), tuple(ids("a;bc"))]


@pytest.mark.parametrize("at", [0, 3, 10])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_stop_string_ends_a_response_where_it_is_complete(at: int, size: int) -> None:
    engine = decoder()
    free = rollouts(Sampling(8, 20), engine)
    # no special token in it
    number, sample = next((i, r) for i, r in enumerate(free) if len(r.text) == 20)
    stop = sample.text[at : at + size]
    end = sample.text.index(stop) + size
    held = rollouts(Sampling(8, 20, stop=("never so long a text", stop)), engine)[number]
    assert held.token_ids == sample.token_ids[:end] and held.finish is Finish.STOP
    assert held.text == sample.text[: end - size]


def test_a_stop_string_at_the_limit_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ids("abc"))
    assert (
        decoder().generate([Request((5,), (0,))], Sampling(max_tokens=3, stop=("c",)))[0].finish
        is Finish.STOP
    )


@pytest.mark.parametrize("stop", ["#", "→", "答案", "🙂", "a→"])
def test_a_stop_string_of_several_bytes_is_found_where_a_token_is_one_byte(
    stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytewise = byte_tokenizer()
    wanted = bytewise(f"x{stop}")["input_ids"]
    assert len(wanted) == 1 + len(stop.encode())
    scripted(monkeypatch, [*wanted, *bytewise("more")["input_ids"]])
    module = made(MistralConfig(**BASE | {"vocab_size": len(bytewise)}, sliding_window=None))
    engine = Decoder(module, bytewise, torch.float64, 8)
    found = engine.generate(
        [Request((5,), (0,))], Sampling(max_tokens=len(wanted) + 4, stop=(stop,))
    )[0]
    assert (found.token_ids, found.finish) == (tuple(wanted), Finish.STOP)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, as tokenizers of the GPT-2 family spell what they have no word for."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(
        models.BPE({"<end>": 0} | {letter: i + 1 for i, letter in enumerate(letters)}, [])
    )
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_the_limit_gives_length(limit: int) -> None:
    found = decoder(ends=()).generate(requests(2), Sampling(max_tokens=limit))
    ended = [g for g in found if g.token_ids[-1] == 1]
    assert {g.finish for g in found if g not in ended} == {Finish.LENGTH}
    assert all(len(g.token_ids) == len(g.logprobs) == limit for g in found if g not in ended)


# --- Weights


def test_weights_enter_only_through_load() -> None:
    module, other = sharp(0), sharp(1)
    engine, asked = decoder(module), requests()
    before = engine.generate(asked, SAMPLING)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-1)
    assert engine.generate(asked, SAMPLING) == before and engine.version == 0
    engine.load(other.named_parameters(), 5)
    after = engine.generate(asked, SAMPLING)
    assert after == decoder(other).generate(asked, SAMPLING) != before and engine.version == 5
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert engine.generate(asked, SAMPLING) == after


def test_an_engine_in_bf16_holds_rounded_weights_and_leaves_the_module_alone() -> None:
    module = sharp(0, torch.float32)
    engine = Decoder(module, tiny.tokenizer(), torch.bfloat16, 8)
    engine.load(module.named_parameters(), 1)
    for name, parameter in module.named_parameters():
        assert parameter.dtype is torch.float32 and parameter.requires_grad
        assert torch.equal(engine.reader.parameters[name], parameter.bfloat16())


# --- The sampler


def drawn(
    logits: Tensor, sampling: Sampling, count: int = 10_000, position: int = 0
) -> tuple[Tensor, Tensor]:
    return sample_tokens(logits[None].expand(count, -1), range(count), position, sampling)


def random_logits(size: int, seed: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(
        size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def allowed(logits: Tensor, sampling: Sampling) -> set[int]:
    """By hand: the top k with ties, and of these the fewest most likely ones whose share reaches
    top-p.
    """
    scaled = (logits / sampling.temperature).tolist()
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
    if sampling.top_k:
        edge = scaled[order[min(sampling.top_k, len(order)) - 1]]
        order = [i for i in order if scaled[i] >= edge]
    weights = np.exp([scaled[i] - scaled[order[0]] for i in order])
    before = np.concatenate([[0], np.cumsum(weights / weights.sum())[:-1]])
    return {i for i, share in zip(order, before, strict=True) if share < sampling.top_p}


@pytest.mark.parametrize("size", [5, 84, 300, 1000])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=1),
        Sampling(top_k=3),
        Sampling(top_k=5000),
        Sampling(top_p=0.5),
        Sampling(top_p=0.9, temperature=1.7),
        Sampling(top_p=1e-9),
        Sampling(top_p=0.7, top_k=4, temperature=0.5),
    ],
    ids=str,
)
def test_no_token_outside_the_allowed_is_ever_drawn(size: int, sampling: Sampling) -> None:
    for seed in range(2):
        logits = random_logits(size, seed)
        wanted = allowed(logits, sampling)
        found = set(drawn(logits, sampling)[0].tolist())
        assert found <= wanted
        assert len(wanted) > 20 or found == wanted or min_share(logits, wanted, sampling) < 2e-3


def min_share(logits: Tensor, wanted: set[int], sampling: Sampling) -> float:
    return float((logits[sorted(wanted)] / sampling.temperature).softmax(0).min())


@pytest.mark.parametrize("where", [[0], [255], [256], [299], [0, 299], [100, 256, 257]])
def test_a_token_of_no_weight_is_never_drawn(where: list[int]) -> None:
    logits = torch.full((300,), -torch.inf)
    logits[where] = 0.0
    assert set(drawn(logits, Sampling())[0].tolist()) == set(where)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
@pytest.mark.parametrize("size", [2, 7, 256, 257, 700])
def test_draws_follow_the_distribution(size: int, temperature: float) -> None:
    count = 40_000
    logits = random_logits(size, seed=size, spread=1.0)
    p = (logits / temperature).softmax(0).numpy()
    for position in (0, 13):
        found = np.bincount(
            drawn(logits, Sampling(temperature=temperature), count, position)[0].numpy(),
            minlength=size,
        )
        rare = p * count < 8
        observed, expected = (
            [*found[~rare], found[rare].sum()],
            [*(p * count)[~rare], (p * count)[rare].sum()],
        )
        keep = [i for i, value in enumerate(expected) if value > 0]
        assert chisquare([observed[i] for i in keep], [expected[i] for i in keep]).pvalue > 1e-4


def test_draws_at_two_positions_and_of_two_keys_are_independent() -> None:
    logits, count = torch.zeros(4, dtype=torch.float64), 20_000
    first, second = (drawn(logits, Sampling(), count, position)[0] for position in (0, 1))
    for one, other in ((first, second), (first[:-1], first[1:])):
        assert chisquare(np.bincount((4 * one + other).numpy(), minlength=16)).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0.7, top_p=0.6, top_k=4), Sampling(), Sampling(temperature=0.0)],
    ids=str,
)
def test_log_probabilities_are_of_the_whole_vocabulary_at_the_temperature(
    sampling: Sampling, dtype: torch.dtype
) -> None:
    """Before top-p and top-k; greedy decoding has those of temperature 1."""
    logits = random_logits(300, 1).to(dtype)
    token, logprob = drawn(logits, sampling, 500)
    exact = (logits.double() / (sampling.temperature or 1)).log_softmax(0)
    assert torch.allclose(logprob.double(), exact[token], rtol=0, atol=1e-5)
    assert (len(token.unique()) > 1) == (sampling.temperature > 0)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    logits = torch.stack([random_logits(300, seed) for seed in range(50)])
    assert torch.equal(
        sample_tokens(logits, range(50), 0, Sampling(temperature=0.0))[0], logits.argmax(-1)
    )


def test_the_sampler_writes_into_no_logits() -> None:
    for sampling in (
        Sampling(),
        Sampling(temperature=0.0),
        Sampling(top_k=2, top_p=0.5, temperature=0.5),
    ):
        logits = random_logits(300, 0).float()[None].repeat(40, 1)
        before = logits.clone()
        sample_tokens(logits, range(40), 0, sampling)
        assert torch.equal(logits, before)


@given(
    weights=arrays.arrays(
        np.float64,
        st.integers(1, 600),
        elements=st.sampled_from([0.0, 1e-300, 1e-12, 0.3, 1.0, 7.0]),
    ),
    u=st.one_of(st.sampled_from([0.0, 1 - 2.0**-53, 0.5]), st.floats(0, 1, exclude_max=True)),
)
@settings(deadline=None, max_examples=300)
def test_the_drawn_token_is_where_the_cumulative_weight_passes(
    weights: np.ndarray, u: float
) -> None:
    if weights.sum() == 0:
        weights[-1] = 1.0
    token = int(
        sampling_._draw(
            torch.tensor(weights)[None], torch.tensor([0]), torch.tensor([u], dtype=torch.float64)
        )[0]
    )
    assert weights[token] > 0
    total, slack = weights.sum(), 1e-9 * weights.sum()
    assert weights[:token].sum() - slack <= u * total <= weights[: token + 1].sum() + slack


# --- Seeds

WHOLE = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=1, max_size=50))
@settings(deadline=None)
def test_uniforms_lie_in_the_half_open_unit_interval(pairs: list[tuple[int, int]]) -> None:
    keys, places = (np.array(column, np.uint64) for column in zip(*pairs, strict=True))
    found = seeds.uniforms(keys, places)
    assert ((found >= 0) & (found < 1)).all()
    assert [
        float(seeds.uniforms(k, p)[0]) for k, p in zip(keys[:, None], places[:, None], strict=True)
    ] == found.tolist()


def test_the_largest_word_is_still_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "_mix", lambda values: np.full_like(values, 2**64 - 1))
    assert seeds.uniforms(np.zeros(1, np.uint64), np.zeros(1, np.uint64))[0] == 1 - 2.0**-53


@given(st.integers(0, 300), WHOLE)
@settings(deadline=None)
def test_a_permutation_has_every_number_once(count: int, seed: int) -> None:
    assert sorted(seeds.permutation(count, seed).tolist()) == list(range(count))


def test_keys_tell_their_parts_apart() -> None:
    parts = [(1,), ("1",), (1, 2), (12,), ("ab", "c"), ("a", "bc"), (1, "2"), ("1", 2), ()]
    assert len({seeds.key_of(*p) for p in parts}) == len(parts)
    # the same on every machine, or a resume draws anew
    assert seeds.key_of(0, "step", 3) == 105206634499946342
    assert seeds.permutation(5, 0, "order").tolist() == [0, 2, 3, 4, 1]


def test_logits_that_are_no_numbers_are_one_line() -> None:
    module = sharp(dtype=torch.float32)
    with torch.no_grad():
        module.model.norm.weight.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(
            RunError, match=r"logits divided by the temperature .* no finite numbers"
        ):
            decoder(module).generate(
                [Request((5, 6), (1,))], replace(SAMPLING, temperature=temperature)
            )


def test_a_temperature_too_low_for_the_dtype_is_one_line_or_greedy() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    _, logprob = sample_tokens(logits, [1], 0, replace(SAMPLING, temperature=1e-40))
    with pytest.raises(RunError, match="the temperature 1e-40"):
        sampling_.check_finite(logprob.tolist(), replace(SAMPLING, temperature=1e-40))


def test_a_top_p_too_small_for_the_dtype_keeps_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    token, _ = sample_tokens(logits, [1], 0, replace(SAMPLING, top_p=1e-300))
    assert token.tolist() == [1]
