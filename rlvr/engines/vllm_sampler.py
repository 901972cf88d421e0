"""The sampler of the local engine as a logits processor of vLLM.

vLLM's workers import it by its name, and nobody else does: it cannot be imported without vLLM.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from rlvr.engines.sampling import sample_tokens
from rlvr.types import Sampling

# Temperature, top-p and top-k: rows that have them in common are drawn together.
Options = tuple[float, float, int]


class Sampler(LogitsProcessor):
    """Leaves each row one token, the one that its key and position choose.

    Its logit is its log-probability, which vLLM then reports.
    """

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        # Of each row its key with its options, and the list of its tokens.
        self.rows: dict[int, tuple[tuple[Any, ...], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Note the rows that came, went or moved."""
        # vLLM appends to the list of a row's tokens, whose length is the position of the next.
        process_dict_updates(
            self.rows,
            batch_update,
            lambda params, _, tokens: (params.extra_args["rlvr"], tokens),
        )

    def apply(self, logits: Tensor) -> Tensor:
        """Return minus infinity for all but the drawn tokens.   [B, V] -> [B, V]"""
        left = torch.full_like(logits, -torch.inf)
        for (temperature, top_p, top_k), rows in self._group_rows().items():
            keys: list[int] = []
            positions: list[int] = []
            for row in rows:
                request, tokens = self.rows[row]
                keys.append(request[0])
                positions.append(len(tokens))
            sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
            token, logprob = sample_tokens(logits[rows], keys, positions, sampling)
            left[rows, token] = logprob.to(left.dtype)
        return left

    def _group_rows(self) -> dict[Options, list[int]]:
        """Return the rows of each combination of options."""
        rows_of: dict[Options, list[int]] = defaultdict(list)
        for row, (request, _) in self.rows.items():
            _key, temperature, top_p, top_k = request
            rows_of[temperature, top_p, top_k].append(row)
        return rows_of
