"""The engine of this process: batched decoding with a shared KV cache.

Responses that have the same tokens so far are one branch, which is read once for all of them. What
the branches may go on with is guessed and read along, which changes no sample (see `drafts`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr.engines.compiled_reader import CompiledReader
from rlvr.engines.drafts import DraftLength, DraftTable, DraftWork
from rlvr.engines.module_reader import ModuleReader
from rlvr.engines.reader import Reader
from rlvr.engines.sampling import check_finite, sample_tokens
from rlvr.engines.wave import Branch, Row, Wave
from rlvr.errors import UserError
from rlvr.kernels.transformer import is_supported
from rlvr.types import Finish, Generation, Request, Sampling


class Decoder:
    """The local engine: the model in the compute dtype, which `load` fills.

    `compiled` runs its passes in compiled code, where that knows the model; with `quantised` there
    are weights of 8 bits beside those in the compute dtype, for all that need not be exact.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        compute: torch.dtype,
        max_sequences: int,
        drafts: int = 0,
        *,
        compiled: bool = True,
        quantised: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_sequences = max_sequences
        self.version = -1
        self.end_tokens = find_end_tokens(module, tokenizer)
        self.reader = make_reader(module, compute, compiled=compiled)
        self.quantised_reader = make_quantised_reader(module, compute) if quantised else None
        self.draft_table = DraftTable()
        self.draft_length = DraftLength(drafts)
        self.work = DraftWork()

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        if self.quantised_reader is None:
            self.reader.load(weights)
        else:
            for named in weights:
                self.reader.load([named])
                self.quantised_reader.load([named])
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """Return one generation for each key of each request, in order."""
        rows: list[Row] = []
        for request in requests:
            rows.extend(Row(request.token_ids, key) for key in request.keys)
        # Longest prompts first, so that waves are even, and those of one prompt together.
        ordered = sorted(rows, key=lambda row: (-len(row.prompt), row.prompt))
        reader = self.reader
        if self.quantised_reader is not None and not sampling.exact:
            reader = self.quantised_reader
        with torch.inference_mode():
            try:
                reader.open(min(len(rows), self.max_sequences))
                for start in range(0, len(ordered), self.max_sequences):
                    self._decode(reader, ordered[start : start + self.max_sequences], sampling)
            finally:
                reader.close()
        return [Generation(tuple(row.tokens), tuple(row.logprobs), row.finish) for row in rows]

    def _decode(self, reader: Reader, rows: list[Row], sampling: Sampling) -> None:
        """Fill the rows of a wave."""
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(row.prompt, []).append(row)
        cache, logits = reader.read_prompts(list(by_prompt))
        wave = Wave([Branch(rows) for rows in by_prompt.values()], logits, cache)
        self._grow(wave, sampling)
        while wave.branches:
            start = time.perf_counter()
            branches = wave.branches
            before = [len(branch.tokens) for branch in branches]
            self._guess(wave, sampling)
            self._advance(reader, wave)
            tokens = len(wave.logits.values)
            self._grow(wave, sampling)
            self.draft_length.costs.observe(tokens, time.perf_counter() - start)
            self._count_work(branches, before)
        cache.close()

    def _guess(self, wave: Wave, sampling: Sampling) -> None:
        """Give each branch the tokens that it probably goes on with, none where that does not pay."""
        most = 0
        if wave.cache.takes_guesses and self.draft_length.most:
            most = self.draft_length.limit(len(wave.branches))
        for branch in wave.branches:
            branch.guesses = []
            # One token more is drawn than guesses hold.
            count = min(most, sampling.max_tokens - len(branch.tokens) - 1)
            if count > 0 and branch.rows:
                text = (*branch.prompt, *branch.tokens)
                branch.guesses = self.draft_table.propose(branch.prompt, text, count)[:count]
        lengths = [0] * len(wave.branches)
        if most:
            lengths = self.draft_length.choose([branch.guesses for branch in wave.branches])
        for branch, length in zip(wave.branches, lengths, strict=True):
            branch.drafts = [guess.token for guess in branch.guesses[:length]]

    def _count_work(self, branches: Sequence[Branch], before: Sequence[int]) -> None:
        """Take note of what a pass did, of which each branch had so many tokens before."""
        read = 0
        sequences = 0
        grown = 0
        held = 0
        for branch, had in zip(branches, before, strict=True):
            read += len(branch.drafts)
            sequences += len(branch.rows)
            steps = [len(row.tokens) - had for row in branch.rows]
            grown += sum(steps)
            held += max(steps, default=1) - 1
        work = self.work
        work.passes += 1
        work.sequences += sequences
        work.tokens += grown
        work.read += read
        work.held += held
        costs = self.draft_length.costs
        if read and costs.scale is not None:
            alone = costs.estimate(len(branches))
            # What they got beyond one each would have taken passes of its own.
            saved = alone * grown / sequences - costs.estimate(len(branches) + read)
            work.saved += costs.scale * saved

    def take_work(self) -> DraftWork:
        """Return what was done since this was last asked."""
        work = self.work
        self.work = DraftWork()
        return work

    def _advance(self, reader: Reader, wave: Wave) -> None:
        """Read the last token and the drafts of each branch, which gives new logits."""
        tokens = [[branch.tokens[-1], *branch.drafts] for branch in wave.branches]
        starts = [branch.count_read() for branch in wave.branches]
        wave.logits = reader.read_tokens(wave.cache, tokens, starts)

    def _grow(self, wave: Wave, sampling: Sampling) -> None:
        """Draw the next tokens of all rows, and go on with the branches that they make."""
        drawn = iter(self._draw(wave, sampling))
        children: list[Branch] = []
        parents: list[int] = []
        for number, branch in enumerate(wave.branches):
            rows_by_tokens: dict[tuple[int, ...], list[Row]] = {}
            for row in branch.rows:
                start = len(row.tokens)
                self._record(row, next(drawn), branch, sampling)
                if not row.ended:
                    new = tuple(row.tokens[start:])
                    rows_by_tokens.setdefault(new, []).append(row)
            for rows in rows_by_tokens.values():
                children.append(Branch(rows))
                parents.append(number)
        wave.continue_with(children, parents)

    def _draw(self, wave: Wave, sampling: Sampling) -> list[list[tuple[int, float]]]:
        """Return what each row goes on with after its last token and, if they hold, after its drafts.

        -> the rows of one branch after those of the other, each 1 + drafts tokens with log-probabilities
        """
        source: list[int] = []
        keys: list[int] = []
        positions: list[int] = []
        for first, branch in zip(wave.logits.first, wave.branches, strict=True):
            for offset in range(1 + len(branch.drafts)):
                for row in branch.rows:
                    source.append(first + offset)
                    keys.append(row.key)
                    positions.append(len(row.tokens) + offset)
        token, logprob = sample_tokens(wave.logits.values, keys, positions, sampling, source)
        logprobs = logprob.tolist()
        check_finite(logprobs, sampling)
        pairs = iter(list(zip(token.tolist(), logprobs, strict=True)))
        drawn: list[list[tuple[int, float]]] = []
        for branch in wave.branches:
            of_rows: list[list[tuple[int, float]]] = [[] for _ in branch.rows]
            for _ in range(1 + len(branch.drafts)):
                for of_row in of_rows:
                    of_row.append(next(pairs))
            drawn.extend(of_rows)
        return drawn

    def _record(
        self,
        row: Row,
        drawn: Sequence[tuple[int, float]],
        branch: Branch,
        sampling: Sampling,
    ) -> None:
        """Append the tokens that were drawn as long as they equal the drafts, and the first that does not."""
        start = len(row.tokens)
        for (token, logprob), draft in itertools.zip_longest(drawn, branch.drafts):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            stopped = token in self.end_tokens or self._has_stop_text(row, sampling)
            if stopped:
                row.finish = Finish.STOP
            row.ended = stopped or len(row.tokens) == sampling.max_tokens
            if row.ended or token != draft:
                break
        if self.draft_length.most:
            self.draft_length.count(branch.guesses, row.tokens[start:])
            text = (*row.prompt, *row.tokens)
            self.draft_table.observe(row.prompt, text, len(row.prompt) + start)

    def _has_stop_text(self, row: Row, sampling: Sampling) -> bool:
        if not sampling.stop:
            return False
        longest = max(len(stop.encode()) for stop in sampling.stop)  # a token may be a single byte
        tail = self.tokenizer.decode(row.tokens[-longest - 1 :])
        return any(stop in tail for stop in sampling.stop)


def make_quantised_reader(module: PreTrainedModel, compute: torch.dtype) -> Any:
    """Return the Reader of a model in 8 bits; raises UserError where that cannot be."""
    if compute is not torch.bfloat16 or not is_supported(module):
        raise UserError(
            "rollout.engine.weights: int8 needs a Llama-like model in bf16, a processor with AVX-512 for"
            " bf16 and VNNI, and a C compiler; leave it out"
        )
    return CompiledReader(module, bits=8)


def make_reader(module: PreTrainedModel, compute: torch.dtype, *, compiled: bool) -> Any:
    """Return the Reader of a model: compiled code where that is wanted and knows it."""
    if compiled and compute is torch.bfloat16 and is_supported(module):
        return CompiledReader(module)
    return ModuleReader(module, compute)


def find_end_tokens(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a response, of the model and of its tokenizer."""
    candidates: list[Any] = [tokenizer.eos_token_id]
    if module.generation_config is not None:
        configured = module.generation_config.eos_token_id
        candidates.extend(configured if isinstance(configured, list) else [configured])
    return frozenset(token for token in candidates if token is not None)
