"""Prompt templates: a problem as the text that the model reads.

A template never sees the answer's correctness. One that is a text alone is a row of
`data/prompts.yaml`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlvr.data.chat_template import (
    ChatTemplate,
    find_opened_thinking,
    inspect_template,
    open_answer,
    render_chat,
)
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

# Whether a prompt begins with the token that begins a text: `auto` as the tokenizer would for plain
# text and as the chat template says, or always, or never.
Bos = Literal["auto", "add", "none"]

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
    system message. A template that opens `<think>` itself has begun the answer; the tag is not
    opened twice.
    """
    messages: list[Mapping[str, Any]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    for message in problem.meta.get("before", ()):
        if system is None or message.get("role") != "system":
            messages.append(message)
    messages.append({"role": "user", "content": f"{prefix}{problem.question}{suffix}"})
    text = render_chat(messages, tokenizer, dict(chat_template_kwargs or {}))
    opened, answer = open_answer(text, prefill)
    return Rendered(opened, answer, is_chat=True)


@register("prompt", "plain")
def plain(
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str = "{question}\n",
    prefill: str = "",
) -> Rendered:
    """Fill a text with the place `{question}` in it, for base models that know no chat."""
    text = template.replace("{question}", problem.question)
    return Rendered(*open_answer(text, prefill))


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
    return Rendered(*open_answer(text, ""))


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
    bos: Bos = "auto"

    @timed("render")
    def __call__(self, draws: Sequence[Draw]) -> list[Prompt]:
        leading = find_leading_tokens(self.tokenizer)
        return [self._render(draw, leading) for draw in draws]

    def show(self, draw: Draw) -> str:
        """Return a prompt as the model reads it, with the tokens that stand before its text."""
        (prompt,) = self([draw])
        bare = self._tokenise(prompt.text)
        added = prompt.token_ids[: max(0, len(prompt.token_ids) - len(bare))]
        if not added:
            return prompt.text
        return f"{self.tokenizer.decode(list(added))}{prompt.text}"

    def describe(self, draw: Draw) -> str:
        """Return in one line what a prompt begins with, who opens the thinking, and what ends a turn."""
        (prompt,) = self([draw])
        facts = inspect_template(self.tokenizer)
        begins = self.tokenizer.decode(list(prompt.token_ids[:1]))
        thinking = _say_who_opens_thinking(prompt, facts)
        said = [f"special tokens: the prompt begins with {begins!r}", thinking]
        if facts is not None:
            said += facts.describe()
        return "; ".join(said)

    def _tokenise(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, draw: Draw, leading: tuple[int, ...]) -> Prompt:
        rendered = self.templates[draw.source](draw.problem, self.tokenizer)
        token_ids = self._begin(self._tokenise(rendered.text), leading, rendered.is_chat)
        if len(token_ids) > self.limit:
            raise UserError(
                f"rollout.max_prompt_tokens: the prompt of problem '{draw.problem.id}' has {len(token_ids)} tokens,"
                f" more than {self.limit}; raise the limit or leave the problem out"
            )
        # a template of the user's own may say nothing of what its text opens
        prefill = rendered.prefill or find_opened_thinking(rendered.text)
        return Prompt(draw, token_ids, rendered.text, prefill, rendered.is_chat)

    def _begin(
        self, token_ids: tuple[int, ...], leading: tuple[int, ...], is_chat: bool
    ) -> tuple[int, ...]:
        """Return the tokens of a prompt with what begins a text: never twice, whoever wrote it."""
        wanted = leading
        if self.bos != "auto":
            wanted = leading or self._get_bos_token()
        has_it = bool(wanted) and token_ids[: len(wanted)] == wanted
        if self.bos == "none":
            return token_ids[len(wanted) :] if has_it else token_ids
        if has_it or (self.bos == "auto" and is_chat):
            return token_ids
        return wanted + token_ids

    def _get_bos_token(self) -> tuple[int, ...]:
        token: Any = self.tokenizer.bos_token_id
        if token is not None:
            return (token,)
        if self.bos == "add":
            raise UserError(
                "rollout.bos: the model's tokenizer has no token that begins a text; leave it at auto"
            )
        return ()


def _say_who_opens_thinking(prompt: Prompt, facts: ChatTemplate | None) -> str:
    if "<think>" not in prompt.prefill:
        return "the response opens its own thinking, if any"
    who = "the recipe's prompt"
    if prompt.is_chat and facts is not None and facts.opens_thinking:
        who = "the chat template"
    return f"{who} opens <think>, so that the response begins inside the thinking"


def find_leading_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that a tokenizer puts before a text, such as `<s>`; often there are none."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start])
    return ()
