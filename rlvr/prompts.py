"""Prompt templates: a problem as the text that the model reads. A template never sees the answer's correctness."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlvr.errors import UserError, suggest
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
    """The model's own chat template around the question; `prefill` opens the answer (`<think>`).

    Messages that a row has before its question are asked before it; `system` takes the place of a system message.
    """
    if tokenizer.chat_template is None:
        raise UserError("prompt 'chat': the model's tokenizer has no chat template; use the prompt 'plain'")
    before = problem.meta.get("before", ())
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [message for message in before if system is None or message.get("role") != "system"]
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


@register("prompt", "raw")
def raw(problem: Problem, tokenizer: PreTrainedTokenizerBase, *, column: str | None = None) -> Rendered:
    """The question as it is, or a text that the row keeps (`column: input`), for files with templated prompts.

    A `<think>` at the end of the text is the beginning of the answer.
    """
    text = problem.question if column is None else problem.meta.get(column)
    if not isinstance(text, str):
        known = suggest(str(column), (key for key, value in problem.meta.items() if isinstance(value, str)))
        raise UserError(
            f"prompt 'raw': problem '{problem.id}' keeps no text '{column}'{known}; name it in data.columns"
        )
    opened = re.search(r"<think>\s*\Z", text)
    return Rendered(text, opened[0] if opened else "")


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
