"""Prompt templates: a problem as the text that the model reads.

A template never sees the answer's correctness. One that is a text alone is a row of
`data/prompts.yaml`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.errors import UserError, suggest
from rlvr.metrics.timing import timed
from rlvr.registry import register
from rlvr.resources import load_asset
from rlvr.tasks.files import file
from rlvr.types import Draw, Problem, Prompt, Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Callable[[Problem, "PreTrainedTokenizerBase"], Rendered]

TEMPLATES = load_asset("data/prompts")

# Where a model that goes on by itself begins the next question, by the name of the prompt.
STOPS: Mapping[str, tuple[str, ...]] = {
    name: tuple(stops) for name, stops in TEMPLATES["stops"].items()
}

_OPENED_THINKING = re.compile(r"<think>\s*\Z")
_PLACES = re.compile(r"\{(question|answer)\}")


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
    """Put the model's own chat template around the question; `prefill` opens the answer
    (`<think>`).

    Messages that a row has before its question are asked before it; `system` takes the place of a
    system message.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "prompt 'chat': the model's tokenizer has no chat template; use the prompt 'plain'"
        )
    messages: list[Mapping[str, str]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    for message in problem.meta.get("before", ()):
        if system is None or message.get("role") != "system":
            messages.append(message)
    messages.append({"role": "user", "content": f"{prefix}{problem.question}{suffix}"})
    text = tokenizer.apply_chat_template(
        messages,  # type: ignore[arg-type]
        tokenize=False,
        add_generation_prompt=True,
        **dict(chat_template_kwargs or {}),
    )
    return Rendered(f"{text}{prefill}", prefill)


@register("prompt", "plain")
def plain(
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str = "{question}\n",
    prefill: str = "",
) -> Rendered:
    """Fill a text with the place `{question}` in it, for base models that know no chat."""
    return Rendered(template.replace("{question}", problem.question) + prefill, prefill)


def _register_text(name: str, template: str) -> None:
    """Register a template of `data/prompts.yaml`, a text with the place `{question}` in it."""

    def render(problem: Problem, tokenizer: PreTrainedTokenizerBase) -> Rendered:
        return plain(problem, tokenizer, template=template)

    register("prompt", name)(render)


for _name, _template in TEMPLATES["texts"].items():
    _register_text(_name, _template)


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
    """Put solved examples before the question: `examples` of question and answer in the recipe, or
    the first `count` rows of a data file, whose answer column is shown as it is.
    """
    shown = list(examples) or _read_examples(path, tuple(sorted(columns.items())))
    if not shown or not all({"question", "answer"} <= set(row) for row in shown):
        raise UserError(
            "prompt 'few_shot': needs examples with question and answer, or the path of a data file"
        )
    if count is not None and not 0 <= count <= len(shown):
        raise UserError(f"prompt 'few_shot': count is {count}, but there are {len(shown)} examples")
    text = ""
    for row in shown[:count]:
        text += _fill(template, row["question"], row["answer"])
    return Rendered(text + _fill(last, problem.question, ""))


@functools.cache
def _read_examples(
    path: str | None, columns: tuple[tuple[str, str], ...]
) -> list[Mapping[str, str]]:
    if not path:
        return []
    rows = file(path=path, columns=dict(columns))
    return [{"question": row.question, "answer": row.answer} for row in rows]


def _fill(template: str, question: str, answer: str) -> str:
    """Return the template with both filled in at once, since a question may hold braces."""
    texts = {"question": question, "answer": answer}
    return _PLACES.sub(lambda place: texts[place[1]], template)


@register("prompt", "raw")
def raw(
    problem: Problem, tokenizer: PreTrainedTokenizerBase, *, column: str | None = None
) -> Rendered:
    """Ask the question as it is, or a text that the row keeps (`column: input`), for files with
    templated prompts.

    A `<think>` at the end of the text is the beginning of the answer.
    """
    text = problem.question if column is None else problem.meta.get(column)
    if not isinstance(text, str):
        columns = [key for key, value in problem.meta.items() if isinstance(value, str)]
        known = suggest(str(column), columns)
        raise UserError(
            f"prompt 'raw': problem '{problem.id}' has no text '{column}'{known}; name it in data.columns"
        )
    opened = _OPENED_THINKING.search(text)
    return Rendered(text, opened[0] if opened else "")


@register("prompt", "think_answer")
def think_answer(
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str = "Think inside <think> </think> tags, then give only the final answer inside <answer> </answer> tags.",
    prefill: str = "<think>",
) -> Rendered:
    """Ask in the model's chat template for the form that Logic-RL rewards, with its first tag
    already opened.
    """
    return chat(problem, tokenizer, system=system, prefill=prefill)


@dataclass(frozen=True, slots=True)
class Renderer:
    """Turns a drawn problem into token ids by the template of its source."""

    templates: Sequence[Template]
    tokenizer: PreTrainedTokenizerBase
    limit: int

    @timed("render")
    def __call__(self, draws: Sequence[Draw]) -> list[Prompt]:
        return [self._render(draw) for draw in draws]

    def _render(self, draw: Draw) -> Prompt:
        rendered = self.templates[draw.source](draw.problem, self.tokenizer)
        token_ids = self.tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
        if len(token_ids) > self.limit:
            raise UserError(
                f"rollout.max_prompt_tokens: the prompt of problem '{draw.problem.id}' has {len(token_ids)} tokens,"
                f" more than {self.limit}; raise the limit or leave the problem out"
            )
        return Prompt(draw, tuple(token_ids), rendered.text, rendered.prefill)
