"""Benchmarks: one row each, saying where the problems come from, how they are asked and how answers are judged.

A published set is read from its file below `--data DIR` (or RLVR_DATA_DIR), else from the hub. What a row says of
sampling is what the papers used: One-Shot-RLVR (section 4.5 of its appendix) takes eight samples at temperature 0.6 of
AIME and AMC and greedy answers of the rest, at most 3,072 tokens; Logic-RL temperature 1 and 8,192 tokens.
docs/evaluation.md has them all in one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from rlvr.prompts import BOXED as BOXED_SYSTEM
from rlvr.recipe import EvalSet, Spec
from rlvr.registry import register

Count = Annotated[int, Field(ge=1)]
BOXED = Spec(name="chat", params={"suffix": " Put the final answer in \\boxed{}."})
COT = Spec(name="chat", params={"system": BOXED_SYSTEM})  # on a Qwen model this is qwen25-math-cot, letter by letter
LETTER = Spec(name="chat", params={"suffix": "\n\nThink step by step, then put the letter of the answer in \\boxed{}."})
TAGS = Spec(name="think_answer")
NUMBER = Spec(name="math", params={"extract": ["box", "number"]})
AVG8: Mapping[str, Any] = {"samples": 8, "temperature": 0.6}


@register("benchmark", "arithmetic")
def arithmetic(*, count: Count = 256) -> EvalSet:
    """Generated arithmetic and word problems, none of which a training set of the same generator contains."""
    data = Spec(name="arithmetic", params={"count": count, "seed": 2, "split": "test"})
    return EvalSet(name="arithmetic", data=data, task=NUMBER, prompt=BOXED)


@register("benchmark", "knights")
def knights(*, people: Annotated[int, Field(ge=2, le=8)] = 3, count: Count = 100) -> EvalSet:
    """Generated Knights and Knaves puzzles, none of which a training set of the same generator contains."""
    data = Spec(name="knights", params={"people": people, "count": count, "seed": 2, "split": "test"})
    return EvalSet(name="knights", data=data, prompt=TAGS)


def _published(
    name: str,
    filename: str,
    sha256: str | None,
    dataset: Mapping[str, Any],
    *,
    layout: Mapping[str, Any] = {},
    task: Spec | None = NUMBER,
    prompt: Spec = COT,
    **asked: Any,
) -> None:
    """Register a published set as a benchmark."""
    found = {"filename": filename, "sha256": sha256, "layout": dict(layout), "dataset": dict(dataset)}
    row = EvalSet(name=name, data=Spec(name="shipped", params=found), task=task, prompt=prompt, **asked)

    def benchmark() -> EvalSet:
        return row

    register("benchmark", name)(benchmark)


# fmt: off
_published("math500", "math500.jsonl", "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
           {"dataset": "HuggingFaceH4/MATH-500", "split": "test"}, max_tokens=3072)
_published("aime24", "aime24.jsonl", "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac",
           {"dataset": "HuggingFaceH4/aime_2024", "split": "train"}, max_tokens=3072, **AVG8)
_published("aime25", "aime25.jsonl", "4613b7d3b5346f007625969f4380d932d6a2618fdcc9b89e5d39c7fbddc074b8",
           {"dataset": "math-ai/aime25", "split": "test"}, max_tokens=3072, **AVG8)
_published("amc23", "amc23.jsonl", "43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4",
           {"dataset": "math-ai/amc23", "split": "test"}, max_tokens=3072, **AVG8)
_published("minerva_math", "minerva_math.jsonl", "0e656b430d3a0a1dab6aa853f453ba3805e28e2cabe4fc72486a897cc09d8ba2",
           {"dataset": "math-ai/minervamath", "split": "test"}, max_tokens=3072,
           layout={"columns": {"answer": "solution"}, "answer_in": "box"})
_published("olympiadbench", "olympiadbench.jsonl", "bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416",
           {"dataset": "Hothan/OlympiadBench", "subset": "OE_TO_maths_en_COMP", "split": "train",
            "columns": {"answer": "final_answer.0"}}, max_tokens=3072, layout={"columns": {"answer": "final_answer.0"}})
_published("gsm8k", "gsm8k.jsonl", "9f098df7ff4522078d6ccec27a5c38a454790fdb51131bedfaa0e490070d5394",
           {"dataset": "openai/gsm8k", "subset": "main", "split": "test", "answer_after": "####"}, max_tokens=3072,
           layout={"answer_after": "####"})
for _name, _subset in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge")):
    _options = {"columns": {"answer": "answerKey"}, "choices": "choices"}
    _published(_name, f"{_name}.jsonl", None,
               {"dataset": "allenai/ai2_arc", "subset": _subset, "split": "test", **_options},
               layout=_options, task=Spec(name="choice"), prompt=LETTER, max_tokens=3072)
for _people, _digest in ((2, None),
                         (3, "0361ec695ae77e6ae11ad2683097a958cd4dfdb64ea965ae9a7929d0b2e9290c"),
                         (4, "47d8641333d8946cefafd58ac15dcb7a7924eb5065f483c95743103480414d54"),
                         (5, "438550a48e95293f9b7802a4d0e48baa266295700c2bcdb64a3bdc48e3d29bda"),
                         (6, "9345d9a29507b735f00007e4ad5a50c12c696c4b8100178cdd090113f728d639"), (7, None), (8, None)):
    _published(f"knights_{_people}ppl", f"{_people}ppl_test.parquet", _digest,
               {"dataset": "K-and-K/knights-and-knaves", "data_files": f"test/people{_people}_num100.jsonl"},
               task=Spec(name="knights"), prompt=TAGS, temperature=1.0, max_tokens=8192)
# fmt: on
