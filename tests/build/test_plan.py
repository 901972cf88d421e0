"""What `rlvr show` says a run will take: shapes of known models, where memory goes, and what cures
a run too large.
"""

from __future__ import annotations

import ctypes
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from rlvr.build.estimate import estimate
from rlvr.build.memory import GIB, PROCESS
from rlvr.build.memory import plan_memory as memory
from rlvr.build.model_shape import Shape, shape_of
from rlvr.cli import main as cli
from rlvr.config import loader
from rlvr.errors import UserError
from rlvr.models.devices import count_gpus, has_fast_bf16

SMALL = Shape(parameters=1_000_000, layers=2, hidden=64, kv=32, inner=128, vocabulary=512)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("smollm2-135m-instruct", 134.5),
        ("Qwen/Qwen2.5-0.5B", 494.0),
        ("Qwen/Qwen2.5-Math-1.5B", 1543.7),
        ("Qwen/Qwen2.5-7B", 7615.6),
        ("Qwen/Qwen2.5-32B", 32763.9),
        ("meta-llama/Llama-3.2-3B-Instruct", 3212.7),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1777.1),
    ],
)
def test_models_that_are_not_here_have_the_size_that_their_makers_state(
    name: str, millions: float
) -> None:
    shape = shape_of(name)
    assert shape is not None
    assert shape.parameters / 1e6 == pytest.approx(millions, rel=2e-4)


def test_a_stranger_has_no_shape() -> None:
    assert shape_of("nobody/unheard-of") is None
    assert "unknown" in estimate(loader.load("demo", ["model.name=nobody/unheard-of"]))[-1]


def test_a_folder_is_measured_by_its_own_configuration(tiny_model) -> None:
    shape = shape_of(str(tiny_model))
    assert shape is not None
    module = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert shape.parameters == sum(p.numel() for p in module.parameters())
    assert isinstance(module.config, LlamaConfig)
    assert (shape.layers, shape.hidden) == (
        module.config.num_hidden_layers,
        module.config.hidden_size,
    )


SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 101,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
        ("mistral", {"head_dim": None}),
        ("mistral", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("qwen3", {"head_dim": 16, "attention_bias": True}),
        ("qwen3", {}),
        ("gemma", {"head_dim": 8}),
    ],
)
def test_parameters_counted_from_a_configuration_are_those_of_the_model(
    model_type: str, more: dict[str, Any], tied: bool, tmp_path: Path
) -> None:
    """The last two leave something open, or are of another family, and transformers builds them."""
    config = {**SIZES, **more, "model_type": model_type, "tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(str(tmp_path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert shape is not None
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    attention = model.base_model.layers[0].self_attn
    assert shape.kv == attention.k_proj.out_features
    assert (shape.layers, shape.hidden, shape.inner, shape.vocabulary) == (3, 48, 40, 101)


def test_a_configuration_that_nobody_can_read_has_no_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    assert shape_of(str(tmp_path)) is None


def test_the_machine_is_what_torch_says_it_is() -> None:
    assert count_gpus() == torch.cuda.device_count()
    assert has_fast_bf16() == torch.cpu._is_avx512_bf16_supported()


def test_the_parts_of_a_plain_run_on_a_cpu_by_hand() -> None:
    asked = loader.load("demo", ["model.compute=float32", "model.device=cpu", "rollout.problems=1"])
    found = memory(asked, SMALL)
    assert found["process"] == PROCESS / GIB
    for part, size in (("engine", 4e6), ("policy", 4e6), ("AdamW", 8e6)):
        assert found[part] * GIB == pytest.approx(size)
    # 64 tokens of prompt and 8 responses of 32 tokens, in each layer 14 * 64 + 2 * 32 + 4 * 128
    # numbers of 4 bytes.
    tokens, numbers = 64 + 8 * 32, 2 * (14 * 64 + 2 * 32 + 4 * 128)
    assert found["activations"] * GIB == pytest.approx(
        4 * tokens * numbers + 3 * 2**26 + 4 * 512 * 64
    )
    assert "gradients" not in found  # they come while the activations go


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("model.gradient_checkpointing=true", "activations"),
        ("learn.tokens_per_pass=512", "activations"),
        ("optimizer.states=8bit", "AdamW"),
        ("model.lora={rank: 8}", "AdamW"),
        ("rollout.engine={name: vllm, tensor_parallel: 2}", "engine"),
    ],
)
def test_each_option_that_saves_memory_saves_it_where_it_says(change: str, part: str) -> None:
    shape = shape_of("smollm2-135m-instruct")
    assert shape is not None
    before, after = memory(loader.load("demo"), shape), memory(loader.load("demo", [change]), shape)
    assert after.get(part, 0.0) < before[part]


def test_sharding_splits_what_is_trained_and_not_the_engine() -> None:
    shape = shape_of("Qwen/Qwen2.5-7B")
    assert shape is not None
    asked = loader.load("simplerl_zero_ppo")
    one, eight = memory(asked, shape), memory(asked, shape, 8)
    assert eight["AdamW"] == pytest.approx(one["AdamW"] / 8)
    assert eight["engine"] > one["AdamW"] / 8


@pytest.mark.parametrize(
    "name", ["simplerl_zero_ppo", "simplerl_zoo", "one_shot_pi1", "logic_rl_grpo", "dapo"]
)
def test_published_recipes_are_planned_on_a_machine_without_gpus(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", name, "--nproc", "8"]) == 0
    assert "memory in each of 8 processes: about" in capsys.readouterr().out


def test_what_cannot_fit_is_refused_with_the_options_that_would_make_it_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["show", "demo", "--memory", "4"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    cure = said.err.partition("it fits with ")[2].strip()
    assert cure
    assert cli.main(["show", "demo", *shlex.split(cure), "--memory", "4"]) == 0


def test_where_nothing_helps_it_says_so() -> None:
    with pytest.raises(UserError, match="more processes with --nproc, or a smaller model"):
        estimate(loader.load("demo"), limit=0.5)


GROWTH = """
import ctypes, torch
from rlvr.build.models import load_engine
from rlvr.config.schema import ModelConfig, Spec
load_engine(ModelConfig(name="{model}", device="cpu"), Spec(name="local"))

class Told(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (*"abcdefg", "used", *"ij")]

ask = ctypes.CDLL(None).mallinfo2
ask.restype = Told
wide, weight = torch.ones(900, 64).bfloat16(), torch.ones(64, 64).bfloat16()
for length in range(1, 900):
    wide[:length] @ weight
    if length == 100:
        before = ask().used
print((ask().used - before) / 2**20)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="only glibc from 2.33 on tells what is in use",
)
def test_the_products_of_lengths_long_past_are_forgotten(tiny_model: Path) -> None:
    """oneDNN would keep half a MiB for each of 800 lengths in bf16, as often as a run meets new
    ones.
    """
    code = GROWTH.format(model=tiny_model)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50
