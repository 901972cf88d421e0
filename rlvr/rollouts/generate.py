"""From prompts to rollouts: the keys of the samples, the engine, and the text of what came back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rlvr.engines.base import Engine
from rlvr.errors import RunError
from rlvr.metrics.timing import count, timed
from rlvr.seeds import key_of
from rlvr.tasks.answer_forms import TURN_ENDS
from rlvr.types import Generation, Prompt, Request, Rollout, Sampling

if TYPE_CHECKING:
    from torch import Tensor


def skip_proof(engine: Engine) -> None:
    """Check nothing: for engines whose weights are in plain sight."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Samples responses from an engine, and hands it new weights.

    `proof` sees whether the weights have arrived.
    """

    engine: Engine
    tokenizer: Any
    proof: Callable[[Engine], None] = skip_proof

    @timed("generate")
    def __call__(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *seed: int | str,
    ) -> list[Rollout]:
        """Return `sampling.samples` rollouts of each prompt, in order.   [P] -> [P*G]

        A sample's key is a function of the seed, its problem and its number, so that no other
        sample can change it.
        """
        requests: list[Request] = []
        for prompt in prompts:
            numbers = _number_samples(prompt, sampling)
            keys = tuple(key_of(*seed, prompt.problem.id, number) for number in numbers)
            requests.append(Request(prompt.token_ids, keys))
        generated = self.engine.generate(requests, sampling)
        _count_work(self.engine)
        _check_generations(generated, len(prompts) * sampling.samples, self.engine)
        generations = iter(generated)
        special = _list_special_tokens(self.tokenizer)
        rollouts: list[Rollout] = []
        for prompt in prompts:
            for number in _number_samples(prompt, sampling):
                rollout = self._make_rollout(prompt, number, next(generations), sampling, special)
                rollouts.append(rollout)
        return rollouts

    def _make_rollout(
        self,
        prompt: Prompt,
        number: int,
        generation: Generation,
        sampling: Sampling,
        special: Mapping[int, str],
    ) -> Rollout:
        turn_ends = _find_turn_ends(special)
        text = _decode_turns(generation.token_ids, self.tokenizer, turn_ends)
        last = generation.token_ids[-1:]
        return Rollout(
            prompt=prompt,
            index=number,
            token_ids=generation.token_ids,
            logprobs=generation.logprobs,
            mask=(1,) * len(generation.token_ids),
            text=_cut_at_stop(text, sampling.stop),
            finish=generation.finish,
            version=self.engine.version,
            end=special.get(last[0], "") if last else "",
        )

    @timed("load")
    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Give the engine new weights, which the policy has after so many updates."""
        self.engine.load(weights, version)
        self.proof(self.engine)


def _count_work(engine: Engine) -> None:
    """Count what guesses at coming tokens did, where an engine makes some."""
    take_work = getattr(engine, "take_work", None)
    if take_work is not None:
        for name, amount in asdict(take_work()).items():
            count(f"guesses.{name}", amount)


def _check_generations(generated: Sequence[Generation], wanted: int, engine: Engine) -> None:
    """Raise RunError unless an engine gave a generation for each key it was asked for."""
    if len(generated) != wanted:
        raise RunError(
            f"engine '{type(engine).__name__}' gave {len(generated)} generations for {wanted} samples"
        )
    for number, generation in enumerate(generated):
        tokens = len(generation.token_ids)
        if len(generation.logprobs) != tokens:
            raise RunError(
                f"engine '{type(engine).__name__}' gave {len(generation.logprobs)} log-probabilities"
                f" for {tokens} tokens (sample {number})"
            )


def _number_samples(prompt: Prompt, sampling: Sampling) -> range:
    """Return the numbers of a prompt's samples, which go on where a problem is drawn again."""
    start = prompt.draw.copy * sampling.samples
    return range(start, start + sampling.samples)


def _list_special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the text of each token that decoding leaves out."""
    special: dict[int, str] = {}
    for token_id, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        if token.special or str(token) in TURN_ENDS:
            special[token_id] = str(token)
    return special


def _find_turn_ends(special: Mapping[int, str]) -> dict[int, str]:
    """Return those tokens that end a turn."""
    turn_ends: dict[int, str] = {}
    for token_id, text in special.items():
        if text in TURN_ENDS:
            turn_ends[token_id] = text
    if "<|return|>" in turn_ends.values():
        # harmony ends its thinking with <|end|>, its turn with <|return|>
        turn_ends = {key: text for key, text in turn_ends.items() if text != "<|end|>"}
    return turn_ends


def _decode_turns(token_ids: Sequence[int], tokenizer: Any, turn_ends: Mapping[int, str]) -> str:
    """Return the text of a response without special tokens, but for the end of a turn after which it goes on.

    Without that mark what follows would read as a part of the answer.
    """
    for place, token_id in enumerate(token_ids):
        if token_id not in turn_ends:
            continue
        rest: str = tokenizer.decode(token_ids[place + 1 :], skip_special_tokens=True)
        if rest.strip():
            head: str = tokenizer.decode(token_ids[:place], skip_special_tokens=True)
            return f"{head}{turn_ends[token_id]}{rest}"
        break
    return tokenizer.decode(token_ids, skip_special_tokens=True)


def _cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text up to the first stop string."""
    end = len(text)
    for stop in stops:
        position = text.find(stop)
        if position >= 0:
            end = min(end, position)
    return text[:end]
