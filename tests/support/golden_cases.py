"""Golden cases of the reference implementations as our flat tensors; see
support/places.py for where they lie.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from rlvr.models.packing import Tokens
from rlvr.training.batch import Batch
from rlvr.training.scored import Scored
from support import places

FOLDER = places.GOLDEN


def cases(name: str) -> list[dict[str, Any]]:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def number(value: Any) -> Any:
    return [number(v) for v in value] if isinstance(value, list) else float(value)


def dtype_of(case: dict[str, Any]) -> torch.dtype:
    return (
        torch.float32
        if str(case["config"].get("dtype", "")).startswith("float32")
        else torch.float64
    )


class Flat:
    """Padded rows of a golden case as our flat tokens, and back."""

    def __init__(self, mask: Any, dtype: torch.dtype = torch.float64) -> None:
        self.padded = torch.tensor(number(mask), dtype=dtype)
        places = torch.arange(self.padded.shape[1])
        length = (places * (self.padded > 0)).amax(1) + 1
        # tokens of others in the middle stay, the tail goes
        self.inside = places[None] < length[:, None]
        self.mask, self.lengths = self.padded[self.inside], length.tolist()
        self.sample = torch.arange(len(self.padded))[:, None].expand_as(self.padded)[self.inside]
        self.dtype = dtype

    def flat(self, rows: Any) -> Tensor:
        return torch.tensor(number(rows), dtype=self.dtype)[self.inside]

    def rows(self, tokens: Tensor) -> Tensor:
        found = torch.zeros_like(self.padded)
        found[self.inside] = tokens
        return found

    def batch(
        self,
        *,
        advantage: Any,
        old: Any = None,
        ref: Any = None,
        rollout: Any = None,
        value: Any = None,
        returns: Any = None,
        **totals: float,
    ) -> Batch:
        """What a term and a reduction read; the denominators are those of the rows unless others
        are given.
        """
        zeros = torch.zeros_like(self.mask)
        given = {
            name: None if rows is None else self.flat(rows)
            for name, rows in (("old", old), ("ref", ref))
        }
        scored = self.scored(
            rollout_logprob=zeros if rollout is None else self.flat(rollout),
            old_logprob=given["old"],
            ref_logprob=given["ref"],
            value=None if value is None else self.flat(value),
            returns=None if returns is None else self.flat(returns),
            total_samples=totals.get("samples", len(self.lengths)),
            total_tokens=totals.get("tokens", float(self.mask.sum())),
        )
        return Batch(scored, zeros if advantage is None else self.flat(advantage))

    def scored(self, **given: Any) -> Scored:
        """The samples with what is given: without it each is a group of its own, with no reward."""
        plain = {
            "sequences": tuple(Tokens((0,), (0,) * n) for n in self.lengths),
            "total_samples": len(self.lengths),
            "total_tokens": float(self.mask.sum()),
            "reward": torch.zeros(len(self.lengths), dtype=self.dtype),
            "group": torch.arange(len(self.lengths)),
            "sample": self.sample,
            "mask": self.mask,
            "rollout_logprob": torch.zeros_like(self.mask),
        }
        return Scored(**plain | given)


def close(case: dict[str, Any], ours: Any, wanted: Any, mask: Tensor | None = None) -> None:
    """Within the tolerance that the case states; under the mask, where one is given."""
    ours = torch.as_tensor(ours)
    expected = torch.tensor(number(wanted), dtype=ours.dtype)
    kept = torch.ones_like(expected) if mask is None else (mask > 0).to(expected.dtype)
    config = case["config"]
    rtol, atol = max(config["rtol"], 1e-12), max(config["atol"], 1e-12)
    torch.testing.assert_close(ours * kept, expected.nan_to_num() * kept, rtol=rtol, atol=atol)
