"""Problem files for tests, and what refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.errors import UserError
from rlvr.tasks.files import file

# What `refuse_nested` takes for nested too deeply.
NESTED = "[[["


def refuse_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python's reader of JSON give up at NESTED as it does where brackets nest a thousand deep."""
    loads = json.loads

    def load_or_give_up(text: str | bytes, **options: Any) -> Any:
        if NESTED in (text.decode("utf-8", "replace") if isinstance(text, bytes) else text):
            raise RecursionError("too deep for the reader")
        return loads(text, **options)

    monkeypatch.setattr(json, "loads", load_or_give_up)


def write(path: Path, rows: list) -> str:
    """Rows in the format that the name asks for."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refused(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        file(path=str(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def verl(question: str, gold: object = "4", index: int = 0, **more: object) -> dict[str, Any]:
    """A row as the scripts of verl and its forks write it."""
    return {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"split": "train", "index": index},
        **more,
    }
