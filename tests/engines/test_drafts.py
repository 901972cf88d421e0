"""Guesses: they change no sample, whatever they are, and what is guessed is what was seen before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support import tiny

from rlvr import seeds
from rlvr.engines.decoder import Decoder
from rlvr.engines.drafts import DraftLength, DraftTable, Guess, PassCosts
from rlvr.engines.local import local
from rlvr.models.kv_cache import DecodingStep
from rlvr.types import Generation, Request, Sampling

SAMPLING = Sampling(max_tokens=40, temperature=0.9)
ENDS = [1, 17, 53]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def make_engine(dtype: torch.dtype, drafts: int = 0, max_sequences: int = 128) -> Decoder:
    master = torch.float32 if dtype is torch.bfloat16 else dtype
    module = tiny.sharpen(tiny.model(0, master))
    module.generation_config.eos_token_id = ENDS
    engine = Decoder(module, tiny.tokenizer(), dtype, max_sequences, drafts)
    engine.load(module.named_parameters(), 0)
    return engine


def make_requests() -> list[Request]:
    draw = torch.Generator().manual_seed(0)
    requests: list[Request] = []
    for number, size in enumerate((4, 1, 19, 7, 7)):
        prompt = tuple(torch.randint(3, 80, (size,), generator=draw).tolist())
        requests.append(Request(prompt, tuple(seeds.key_of(number, k) for k in range(6))))
    return requests


def skip_without_bf16(dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor does not multiply bf16")


def get_tokens(generations: Sequence[Generation]) -> list[tuple[tuple[int, ...], str]]:
    return [(one.token_ids, one.finish.value) for one in generations]


Propose = Callable[[Any, Sequence[int], int], list[int]]


def guess_by(propose: Propose) -> Callable[[Any, Sequence[int], int], list[Guess]]:
    return lambda problem, text, count: [Guess(token, 0) for token in propose(problem, text, count)]


def propose_tokens(table: DraftTable, problem: str, text: Sequence[int], count: int) -> list[int]:
    return [guess.token for guess in table.propose(problem, text, count)]


def know_the_future(answers: Sequence[Generation], wrong_at: int) -> Propose:
    """Guess what some sample of the problem will say, with a fault in every `wrong_at`-th token."""
    texts: list[tuple[int, ...]] = []
    generations = iter(answers)
    for request in make_requests():
        for _ in request.keys:
            texts.append((*request.token_ids, *next(generations).token_ids))

    def propose(_problem: Any, text: Sequence[int], count: int) -> list[int]:
        seen = tuple(text)
        for whole in texts:
            if whole[: len(seen)] == seen:
                guess = list(whole[len(seen) : len(seen) + count])
                faults = [(len(seen) + i) % wrong_at == 0 for i in range(len(guess))]
                return [(t + fault) % 80 for t, fault in zip(guess, faults, strict=True)]
        return []

    return propose


ADVERSARIES: dict[str, Propose] = {
    "nothing": lambda _p, _text, _count: [],
    "wrong": lambda _p, text, count: [(t * 7 + 3) % 80 for t in text[-count:]],
    "too long": lambda _p, text, count: [5, 6, 7] * (count + 2),
    "ends": lambda _p, _text, count: ENDS[:count],
    "for some alone": lambda _p, text, count: [9] * (sum(text) % (count + 1)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [*ADVERSARIES, "the truth", "mostly the truth"])
def test_no_guess_changes_a_sample(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_bf16(dtype)
    requests = make_requests()
    plain = make_engine(dtype).generate(requests, SAMPLING)
    engine = make_engine(dtype, 5)
    propose = ADVERSARIES.get(kind)
    if propose is None:
        propose = know_the_future(plain, 1000 if kind == "the truth" else 4)
    monkeypatch.setattr(engine.draft_table, "propose", guess_by(propose))
    monkeypatch.setattr(engine.draft_length, "limit", lambda branches: 5)
    monkeypatch.setattr(engine.draft_length, "choose", lambda guesses: [5] * len(guesses))
    guessed = engine.generate(requests, SAMPLING)
    assert get_tokens(guessed) == get_tokens(plain)
    assert len({one.token_ids for one in plain}) > 25
    if kind == "the truth":
        work = engine.take_work()
        assert work.held > 0.5 * work.read > 100
    if dtype is torch.bfloat16:
        # Products of bf16 give each row the same bits in any company.
        assert [one.logprobs for one in guessed] == [one.logprobs for one in plain]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("max_sequences", [1, 3, 30])
def test_a_sample_is_the_same_in_any_company_and_any_dtype(
    max_sequences: int, dtype: torch.dtype
) -> None:
    skip_without_bf16(dtype)
    requests = make_requests()
    whole = make_engine(dtype).generate(requests, SAMPLING)
    alone = make_engine(dtype, 7, max_sequences).generate(requests[::-1], SAMPLING)
    by_request = [alone[start : start + 6] for start in range(0, len(alone), 6)]
    turned = [one for group in by_request[::-1] for one in group]
    assert get_tokens(turned) == get_tokens(whole)
    if dtype is torch.bfloat16:
        assert [one.logprobs for one in turned] == [one.logprobs for one in whole]


def test_responses_with_the_same_tokens_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = list[int]()
    attend = DecodingStep.attend
    monkeypatch.setattr(
        DecodingStep, "attend", lambda step, *x: (widths.append(len(x[1])), attend(step, *x))[1]
    )
    prompt = make_requests()[0].token_ids
    engine = make_engine(torch.float64)
    widths.clear()
    greedy = engine.generate([Request(prompt, tuple(range(50)))], Sampling(50, 12, 0.0))
    assert len({one.token_ids for one in greedy}) == 1 and set(widths) == {1}
    widths.clear()
    drawn = engine.generate([Request(prompt, tuple(range(50)))], Sampling(50, 12, 0.5))
    firsts = {one.token_ids[0] for one in drawn if len(one.token_ids) > 1}
    assert widths[0] == len(firsts) < max(widths) <= 50
    alone = [
        engine.generate([Request(prompt, (key,))], Sampling(1, 12, 0.5))[0] for key in range(50)
    ]
    assert get_tokens(alone) == get_tokens(drawn)


def test_what_followed_the_same_tokens_is_guessed_first_for_the_same_problem() -> None:
    table = DraftTable()
    table.observe("a", [1, 2, 3, 4, 5, 6], 0)
    table.observe("b", [9, 2, 3, 7, 8], 0)
    assert propose_tokens(table, "a", [0, 2, 3], 3) == [4, 5, 6]
    assert propose_tokens(table, "b", [0, 2, 3], 3) == [7, 8]
    # another problem has what was seen last of all
    assert propose_tokens(table, "c", [0, 2, 3], 1) == [7]
    assert propose_tokens(table, "c", [11, 12], 4) == []
    assert propose_tokens(table, "a", [], 4) == []


def test_only_what_is_new_is_remembered() -> None:
    table = DraftTable()
    table.observe("a", [1, 2, 3], 0)
    table.observe("a", [1, 2, 5], 3)
    assert propose_tokens(table, "a", [1, 2], 1) == [3]


def test_a_full_table_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.engines.drafts.MOST_ENTRIES", 10)
    table = DraftTable()
    table.observe("a", range(100), 0)
    assert propose_tokens(table, "a", [3, 4], 1) == [5]
    table.observe("a", [200, 201], 0)
    assert propose_tokens(table, "a", [3, 4], 1) == [] and propose_tokens(table, "a", [200], 1) == [
        201
    ]


@pytest.mark.parametrize(("fixed", "each"), [(0.020, 0.0001), (0.002, 0.002), (0.0, 0.01)])
def test_the_costs_of_a_pass_are_learnt(fixed: float, each: float) -> None:
    costs = PassCosts()
    for turn in range(400):
        tokens = 1 + turn % 64
        costs.observe(tokens, fixed + each * tokens)
    ratio = costs.estimate(64) / costs.estimate(8)
    assert ratio == pytest.approx((fixed + each * 64) / (fixed + each * 8), rel=0.25)


def choose(branches: int, right: int, level: int = 0, of: int = 10) -> int:
    """The length chosen where `right` of ten guesses held, with five guesses for each branch."""
    length = DraftLength(5)
    for _ in range(200):
        for turn in range(of):
            length.count([Guess(1, level)], [1 if turn < right else 2])
    (each,) = {*length.choose([[Guess(3, level)] * 5] * branches)} or {0}
    return each


def test_much_is_guessed_where_guesses_hold_and_passes_are_short() -> None:
    assert choose(1, 9) == 5
    assert choose(1, 0) == 0
    assert choose(256, 9) < choose(8, 9)
    assert choose(256, 3) == 0
    assert DraftLength(5).limit(1) == 5 and DraftLength(5).limit(5000) == 0
    assert DraftLength(0).limit(1) == 0


def test_guesses_of_one_level_say_nothing_of_another() -> None:
    length = DraftLength(5)
    for _ in range(500):
        length.count([Guess(1, 0), Guess(1, 6)], [1, 2])
    assert length.choose([[Guess(1, 0)] * 5]) == [5]
    assert length.choose([[Guess(1, 6)] * 5]) == [0]


def test_guesses_that_are_not_read_are_counted_too() -> None:
    """Where guesses did not pay once, they may later."""
    length = DraftLength(5)
    for _ in range(500):
        length.count([Guess(1, 0)] * 3, [2])
    assert length.choose([[Guess(1, 0)] * 5]) == [0]
    for _ in range(2000):
        length.count([Guess(1, 0)] * 3, [1])
    assert length.choose([[Guess(1, 0)] * 5]) == [5]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_by_itself_an_engine_guesses_where_no_bit_depends_on_it(dtype: torch.dtype) -> None:
    """A guess is read or not by the clock, and a resumed run is the same to the bit."""
    module = tiny.model(0, torch.float32)
    made = local(module, tiny.tokenizer(), dtype)
    is_exact = dtype is torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
    assert made.draft_length.most == (7 if is_exact else 0)
    assert local(module, tiny.tokenizer(), dtype, drafts=3).draft_length.most == 3
