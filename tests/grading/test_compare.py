"""The verifier of "math" on labelled answers and by property: what means the same; nothing hangs or
fools it.
"""

from __future__ import annotations

import functools
import json
import math as maths
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.places import DATA, GRADING, needs_data

from rlvr.grading import compare as compare_module
from rlvr.grading import (
    cursor,
    exact,
    extract,
    math_verify,
    numeric,
    parser,
    precision,
    rules,
    scalars,
    worker,
)
from rlvr.grading.compare import compare
from rlvr.grading.parser import parse
from rlvr.grading.worker import Died, HelperPool, Late
from rlvr.tasks.judge import judge_safely, wait_all
from rlvr.tasks.math import STRING_ONLY, gate, math
from rlvr.types import Problem, Response, Status, Verdict

needs_adversarial = pytest.mark.skipif(
    not (GRADING / "adversarial.jsonl").is_file(),
    reason=f"no answers that fool graders in {GRADING} (RLVR_GRADING_DIR)",
)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def verdicts(rows: list[dict]) -> list[Verdict]:
    pairs = [
        (Problem(row["id"], "math", "", row["gold"]), Response(row["prediction"])) for row in rows
    ]
    return wait_all([judge_safely(math, *pair) for pair in pairs])


def test_labelled_answers() -> None:
    rows = [row for row in rows_of(GRADING / "cases.jsonl") if not row.get("debatable")]
    right = {row["id"]: found.correct for row, found in zip(rows, verdicts(rows), strict=True)}
    assert [row["id"] for row in rows if right[row["id"]] and not row["expected"]] == []
    assert [row["id"] for row in rows if row["expected"] and not right[row["id"]]] == []


@needs_adversarial
def test_hostile_answers_fool_nobody_and_come_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a text that runs would leave its file
    rows = [row for row in rows_of(GRADING / "adversarial.jsonl") if not row.get("debatable")]
    found = verdicts(rows)
    assert [r["id"] for r, v in zip(rows, found, strict=True) if v.correct != r["expected"]] == []
    assert [
        r["id"]
        for r, v in zip(rows, found, strict=True)
        if v.status in (Status.ERROR, Status.TIMEOUT)
    ] == []
    assert list(tmp_path.iterdir()) == []


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "allowed"),
    [("math500", 500, 0), ("aime24", 30, 0), ("aime25", 30, 0), ("amc23", 40, 0), ("gsm8k", 1319, 0),
     ("minerva_math", 272, 2), ("olympiadbench", 675, 6)],
)  # fmt: skip
def test_golds_of_the_benchmarks_verify_against_themselves(
    name: str, count: int, allowed: int
) -> None:
    rows = rows_of(DATA / "math_eval" / f"{name}.jsonl")
    refused = [gold for row in rows if gate(Problem("p", "math", "", gold := gold_of(row)))]
    assert len(rows) == count and len(refused) <= allowed, refused


def gold_of(row: dict) -> str:
    from rlvr.grading.extract import find_last_box

    if "answer" not in row and "final_answer" not in row:
        return find_last_box(row["solution"]) or ""
    gold = row.get("final_answer", row.get("answer"))
    return str(gold[0] if isinstance(gold, list) else gold).rpartition("####")[2].strip()


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\frac{1}{2}", "0.5", True), (r"\frac{1}{3}", "0.33333", False), (r"\frac{1}{3}", "0.333333", True),
        ("0.3333", r"\frac{1}{3}", False), (r"\sqrt{2}", "1.414214", True), (r"\sqrt{2}", "1.41421", False),
        ("20000", "20001", False), ("1.24e-8", r"1.24\times10^{-8}", True), ("1.6e-19", "9.1e-31", False),
        (r"2^{-99}", r"2^{-98}", False), (r"\frac{1}{2^{99}}", "0", False), ("0", r"1\,000", False),
        (r"0.\overline{3}", r"\frac13", True), (r"0.\overline{09}", r"\frac{1}{11}", True), (r"28\%", "0.28", True),
        (r"28\%", "28", True), ("28", r"28\%", False), ("0.28", r"28\%", True), ("50", "0.5", False),
        ("15", r"15\text{ cm}", True), (r"15\text{ cm}", r"15\text{ km}", False),
        ("36", r"36 \frac{\text{km}}{\text{h}}", True), ("18", r"18\text{ million}", False),
        ("118", r"118 \text{ (or 119)}", False), ("18", "18 eggs", True), (r"90^\circ", "90", True),
        (r"60\text{ mph}", r"60 \text{ miles per hour}", True), ("(1,2)", "[1,2]", False), ("(1,2)", "(2,1)", False),
        ("1,2", "2,1", True), ("(1,2)", "1,2", False), (r"\{1,2\}", "2, 1", True), ("1,2", "1", False),
        ("1", "1,2", False), (r"1\pm\sqrt2", r"1-\sqrt2, 1+\sqrt2", True), ("x=1,2", r"x=1 \text{ or } x=2", True),
        ("(5,-2)", "x=5, y=-2", True), ("(5,-2)", "x=-2, y=5", False), ("x<1", r"(-\infty,1)", True),
        ("x<1", r"(-\infty,1]", False), ("x<1", "2x<2", True), ("x<1", "1>x", True),
        (r"(2,12)\cup(12,102)", r"(2,102)\setminus\{12\}", True), (r"\mathbb{R}\setminus\{3\}", r"x\neq 3", True),
        ("-2<x<5", r"x>-2 \text{ and } x<5", True), (r"x<1 \text{ or } x>3", r"(-\infty,1)\cup(3,\infty)", True),
        ("y=2x+1", "y-2x=1", True), ("y=2x+1", "2x-y+1=0", True), ("y=2x+1", "y=2x", False), ("5", "2x=10", False),
        ("5", "x=5", True), ("5", "m+n=2+3=5", True), ("118", "119=118", False), ("5", "5=6", False),
        ("x=5", "y=5", False), ("10", "2x=10", False), (r"x^2+2x+1", "(x+1)^2", True), ("x", "|x|", False),
        (r"\sqrt{x^2}", "|x|", True), (r"\ln x^2", r"2\ln x", True), (r"\tan^2 x+1", r"\sec^2 x", True),
        (r"\frac{\pi R}{h}", r"\frac{\pi r}{h}", False), ("6+9i", "3(2+3i)", True), ("6+9i", "9+6i", False),
        (r"e^{i\pi}", "-1", True), (r"n\cdot(n-1)!", "n!", True), (r"\binom{10}{3}", "120", True),
        (r"{10 \choose 3}", "120", True), ("204_5", "204_6", False), ("204_5", "204", False), ("10:30", "1:3", False),
        (r"7:32", "7 : 32", True), ("B", r"\text{(B)}", True), ("B", r"\beta", False), (r"\text{no}", "on", False),
        ("Monday", r"\text{monday.}", True), (r"\text{east}", "", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\left[\begin{array}{c}1\\2\end{array}\right]", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", False),
        (r"\infty", r"-\infty", False), ("-3", "+-3", False), (r"x \approx 5", "5", False),
        ("5", r"x \approx 5", True),
    ],
)  # fmt: skip
def test_rules(gold: str, answer: str, same: bool | None) -> None:
    assert compare(gold, answer).same is same


def test_a_gold_that_only_the_library_reads_is_compared_by_it() -> None:
    gold = r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}"
    rows = [{"id": "p", "gold": gold, "prediction": rf"\boxed{{{text}}}"} for text in (
        r"F_n = \sum_{k=0}^{n-1} F_{n-k-1} F_k", r"F_n = \sum_{k=0}^{n-1} F_{n-k-1} F_{k+1}")]  # fmt: skip
    assert [(v.correct, v.rule) for v in verdicts(rows)] == [
        (True, "box:symbolic"),
        (False, "box:symbolic"),
    ]


# Stands for the helper of the library: one answer, in words, uses up its processor time.
SLOW_LIBRARY = """
import time
from rlvr.grading.worker import serve

def handle(request):
    end = time.process_time() + 5.0
    while "slow" in str(request) and time.process_time() < end: pass
    return False

serve(handle)
"""


def test_what_uses_up_its_processor_time_is_a_timeout_and_delays_no_other_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "library.py"
    script.write_text(SLOW_LIBRARY, encoding="utf-8")
    helpers = HelperPool(str(script), {}, 2)
    monkeypatch.setattr(math_verify, "_get_helpers", lambda: helpers)
    problem = Problem("p", "math", "", r"\sum_{k=1}^{10} k + S")
    answers = [Response(rf"\boxed{{\sum_{{k=1}}^{{10}} k + {name}}}") for name in ("slow", "T")]
    found: list[Verdict] = []
    judge = functools.partial(math, seconds=0.3)
    threads = [
        threading.Thread(
            target=lambda r=r: found.extend(wait_all([judge_safely(judge, problem, r)]))
        )
        for r in answers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {v.status for v in found} == {Status.TIMEOUT, Status.WRONG}
    assert [v.rule for v in found if v.status is Status.TIMEOUT] == ["box:symbolic:timeout"]


# Stands for the helper of the library: it writes down what it is asked.
NOTING_LIBRARY = """
import os, sys, time
from rlvr.grading.worker import serve

def handle(request):
    if request != "ready?":
        with open(os.environ["NOTES"], "a") as notes: print(request, file=notes)
    if request == "die": os._exit(1)
    end = time.process_time() + 5.0
    while request == "slow" and time.process_time() < end: pass
    return [request]

serve(handle)
"""


def test_the_same_question_again_takes_no_time(tmp_path: Path) -> None:
    script = tmp_path / "library.py"
    script.write_text(NOTING_LIBRARY, encoding="utf-8")
    notes = tmp_path / "notes"
    helpers = HelperPool(str(script), {"NOTES": str(notes)}, 2)
    asked = [helpers.ask("slow", 0.2) for _ in range(20)]
    assert all(isinstance(future.exception(), Late) for future in asked)
    assert [helpers.ask("quick", 0.2).result() for _ in range(20)] == [["quick"]] * 20
    assert isinstance(helpers.ask("slow", 0.2).exception(), Late)
    assert notes.read_text().split() == ["slow", "quick"]
    # More time is another question, and what died is asked again.
    assert isinstance(helpers.ask("slow", 0.3).exception(), Late)
    for _ in range(2):
        assert isinstance(helpers.ask("die", 0.2).exception(), Died)
    assert notes.read_text().split() == ["slow", "quick", "slow", "die", "die"]
    assert len({id(future) for future in asked}) == 20  # whoever gives one up takes it from nobody
    helpers.close()


def test_only_the_last_questions_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "REMEMBERED", 2)
    script = tmp_path / "library.py"
    script.write_text(NOTING_LIBRARY, encoding="utf-8")
    notes = tmp_path / "notes"
    helpers = HelperPool(str(script), {"NOTES": str(notes)}, 1)
    for name in ("a", "b", "a", "c", "a", "b"):
        helpers.ask(name, 1.0).result()
    assert notes.read_text().split() == ["a", "b", "c", "b"]
    helpers.close()


@pytest.mark.parametrize(
    ("gold", "answer", "why"),
    [
        (r"\int_0^1 x\,dx", "2^{2^{2}}", "size"),
        (r"\int_0^1 x\,dx", "1^{10000}", "size"),
        (r"\int_0^1 x\,dx", "(2!)!", "size"),
        (r"\int_0^1 x\,dx", "0002!", "size"),
        (r"\int_0^1 x\,dx", "0" * 60 + "1", "size"),
        ("x", r"\int_0^1 x\,dx", "operators"),
        (r"\int x\,dx", r"5 \text{ or } 6", "words"),
        (r"\int x\,dx", r"\int y\,dy", ""),
    ],
)
def test_what_could_hang_the_library_is_not_handed_to_it(gold: str, answer: str, why: str) -> None:
    assert math_verify.guard(gold, answer) == why


@pytest.mark.parametrize(
    ("limit", "value", "answer"),
    [
        ("MAX_LENGTH", 20, "1+1+1+1+1+1+1+1+1+1+1"),
        ("MAX_DEPTH", 3, r"\frac{1}{\frac{1}{\frac{1}{(2)}}}"),
        ("MAX_POWERS", 2, "x^{2}+y^{2}+z^{2}"),
        ("MAX_FRACTIONS", 2, r"\frac12+\frac12+\sqrt{4}"),
        ("MAX_CELLS", 2, "1&2&3&4"),
    ],
)
def test_each_limit_of_size_keeps_a_text_from_the_library(
    limit: str, value: int, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gold = r"\int x\,dx"
    assert math_verify.guard(gold, answer) == ""
    monkeypatch.setattr(math_verify, limit, value)
    assert math_verify.guard(gold, answer) == "size"


CACHED = (compare_module._compare_texts, parser._parse, exact.evaluate_exactly)
LIMITED = (compare_module, cursor, exact, extract, numeric, parser, precision, rules, scalars)
Lower = Callable[[str, int], None]


@pytest.fixture
def lower() -> Iterator[Lower]:
    """Lowers a limit wherever it is read, so that a small text is already too large."""

    def lower_limit(name: str, value: int) -> None:
        for module in LIMITED:
            if hasattr(module, name):
                patch.setattr(module, name, value)
        forget()

    def forget() -> None:
        for cached in CACHED:
            cached.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        yield lower_limit
    forget()


@pytest.mark.parametrize(
    ("limit", "value", "gold", "answer", "beyond"),
    [
        ("MAX_BITS", 12, "256", "2^{2^{3}}", False),
        ("MAX_BITS", 12, "2^{2^{3}}", "256+0", None),
        ("MAX_BITS", 12, r"\pi^{6}", r"\pi^{3}\pi^{3}", None),
        ("MAX_FACTORIAL", 4, "120", "5!", False),
        ("MAX_FACTORIAL", 4, "6", r"\binom{6}{1}", False),
        ("MAX_DEPTH", 8, "5", "(" * 9 + "5" + ")" * 9, False),
        ("MAX_CHAIN", 5, "1", "1" + "*1" * 6, False),
        ("MAX_CHAIN", 5, "1", "1" + "/1" * 6, False),
        ("MAX_CHAIN", 5, "1", "1" + "!" * 6, False),
        ("MAX_CHAIN", 5, "10^{-12}", "1" + r"\%" * 6, False),
        ("MAX_TOKENS", 5, "3", "1+1+1+0", False),
        ("MAX_LENGTH", 5, "3", "1+1+1+0", False),
        ("MAX_ITEMS", 3, "1,2,3,4", "4,3,2,1", False),
        ("MAX_DECIMAL_BITS", 8, r"\pi", "3.141593", False),
    ],
)  # fmt: skip
def test_each_limit_of_size_holds(
    limit: str, value: int, gold: str, answer: str, beyond: bool | None, lower: Lower
) -> None:
    assert compare(gold, answer).same is True
    lower(limit, value)
    assert compare(gold, answer).same is beyond


def test_a_long_text_is_compared_as_written_and_not_read(lower: Lower) -> None:
    assert compare("1+1+1", "1+1+1+0").rule == "exact"
    lower("MAX_LENGTH", 5)
    assert compare("1+1+1", "1+1+1+0").rule == "string"
    assert parse("1+1+1") is not None and parse("1+1+1+0") is None


def test_a_sum_is_bounded_while_it_is_added_up(lower: Lower) -> None:
    node = parse("1/7+1/11-1/7-1/11")
    assert node is not None and exact.evaluate_exactly(node) == 0
    lower("MAX_BITS", 10)
    assert exact.evaluate_exactly(node) is None


def test_a_list_that_is_much_too_long_is_compared_with_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[object] = []
    monkeypatch.setattr(rules, "_match_in_any_order", lambda *lists: bool(compared.append(lists)))
    assert not compare("1, 2", "1, 2, 1, 2, 1, 2, x").same
    assert not compared


def test_boxes_in_boxes_are_followed_to_a_limit(lower: Lower) -> None:
    text = r"\boxed{\boxed{\boxed{\boxed{5}}}}"
    assert extract.find_last_box(text) == "5"
    lower("MAX_NESTED", 2)
    assert extract.find_last_box(text) != "5"


def test_the_gate_names_golds_without_a_meaning_and_a_marked_problem_is_compared_as_text() -> None:
    assert gate(Problem("p", "math", "", r"\frac{1}{2}")) == ""
    prose = r"f(x)=a x+b$, where $b$ is \underline{any} integer"
    assert "no expression" in gate(Problem("p", "math", "", prose))
    marked = Problem("p", "math", "", "1/2", {STRING_ONLY: True})
    assert (
        math(marked, Response(r"\boxed{1/2}")).correct
        and not math(marked, Response(r"\boxed{0.5}")).correct
    )


def test_a_tolerance_is_only_what_the_recipe_grants() -> None:
    physics = Problem("p", "math", "", "9.81")
    assert not math(physics, Response(r"\boxed{9.8}")).correct
    assert math(physics, Response(r"\boxed{9.8}"), tolerance=0.01).correct
    assert not math(physics, Response(r"\boxed{9.6}"), tolerance=0.01).correct


rationals = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4)
REWRITES = (
    r"\frac{{{n}}}{{{d}}}", r"\dfrac {{{n}}} {{{d}}}", "{n}/{d}", r"$\tfrac{{{n}}}{{{d}}}$",
    r"x = \frac{{{n}}}{{{d}}}", r"\left( {n} \right) \cdot {d}^{{-1}}", r"\frac{{2 \cdot {n}}}{{2 \times {d}}}",
    r"\frac{{{n}}}{{{d}}}\text{{ units}}",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(rationals, st.sampled_from(REWRITES), st.sampled_from(REWRITES))
def test_equivalent_rewrites_stay_equal_and_perturbed_numbers_never_become_equal(
    value: Fraction, first: str, second: str
) -> None:
    def written(form: str, v: Fraction) -> str:
        return form.format(n=v.numerator, d=v.denominator)

    assert compare(written(REWRITES[0], value), written(second, value)).same
    for other in (value + 1, value * 10 + 1, value + Fraction(1, 10**5), -value - Fraction(1, 7)):
        assert not compare(written(REWRITES[0], value), written(second, other)).same


names = st.sampled_from("xyabt")
atoms = st.one_of(st.integers(0, 12).map(str), names, st.just(r"\pi"))
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: rf"\left({p[0]}+{p[1]}\right)"),
        st.tuples(inner, inner).map(lambda p: rf"\left({p[0]}\right)\cdot\left({p[1]}\right)"),
        inner.map(lambda p: rf"\sqrt{{\left({p}\right)^2+1}}"),
        inner.map(lambda p: rf"\sin\left({p}\right)"),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(expressions, expressions)
def test_sums_commute_and_one_more_is_never_the_same(left: str, right: str) -> None:
    assert compare(f"{left}+{right}", f"{right} + {left}").same
    assert not compare(f"{left}+{right}", f"{right}+{left}+1").same
    assert not compare(left, rf"{left}+\frac{{1}}{{1000000}}").same


PIECES = (
    "\\frac", "{", "}", "(", ")", "[", "]", "^", "_", "\\sqrt", "1", "2,000", "x", "\\text{ or }", "\\text{cm}", "%",
    "=", "<", "\\pm", "\\cup", "|", "!", ",", " ", "e", "\\log", "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&",
    "\\infty", "\\in", ":", "'", "...", "\\binom", "\\left", "\u200b", "²", "٣", "\\{", "\\}", "0.", "\\overline", "°",
    "^\\circ",
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
@example("3!!")
@example("(" * 50)
@example("|" * 50)
@example("\\frac" * 50)
def test_no_text_crashes_the_comparison_and_it_is_always_itself(text: str) -> None:
    parse(text)
    for gold in ("5", "x+1", "(1,2)", r"\{1,2\}", text):
        compare(gold, text)
        compare(text, gold)
    if text.strip(" $.,;\\\t\n") and compare(text, text).rule != "empty":
        assert compare(text, text).same


@pytest.mark.parametrize("piece", PIECES)
def test_hostile_answers_take_bounded_time(piece: str) -> None:
    import time

    start = time.process_time()
    compare("5", piece * (1_200 // len(piece)))
    compare("x+1", piece * (120 // len(piece)))
    assert time.process_time() - start < 0.5


def test_values_agree_with_floats() -> None:
    for text, value in ((r"\sin 30^\circ", 0.5), (r"\log_2 10", maths.log2(10)), (r"\sqrt[3]{-8}", -2.0),
                        (r"\left\lfloor 3.7 \right\rfloor", 3.0), (r"5!", 120.0), (r"\arctan 1", maths.pi / 4),
                        (r"e^{-2}", maths.exp(-2)), (r"|{-3}|", 3.0), (r"\sin^{-1}(1)", maths.pi / 2)):  # fmt: skip
        from rlvr.grading.numeric import evaluate_constant

        node = parse(text)
        assert node is not None and abs(complex(evaluate_constant(node)) - value) < 1e-12, text


# What a hostile reader of the code found: each was accepted once.
ACCEPTED_ONCE = [
    ("(11,31),(1,2)", r"(11,31)\cup\{17\},(1,2)"),
    ("7", r"\binom{-1}{\frac12}"), ("(1,2)", r"(\binom{-1}{.5},\binom{-1}{.5})"), ("5", r"5\text{ vs 17}"),
    ("5", r"5\text{ possibly 6}"), ("5", r"5\text{ x10^3}"), ("5", r"5\text{ E6}"), ("5", r"5\text{ choose 2}"),
    ("5", r"5\text{ squared}"), ("5", "5 squared"), ("5", r"5\text{ factorial}"), ("5", r"5\text{ lakh}"),
    ("5", r"5\text{ bn}"), ("5", r"5\text{ hundredths}"), ("5", r"\text{square root of }5"), ("5", r"\text{never }5"),
    ("5", r"\text{multiples of }5"), ("5", r"5\text{ false}"), ("5", "-x=5"), ("5", r"\sqrt{x}=5"), ("5", "|x|=5"),
    ("5", r"\ln x=5"), ("5", "5=-x"), ("5", r"\text{not}=5"), ("5", r"5=\text{wrong}"), ("5", "abs(5,6)"),
    ("5", "abs(5 or 6)"), ("5", r"5+\lfloor|x|/10\rfloor"), ("5", "5 or"), ("5", r"5, 5\%"), ("5", r"5\text{ cm}, 5"),
    ("5", '5!\x00'), ("40,000", "40, 0"), ("40,000", r"0 \text{ and } 40"), ("40,000", "40,00"),
    ("40,000", r"40,000\pi"), ("40,000", "40,000 x"), ("x+y=5", "5"), ("xy=6", "6"), ("(3,4)", "(y,x)=(3,4)"),
    (r"\lfloor\sqrt{n-1}\rfloor", r"\lfloor n/2\rfloor"), (r"\lfloor\log_2 n\rfloor+1", r"\lceil\log_2 n\rceil"),
    (r"\lceil n/2\rceil+1", r"\lfloor n/2\rfloor+2"), ("x+5", "|x+5|"), ("x+5", r"\sqrt{(x+5)^2}"),
    ("x", r"\max(x,-10)"), ("mn", "|mn|"), ("y=x+5", "y=|x+5|"), ("x<5", "|x|<5"), (r"(-\infty,5)", "|x|<5"),
    (r"2^{100}\sqrt3", r"2^{100}\sqrt3+1"), ("e^{100}", "e^{100}+1"), ("2^{2023}x", "2^{2023}x+x"),
    (r"\pi", r"\pi(1-2^{-100})"), ("10^{-40}x", r"7\cdot10^{-40}x"), ("e^{-1000x^2}", "e^{-2000x^2}"),
    ("0", r"\pi^{-1000}"), (r"\pi 10^{-101}", r"\pi 10^{-102}"), (r"I(0) e^{-\frac{t}{RC}}", "0"),
    (r"I(0) e^{-\frac{t}{RC}}", "I(0)"), (r"\frac{d x}{d t}=k x-a", r"\frac{x}{t}=kx-a"), (r"\ln 5", r"\ln(5,6)"),
    (r"(3,\frac\pi2)", r"r=\frac\pi2,\theta=3"), ("x=1,y=2", "2,1"), (r"5\text{ MW}", r"5\text{ mW}"),
    (r"\$36", r"36^\circ"), (r"50\%", r"50\text{ cm}"), (r"\ln x", r"\lg x"), (r"\sqrt{x-1}", r"\sqrt{|x-1|}"),
    ("0", "0 vs 17"), ("0", "0 (17)"), ("MR=SRMC", "MR=SRMC x"), ("64", "2^3^2"), ("3", r"3\cdot2\frac12"),
    (r"\begin{vmatrix}2&2\\2&4\end{vmatrix}", r"2\begin{vmatrix}1&1\\1&2\end{vmatrix}"), ("R", r"\text{r}"),
    ("-5_{10}", "-5"), ("5!", '5\x00!'), (r"\sin(\theta(1+x))", r"\sin\theta(1+x)"),
    ("x^2+1", "x^2+1 only for x below 5"), ("2^{100}+i", "2^{100}+2i"),
    (r"(\frac{1+\sqrt5}{2})^{100}", "792070839848372253127"), (r"\$5", "€5"),
]  # fmt: skip
REJECTED_ONCE = [
    (r"\sqrt{51}", r"\sqrt{51}\approx7.14"), (r"x^{\prime}+x", "x'+x"), ("-2<x<3", r"x>-2 \text{ and } x<3"),
    (r"\lceil n/2\rceil+1", r"\lfloor\frac{n+1}{2}\rfloor+1"), (r"(3,\frac\pi2)", r"r=3,\theta=\frac\pi2"),
    ("7.5", r"3\cdot2\frac12"), (r"(1+x)\sin\theta", r"\sin\theta(1+x)"), ("18", "18 eggs"), ("5", "x=5"),
    ("116", "m+n=116"), ("60", "AB=60"), (r"\sin^2x+\cos^2x-1", "0"), (r"\sqrt2-\sqrt2", "0"), ("18", r"\$18.00"),
    (r"\frac{1}{x-1}-\frac{1}{x+1}", r"\frac{2}{x^2-1}"),
]  # fmt: skip
RAISED_ONCE = [
    ("5", "!" * 70), ("5", "5" + "%" * 70), ("x<5", r"\frac{1}{x-x}<5"), ("x<5", "i^2x<5"),
    (r"(1,2)\cup(3,4)", r"(i^2,2)\cup(3,4)"), (r"$k\geqslant2$", r"$k\geqslant2$i"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), ACCEPTED_ONCE)
def test_what_was_accepted_once_is_wrong(gold: str, answer: str) -> None:
    assert compare(gold, answer).same is False


@pytest.mark.parametrize(("gold", "answer"), REJECTED_ONCE)
def test_what_was_rejected_once_is_right(gold: str, answer: str) -> None:
    assert compare(gold, answer).same


@pytest.mark.parametrize(("gold", "answer"), RAISED_ONCE)
def test_what_raised_once_is_a_verdict(gold: str, answer: str) -> None:
    assert not compare(gold, answer).same


def test_a_number_with_more_digits_than_python_writes_is_a_verdict(lower: Lower) -> None:
    digits = sys.get_int_max_str_digits()
    lower("MAX_DECIMAL_BITS", 300)
    sys.set_int_max_str_digits(640)
    try:
        assert not compare(r"\pi", "1e300").same
        assert not compare("1e300", r"\pi").same
    finally:
        sys.set_int_max_str_digits(digits)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1,2", ",".join(rf"\binom{{ix}}{{iy}}+{k}" for k in range(7))),
        ("1,2", ",".join(f"(x+iy)!+{k}" for k in range(7))),
        ("5", "+".join(f"1/(1e60+{k})" for k in range(12))),
        ("5", r"\boxed{" * 20 + "5" + "}" * 20),
    ],
)
def test_what_was_slow_once_is_quick(gold: str, answer: str) -> None:
    import time

    start = time.process_time()
    math(Problem("p", "math", "", gold), Response(rf"\boxed{{{answer}}}"))
    assert time.process_time() - start < 0.1
