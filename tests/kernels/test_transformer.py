"""Passes in compiled code: what transformers computes, with the same bits in any company."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from support import tiny
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlvr.config import loader
from rlvr.engines.compiled_reader import CompiledReader
from rlvr.engines.decoder import Decoder
from rlvr.engines.module_reader import ModuleReader
from rlvr.errors import UserError
from rlvr.kernels import library, transformer
from rlvr.kernels.library import load_library
from rlvr.kernels.pages import PAGE_TOKENS, PagePool, PageTables
from rlvr.kernels.transformer import CompiledTransformer, Rows, is_supported
from rlvr.types import Generation, Request, Sampling

# The compiled code needs a processor with AVX-512 for bf16, and a compiler.
compiled = pytest.mark.skipif(
    load_library() is None, reason="this processor or this machine's compiler cannot run it"
)

VOCABULARY = len(tiny.tokenizer())
# Sizes that fill no block of columns, and three query heads to a key head.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
LLAMA3_ROTATION = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama, untied": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | {"tie_word_embeddings": False})
    ),
    "llama, one key head": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | {"num_attention_heads": 8, "num_key_value_heads": 1})
    ),
    "llama, heads of 128": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | {"head_dim": 128, "num_attention_heads": 4})
    ),
    "llama, heads of 64": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | {"head_dim": 64, "num_attention_heads": 2})
    ),
    "llama 3 rotations": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROTATION)
    ),
    "qwen2, with biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3, with norms of heads": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
}


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """A model whose every weight has a say, biases and norms among them."""
    torch.manual_seed(seed)
    module = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return module


def load(module: PreTrainedModel, bits: Literal[8, 16] = 16) -> CompiledTransformer:
    made = CompiledTransformer(module, bits)
    made.load(module.named_parameters())
    return made


def read(made: CompiledTransformer, *texts: list[int]) -> list[Tensor]:
    """The logits after every token of texts that are read in one pass.   [T, V] each"""
    tables = PageTables(PagePool(made.page_bytes), len(texts))
    rows = Rows([], [], [], [])
    for branch, text in enumerate(texts):
        tables.make_room(branch, 0, len(text))
        rows.tokens.extend(text)
        rows.positions.extend(range(len(text)))
        rows.branches.extend([branch] * len(text))
    rows.outputs.extend(range(len(rows.tokens)))
    return list(made.run(rows, tables).split([len(text) for text in texts]))


def text_of(length: int, seed: int = 0) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()


@compiled
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str) -> None:
    """As near to those of float32 as the module itself comes in bf16, which rounds in the same places."""
    module = make(name)
    assert is_supported(module)
    text = text_of(75)
    (found,) = read(load(module), text)
    with torch.no_grad():
        exact = module(torch.tensor([text])).logits[0]
        rounded = copy.deepcopy(module).bfloat16()(torch.tensor([text])).logits[0].float()
    size = exact.norm()
    assert (found.float() - exact).norm() < 1.3 * (rounded - exact).norm() + 1e-3 * size
    assert (rounded - exact).norm() < 0.1 * size  # or the comparison would say nothing


@compiled
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_8_bits_lose_little(name: str) -> None:
    module = make(name)
    text = text_of(75)
    (found,) = read(load(module, 8), text)
    with torch.no_grad():
        exact = module(torch.tensor([text])).logits[0]
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight = torch.nn.Parameter(quantise(layer.weight))
        by_weights = module(torch.tensor([text])).logits[0]
    # Rows lose as much as weights do, and both something in bf16.
    lost = (by_weights - exact).norm()
    assert 0 < lost < 0.1 * exact.norm()
    assert (found.float() - exact).norm() < 3 * lost + 0.02 * exact.norm()


def quantise(weight: Tensor) -> Tensor:
    """Weights as whole numbers up to 127 of a scale that 64 of a row have in common."""
    groups = torch.nn.functional.pad(weight, (0, -weight.shape[1] % 64)).unflatten(1, (-1, 64))
    scale = groups.abs().amax(2, keepdim=True).clamp(min=1e-30) / 127
    return ((groups / scale).round() * scale).flatten(1)[:, : weight.shape[1]]


@compiled
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["llama", "llama, one key head", "llama, heads of 64"])
def test_a_row_has_the_same_bits_in_any_company(
    name: str, bits: Literal[8, 16], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load(make(name), bits)
    texts = [text_of(length, length) for length in (1, 2, 7, 16, 17, 40, 70)]
    alone = [read(made, text)[0] for text in texts]
    for found, wanted in zip(read(made, *texts), alone, strict=True):
        assert torch.equal(found, wanted)
    monkeypatch.setattr(transformer, "MOST_ROWS", 11)  # passes that cut texts in two
    for found, wanted in zip(read(made, *reversed(texts)), reversed(alone), strict=True):
        assert torch.equal(found, wanted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        assert torch.equal(read(made, *texts)[-1], alone[-1])
    finally:
        torch.set_num_threads(before)


@compiled
def test_token_after_token_has_the_bits_of_the_whole_text() -> None:
    made = load(make("llama"))
    text = text_of(50)
    (whole,) = read(made, text)
    tables = PageTables(PagePool(made.page_bytes), 1)
    for position, token in enumerate(text):
        tables.make_room(0, position, position + 1)
        logits = made.run(Rows([token], [position], [0], [0]), tables)
        assert torch.equal(logits[0], whole[position])


@compiled
def test_branches_that_part_keep_what_they_have_in_common() -> None:
    """Guesses that did not hold are written over, in pages that nobody else reads."""
    made = load(make("llama"))
    reader = CompiledReader(make("llama"))
    reader.load(make("llama").named_parameters())
    stem = text_of(21)
    cache, logits = reader.read_prompts([tuple(stem)])
    assert torch.equal(logits.values[0], read(made, stem)[0][-1])
    reader.read_tokens(cache, [[5, 6, 7, 8]], [21])
    # Three go on: one with all that was guessed, two with one token of it.
    cache.take_branches([0, 0, 0], [25, 22, 22])
    tails = [[5, 6, 7, 8], [5], [5]]
    for turn in range(20):
        more = [[9 + turn], [40 + turn, 3], [60 - turn]]
        starts = [len(stem) + len(tail) for tail in tails]
        logits = reader.read_tokens(cache, more, starts)
        for number, (tail, tokens) in enumerate(zip(tails, more, strict=True)):
            wanted = read(made, [*stem, *tail, *tokens])[0]
            first = logits.first[number]
            found = logits.values[first : first + len(tokens)]
            assert torch.equal(found, wanted[-len(tokens) :])
            tail.append(tokens[0])
    cache.take_branches([2], [len(stem) + len(tails[2])])
    assert reader.pool.count_used() == -(-(len(stem) + len(tails[2])) // PAGE_TOKENS)
    cache.close()
    assert reader.pool.count_used() == 0


@compiled
@pytest.mark.parametrize("shared", [0, 3, PAGE_TOKENS, 2 * PAGE_TOKENS + 5])
def test_what_prompts_begin_with_is_read_once(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load(make("llama"))
    reader = CompiledReader(make("llama"))
    reader.load(make("llama").named_parameters())
    stem = text_of(shared)
    prompts = [(*stem, *text_of(length, length)) for length in (4, 30, 1, 9)]
    asked: list[int] = []
    run = CompiledTransformer.run

    def count(self: CompiledTransformer, rows: Rows, tables: PageTables) -> Tensor:
        asked.append(len(rows.tokens))
        return run(self, rows, tables)

    monkeypatch.setattr(CompiledTransformer, "run", count)
    cache, logits = reader.read_prompts(prompts)
    whole = sum(map(len, prompts))
    assert sum(asked) == whole - (3 * shared if shared >= PAGE_TOKENS else 0)
    for prompt, row in zip(prompts, logits.values, strict=True):
        assert torch.equal(row, read(made, list(prompt))[0][-1])
    # Each goes on by itself.
    after = reader.read_tokens(cache, [[7], [8], [9], [7]], [len(prompt) for prompt in prompts])
    for prompt, token, row in zip(prompts, (7, 8, 9, 7), after.values, strict=True):
        assert torch.equal(row, read(made, [*prompt, token])[0][-1])
    cache.close()
    assert reader.pool.count_used() == 0


def generate(module: PreTrainedModel, **options: Any) -> list[Generation]:
    engine = Decoder(module, tiny.tokenizer(), torch.bfloat16, options.pop("wave", 128), **options)
    engine.load(module.named_parameters(), 1)
    requests = [Request(tuple(text_of(4 + 9 * at, at)), tuple(range(5))) for at in range(4)]
    return engine.generate(requests, Sampling(5, 40, temperature=1.0))


@compiled
def test_generation_in_compiled_code_does_not_depend_on_waves_or_guesses() -> None:
    module = make("llama")
    whole = generate(module)
    assert isinstance(Decoder(module, tiny.tokenizer(), torch.bfloat16, 8).reader, CompiledReader)
    assert len({generation.token_ids for generation in whole}) > 10
    for options in ({"wave": 7}, {"wave": 1}, {"drafts": 7}, {"drafts": 3, "wave": 6}):
        assert generate(module, **options) == whole


@compiled
def test_quantised_weights_sample_and_the_exact_ones_evaluate() -> None:
    module = make("llama")
    engine = Decoder(module, tiny.tokenizer(), torch.bfloat16, 8, quantised=True)
    engine.load(module.named_parameters(), 1)
    plain = Decoder(module, tiny.tokenizer(), torch.bfloat16, 8)
    plain.load(module.named_parameters(), 1)
    asked = [Request(tuple(text_of(9, at)), tuple(range(3))) for at in range(3)]
    sampling = Sampling(3, 20, temperature=1.0)
    exact = engine.generate(asked, replace(sampling, exact=True))
    assert exact == plain.generate(asked, sampling)
    quantised = engine.generate(asked, sampling)
    assert quantised != exact
    for generation in quantised:
        assert all(value <= 0 for value in generation.logprobs)


def test_quantised_weights_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(
        UserError, match=r"^rollout\.engine\.weights: int8 needs a Llama-like model"
    ):
        Decoder(make("llama"), tiny.tokenizer(), torch.float32, 8, quantised=True)


def test_quantised_rollouts_are_corrected_by_themselves() -> None:
    recipe = {"train": [{"data": "arithmetic"}]}
    int8 = "rollout.engine={name: local, weights: int8}"
    assert loader.load(recipe).loss.correction.name == "none"
    assert loader.load(recipe, [int8]).loss.correction.name == "importance"
    assert loader.load(recipe, [int8, "loss.correction=none"]).loss.correction.name == "none"


@compiled
def test_what_the_compiled_code_does_not_know_is_left_to_transformers() -> None:
    others: list[PreTrainedModel] = [
        GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=32, n_layer=1, n_head=2)),
        LlamaForCausalLM(LlamaConfig(**SIZES | {"hidden_act": "gelu"})),
        LlamaForCausalLM(LlamaConfig(**SIZES | {"head_dim": 8})),
        LlamaForCausalLM(LlamaConfig(**SIZES, mlp_bias=True)),
        LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True)),
        MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
        LlamaForCausalLM(
            LlamaConfig(
                **SIZES,
                rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
            )
        ),
    ]
    assert not any(map(is_supported, others))
    module = make("llama")
    for dtype, wanted in ((torch.bfloat16, CompiledReader), (torch.float32, ModuleReader)):
        assert isinstance(Decoder(module, tiny.tokenizer(), dtype, 8).reader, wanted)
    plain = Decoder(module, tiny.tokenizer(), torch.bfloat16, 8, compiled=False)
    assert isinstance(plain.reader, ModuleReader)


def test_without_a_compiler_everything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(library, "_has_instructions", lambda: True)
    library.load_library.cache_clear()
    try:
        assert library.load_library() is None
        module = make("llama")
        assert isinstance(Decoder(module, tiny.tokenizer(), torch.bfloat16, 8).reader, ModuleReader)
    finally:
        library.load_library.cache_clear()


@compiled
def test_it_is_compiled_once_in_the_user_s_cache(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "rlvr.kernels.library"]
    for _ in range(2):
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert said.stdout == "  kernels for AVX-512: compiled\n"
        made = list(tmp_path.rglob("*"))
        assert [path.suffix for path in made if path.is_file()] == [".so"]
    (only,) = (path for path in made if path.is_file())
    before = only.stat().st_mtime_ns
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert only.stat().st_mtime_ns == before
