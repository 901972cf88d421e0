"""Prompt templates: a problem as the text that the model reads. A template never sees the answer's correctness."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlvr.errors import UserError, suggest
from rlvr.registry import register
from rlvr.tasks.files import file
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


QWEN = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
R1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant"
    " first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning"
    " process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think>"
    " reasoning process here </think> <answer> answer here </answer>. User: {question}. Assistant:"
)
# Where a model that goes on by itself begins the next question: an evaluation ends its answers there as well. The
# reference also ends those of abel at "Answer:" and those of Qwen at the words "user" and "assistant", which cuts
# answers in their middle, and is left out.
STOPS: Mapping[str, tuple[str, ...]] = {
    "abel": ("Question:",),
    "simple": ("Question:",),
    "few_shot": ("\n\nQuestion:",),
    "deepseek-r1": ("\nUser:",),
}


@register("prompt", "qwen25-math-cot")
def qwen25_math_cot(problem: Problem, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The template of Qwen2.5-Math, with which SimpleRL v0 and One-Shot-RLVR evaluate."""
    return Rendered(QWEN.replace("{system}", BOXED).replace("{question}", problem.question))


@register("prompt", "qwen-boxed")
def qwen_boxed(problem: Problem, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The template of SimpleRL-Zoo for models that follow instructions: the box is asked for after the question."""
    system = QWEN.replace("{system}", "You are a helpful assistant.")
    return Rendered(system.replace("{question}", f"{problem.question}\n{BOXED}"))


@register("prompt", "simple")
@register("prompt", "abel")
def abel(problem: Problem, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The template of SimpleRL-Zoo for weak base models, which its scripts call abel and its paper simple."""
    return Rendered(f"Question:\n{problem.question}\nAnswer:\nLet's think step by step.\n")


@register("prompt", "deepseek-r1")
def deepseek_r1(problem: Problem, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The template of DeepSeek-R1-Zero (table 1 of its paper), for base models."""
    return Rendered(R1.replace("{question}", problem.question))


@register("prompt", "few_shot")
def few_shot(
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    *,
    examples: tuple[Mapping[str, str], ...] = (),
    path: str | None = None,
    count: int | None = None,
    columns: Mapping[str, str] = {},
    template: str = "Question: {question}\nAnswer: {answer}\n\n",
    last: str = "Question: {question}\nAnswer:",
) -> Rendered:
    """Solved examples before the question: `examples` of question and answer in the recipe, or the first `count` rows
    of a data file, whose answer column is shown as it is."""
    shown = list(examples) or _examples(path, tuple(sorted(columns.items())))
    if not shown or not all({"question", "answer"} <= set(row) for row in shown):
        raise UserError("prompt 'few_shot': needs examples with question and answer, or the path of a data file")
    if count is not None and not 0 <= count <= len(shown):
        raise UserError(f"prompt 'few_shot': count is {count}, but there are {len(shown)} examples")
    parts = [_filled(template, row["question"], row["answer"]) for row in shown[:count]]
    return Rendered("".join(parts) + _filled(last, problem.question, ""))


@functools.cache
def _examples(path: str | None, columns: tuple[tuple[str, str], ...]) -> list[Mapping[str, str]]:
    rows = file(path=path, columns=dict(columns)) if path else []
    return [{"question": row.question, "answer": row.answer} for row in rows]


def _filled(template: str, question: str, answer: str) -> str:
    """The template with both filled in at once, since a question may hold braces."""
    return re.sub(r"\{(question|answer)\}", lambda found: question if found[1] == "question" else answer, template)


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
