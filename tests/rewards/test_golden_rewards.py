r"""Our rewards on every text that the reference systems were run on, and every disagreement
classified by a rule.

A rule is a predicate on the inputs with its reason and who is right; a disagreement that no rule
explains fails.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.places import GOLDEN
from support.rollouts import make_prompt, make_rollout

from rlvr.errors import UserError
from rlvr.grading.compare import compare
from rlvr.grading.extract import find_last_box
from rlvr.rewards import functions
from rlvr.tasks.judge import judge_safely, wait_all
from rlvr.tasks.knights import check_knights
from rlvr.tasks.math import math
from rlvr.types import (
    Context,
    Problem,
    Response,
    Rollout,
    Status,
    Verdict,
    VerifiedGroup,
    VerifiedSample,
)

Rule = tuple[str, str, Callable[[str, str], bool]]  # who is right, why, where


def boxed(text: str) -> str:
    return find_last_box(text) or ""


def number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9.]+", text) is not None


MATH_RULES: list[Rule] = [
    ("ours", "0.3333 is not 1/3: a decimal needs six digits, and as near as they say",
     lambda gold, text: "." in boxed(text) and not number(gold) and compare(gold, boxed(text)).same is False),
    ("ours", "a decimal of six digits and more stands for a number that has no decimal",
     lambda gold, text: number(boxed(text)) and len(boxed(text)) > 7 and "pi" in gold),
    ("policy", "a box has braces", lambda gold, text: bool(re.search(r"\\boxed [^{]", text))),
    ("ours", "the reference's normaliser mangles units: 24 cm^2 becomes 24^2, 10 m is kept in the gold",
     lambda gold, text: r"\text" in gold + boxed(text) or "miles per hour" in text),
    ("policy", "50 % is 1/2; where the gold is 50 it is not the answer", lambda gold, text: r"\%" in boxed(text)),
    ("ours", "[1,2] is not (1,2)", lambda gold, text: gold[:1] == "(" and boxed(text)[:1] == "["),
    ("ours", "mixed numbers are sums", lambda gold, text: bool(re.search(r"[0-9]\\frac", boxed(text)))),
    ("ours", "a box is the answer, whatever phrase follows it",
     lambda gold, text: "final answer is" in text and bool(boxed(text))),
    ("ours", "a gold in a box is that gold", lambda gold, text: r"\boxed" in gold),
    ("ours", "an inequality and its interval are one set", lambda gold, text: r"\geq" in gold or r"\infty" in gold),
    ("ours", "plus or minus is two answers", lambda gold, text: r"\pm" in gold),
    ("ours", "whole numbers are compared exactly, however long", lambda gold, text: len(gold) > 15 and number(gold)),
    ("ours", "a box that the prompt shows is no answer of the model's",
     lambda gold, text: r"\boxed{}" in text and "It is" in text),
    ("ours", "a sentence after the number does not change it", lambda gold, text: "So the answer is 7" in text),
    ("ours", "braces nest as deep as they like", lambda gold, text: boxed(text).count("{") > 3),
    ("ours", "values are compared, not spellings: logarithms, powers of ten, products, factorials, roots, any letters",
     lambda gold, text: bool(re.search(r"\\(log|times|cdot|binom|sqrt|frac)|!|c\+b\+a", gold + boxed(text)))),
    ("ours", "what follows the end of the turn is not the answer", lambda gold, text: "<|im_end|> and" in text),
    ("ours", "an empty box is never right", lambda gold, text: gold == "" and boxed(text) == ""),
    ("policy", "two million is not taken for 2000000", lambda gold, text: "million" in text),
    ("ours", "a frame box is a box", lambda gold, text: r"\fbox" in text),
    ("ours", "a sign of approximation before the number does not change it",
     lambda gold, text: r"\approx" in boxed(text)),
    ("ours", "a name before the equals sign is not part of the answer", lambda gold, text: "abc=" in text),
]  # fmt: skip

PAIR_RULES: list[Rule] = [
    ("ours", "a factor of 100 is never free", lambda gold, text: {gold, text} <= {"0.5", "50", "5000"}),
    ("ours", "no tolerance of one in ten thousand", lambda gold, text: number(gold) and number(text)),
    ("ours", "brackets count", lambda gold, text: text[:1] in "([" and gold[:1] != text[:1]),
    ("ours", "a name before the equals sign or the sign of membership is not part of the answer",
     lambda gold, text: "=" in text or r"\in" in text),
    ("ours", "a hedge is no choice", lambda gold, text: " or " in text),
    ("ours", "infinity has several spellings", lambda gold, text: "infty" in gold),
    ("ours", "a decimal of six digits and more stands for a number that has no decimal",
     lambda gold, text: "pi" in text and "." in gold),
    ("ours", "variables are case-sensitive", lambda gold, text: gold.lower() == text.lower()),
]  # fmt: skip

LOGIC_RULES: list[Rule] = [
    ("ours", "colons, emphasis and underscores do not change who is what",
     lambda gold, text: bool(re.search(r"\w: k|\*\*|_", text))),
    ("ours", "an answer block without an answer is not well-formed",
     lambda gold, text: bool(re.search(r"<answer>\s*</", text))),
    ("ours", "only the completion is read, and no header in it starts it again",
     lambda gold, text: "Assistant:" in text),
    ("policy", "reasoning inside the answer is not an assignment",
     lambda gold, text: "Reasoning" in text or "role:" in text),
    ("policy", "every clause is one claim on one line",
     lambda gold, text: "a\n\nknight" in text or bool(re.search(r"\w: \w+ is", text))),
    ("ours", "a name is compared whole", lambda gold, text: "Mary-Ann" in text),
]  # fmt: skip


def cases(name: str) -> list[dict]:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def completion(sequence: str) -> str:
    for header in ("<|im_start|>assistant\n", "<|im_start|>assistant", "Assistant:"):
        if header in sequence:
            return sequence.split(header, 1)[1]
    return sequence


def verdict(text: str, gold: object, forms: tuple[str, ...]) -> Verdict:
    answer = str(gold[0] if isinstance(gold, list) else gold)
    judged = judge_safely(
        lambda p, r: math(p, r, extract=forms), Problem("p", "math", "", answer), Response(text)
    )  # type: ignore[arg-type]
    return wait_all([judged])[0]


def unexplained(rows: Iterator[tuple[str, str, object, object]], rules: list[Rule]) -> list[tuple]:
    return [
        (gold, text[-200:], ours, theirs)
        for gold, text, ours, theirs in rows
        if ours != theirs and not any(where(gold, text) for _, _, where in rules)
    ]


def simplerl_v0() -> Iterator[tuple[str, str, object, object]]:
    for row in cases("rewards_simplerl_v0"):
        text, gold = completion(row["inputs"]["sequence"]), row["inputs"]["ground_truth"]
        found = functions.simplerl_v0(verdict(text, gold, ("box", "number")))
        yield gold, text, found.value, row["outputs"]["reward"]


def simplerl_zoo() -> Iterator[tuple[str, str, object, object]]:
    for row in cases("rewards_simplerl_zoo"):
        text, gold = completion(row["inputs"]["sequence"]), row["inputs"]["ground_truth"]
        facts = verdict(text, gold, ("box", "number"))
        ours = (
            functions.simplerl_zoo(facts).value,
            functions.simplerl_zoo(facts, variant="independent").value,
        )
        yield gold, text, ours, (row["outputs"]["score_mix"], row["outputs"]["score_independent"])


def one_shot() -> Iterator[tuple[str, str, object, object]]:
    for row in cases("rewards_oneshot"):
        text, gold = completion(row["inputs"]["sequence"]), row["inputs"]["ground_truth"]
        yield (
            str(gold),
            text,
            functions.one_shot(verdict(text, gold, ("box",))).value,
            row["outputs"]["score"],
        )


def qwen_pairs() -> Iterator[tuple[str, str, object, object]]:
    for row in cases("qwen_grader"):
        if row["name"].startswith("math_equal"):
            gold, text = row["inputs"]["reference"], row["inputs"]["prediction"]
            yield gold, text, bool(compare(gold, text).same), row["outputs"]["equal"]


def logic_rl() -> Iterator[tuple[str, str, object, object]]:
    for row in cases("rewards_logic_rl"):
        response, gold = row["inputs"]["response"], row["inputs"]["solution_text_format"]
        prefill = (
            "<think>"
            if row["inputs"]["sequence"].removesuffix(response).endswith("<think>")
            else ""
        )
        try:
            facts = check_knights(
                Problem("p", "knights", "", gold), Response(response, prefill=prefill)
            )
        except UserError:
            continue  # a gold that is no assignment is refused when the data are read
        yield gold, response, functions.logic_rl(facts).value, row["outputs"]["total"]


@pytest.mark.parametrize(
    ("rows", "rules", "at_most"),
    [(simplerl_v0, MATH_RULES, 20), (simplerl_zoo, MATH_RULES, 10), (one_shot, MATH_RULES, 23),
     (qwen_pairs, PAIR_RULES, 14), (logic_rl, LOGIC_RULES, 14)],
)  # fmt: skip
def test_every_disagreement_with_a_reference_has_a_reason(
    rows, rules: list[Rule], at_most: int
) -> None:
    found = list(rows())
    left = unexplained(iter(found), rules)
    if "RLVR_GOLDEN_DIR" in os.environ:  # texts that nobody here has seen: counted and listed
        warnings.warn(
            f"{len(left)} of {len(found)} texts are judged otherwise without a rule: {left}",
            stacklevel=1,
        )
        return
    assert left == []
    assert sum(ours != theirs for _, _, ours, theirs in found) <= at_most


def test_answers_are_extracted_as_the_reference_does_where_it_reads_a_box() -> None:
    rows = [row for row in cases("qwen_grader") if row["name"].startswith("extract_answer")]
    with_box = [
        row
        for row in rows
        if (find_last_box(row["inputs"]["text"]) or "")
        and "<|im_end|>" not in row["inputs"]["text"]
    ]
    assert len(with_box) > 20
    for row in with_box:
        ours, theirs = find_last_box(row["inputs"]["text"]) or "", row["outputs"]["math"]
        agree = compare(ours, theirs).same or compare(theirs, ours).same
        assert (
            agree
            or any(where(theirs, row["inputs"]["text"]) for _, _, where in MATH_RULES)
            or r"\text" in ours
        ), row


def rollout(tokens: int, *, ids: tuple[int, ...] | None = None) -> Rollout:
    prompt = make_prompt(Problem("p", "math", "", "5"))
    return make_rollout(prompt, 0, ids or tuple(range(tokens)))


def test_length_and_repetition_penalties_against_the_references() -> None:
    for row in cases("reward_shaping"):
        config, given, wanted = row["config"], row["inputs"], row["outputs"]
        if row["name"].startswith(("verl_dapo_overlong", "openrlhf011_overlong")):
            limit = config.get("max_resp_len") or config.get("max_new_tokens")
            for score, length, total in zip(
                given["score"], given["response_length"], wanted["reward"], strict=True
            ):
                penalty = functions.overlong(
                    rollout(length),
                    Context(0, 0, limit),
                    buffer=config["buffer_len"],
                    factor=config["penalty_factor"],
                )
                assert score + penalty.value == pytest.approx(
                    total, rel=config["rtol"], abs=config["atol"]
                )
        elif row["name"].startswith("trl_repetition"):
            for ids, total in zip(given["completion_ids"], wanted["reward"], strict=True):
                found = functions.repetition(
                    rollout(0, ids=tuple(ids)),
                    ngram=config["ngram_size"],
                    penalty=config["max_penalty"],
                )
                assert found.value == pytest.approx(total, rel=1e-9)


def group(*answers: str | None) -> VerifiedGroup:
    members = [
        VerifiedSample(
            replace(rollout(3), index=i),
            Verdict(Status.WRONG if a else Status.NO_ANSWER, a, bool(a)),
        )
        for i, a in enumerate(answers)
    ]
    return VerifiedGroup(Problem("p", "math", "", "5"), tuple(members))


def test_the_majority_is_counted_by_meaning_and_nobody_wins_without_an_answer() -> None:
    def votes(*answers: str | None) -> list[float]:
        return [reward.value for reward in functions.majority_vote(group(*answers))]

    assert votes("1/2", "0.5", "3", r"\frac12") == [1, 1, 0, 1]
    assert votes("3", "4") == [1, 0]
    assert votes(None, None, "7") == [0, 0, 1]
    assert votes(None, None) == [0, 0]


def test_random_rewards_depend_on_nothing_but_seed_step_problem_and_sample() -> None:
    four = group("1", "2", "3", "4")
    first, again = ([r.value for r in functions.random(four, Context(0, 1, 9))] for _ in range(2))
    assert first == again and set(first) <= {0.0, 1.0}
    assert any(
        [r.value for r in functions.random(four, Context(0, step, 9))] != first
        for step in range(2, 12)
    )
    assert any(
        len({r.value for r in functions.random(four, Context(0, step, 9))}) == 2
        for step in range(12)
    )
    many = [
        r.value
        for step in range(300)
        for r in functions.random(four, Context(0, step, 9), share=0.25)
    ]
    assert 0.2 < sum(many) / len(many) < 0.3


def test_steps_lengths_and_forms_are_paid_as_documented() -> None:
    right, wrong = Verdict(Status.CORRECT, "5", True), Verdict(Status.WRONG, "6", False)
    four_steps = "Step 1: a\nStep 2: b\n3. c\n**Step 4** d\n1.5 metres"
    assert functions.step_count(four_steps, right).value == pytest.approx(1.4)
    assert functions.step_count("Step 1\n" * 9, wrong).value == pytest.approx(-0.5)
    context = Context(0, 0, 100)
    assert functions.cosine(right, rollout(0, ids=(1,)), context).value == pytest.approx(
        1.0, abs=1e-3
    )
    assert functions.cosine(right, rollout(100), context).value == pytest.approx(0.5)
    assert functions.cosine(wrong, rollout(50), context).value == pytest.approx(-0.75)
    assert functions.overlong(rollout(400), context, buffer=20, factor=0.5).value == -0.5
    assert [functions.format_only(v).value for v in (right, wrong)] == [1, 0]
    assert [functions.simplerl_v0(v).value for v in (right, wrong)] == [1, -1]
