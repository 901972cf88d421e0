"""The engine of this process: batched decoding with a shared KV cache.

Responses that have the same tokens so far are one branch, which is read once for all of them. What
the branches may go on with is guessed and read along, which changes no sample (see `drafts`).
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlvr.engines.drafts import DraftLength, DraftTable
from rlvr.engines.packed_linear import replace_linears
from rlvr.engines.sampling import check_finite, sample_tokens
from rlvr.engines.wave import Branch, Row, Wave
from rlvr.models.attention import ATTENTION, has_full_attention
from rlvr.models.kv_cache import KvCacheLayer, SharedPromptCache
from rlvr.models.tensors import pad_left
from rlvr.models.token_logprobs import has_plain_lm_head
from rlvr.types import Finish, Generation, Request, Sampling

# Logits may differ by this share of theirs between two ways to compute them, for models in bf16 by more.
PROBE_TOLERANCE = 1e-3
BF16_PROBE_TOLERANCE = 0.3


class Decoder:
    """The local engine: a replica of the model in the compute dtype, which `load` fills."""

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        compute: torch.dtype,
        max_sequences: int,
        drafts: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_sequences = max_sequences
        self.version = -1
        self.end_tokens = find_end_tokens(module, tokenizer)
        self.has_own_attention = has_full_attention(module)
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.device = self.module.device
        if self.has_own_attention:
            # other models keep the attention, masks and caches of transformers
            self.module.set_attn_implementation(ATTENTION)
        self.plain_head: nn.Module | None = None
        if has_plain_lm_head(self.module):
            self.plain_head = self.module.get_output_embeddings()
        may_share = self.has_own_attention and self.device.type == "cpu"
        # Tried before weights are rounded, which may change such short texts a lot.
        self.shares_prompts = may_share and self._probe_shared_prompts()
        # buffers, such as those of rotary embeddings, keep their precision
        self.parameters = dict(self.module.named_parameters())
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(compute)
        self.packed_linears = replace_linears(self.module, compute)
        self.draft_table = DraftTable()
        self.draft_length = DraftLength(drafts)

    @torch.inference_mode()
    def _probe_shared_prompts(self) -> bool:
        """Return whether shared prompts give what whole rows give.

        It is tried, since a model may change what its cache holds, or may not hand on to its
        attention what it is given for it.
        """
        rows: list[Row] = []
        for prompt in ((5, 6, 7, 8), (8, 9)):
            rows.extend([Row(prompt, 0, [prompt[0]]), Row(prompt, 1, [prompt[1]])])
        branches = [Branch([row]) for row in rows]
        try:
            unshared = self._read(rows, shared=False)
            unshared.take_branches(branches, (0, 0, 1, 1))
            self._advance(unshared)
            shared = self._read(rows, shared=True)
            shared.take_branches(branches, (0, 0, 1, 1))
            self._advance(shared)
        except RuntimeError:  # of shapes that do not fit
            return False
        distance = (unshared.logits - shared.logits).norm()
        tolerance = PROBE_TOLERANCE
        if unshared.logits.dtype is torch.bfloat16:
            tolerance = BF16_PROBE_TOLERANCE
        return bool(distance < tolerance * unshared.logits.norm())

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        with torch.no_grad():
            for name, weight in weights:
                self.parameters[name].copy_(weight)
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """Return one generation for each key of each request, in order."""
        rows: list[Row] = []
        for request in requests:
            rows.extend(Row(request.token_ids, key) for key in request.keys)
        # Longest prompts first, so that waves are even, and those of one prompt together.
        ordered = sorted(rows, key=lambda row: (-len(row.prompt), row.prompt))
        with torch.inference_mode():
            try:
                for layer in self.packed_linears:
                    layer.pack_weight(min(len(rows), self.max_sequences))
                for start in range(0, len(ordered), self.max_sequences):
                    self._decode(ordered[start : start + self.max_sequences], sampling)
            finally:
                # An update needs the memory, and the weights change with it.
                for layer in self.packed_linears:
                    layer.pack_weight(0)
        return [Generation(tuple(row.tokens), tuple(row.logprobs), row.finish) for row in rows]

    def _decode(self, rows: list[Row], sampling: Sampling) -> None:
        """Fill the rows of a wave."""
        wave = self._read(rows, self.shares_prompts)
        self._grow(wave, sampling)
        while wave.branches:
            start = time.perf_counter()
            self._guess(wave, sampling)
            self._advance(wave)
            tokens = wave.logits.shape[0] * wave.logits.shape[1]
            self._grow(wave, sampling)
            self.draft_length.costs.observe(tokens, time.perf_counter() - start)

    def _read(self, rows: list[Row], shared: bool) -> Wave:
        """Read each prompt of a wave once, and return the wave before its first token."""
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(row.prompt, []).append(row)
        prompts = list(by_prompt)
        branches = [Branch(rows) for rows in by_prompt.values()]
        if shared:
            return self._read_end_to_end(prompts, branches)
        cache = DynamicCache(config=self.module.config)
        ids = pad_left(prompts, -1).to(self.device)
        mask = ids >= 0
        inputs: dict[str, Any] = {
            "input_ids": ids.clamp(min=0),
            "position_ids": mask.long().cumsum(1).sub(1).clamp(min=0),
            "attention_mask": self._make_attention_mask(mask, ids.shape[1]),
            "past_key_values": cache,
        }
        logits = self._forward(inputs, torch.tensor([ids.shape[1] - 1], device=self.device))
        return Wave(branches, logits, mask, cache, None)

    def _read_end_to_end(self, prompts: Sequence[tuple[int, ...]], branches: list[Branch]) -> Wave:
        """Read prompts without padding, for a cache that all branches of a prompt share."""
        lengths = [len(prompt) for prompt in prompts]
        positions = itertools.chain.from_iterable(map(range, lengths))
        cache: Any = Cache(layer_class_to_replicate=KvCacheLayer)
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([list(itertools.chain(*prompts))], device=self.device),
            "position_ids": torch.tensor([list(positions)], device=self.device),
            "past_key_values": cache,
            "prompts": lengths,
        }
        ends = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        logits = self._forward(inputs, ends).transpose(0, 1)
        mask = torch.ones(len(prompts), 0, dtype=torch.bool, device=self.device)
        shared = SharedPromptCache.start(cache.layers, lengths)
        return Wave(branches, logits, mask, cache, shared)

    def _guess(self, wave: Wave, sampling: Sampling) -> None:
        """Give each branch the tokens that it probably goes on with, none where that does not pay."""
        most = 0
        if wave.prompts is not None and self.draft_length.most:
            most = self.draft_length.limit(len(wave.branches))
        for branch in wave.branches:
            branch.guesses = []
            # One token more is drawn than guesses hold.
            count = min(most, sampling.max_tokens - len(branch.tokens) - 1)
            if count > 0 and branch.rows:
                text = (*branch.prompt, *branch.tokens)
                branch.guesses = self.draft_table.propose(branch.prompt, text, count)[:count]
        length = self.draft_length.choose([branch.guesses for branch in wave.branches])
        for branch in wave.branches:
            branch.drafts = [guess.token for guess in branch.guesses[:length]]
            self.draft_length.read += len(branch.drafts)

    def _advance(self, wave: Wave) -> None:
        """Run the model on the last token and the drafts of each branch, which gives new logits."""
        length = 1 + max(len(branch.drafts) for branch in wave.branches)
        ids: list[list[int]] = []
        first: list[int] = []
        counts: list[int] = []
        for branch in wave.branches:
            read = [branch.tokens[-1], *branch.drafts]
            # What fills up the shorter is drawn from by nobody.
            ids.append(read + read[-1:] * (length - len(read)))
            counts.append(len(branch.tokens) - 1)
            first.append(len(branch.prompt) + counts[-1])
        position = torch.tensor(first)[:, None] + torch.arange(length)
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(ids, device=self.device),
            "position_ids": position.to(self.device),
            "past_key_values": wave.cache,
        }
        if wave.prompts is not None:
            step = wave.prompts.open_step(counts, length)
            inputs |= {"attention_mask": step.mask, "step": step}
        else:
            wave.mask = F.pad(wave.mask, (0, 1), value=True)
            inputs["attention_mask"] = self._make_attention_mask(wave.mask, 1)
        wave.logits = self._forward(inputs, torch.arange(length, device=self.device))

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
        width = wave.logits.shape[1]
        source: list[int] = []
        keys: list[int] = []
        positions: list[int] = []
        for number, branch in enumerate(wave.branches):
            for offset in range(1 + len(branch.drafts)):
                for row in branch.rows:
                    source.append(number * width + offset)
                    keys.append(row.key)
                    positions.append(len(row.tokens) + offset)
        logits = wave.logits.flatten(0, 1)
        token, logprob = sample_tokens(logits, keys, positions, sampling, source)
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
        self.draft_length.held += len(row.tokens) - start - 1
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

    def _forward(self, inputs: dict[str, Any], places: Tensor) -> Tensor:
        """Return the logits at these places of the rows.   [B, T] ids, [L] -> [B, L, V]"""
        if self.plain_head is None:
            return self.module(**inputs, use_cache=True, logits_to_keep=places).logits
        hidden = self.module.base_model(**inputs, use_cache=True).last_hidden_state
        # A copy: the product of a strided slice would copy the head for each row.
        return self.plain_head(hidden[:, places])

    def _make_attention_mask(self, mask: Tensor, length: int) -> Tensor:
        """Return the mask of prompts that are not shared.   [B, S] -> [B, S], ours [B, 1, 1 or L, S]"""
        if not self.has_own_attention:
            return mask
        width = mask.shape[1]
        mask = mask[:, None, None, :]
        if length == 1:
            return mask
        # a padded position sees itself, so that no row of the mask is empty
        itself = torch.eye(width, dtype=torch.bool, device=self.device)
        causal = torch.ones_like(itself).tril()
        return (mask & causal) | itself


def find_end_tokens(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a response, of the model and of its tokenizer."""
    candidates: list[Any] = [tokenizer.eos_token_id]
    if module.generation_config is not None:
        configured = module.generation_config.eos_token_id
        candidates.extend(configured if isinstance(configured, list) else [configured])
    return frozenset(token for token in candidates if token is not None)
