"""Prompt templates: a problem as the text that the model reads. A template never sees the answer's correctness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlvr.errors import UserError
from rlvr.registry import register
from rlvr.types import Problem, Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@register("prompt", "chat")
def chat(
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    prefix: str = "",
    suffix: str = "",
    prefill: str = "",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Rendered:
    """The model's own chat template around the question; `prefill` opens the answer (`<think>`)."""
    if tokenizer.chat_template is None:
        raise UserError("prompt 'chat': the model's tokenizer has no chat template; use the prompt 'plain'")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": f"{prefix}{problem.question}{suffix}"})
    options = dict(chat_template_kwargs or {})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    return Rendered(f"{text}{prefill}", prefill)


@register("prompt", "plain")
def plain(
    problem: Problem, tokenizer: PreTrainedTokenizerBase, *, template: str = "{question}\n", prefill: str = ""
) -> Rendered:
    """A text with the place `{question}` in it, for base models that know no chat."""
    return Rendered(template.replace("{question}", problem.question) + prefill, prefill)


@register("prompt", "think_answer")
def think_answer(
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str = "Think inside <think> </think> tags, then give only the final answer inside <answer> </answer> tags.",
    prefill: str = "<think>",
) -> Rendered:
    """The model's chat template, with the form that Logic-RL rewards asked for and its first tag already opened."""
    return chat(problem, tokenizer, system=system, prefill=prefill)
