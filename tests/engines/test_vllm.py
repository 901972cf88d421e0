"""The engine of vLLM against the local one: samples, log-probabilities, ends, weights that are
fused and tied.

vLLM pins other versions of what is in constraints.txt, so it has an environment of its own: `make
vllm` sets it up and runs this file there, and so does the automated check. One engine serves all
tests of a model, since vLLM starts slowly.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support import tiny
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlvr import seeds
from rlvr.build.models import load_policy
from rlvr.config import loader
from rlvr.engines.decoder import Decoder
from rlvr.engines.vllm import vllm
from rlvr.engines.vllm_engine import Vllm
from rlvr.engines.vllm_ray import RayVllm
from rlvr.engines.vllm_weights import split_weights
from rlvr.engines.weight_check import WeightSyncCheck
from rlvr.errors import RunError, UserError
from rlvr.models.packing import Tokens
from rlvr.models.policy import Policy
from rlvr.types import Finish, Generation, Request, Sampling

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is in an environment of its own: `make vllm` runs this file",
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ENGINE = {"name": "vllm", "max_length": 128, "cache_gb": 0.25}
SHAPE: dict[str, Any] = {
    "vocab_size": len(tiny.tokenizer()),
    "hidden_size": 128,
    "intermediate_size": 192,
}
SHAPE |= {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
SHAPE |= {
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.15,
}
MODELS = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "untied, with biases": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, tie_word_embeddings=False)
    ),
}


def model(kind: str, seed: int = 0) -> Any:
    """Weights, biases and norms all differ with the seed."""
    torch.manual_seed(seed)
    module = MODELS[kind]().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    module.generation_config.eos_token_id = [1, 5, 17, 29]  # so many that some responses end
    return module


@pytest.fixture(scope="module", params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def engine(kind: str) -> Vllm:
    """Started with the weights of no seed that a test loads."""
    return vllm(
        model(kind, 99),
        tiny.tokenizer(),
        torch.float32,
        max_sequences=6,
        max_length=128,
        cache_gb=0.25,
    )


def local(module: Any) -> Decoder:
    made = Decoder(module, tiny.tokenizer(), torch.float32, 128)
    made.load(module.named_parameters(), 0)
    return made


def requests(samples: int = 3, sizes: tuple[int, ...] = (4, 1, 40, 7)) -> list[Request]:
    draw = torch.Generator().manual_seed(0)
    prompts = [tuple(torch.randint(6, 80, (size,), generator=draw).tolist()) for size in sizes]
    return [
        Request(p, tuple(seeds.key_of(i, k) for k in range(samples))) for i, p in enumerate(prompts)
    ]


def same(one: list[Generation], other: list[Generation]) -> None:
    assert [(a.token_ids, a.finish) for a in one] == [(b.token_ids, b.finish) for b in other]
    for a, b in zip(one, other, strict=True):
        assert np.allclose(a.logprobs, b.logprobs, rtol=0, atol=1e-4)


HOW = {
    "plain": Sampling(max_tokens=24),
    "cut and cool": Sampling(max_tokens=24, temperature=0.7, top_p=0.8, top_k=12),
    "hot": Sampling(max_tokens=24, temperature=1.6),
    "greedy": Sampling(max_tokens=24, temperature=0.0),
    "stop strings": Sampling(max_tokens=24, stop=("7", "aB", "x")),
    "one token": Sampling(max_tokens=1),
}


@needs_vllm
@pytest.mark.parametrize("how", HOW)
def test_samples_are_those_of_the_local_engine(kind: str, engine: Vllm, how: str) -> None:
    """Tokens, ends, and log-probabilities of the whole vocabulary, though vLLM holds six of the
    twelve at a time.
    """
    module, asked = model(kind, 1), requests()
    engine.load(module.named_parameters(), 3)
    found = engine.generate(asked, HOW[how])
    same(found, local(module).generate(asked, HOW[how]))
    assert engine.version == 3 and len(found) == 12
    if how in ("plain", "hot"):
        assert {g.finish for g in found} == {Finish.STOP, Finish.LENGTH}
        assert len({g.token_ids for g in found}) > 9


@needs_vllm
def test_log_probabilities_are_those_of_the_policy(kind: str, engine: Vllm) -> None:
    module, asked = model(kind, 2), requests()
    engine.load(module.named_parameters(), 0)
    found = engine.generate(asked, HOW["cut and cool"])
    policy = Policy(module, torch.float32, 4096, tiny.tokenizer())
    rows = [
        Tokens(r.token_ids, g.token_ids)
        for r, g in zip([r for r in asked for _ in r.keys], found, strict=True)
    ]
    scored = policy.logprobs(rows, 0.7)
    assert torch.allclose(
        scored, torch.tensor([x for g in found for x in g.logprobs]), rtol=0, atol=1e-4
    )


@needs_vllm
def test_every_weight_arrives_and_no_cache_of_the_one_before_stays(
    kind: str, engine: Vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt, long enough to be cached; then the weights one by one, each alone in its part of
    the transfer.
    """
    asked, greedy = requests(1, (100,)), Sampling(max_tokens=6, temperature=0.0)
    before, after = model(kind, 3), model(kind, 4)
    for module in (before, after, before):
        engine.load(module.named_parameters(), 0)
        same(engine.generate(asked, greedy), local(module).generate(asked, greedy))
    monkeypatch.setattr("rlvr.engines.vllm_weights.CHUNK_BYTES", 1)
    mixed = {name: weight.detach().clone() for name, weight in before.named_parameters()}
    for name, weight in after.named_parameters():
        mixed[name] = weight.detach().clone()
        engine.load(mixed.items(), 1)
        before.load_state_dict(mixed, strict=False)
        same(engine.generate(asked, greedy), local(before).generate(asked, greedy))


@needs_vllm
def test_a_sample_does_not_depend_on_its_neighbours(kind: str, engine: Vllm) -> None:
    engine.load(model(kind, 5).named_parameters(), 0)
    asked = requests(2)
    together = engine.generate(asked, HOW["plain"])
    each = [Request(r.token_ids, (key,)) for r in asked for key in r.keys]
    alone = [engine.generate([one], HOW["plain"])[0] for one in reversed(each)]
    same(together, alone[::-1])


@needs_vllm
def test_a_response_that_does_not_fit_is_refused(engine: Vllm) -> None:
    with pytest.raises(
        UserError,
        match=r"rollout\.engine\.max_length: vllm holds 128 tokens .* leaves 88 for max_t",
    ):
        engine.generate(requests(1), Sampling(max_tokens=89))


@needs_vllm
def test_threads_may_still_be_set(engine: Vllm) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


@needs_vllm
def test_a_run_learns_and_a_skipped_transfer_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loop; then the worker loses what it receives."""
    from rlvr import train
    from rlvr.engines.vllm_weights import Receiver

    model("tied").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    recipe = tiny.recipe(
        tmp_path / "model",
        run={"name": "vllm", "steps": 3, "folder": str(tmp_path / "runs"), "threads": 1},
        rollout={"engine": ENGINE, "problems": 2, "samples": 4, "max_tokens": 8},
        checkpoint={"every": 1},
    )
    train(recipe)
    rows = [
        yaml.safe_load(line)
        for line in (tmp_path / "runs/vllm/metrics.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 3 and all(
        0 <= row["mismatch"] < 1e-3 and row["mismatch_beyond_2x"] == 0 for row in rows
    )
    loaded = load_policy(loader.load(recipe))
    with torch.no_grad():
        for parameter in loaded.policy.master:
            parameter.mul_(1.02)
    monkeypatch.setattr(Receiver, "receive", lambda self, weights: None)
    with pytest.raises(RunError, match="version 1 did not arrive"):
        loaded.rollouts.load(loaded.policy.weights(), version=1)


@needs_vllm
def test_each_of_two_processes_has_an_engine(tmp_path: Path) -> None:
    model("tied").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    for name, engine, processes in (("local", {"name": "local"}, 1), ("vllm", ENGINE, 2)):
        recipe = tiny.recipe(
            tmp_path / "model",
            run={"name": name, "steps": 2, "folder": str(tmp_path / "runs"), "threads": 1},
            rollout={"engine": engine, "problems": 2, "samples": 4, "max_tokens": 8},
        )
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        command = [sys.executable, "-m", "rlvr", "train", f"{name}.yaml", "--nproc", str(processes)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = [
        [
            json.loads(line)["text"]
            for line in (tmp_path / f"runs/{name}/samples/train-000001.jsonl").open()
        ]
        for name in ("local", "vllm")
    ]
    assert said[0] == said[1] and len(said[0]) == 8
    rows = [json.loads(line) for line in (tmp_path / "runs/vllm/metrics.jsonl").open()]
    assert len(rows) == 2 and all(0 <= row["mismatch"] < 1e-3 for row in rows)


@needs_vllm
def test_engines_apart_answer_as_the_local_one_and_a_lost_one_ends_the_run() -> None:
    import ray

    module = model("tied", 3)
    there = vllm(
        model("tied", 99), tiny.tokenizer(), torch.float32, engines=2, max_length=128, cache_gb=0.25
    )
    assert isinstance(there, RayVllm) and len(there.actors) == 2
    there.load(module.named_parameters(), 7)
    assert there.version == 7
    asked = [Request((5 + i, 8, 11), tuple(range(10 * i, 10 * i + 2 + i % 2))) for i in range(5)]
    sampling = Sampling(max_tokens=12, temperature=0.9)
    found, wanted = there.generate(asked, sampling), local(module).generate(asked, sampling)
    assert [answer.token_ids for answer in found] == [
        answer.token_ids for answer in wanted
    ] and len(found) == 12
    with pytest.raises(UserError, match=r"^rollout.engine.max_length"):
        there.generate(asked, Sampling(max_tokens=1000))
    # One that keeps its old weights is found by the proof, which asks each.
    prove = WeightSyncCheck(Policy(module, torch.float32, 4096, tiny.tokenizer()))
    prove(there)
    ray.get(
        there.actors[1].load_parts.remote([ray.put(list(model("tied", 4).named_parameters()))], 8)
    )
    with pytest.raises(RunError, match="did not arrive in the engine"):
        prove(there)
    ray.kill(there.actors[1])
    with pytest.raises(RunError, match=r"^rollout.engine: an engine of vllm was lost"):
        there.generate(asked, sampling)
    ray.shutdown()


# --- What needs no vLLM


def test_parts_of_the_stream_keep_its_order_and_bound_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlvr.engines.vllm_weights.CHUNK_BYTES", 40)
    weights = [(str(i), torch.zeros(size)) for i, size in enumerate([5, 4, 6, 100, 1])]
    parts = [[name for name, _ in part] for part in split_weights(iter(weights))]
    assert parts == [["0", "1", "2"], ["3"], ["4"]]
    assert list(split_weights(iter([]))) == []


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is not None, reason="vLLM is here; `make test` runs this"
)
def test_without_vllm_the_message_says_what_to_install(tiny_model: Path) -> None:
    with pytest.raises(
        UserError, match=r"^rollout.engine: vllm needs its package: pip install 'rlvr\[vllm\]'"
    ):
        load_policy(loader.load(tiny.recipe(tiny_model, rollout={"engine": "vllm"})))


def test_float64_and_one_model_over_several_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        UserError, match=r"^model.compute: vllm computes in float32 or bfloat16, not in float64"
    ):
        vllm(model("tied"), tiny.tokenizer(), torch.float64)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match=r"^rollout.engine.tensor_parallel: beside several processes"
    ):
        vllm(model("tied"), tiny.tokenizer(), torch.float32, tensor_parallel=2)
