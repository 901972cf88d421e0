"""A model whose weights do not have the names of its class is refused, and no code of it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny
from support.worlds import in_world
from torch import Tensor

from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.errors import UserError
from rlvr.models import loading
from rlvr.models.export import export
from rlvr.models.lora import add_lora
from rlvr.models.policy import Policy

Weights = dict[str, Tensor]


def rename(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Write the weights of a model anew under other names."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def set_config(folder: Path, **keys: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def wrap(weights: Weights) -> Weights:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def drop_a_layer(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if ".layers.1." not in name}


def drop_a_norm(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if name != "model.norm.weight"}


def add_adapters(weights: Weights) -> Weights:
    return weights | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 32)}


@pytest.mark.parametrize("change", [wrap, drop_a_layer, drop_a_norm, add_adapters])
def test_weights_under_other_names_are_refused(
    tmp_path: Path, change: Callable[[Weights], Weights]
) -> None:
    folder = tiny.save(tmp_path / "tiny")
    rename(folder, change)
    with pytest.raises(UserError, match=r"model\.name: the weights of .* are not those of its"):
        loading.load(str(folder), torch.float32)


@pytest.mark.parametrize(
    "keys", [{"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"model_type": "gpt_neox"}]
)
def test_a_configuration_of_another_model_is_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    folder = tiny.save(tmp_path / "tiny")
    set_config(folder, **keys)
    with pytest.raises(UserError, match=r"^model\.name: .*tiny"):
        loading.load(str(folder), torch.float32)


def test_sizes_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny")
    set_config(folder, intermediate_size=48)
    with pytest.raises(UserError) as refused:
        loading.load(str(folder), torch.float32)
    assert "\n" not in str(refused.value)


def test_a_tied_head_may_be_left_out_and_an_untied_one_may_not(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny")
    loading.load(str(folder), torch.float32)
    set_config(folder, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"1 are missing, such as lm_head\.weight"):
        loading.load(str(folder), torch.float32)


def test_a_critic_may_come_with_another_head(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny")
    set_config(folder, tie_word_embeddings=False)
    rename(folder, lambda weights: weights | {"score.weight": torch.zeros(1, 32)})
    loading.load(str(folder), torch.float32, "critic.model", with_head=False)
    rename(folder, drop_a_layer)
    with pytest.raises(UserError, match=r"critic\.model: .* 9 are missing"):
        loading.load(str(folder), torch.float32, "critic.model", with_head=False)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_code_that_a_model_brings_along_is_neither_run_nor_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    folder = tiny.save(tmp_path / "tiny")
    classes = {"AutoConfig": "conf.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    set_config(folder, model_type="own", auto_map=classes)
    (folder / "conf.py").write_text("from pathlib import Path\nPath(__file__ + '.ran').touch()\n")
    asked: list[str] = []

    def answer(question: str = "") -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: is_terminal, raising=False)
    with pytest.raises(UserError, match=r"Python code of its own .* never run"):
        loading.load(str(folder), torch.float32)
    assert not asked
    assert not list(folder.glob("*.ran"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 0),
        ("num_attention_heads", 3),
        ("num_attention_heads", 0),
        ("hidden_size", 7),
        ("rope_parameters", {"rope_type": "nonsense"}),
        ("dtype", "float99"),
        ("num_hidden_layers", -1),
        ("model_type", "nope"),
        ("hidden_act", "nope"),
    ],
)
def test_a_configuration_of_no_model_is_one_line(tmp_path: Path, key: str, value: object) -> None:
    folder = tiny.save(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError) as caught:
        loading.load(str(folder), torch.float32)
    assert "\n" not in str(caught.value) and "model.name" in str(caught.value)


def untie(weights: Weights) -> Weights:
    """Save a head of its own, as some trainers do under a configuration that says it is tied."""
    generator = torch.Generator().manual_seed(5)
    head = torch.randn(weights["model.embed_tokens.weight"].shape, generator=generator)
    return weights | {"lm_head.weight": head}


def export_again(world: World, folder: Path, lora: bool) -> None:
    """Load a model, with adapters that say nothing yet and in shards where there are several ranks."""
    module, tokenizer = loading.load(str(folder), torch.float32)
    if lora:
        add_lora(module, rank=2, alpha=4, targets=["q_proj"], seed=0)
    policy = Policy(module, torch.float32, 1024, tokenizer, shard=world.size > 1)
    policy.distribute(world)
    export(policy, folder.parent / "out")


@pytest.mark.parametrize(("size", "lora"), [(1, False), (1, True), (2, False)])
def test_a_head_saved_apart_stays_apart(tmp_path: Path, size: int, lora: bool) -> None:
    folder = tiny.save(tmp_path / "tiny")
    rename(folder, untie)
    ids = torch.arange(3, 20)[None]
    wanted = loading.load(str(folder), torch.float32)[0](ids).logits
    if size > 1:
        in_world(size, export_again, folder, lora)
    else:
        export_again(SINGLE_PROCESS, folder, lora)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    again, _ = loading.load(str(tmp_path / "out"), torch.float32)
    assert again.get_output_embeddings().weight is not again.get_input_embeddings().weight
    torch.testing.assert_close(again(ids).logits, wanted, rtol=0, atol=0)
