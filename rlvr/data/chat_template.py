"""What a model's chat template does: its text of a conversation, who opens the thinking, what ends a turn.

A chat template is a program that comes with a model. What it raises is a `UserError` of one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from rlvr.errors import UserError
from rlvr.tasks.formats import join_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

# What the code of a template can raise: its own refusals, and whatever its expressions run into.
FAULTS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# The date that templates write which ask for today's: a prompt is the same on every day, so that a
# run or evaluation goes on where it ended. It is the date that those of Llama fall back on.
TODAY = date(2024, 7, 26)

_DATE_DIRECTIVES = [f"%{letter}" for letter in "aAbBdFHIjmMpSyY"]

_OPENED_THINKING = re.compile(r"<think>\s*\Z")

# Words that stand for a question, for thinking and for an answer while a template is looked at.
_QUESTION = "Qrlvrq"
_NEXT = "Nrlvrn"
_THOUGHT = "Trlvrt"
_ANSWER = "Arlvra"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The facts about a chat template, found out with words that stand for a conversation."""

    opens_thinking: str = (
        ""  # the tail of the prompt that belongs to the answer, such as "<think>\n"
    )
    drops_thinking: bool = False  # of earlier turns
    takes_system: bool = True
    begins: str = ""  # the special token that it writes first, such as "<s>"
    end_of_turn: str = ""  # the token behind an answer, such as "<|im_end|>"

    def describe(self) -> Iterator[str]:
        """Yield what is worth knowing before a run begins."""
        if self.drops_thinking:
            yield "the chat template drops the thinking of earlier turns"
        if not self.takes_system:
            yield "the chat template takes no system message"
        yield f"the chat template begins with {self.begins or 'no special token'}"
        yield f"the chat template ends a turn with {self.end_of_turn or 'no special token'}"


def find_opened_thinking(text: str) -> str:
    """Return the tail of a prompt that opens the thinking.   find_opened_thinking("A:<think>") -> "<think>" """
    opened = _OPENED_THINKING.search(text)
    return opened[0] if opened else ""


def open_answer(text: str, prefill: str) -> tuple[str, str]:
    r"""Return a prompt with its prefill, and all of its tail that belongs to the answer.

    A `<think>` that the prompt has opened is not opened again.

    >>> open_answer("A:<think>\n", "<think>"), open_answer("A:", "<think>")
    (('A:<think>\n', '<think>\n'), ('A:<think>', '<think>'))
    """
    opened = find_opened_thinking(text)
    if opened and prefill.startswith("<think>"):
        prefill = prefill.removeprefix("<think>").lstrip()
    return text + prefill, opened + prefill


def join_parts(message: Message) -> Message:
    """Return a message with the parts of its content as one text.

    Raises UserError for a part that is no text, such as an image.
    """
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return message
    text = join_texts(content)
    if text is None:
        kinds = ", ".join(_name_part(part) for part in content if join_texts([part]) is None)
        raise UserError(
            f"prompt 'chat': a message of the role '{message.get('role')}' has a part that is no text"
            f" ({kinds or 'none at all'}); leave it out of the row"
        )
    return {**message, "content": text}


def _name_part(part: object) -> str:
    if isinstance(part, Mapping):
        return str(part.get("type", "without a type"))
    return type(part).__name__


def render_chat(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> str:
    """Return the text in which the model reads a conversation, up to where its answer begins.

    Raises UserError where there is no template, where it raises, and where it leaves out the last
    message.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            f"prompt 'chat': the model's tokenizer{_name_model(tokenizer)} has no chat template;"
            " use the prompt 'plain'"
        )
    joined = [join_parts(message) for message in messages]
    try:
        return _render_shown(joined, tokenizer, options)
    except FAULTS as fault:
        raise UserError(_explain(fault, joined, tokenizer, options)) from None


def _render_shown(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> str:
    """Return the text of a conversation in which the last message stands.

    Templates of models that also see read the content as a list of parts: a text would vanish.
    """
    text = _apply(messages, tokenizer, options)
    if _is_shown(messages, text):
        return text
    parts: list[Message] = []
    for message in messages:
        parts.append({**message, "content": [{"type": "text", "text": message["content"]}]})
    try:
        in_parts = _apply(parts, tokenizer, options)
    except FAULTS:
        in_parts = ""
    if _is_shown(messages, in_parts):
        return in_parts
    probe = [*messages[:-1], {**messages[-1], "content": _QUESTION}]
    if _QUESTION not in _apply(probe, tokenizer, options):
        raise ValueError("its text does not hold the question")
    return text  # it holds the question, which it writes in its own way


def _is_shown(messages: Sequence[Message], text: str) -> bool:
    return str(messages[-1]["content"]).strip() in text


def _apply(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> str:
    settings: dict[str, Any] = {
        "tokenize": False,
        "add_generation_prompt": True,
        **_fix_date(tokenizer),
        **options,
    }
    text: Any = tokenizer.apply_chat_template(list(messages), **settings)  # type: ignore[arg-type]
    return text


def _fix_date(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the template in which today is always the same day, where it asks for today.

    A function cannot be handed to a template (transformers makes a text of it), but a template can
    define one.
    """
    template: Any = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str) or "strftime_now" not in template:
        return {}
    written = "format"
    for directive in _DATE_DIRECTIVES:
        written += f" | replace('{directive}', '{TODAY.strftime(directive)}')"
    # the empty expression keeps a line break with which the template may begin
    macro = f"{{% macro strftime_now(format) %}}{{{{ {written} }}}}{{% endmacro %}}{{{{ '' }}}}"
    return {"chat_template": macro + template}


def _explain(
    fault: BaseException,
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> str:
    """Return one line that names the template, the roles that it was given, what it said and what helps."""
    lines = str(fault).strip().splitlines() or [type(fault).__name__]
    roles = [str(message.get("role")) for message in messages]
    return (
        f"prompt 'chat': the chat template{_name_model(tokenizer)} refuses messages of the roles"
        f" {', '.join(roles)}: {lines[0]}; {_find_cure(messages, tokenizer, options)}"
    )


def _find_cure(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> str:
    """Return what helps, by asking the template for less."""
    if options and _takes(messages, tokenizer, {}):
        return "it takes them without chat_template_kwargs: mend those"
    without_system = [message for message in messages if message.get("role") != "system"]
    if len(without_system) < len(messages) and _takes(without_system, tokenizer, options):
        return "it takes no role 'system': use the prompt 'chat' with prefix in place of system"
    if len(messages) > 1 and _takes(messages[-1:], tokenizer, options):
        return (
            "it takes the role 'user' alone: leave the earlier messages out of the row, or let user"
            " and assistant take turns"
        )
    return "use the prompt 'plain', or mend chat_template.jinja of the model"


def _takes(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> bool:
    try:
        return bool(_apply(messages, tokenizer, options))
    except FAULTS:
        return False


def _name_model(tokenizer: PreTrainedTokenizerBase) -> str:
    name = getattr(tokenizer, "name_or_path", "")
    return f" of '{name}'" if name else ""


def inspect_template(
    tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None = None
) -> ChatTemplate | None:
    """Return the facts about the chat template of a tokenizer; None where it has none or takes no question."""
    settings = dict(options or {})
    question = _say("user", _QUESTION)
    try:
        prompt = render_chat([question], tokenizer, settings)
    except UserError:
        return None
    return ChatTemplate(
        opens_thinking=find_opened_thinking(prompt),
        drops_thinking=_drops_thinking(tokenizer, settings),
        takes_system=_takes_system(tokenizer, settings),
        begins=_find_first_token(prompt, tokenizer),
        end_of_turn=_find_end_of_turn(tokenizer, settings),
    )


def _say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _render_or_nothing(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> str:
    try:
        return _render_shown(messages, tokenizer, options)
    except FAULTS:
        return ""


def _takes_system(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> bool:
    said = [_say("system", _NEXT), _say("user", _QUESTION)]
    return _NEXT in _render_or_nothing(said, tokenizer, options)


def _drops_thinking(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> bool:
    """Return whether an answer of an earlier turn stays and its thinking does not."""
    answer = f"<think>\n{_THOUGHT}\n</think>\n\n{_ANSWER}"
    said = [_say("user", _QUESTION), _say("assistant", answer), _say("user", _NEXT)]
    text = _render_or_nothing(said, tokenizer, options)
    return _ANSWER in text and _THOUGHT not in text


def _find_end_of_turn(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> str:
    """Return the token behind an answer, "" where a template puts none there.

    The end of the last answer goes before that of an earlier one: harmony closes the two otherwise,
    and the mark of an earlier one also ends its thinking. Templates without an end go on with the
    next role, whose mark it is then.
    """
    said = [_say("user", _QUESTION), _say("assistant", _ANSWER)]
    last = {**options, "add_generation_prompt": False}
    closed = _render_or_nothing(said, tokenizer, last)
    ends = _list_tokens(closed.rpartition(_ANSWER)[2], tokenizer)
    text = _render_or_nothing([*said, _say("user", _NEXT)], tokenizer, options)
    between = _list_tokens(text.rpartition(_ANSWER)[2].partition(_NEXT)[0], tokenizer)
    if not ends:
        return next(iter(between), "")
    if len(ends) > 1 and ends[-1] == tokenizer.eos_token and ends[-1] not in between:
        ends.pop()  # it closes the whole conversation
    # a template that begins the next answer unasked has more than the end here
    begins_next = _render_or_nothing(said, tokenizer, options) == closed
    return ends[0] if begins_next else ends[-1]


def _find_first_token(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    begin: Any = getattr(tokenizer, "bos_token", None)
    return begin if begin and text.startswith(begin) else ""


def _list_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the special and added tokens in a text, in order."""
    known = {str(token) for token in tokenizer.all_special_tokens}
    known |= set(tokenizer.get_added_vocab())  # type: ignore[operator]
    longest_first = sorted(known, key=len, reverse=True)
    if not longest_first:
        return []
    return re.findall("|".join(map(re.escape, longest_first)), text)


def find_turn_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens by which the chat template of a tokenizer ends a turn."""
    facts = inspect_template(tokenizer)
    if facts is None or not facts.end_of_turn:
        return []
    token: Any = tokenizer.convert_tokens_to_ids(facts.end_of_turn)
    return [] if token is None or token == tokenizer.unk_token_id else [token]
