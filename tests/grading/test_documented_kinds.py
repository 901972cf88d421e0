"""The examples of the table of kinds in docs/verification.md are judged as it says."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import pytest
from support.places import ROOT

from rlvr.tasks.choice import choice
from rlvr.tasks.judge import judge_safely, wait_all
from rlvr.tasks.math import math
from rlvr.types import Problem, Response

OPTIONS = "Which?\nA. red\nB. blue"
MIN_KINDS = 35


class Kind(NamedTuple):
    """A row of the table."""

    name: str
    gold: str
    right: list[str]
    wrong: list[str]


def read_kinds() -> list[Kind]:
    page = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    table = page.partition("## Kinds met in the wild")[2].partition("\n## ")[0]
    kinds: list[Kind] = []
    for line in table.splitlines():
        if not line.startswith("| ") or line.startswith("| kind "):
            continue
        name, example, _, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        right, _, wrong = example.replace("\\|", "|").partition("; not ")
        gold, *answers = re.findall(r"`([^`]+)`", right)
        kinds.append(Kind(name, gold, answers, re.findall(r"`([^`]+)`", wrong)))
    return kinds


KINDS = read_kinds()


def test_the_table_is_read() -> None:
    assert len(KINDS) >= MIN_KINDS
    assert all(kind.right and kind.wrong for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_examples_of_a_kind_are_judged_as_the_table_says(kind: Kind) -> None:
    task = choice if kind.name.startswith("choice") else math
    judge = functools.partial(math, tolerance=0.01) if kind.name.startswith("tolerance") else task
    problem = Problem("p", task.__name__, OPTIONS if task is choice else "", kind.gold)
    texts = [*kind.right, *kind.wrong]
    boxed = [text if "\\boxed" in text else rf"\boxed{{{text}}}" for text in texts]
    verdicts = wait_all([judge_safely(judge, problem, Response(text)) for text in boxed])
    accepted = [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct]
    assert accepted == kind.right
