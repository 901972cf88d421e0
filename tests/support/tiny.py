"""A real but tiny model: two layers of Llama over characters, made from a seed, saved as any model
folder is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = (
    "0123456789+-*/=? abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ().,:;<>{}\\'\"\n"
)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


SUMS = {"name": "arithmetic", "kinds": ["add"], "levels": [1]}
NUMBER = {"name": "math", "extract": ["number"]}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, with an end-of-text token `<end>`."""
    vocabulary = {"<pad>": 0, "<end>": 1, "<unk>": 2} | {c: i + 3 for i, c in enumerate(CHARACTERS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Two layers of width 32 with grouped heads."""
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).to(dtype)


def sharpen(module: LlamaForCausalLM, factor: float = 4) -> LlamaForCausalLM:
    """Make the weights so large that every token depends on those before it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor if parameter.dim() > 1 else 1)
    return module


def save(folder: Path, seed: int = 0) -> Path:
    """The tiny model as a folder that a recipe names."""
    model(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def recipe(folder: Path, **sections: object) -> dict[str, object]:
    """A recipe that trains the tiny model in a fraction of a second a step."""
    return {
        "run": {
            "name": "tiny",
            "steps": 3,
            "seed": 0,
            "folder": str(folder.parent / "runs"),
            "threads": 1,
        },
        "model": {"name": str(folder), "compute": "float32"},
        "train": [
            {
                "data": {**SUMS, "count": 16},
                "task": NUMBER,
            }
        ],
        "rollout": {"problems": 2, "samples": 4, "max_tokens": 6},
        "optimizer": {"lr": 1e-3},
        "eval": {
            "max_tokens": 4,
            "second_verifier": False,  # its helper processes take seconds to start
            "sets": [
                {
                    "name": "heldout",
                    "data": {**SUMS, "count": 8, "split": "test"},
                    "task": NUMBER,
                }
            ],
        },
        **sections,
    }
