"""Chat templates of the kinds that models of 2024 to 2026 ship, each in the fewest words that behave so."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

import rlvr
from rlvr.build.models import add_turn_ends
from rlvr.cli import main as cli
from rlvr.cold_start import tokenise_solution
from rlvr.data import prompts
from rlvr.data.chat_template import find_turn_ends, inspect_template
from rlvr.data.prompts import Renderer
from rlvr.engines.decoder import find_end_tokens
from rlvr.errors import UserError
from rlvr.rollouts.generate import Rollouts
from rlvr.tasks.knights import check_knights
from rlvr.tasks.math import math
from rlvr.types import (
    Draw,
    Finish,
    Generation,
    Problem,
    Request,
    Response,
    Rollout,
    Sampling,
    Status,
)
from tests.support import tiny

QUESTION = Problem("p", "math", "2+2?", "4")


@dataclass(frozen=True)
class Kind:
    """A template, what it makes of one question, and the facts about it."""

    template: str
    text: str
    specials: tuple[str, ...] = ()
    opens: str = ""
    begins: str = ""
    ends: str = ""
    drops: bool = False
    system: bool = True
    bos: str | None = None
    eos: str = "<end>"


LOOP = "{% for m in messages %}"
ASKED = "{% if add_generation_prompt %}"
DROP = "{% set c = m.content.split('</think>')[-1] if m.role == 'assistant' else m.content %}"
TURNS = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles have to alternate') }}{% endif %}"
)
CHATML = f"{LOOP}<|im_start|>{{{{m.role}}}}\n{{{{m.content}}}}<|im_end|>\n{{% endfor %}}"
CHATML_TURN = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
CHATML_MARKS = ("<|im_start|>", "<|im_end|>")
HEADER = "<|start_header_id|>"
HEADER_END = "<|end_header_id|>\n\n"

KINDS = {
    "chatml": Kind(
        CHATML + ASKED + "<|im_start|>assistant\n{% endif %}",
        CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
    ),
    "chatml that never waits to be asked": Kind(
        CHATML + "<|im_start|>assistant{{'\n'}}", CHATML_TURN, CHATML_MARKS, ends="<|im_end|>"
    ),
    "smollm2 with a system of its own": Kind(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        + CHATML
        + ASKED
        + "<|im_start|>assistant\n{% endif %}",
        "<|im_start|>system\nBe kind.<|im_end|>\n" + CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
    ),
    "smollm3 without thinking": Kind(
        CHATML + ASKED + "<|im_start|>assistant\n<think>\n\n</think>\n{% endif %}",
        CHATML_TURN + "<think>\n\n</think>\n",
        CHATML_MARKS,
        ends="<|im_end|>",
    ),
    "qwen3": Kind(
        LOOP
        + DROP
        + "<|im_start|>{{m.role}}\n{{c}}<|im_end|>\n{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
        "{% endif %}{% endif %}",
        CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
        drops=True,
    ),
    "qwen3.5": Kind(
        LOOP
        + DROP
        + "<|im_start|>{{m.role}}\n{{c}}<|im_end|>\n{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n<think>\n{% endif %}",
        CHATML_TURN + "<think>\n",
        CHATML_MARKS,
        opens="<think>\n",
        ends="<|im_end|>",
        drops=True,
    ),
    "qwq without its newline": Kind(
        CHATML + ASKED + "<|im_start|>assistant\n<think>{% endif %}",
        CHATML_TURN + "<think>",
        CHATML_MARKS,
        opens="<think>",
        ends="<|im_end|>",
    ),
    "qwen-vl reads parts": Kind(
        LOOP
        + "<|im_start|>{{m.role}}\n{% for part in m.content %}{% if part.type == 'text' %}{{part.text}}{% endif %}"
        + "{% endfor %}<|im_end|>\n{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n{% endif %}",
        CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
    ),
    "llama 3": Kind(
        "{{bos_token}}"
        + LOOP
        + f"{HEADER}{{{{m.role}}}}{HEADER_END}{{{{m.content|trim}}}}<|eot_id|>{{% endfor %}}"
        + ASKED
        + f"{HEADER}assistant{HEADER_END}{{% endif %}}",
        f"<|begin_of_text|>{HEADER}user{HEADER_END}2+2?<|eot_id|>{HEADER}assistant{HEADER_END}",
        (HEADER, "<|end_header_id|>", "<|eot_id|>"),
        begins="<|begin_of_text|>",
        ends="<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "llama 4": Kind(
        "{{bos_token}}"
        + LOOP
        + "<|header_start|>{{m.role}}<|header_end|>\n\n{{m.content}}<|eot|>{% endfor %}"
        + ASKED
        + "<|header_start|>assistant<|header_end|>\n\n{% endif %}",
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\n2+2?<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n",
        ("<|header_start|>", "<|header_end|>", "<|eot|>"),
        begins="<|begin_of_text|>",
        ends="<|eot|>",
        bos="<|begin_of_text|>",
    ),
    "gemma 2": Kind(
        "{{bos_token}}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + TURNS
        + "<start_of_turn>{{'model' if m.role == 'assistant' else m.role}}\n{{m.content|trim}}<end_of_turn>\n"
        + "{% endfor %}"
        + ASKED
        + "<start_of_turn>model\n{% endif %}",
        "<bos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
        begins="<bos>",
        ends="<end_of_turn>",
        system=False,
        bos="<bos>",
    ),
    "gemma 3 puts the system into the question": Kind(
        "{{bos_token}}{% set first = '' %}{% if messages[0].role == 'system' %}"
        "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
        + LOOP
        + "<start_of_turn>{{'model' if m.role == 'assistant' else m.role}}\n"
        + "{{first if loop.first else ''}}{{m.content|trim}}<end_of_turn>\n{% endfor %}"
        + ASKED
        + "<start_of_turn>model\n{% endif %}",
        "<bos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
        begins="<bos>",
        ends="<end_of_turn>",
        bos="<bos>",
    ),
    "mistral v1": Kind(
        "{{bos_token}}"
        + TURNS
        + "{% if m.role == 'user' %}[INST] {{m.content}} [/INST]{% else %}{{m.content}}{{eos_token}}{% endif %}"
        + "{% endfor %}",
        "<s>[INST] 2+2? [/INST]",
        ("</s>",),
        begins="<s>",
        ends="</s>",
        eos="</s>",
        system=False,
        bos="<s>",
    ),
    "mistral v3": Kind(
        "{{bos_token}}"
        + TURNS
        + "{% if m.role == 'user' %}[INST]{{m.content}}[/INST]{% else %}{{m.content}}{{eos_token}}{% endif %}"
        + "{% endfor %}",
        "<s>[INST]2+2?[/INST]",
        ("[INST]", "[/INST]", "</s>"),
        begins="<s>",
        ends="</s>",
        eos="</s>",
        system=False,
        bos="<s>",
    ),
    "phi 3": Kind(
        LOOP
        + "<|{{m.role}}|>\n{{m.content}}<|end|>\n{% endfor %}"
        + ASKED
        + "<|assistant|>\n{% else %}{{eos_token}}{% endif %}",
        "<|user|>\n2+2?<|end|>\n<|assistant|>\n",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        ends="<|end|>",
    ),
    "phi 4": Kind(
        LOOP
        + "<|im_start|>{{m.role}}<|im_sep|>{{m.content}}<|im_end|>{% endfor %}"
        + ASKED
        + "<|im_start|>assistant<|im_sep|>{% endif %}",
        "<|im_start|>user<|im_sep|>2+2?<|im_end|><|im_start|>assistant<|im_sep|>",
        (*CHATML_MARKS, "<|im_sep|>"),
        ends="<|im_end|>",
    ),
    "r1 distill": Kind(
        "{{bos_token}}"
        + LOOP
        + DROP
        + "{% if m.role == 'user' %}<｜User｜>{{c}}{% elif m.role == 'system' %}{{c}}"
        + "{% else %}<｜Assistant｜>{{c}}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
        + ASKED
        + "<｜Assistant｜><think>\n{% endif %}",
        "<｜begin▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜><think>\n",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        opens="<think>\n",
        begins="<｜begin▁of▁sentence｜>",
        ends="<｜end▁of▁sentence｜>",
        drops=True,
        bos="<｜begin▁of▁sentence｜>",
    ),
    "glm has no end of turn": Kind(
        "[gMASK]<sop>"
        + LOOP
        + "<|{{m.role}}|>\n{{m.content}}{% endfor %}"
        + ASKED
        + "<|assistant|>\n{% endif %}",
        "[gMASK]<sop><|user|>\n2+2?<|assistant|>\n",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"),
        ends="<|user|>",
    ),
    "granite": Kind(
        LOOP
        + "<|start_of_role|>{{m.role}}<|end_of_role|>{{m.content}}<|end_of_text|>\n{% endfor %}"
        + ASKED
        + "<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "<|start_of_role|>user<|end_of_role|>2+2?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        ends="<|end_of_text|>",
    ),
    "command r": Kind(
        "{{bos_token}}"
        + LOOP
        + "<|START|><|{{m.role}}|>{{m.content}}<|END_OF_TURN_TOKEN|>{% endfor %}"
        + ASKED
        + "<|START|><|assistant|>{% endif %}",
        "<BOS><|START|><|user|>2+2?<|END_OF_TURN_TOKEN|><|START|><|assistant|>",
        ("<|START|>", "<|user|>", "<|assistant|>", "<|END_OF_TURN_TOKEN|>"),
        begins="<BOS>",
        ends="<|END_OF_TURN_TOKEN|>",
        bos="<BOS>",
    ),
    "command a closes the response and then the turn": Kind(
        LOOP
        + "<|START|><|{{m.role}}|>{% if m.role == 'assistant' %}<|R|>{{m.content}}<|/R|>{% else %}{{m.content}}"
        + "{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
        + ASKED
        + "<|START|><|assistant|>{% endif %}",
        "<|START|><|user|>2+2?<|END_OF_TURN_TOKEN|><|START|><|assistant|>",
        ("<|START|>", "<|user|>", "<|assistant|>", "<|R|>", "<|/R|>", "<|END_OF_TURN_TOKEN|>"),
        ends="<|END_OF_TURN_TOKEN|>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    "olmo 2": Kind(
        "{{bos_token}}"
        + LOOP
        + "<|{{m.role}}|>\n{{m.content}}{% if m.role == 'assistant' %}<|endoftext|>{% endif %}{{'\n'}}{% endfor %}"
        + ASKED
        + "<|assistant|>\n{% endif %}",
        "<|endoftext|><|user|>\n2+2?\n<|assistant|>\n",
        ("<|endoftext|>",),
        begins="<|endoftext|>",
        ends="<|endoftext|>",
        bos="<|endoftext|>",
    ),
    "olmo 3 thinks": Kind(
        CHATML + ASKED + "<|im_start|>assistant\n<think>{% endif %}",
        CHATML_TURN + "<think>",
        CHATML_MARKS,
        opens="<think>",
        ends="<|im_end|>",
    ),
    "harmony ends its thinking and its turn otherwise": Kind(
        LOOP
        + "<|start|>{{m.role}}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{m.content}}"
        + "{% if m.role == 'assistant' and loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>"
        + "{% endif %}{% endfor %}"
        + ASKED
        + "<|start|>assistant{% endif %}",
        "<|start|>user<|message|>2+2?<|end|><|start|>assistant",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
        ends="<|return|>",
        eos="<|return|>",
    ),
    "kimi": Kind(
        LOOP
        + "<|im_{{m.role}}|>{{m.role}}<|im_middle|>{{m.content}}<|im_end|>{% endfor %}"
        + ASKED
        + "<|im_assistant|>assistant<|im_middle|>{% endif %}",
        "<|im_user|>user<|im_middle|>2+2?<|im_end|><|im_assistant|>assistant<|im_middle|>",
        ("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>"),
        ends="<|im_end|>",
    ),
    "minimax": Kind(
        "]~!b["
        + LOOP
        + DROP
        + "]~b]{{'ai' if m.role == 'assistant' else m.role}}\n{{c}}[e~[\n{% endfor %}"
        + ASKED
        + "]~b]ai\n<think>\n{% endif %}",
        "]~!b[]~b]user\n2+2?[e~[\n]~b]ai\n<think>\n",
        ("]~!b[", "]~b]", "[e~["),
        opens="<think>\n",
        ends="[e~[",
        drops=True,
    ),
}

# Eight more: branches that a question of ours does not take, and what they do to one that it does.
MORE = {
    "tools have a branch of their own": Kind(
        "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
        + LOOP
        + "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>{{m.content}}</tool_response><|im_end|>\n"
        + "{% else %}<|im_start|>{{m.role}}\n{{m.content}}{% if m.tool_calls %}{% for call in m.tool_calls %}"
        + "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endif %}<|im_end|>\n{% endif %}"
        + "{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n{% endif %}",
        CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
    ),
    "a switch that thinks by itself": Kind(
        LOOP
        + DROP
        + "<|im_start|>{{m.role}}\n{{c}}<|im_end|>\n{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
        + "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}",
        CHATML_TURN + "<think>\n",
        CHATML_MARKS,
        opens="<think>\n",
        ends="<|im_end|>",
        drops=True,
    ),
    "reasoning_content of the last turn alone": Kind(
        "{% set ns = namespace(last=-1) %}"
        + LOOP
        + "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        + LOOP
        + "{% set r = '' %}{% set c = m.content %}{% if m.role == 'assistant' %}"
        + "{% if m.reasoning_content is string %}{% set r = m.reasoning_content %}"
        + "{% elif '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip() %}"
        + "{% set c = c.split('</think>')[-1].lstrip() %}{% endif %}{% endif %}"
        + "<|im_start|>{{m.role}}\n{% if r and loop.index0 > ns.last %}<think>\n{{r}}\n</think>\n\n{% endif %}"
        + "{{c}}<|im_end|>\n{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n{% endif %}",
        CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
        drops=True,
    ),
    "no generation prompt at all": Kind(
        "{{bos_token}}"
        + LOOP
        + "{% if m.role == 'user' %}### Instruction:\n{{m.content}}\n\n### Response:\n"
        + "{% elif m.role == 'system' %}{{m.content}}\n\n{% else %}{{m.content}}{{eos_token}}\n\n{% endif %}"
        + "{% endfor %}",
        "<s>### Instruction:\n2+2?\n\n### Response:\n",
        ("</s>",),
        begins="<s>",
        ends="</s>",
        eos="</s>",
        bos="<s>",
    ),
    "a default system prompt": Kind(
        "{% if messages[0].role == 'system' %}<|im_start|>system\n{{messages[0].content}}<|im_end|>\n"
        + "{% else %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
        + "{% for m in messages %}{% if not (loop.first and m.role == 'system') %}"
        + "<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endif %}{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n{% endif %}",
        "<|im_start|>system\nYou are helpful.<|im_end|>\n" + CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
    ),
    "the date of today": Kind(
        "{{bos_token}}{% if not date_string is defined %}{% if strftime_now is defined %}"
        + "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = 'never' %}{% endif %}"
        + "{% endif %}"
        + f"{HEADER}system{HEADER_END}Today Date: {{{{ date_string }}}}<|eot_id|>"
        + LOOP
        + f"{HEADER}{{{{m.role}}}}{HEADER_END}{{{{m.content|trim}}}}<|eot_id|>{{% endfor %}}"
        + ASKED
        + f"{HEADER}assistant{HEADER_END}{{% endif %}}",
        f"<|begin_of_text|>{HEADER}system{HEADER_END}Today Date: 26 Jul 2024<|eot_id|>"
        f"{HEADER}user{HEADER_END}2+2?<|eot_id|>{HEADER}assistant{HEADER_END}",
        (HEADER, "<|end_header_id|>", "<|eot_id|>"),
        begins="<|begin_of_text|>",
        ends="<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "any role but two is refused": Kind(
        LOOP
        + "{% if m.role == 'user' %}<|im_start|>user\n{{m.content}}<|im_end|>\n{% elif m.role == 'assistant' %}"
        + "<|im_start|>assistant\n{{m.content}}<|im_end|>\n{% else %}"
        + "{{ raise_exception('Only user and assistant roles are supported, got ' + m.role) }}{% endif %}"
        + "{% endfor %}"
        + ASKED
        + "<|im_start|>assistant\n{% endif %}",
        CHATML_TURN,
        CHATML_MARKS,
        ends="<|im_end|>",
        system=False,
    ),
    "a first token in the loop, which the tokenizer adds too": Kind(
        "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        + "<start_of_turn>{{m.role}}\n{{m.content|trim}}<end_of_turn>\n{% endfor %}"
        + ASKED
        + "<start_of_turn>model\n{% endif %}",
        "<bos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
        begins="<bos>",
        ends="<end_of_turn>",
        bos="<bos>",
    ),
}
KINDS |= MORE


def words(kind: Kind, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with the template and the tokens of a kind."""
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": list(kind.specials)})
    if kind.bos:
        made.add_special_tokens({"bos_token": kind.bos})
    made.add_special_tokens({"eos_token": kind.eos})
    made.chat_template = kind.template
    if adds_bos:
        add_bos(made, str(kind.bos))
    return made


def add_bos(made: PreTrainedTokenizerFast, bos: str) -> None:
    """Let the tokenizer put a token before every text, as those of Llama, Mistral and Gemma do."""
    number: Any = made.convert_tokens_to_ids(bos)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, number)]
    )


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 20


@pytest.mark.parametrize("name", KINDS)
def test_a_template_is_known(name: str) -> None:
    kind = KINDS[name]
    made = words(kind)
    rendered = prompts.chat(QUESTION, made)
    assert rendered.text == kind.text
    assert rendered.prefill == kind.opens
    facts = inspect_template(made)
    assert facts is not None
    assert facts.opens_thinking == kind.opens
    assert facts.begins == kind.begins
    assert facts.end_of_turn == kind.ends
    assert facts.drops_thinking == kind.drops
    assert facts.takes_system == kind.system
    assert find_turn_ends(made) == [made.convert_tokens_to_ids(kind.ends)]


@pytest.mark.parametrize("name", KINDS)
def test_thinking_is_opened_once(name: str) -> None:
    kind = KINDS[name]
    if not kind.system:
        with pytest.raises(UserError, match="system"):
            prompts.think_answer(QUESTION, words(kind))
        return
    rendered = prompts.think_answer(QUESTION, words(kind))
    assert rendered.text.rstrip().endswith("<think>")
    assert not rendered.text.rstrip().removesuffix("<think>").rstrip().endswith("<think>")
    assert rendered.prefill.strip() == "<think>"


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].bos])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_chat_prompt_begins_as_its_template_says(name: str, adds_bos: bool) -> None:
    made = words(KINDS[name], adds_bos)
    (prompt,) = Renderer([prompts.chat], made, 1024)([Draw(QUESTION, 0)])
    assert prompt.token_ids[:2].count(made.bos_token_id) == 1
    assert prompt.token_ids[0] == made.bos_token_id
    (bare,) = Renderer([prompts.chat], made, 1024, "none")([Draw(QUESTION, 0)])
    assert bare.token_ids == prompt.token_ids[1:]
    (forced,) = Renderer([prompts.chat], made, 1024, "add")([Draw(QUESTION, 0)])
    assert forced.token_ids == prompt.token_ids


def test_a_plain_prompt_begins_as_the_tokenizer_would() -> None:
    kind = KINDS["mistral v1"]
    silent = words(kind)
    adding = words(kind, adds_bos=True)
    start = adding.bos_token_id
    draws = [Draw(QUESTION, 0)]
    for template in (prompts.plain, prompts.raw):
        (without,) = Renderer([template], silent, 99)(draws)
        assert start not in without.token_ids
        (with_one,) = Renderer([template], adding, 99)(draws)
        assert with_one.token_ids == (start, *without.token_ids)
        assert Renderer([template], adding, 99).show(draws[0]) == f"<s>{without.text}"
        (bare,) = Renderer([template], adding, 99, "none")(draws)
        assert bare.token_ids == without.token_ids
        (forced,) = Renderer([template], silent, 99, "add")(draws)
        assert forced.token_ids == with_one.token_ids
    written = [Draw(Problem("p", "math", "<s>2+2?", "4"), 0)]
    (once,) = Renderer([prompts.raw], adding, 99)(written)
    assert once.token_ids.count(start) == 1


def test_a_tokenizer_that_has_no_first_token_cannot_be_made_to_add_one() -> None:
    with pytest.raises(UserError, match=r"rollout\.bos"):
        Renderer([prompts.plain], tiny.tokenizer(), 99, "add")([Draw(QUESTION, 0)])


@pytest.mark.parametrize("name", KINDS)
def test_a_cold_start_ends_its_target_as_the_template_ends_a_turn(name: str) -> None:
    made = words(KINDS[name])
    solved = Problem("p", "math", "2+2?", "4", solution="4")
    (prompt,) = Renderer([prompts.chat], made, 1024)([Draw(solved, 0)])
    (end,) = find_turn_ends(made)
    assert tokenise_solution(prompt, made, end)[-2:] == (made.convert_tokens_to_ids("4"), end)
    assert tokenise_solution(prompt, made)[-1] == made.eos_token_id  # rollout.turn_ends: config
    (plain,) = Renderer([prompts.plain], made, 1024)([Draw(solved, 0)])
    assert tokenise_solution(plain, made, end)[-1] == made.eos_token_id


OPENS = "{% for m in messages %}<{{m['role']}}>{{m['content']}}\n{% endfor %}<assistant><think>\n"
PUZZLE = Problem("k", "knights", "who?", "(1) Zoey is a knight\n(2) Tom is a knave")


def render_with(template: str, problem: Problem) -> str:
    made = tiny.tokenizer()
    made.chat_template = template
    (prompt,) = Renderer([prompts.chat], made, 99)([Draw(problem, 0)])
    return prompt.prefill


def test_thinking_that_the_template_opened_counts_for_the_form() -> None:
    prefill = render_with(OPENS, PUZZLE)
    text = "so</think><answer>(1) Zoey is a knight\n(2) Tom is a knave</answer>"
    assert check_knights(PUZZLE, Response(text, prefill=prefill)).formatted
    assert not check_knights(PUZZLE, Response(text)).formatted
    assert check_knights(PUZZLE, Response(text, prefill="<think>\nOkay,")).formatted


@pytest.mark.parametrize("text", [r"perhaps \boxed{4}, or is it 5? Let me", r"\boxed{4}"])
def test_an_answer_inside_thinking_that_never_ends_is_none(text: str) -> None:
    prefill = render_with(OPENS, QUESTION)
    verdict = math(QUESTION, Response(text, truncated=True, prefill=prefill))
    assert verdict.status is Status.TRUNCATED  # type: ignore[union-attr]
    told = math(QUESTION, Response(f"{text}</think> \\boxed{{4}}", prefill=prefill))
    assert told.status is Status.CORRECT  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "template", [prompts.plain, prompts.raw, lambda problem, tokenizer: prompts.Rendered("<think>")]
)
def test_every_prompt_that_ends_in_an_opened_tag_has_begun_the_answer(template: Any) -> None:
    problem = Problem("p", "math", "2+2?<think>\n", "4")
    (prompt,) = Renderer([template], tiny.tokenizer(), 99)([Draw(problem, 0)])
    assert prompt.prefill.strip() == "<think>"
    closed = Problem("p", "math", "<think>\n\n</think>\n\n", "4")
    (prompt,) = Renderer([prompts.raw], tiny.tokenizer(), 99)([Draw(closed, 0)])
    assert prompt.prefill == ""


SYSTEM = {"role": "system", "content": "be brief"}
REFUSALS = {
    "no system role": "{% if messages[0].role == 'system' %}"
    "{{ raise_exception('no such role') }}{% endif %}{{ messages[-1].content }}",
    "roles alternate": TURNS + "{{m.content}}{% endfor %}",
    "a syntax error": "{% for m in messages %}{{ m.content }",
    "an unknown filter": "{{ messages[-1].content | shout }}",
    "an undefined name": "{{ messages[0].tools.first }}{{ messages[-1].content }}",
    "a forbidden attribute": "{{ messages.__class__.__mro__ }}{{ messages[-1].content }}",
    "a sum of kinds": "{{ messages[0].content + 1 }}{{ messages[-1].content }}",
    "a division by zero": "{{ 1 // 0 }}{{ messages[-1].content }}",
    "no place for the question": "hello",
    "nothing at all": "",
    "several without a default": {"rag": "{{ messages }}"},
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_template_that_raises_is_one_line(name: str) -> None:
    made = tiny.tokenizer()
    made.chat_template = REFUSALS[name]  # type: ignore[assignment]
    made.name_or_path = "some/model"
    asked = Problem("p", "math", "2+2?", "4", {"before": [SYSTEM]})
    with pytest.raises(UserError) as refused:
        prompts.chat(asked, made)
    said = str(refused.value)
    assert "\n" not in said
    assert "prompt 'chat'" in said
    assert "some/model" in said
    assert "system, user" in said
    assert said.count("; ") >= 1


def test_a_model_without_a_template_is_one_line_that_names_it() -> None:
    made = tiny.tokenizer()
    made.chat_template = None
    made.name_or_path = "some/base"
    with pytest.raises(UserError, match=r"some/base.*has no chat template; use the prompt 'plain'"):
        prompts.chat(QUESTION, made)
    assert inspect_template(made) is None
    assert find_turn_ends(made) == []


def test_parts_of_text_are_joined_and_others_are_named() -> None:
    made = tiny.tokenizer()
    made.chat_template = "{% for m in messages %}{{ m['role'] + m['content'] }}|{% endfor %}"
    parts = [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]
    asked = Problem("p", "math", "2+2?", "4", {"before": [{"role": "system", "content": parts}]})
    assert prompts.chat(asked, made).text == "systembe brief|user2+2?|"
    image = [{"type": "image", "url": "x"}]
    shown = Problem("p", "math", "2+2?", "4", {"before": [{"role": "user", "content": image}]})
    with pytest.raises(UserError, match=r"role 'user' has a part that is no text \(image\)"):
        prompts.chat(shown, made)


@pytest.mark.parametrize("kwargs", [{"enable_thinking": False}, {"enable_thinking": True}, None])
def test_a_switch_of_the_recipe_decides_who_opens_the_thinking(kwargs: dict[str, bool]) -> None:
    made = words(KINDS["a switch that thinks by itself"])
    asks = partial(prompts.chat, chat_template_kwargs=kwargs)
    line = Renderer([asks], made, 99).describe(Draw(QUESTION, 0))
    thinks = kwargs != {"enable_thinking": False}
    assert ("the chat template opens <think>" in line) == thinks
    assert ("the response opens its own thinking" in line) == (not thinks)


def test_who_opens_the_thinking_is_the_template_or_the_recipe() -> None:
    for name, who in [
        ("qwen3.5", "the chat template opens"),
        ("chatml", "the recipe's prompt opens"),
    ]:
        render = Renderer([prompts.think_answer], words(KINDS[name]), 999)
        assert who in render.describe(Draw(QUESTION, 0))


def test_a_prompt_with_a_date_is_the_same_every_day_and_takes_the_recipe_s() -> None:
    made = words(KINDS["the date of today"])
    assert prompts.chat(QUESTION, made) == prompts.chat(QUESTION, made)
    given = prompts.chat(QUESTION, made, chat_template_kwargs={"date_string": "1 May 1999"})
    assert "Today Date: 1 May 1999" in given.text


def test_reasoning_of_earlier_turns_is_dropped_and_said() -> None:
    made = words(KINDS["reasoning_content of the last turn alone"])
    before = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2", "reasoning_content": "one more than one"},
    ]
    asked = Problem("p", "math", "2+2?", "4", {"before": before})
    text = prompts.chat(asked, made).text
    assert "one more" not in text
    assert "assistant\n2<|im_end|>" in text
    facts = inspect_template(made)
    assert facts is not None and facts.drops_thinking


@pytest.mark.parametrize("mark", ["<|im_end|>", "<end_of_turn>", "<|user|>", "[e~["])
def test_a_second_turn_that_the_model_invents_never_decides(mark: str) -> None:
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": [mark, "<|other|>"]})  # type: ignore[dict-item]
    for said, wanted in [
        (f"It is \\boxed{{4}}.{mark}\nuser: 1+1?{mark}\n\\boxed{{2}}", Status.CORRECT),
        (f"It is \\boxed{{2}}.{mark}\nuser: 2+2?{mark}\n\\boxed{{4}}", Status.WRONG),
        (f"It is 2.{mark}\n\\boxed{{4}}", Status.NO_ANSWER),
    ]:
        rollout = sample(made, said)
        assert mark in rollout.text
        assert math(QUESTION, rollout.response).status is wanted  # type: ignore[union-attr]
    assert sample(made, f"\\boxed{{4}}{mark}<end>").text == r"\boxed{4}"
    assert sample(made, r"<|other|>\boxed{4}<|other|>").text == r"\boxed{4}"


def test_the_end_of_harmony_s_thinking_ends_no_turn() -> None:
    made = words(KINDS["harmony ends its thinking and its turn otherwise"])
    said = r"<|channel|>a<|message|>5?<|end|><|start|>b<|channel|>c<|message|>\boxed{4}<|return|>"
    rollout = sample(made, said)
    assert math(QUESTION, rollout.response).status is Status.CORRECT  # type: ignore[union-attr]


def sample(made: PreTrainedTokenizerFast, text: str) -> Rollout:
    """Return what becomes of a text that the engine sampled."""
    (prompt,) = Renderer([prompts.raw], made, 99)([Draw(QUESTION, 0)])
    token_ids = tuple(made(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
    return Rollouts(Said(token_ids), made)([prompt], Sampling(), 0)[0]


@dataclass
class Said:
    """Stands for an engine that says the same to everything."""

    token_ids: tuple[int, ...]
    version: int = 0

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        logprobs = (0.0,) * len(self.token_ids)
        return [Generation(self.token_ids, logprobs, Finish.STOP) for _ in requests]

    def load(self, weights: object, version: int) -> None:
        """Take nothing."""


def test_the_end_of_the_template_ends_responses_beside_that_of_the_configuration() -> None:
    made = words(KINDS["chatml"])
    module = tiny.model()
    end: Any = made.convert_tokens_to_ids("<|im_end|>")
    add_turn_ends(module, made)
    assert find_end_tokens(module, made) == {1, end}
    again = tiny.model()
    add_turn_ends(again, tiny.tokenizer())
    assert again.generation_config.eos_token_id == tiny.model().generation_config.eos_token_id  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3.5", "opens <think>, so that the response begins inside the thinking"),
        ("qwen3.5", "drops the thinking of earlier turns"),
        ("chatml", "the response opens its own thinking"),
        ("llama 3", "begins with '<|begin_of_text|>'"),
        ("glm has no end of turn", "ends a turn with <|user|>"),
        ("gemma 2", "takes no system message"),
    ],
)
def test_the_log_says_what_the_template_does(name: str, said: str) -> None:
    render = Renderer([prompts.chat], words(KINDS[name]), 1024)
    line = render.describe(Draw(QUESTION, 0))
    assert said in line
    assert "\n" not in line


def test_show_prints_the_first_prompts_without_the_model(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((tiny_model / name).read_bytes())
    (model / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    (model / "chat_template.jinja").write_text(KINDS["qwen3.5"].template)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: {model}\ntrain: {{data: {{name: inline, rows: [{{question: '2+2?', answer: '4'}}]}}, prompt: chat}}\n"
    )
    assert cli.main(["show", str(recipe), "--prompts"]) == 0
    said = capsys.readouterr().out
    assert yaml.safe_load(said)["train"][0]["prompt"]["name"] == "chat"
    shown = "\n".join(line.removeprefix("# ") for line in said.splitlines())
    assert f"the first prompt of train.0:\n{CHATML_TURN}<think>\n" in shown
    assert "the chat template opens <think>" in shown
    assert cli.main(["show", str(recipe)]) == 0
    assert "first prompt" not in capsys.readouterr().out


def test_an_evaluation_takes_the_first_token_that_it_is_told(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    made = tiny.tokenizer()
    made.add_special_tokens({"bos_token": "<end>"})
    made.save_pretrained(model)
    row = {
        "name": "sums",
        "data": {"name": "inline", "rows": [{"question": "1+1?", "answer": "2"}]},
    }
    for bos, begins in [("add", "<end>1"), ("none", "1"), (None, "1")]:
        rlvr.evaluate(str(model), [{**row, "prompt": "plain"}], max_tokens=1, bos=bos)
        assert f"the first prompt:\n{begins}+1?" in capsys.readouterr().out
    with pytest.raises(UserError, match="bos: should be one of auto, add, none"):
        rlvr.evaluate(str(model), [row], bos="yes")  # type: ignore[arg-type]
