"""A recipe's YAML: a key stands once, and a fault is one line that names its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlvr.config.merge import load_yaml
from rlvr.errors import UserError


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("optimizer: {lr: 1}\nrun: {}\noptimizer: {lr: 2}\n", 3, "optimizer"),
        ("run:\n  steps: 1\n  name: a\n  steps: 2\n", 4, "steps"),
        ("run: {steps: 1, steps: 1}\n", 1, "steps"),
        ("train:\n- weight: 1\n  weight: 2\n", 3, "weight"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, key: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refusal:
        load_yaml(path, "r.yaml")
    assert (
        str(refusal.value) == f"r.yaml, line {line}: not valid YAML: the key '{key}' stands twice"
    )


def test_keys_of_other_mappings_and_merged_keys_stand_as_often_as_they_like(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {x: 4}\n")
    assert load_yaml(path, "r.yaml") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 4},
    }


def test_yaml_nested_too_deeply_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in gives up as the reader does."""

    def give_up(*_: object) -> None:
        raise RecursionError

    path = tmp_path / "r.yaml"
    path.write_text("[[[")
    monkeypatch.setattr(yaml, "load", give_up)
    with pytest.raises(UserError, match=r"r.yaml: not valid YAML: nested too deeply"):
        load_yaml(path, "r.yaml")
