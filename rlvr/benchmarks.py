"""Benchmarks: one row each, saying where the problems come from, how they are asked and how answers are judged."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlvr.recipe import EvalSet, Spec
from rlvr.registry import register

Count = Annotated[int, Field(ge=1)]
BOXED = Spec(name="chat", params={"suffix": " Put the final answer in \\boxed{}."})


@register("benchmark", "arithmetic")
def arithmetic(*, count: Count = 256) -> EvalSet:
    """Generated arithmetic and word problems, none of which a training set of the same generator contains."""
    data = Spec(name="arithmetic", params={"count": count, "seed": 2, "split": "test"})
    return EvalSet(
        name="arithmetic", data=data, task=Spec(name="math", params={"extract": ["box", "number"]}), prompt=BOXED
    )


@register("benchmark", "knights")
def knights(*, people: Annotated[int, Field(ge=2, le=8)] = 3, count: Count = 100) -> EvalSet:
    """Generated Knights and Knaves puzzles, none of which a training set of the same generator contains."""
    data = Spec(name="knights", params={"people": people, "count": count, "seed": 2, "split": "test"})
    return EvalSet(name="knights", data=data, prompt=Spec(name="think_answer"))
