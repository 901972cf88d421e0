"""What stands before, behind and between the values of an answer: labels, chains, roundings, systems, residues."""

from __future__ import annotations

import functools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlvr.grading import math_verify
from rlvr.grading.compare import compare
from rlvr.grading.extract import find_last_box
from rlvr.tasks.judge import judge_safely, wait_all
from rlvr.tasks.math import gate, math
from rlvr.types import Problem, Response

VANDERMONDE = r"\begin{vmatrix}1&1&1\\2&3&4\\4&9&16\end{vmatrix}"

RIGHT = [
    # A label that is no plain name.
    ("6", "|PQ| = 6"), ("6", "|z| = 6"), ("6", "|a-b| = 6"), ("6", r"|\vec{u}| = 6"), ("6", r"\|u\| = 6"),
    (r"\frac{2}{3}", r"\frac{PA}{PB} = \frac23"), (r"\frac13", r"P(A|B) = \frac13"),
    (r"\frac13", r"P(A \mid B) = 1/3"),
    ("6", "g^{-1}(4) = 6"), ("6", r"(g \circ h)(1) = 6"), ("6", "x^2+y^2 = 6"), ("6", r"\sigma^2 = 6"),
    ("6", "a-b=6"),
    ("6", "ab+bc+ca = 6"), ("6", r"\frac{x}{y} = 6"), ("7", r"\det(M) = 7"), ("7", r"\det M = 7"),
    ("4", r"\gcd(a,b)=4"),
    (r"40^\circ", r"\angle PQR = 40^\circ"),
    # The same before a gold.
    (r"\angle PQR = 40^\circ", r"40^\circ"), ("|PQ| = 6", "6"), (r"P(A|B) = \frac13", r"\frac13"),
    (r"\det(M)=7", "7"),
    ("g^{-1}(4) = 6", "6"), (r"\triangle ABC = 12", "12"), (r"\frac{PA}{PB} = \frac23", r"\frac23"),
    # The value first.
    ("6 = t", "6"), (r"\frac12 = x", "0.5"), ("6 = t", "t = 6"), ("6", "6 = t"), ("6", "6 = |PQ|"),
    # A limit, an integral, a sum, a determinant before the value.
    ("2", r"\lim_{n \to \infty} \frac{2n}{n+1} = 2"), (r"\frac14", r"\int_0^1 y^3\,dy = \frac14"),
    ("10", r"\sum_{j=1}^{4} j = 10"), ("10", "∑_{j=1}^{4} j = 10"), ("24", r"\prod_{j=1}^4 j = 24"),
    ("7", r"\begin{vmatrix} 2 & 1 \\ 1 & 4 \end{vmatrix} = 7"), ("2", f"{VANDERMONDE} = 2"),
    (r"\int_0^1 y\,dy = \frac12", r"\frac12"),
    # Roundings.
    (r"\frac23", r"\frac{2}{3} \approx 0.667"), (r"\frac94", r"\frac94 \approx 2.3"),
    (r"\frac23", r"x = \frac23 ≈ 0.67"),
    (r"\sqrt{51}", r"\sqrt{51} \approx 7.14"), (r"\frac{200}{3}", r"\frac{200}{3} \approx 67"),
    (r"\frac{\sqrt5}{5} \approx 0.447", r"\frac{\sqrt5}{5}"), (r"m \approx 6.2", "6.2"),
    (r"m \approx 6.2", "m = 6.2"), (r"\sqrt7 \approx 2.646", r"\sqrt7 \approx 2.65"),
    (r"\sqrt7 \approx 2.646", r"x = \sqrt{7} \approx 2.65"), (r"x = \sqrt7 \approx 2.646", r"x = \sqrt7 \approx 2.65"),
    (r"x = \frac23 \approx 0.667", r"\frac23"), ("6.2", r"\approx 6.2"), ("6.2", "≈ 6.2"), ("6", "= 6"),
    ("0.667", r"\frac23 \approx 0.667"),
    (r"\frac{10}{3}\text{ cm}", r"\frac{10}{3}\text{ cm} \approx 3.33\text{ cm}"),
    # A full stop, indices behind exponents, bars in bars.
    (r"$\sqrt{12}$.", r"2\sqrt3"), (r"\frac{6}{8}.", "0.75"), (r"\frac{u_0^2}{2g}", r"\frac{u^2_0}{2g}"),
    ("a_1^2+a_2^2", "a^2_1+a^2_2"), (r"x_{12}^3", r"x^3_{12}"), ("|y||z|", "||y||z||"),
    (r"\angle PQR = 40^\circ", r"\angle RQP = 40^\circ"),
    # Solutions of a system.
    ("a=3,b=4;a=4,b=3", "(3,4),(4,3)"), ("a=3,b=4;a=4,b=3", "(4,3),(3,4)"),
    ("(3,4),(4,3)", r"a=3,b=4 \text{ or } a=4,b=3"),
    ("x=1,y=2;x=3,y=5", "y=5,x=3; x=1,y=2"), ("(1,2),(3,5)", "y=2,x=1; y=5,x=3"),
    ("x=1,y=2,z=3; x=4,y=5,z=6", "(4,5,6),(1,2,3)"), ("a=3,b=4;a=4,b=3", "(a,b)=(3,4),(4,3)"),
    # Residues.
    ("3", r"23 \bmod 5 = 3"), ("3", r"23 \equiv 3 \pmod 5"), ("3", r"3 \pmod 5"), ("3", r"x \equiv 3 \pmod{5}"),
    (r"x \equiv 3 \pmod 5", "3"), (r"3 \pmod 5", r"8 \pmod{5}"), (r"x \equiv 3 \pmod 5", r"x \equiv 8 \pmod 5"),
    ("4", r"2^{10} \bmod 6 = 4"), ("3", r"23 \bmod 5"),
    # Scientific notation.
    (r"3.08641975309 \times 10^{-3}", r"\frac{1}{324}"), (r"\pi \times 10^{-3}", r"3.14159265 \times 10^{-3}"),
    (r"\frac{1}{324}", r"3.08642 \cdot 10^{-3}"),
    # Intervals as the French write them.
    ("[2,5)", "[2, 5["), ("(2,5)", "]2,5["), ("(2,5]", "]2;5]"), (r"[1,2)\cup(3,4]", r"[1,2[ \cup ]3,4]"),
    (r"(-\infty,1)", r"]-\infty, 1["), ("[2,5)", r"x \in [2,5["),
]  # fmt: skip
WRONG = [
    ("6", "|PQ| = 7"), ("5", "|x| = 5"), ("5", "|y|=5"), ("5", "x^2=5"), ("5", r"\sqrt{x}=5"), ("5", "-x=5"),
    ("10", "2x=10"),
    ("6", "x^2+y^2 = 7"), ("x^2+y^2=6", "6"), ("a-b=6", "6"), ("6", "y^2+3 = 6"), ("6", r"g^{-1}(4) = 5"),
    (r"\frac13", r"P(A|B) = \frac23"), ("P(A|B)=1/3", "P(B|A)=1/3"), (r"\angle PQR = 40^\circ", r"50^\circ"),
    (r"\angle PQR = 40^\circ", r"\angle RPQ = 40^\circ"), ("|PQ|=6", "|PR|=6"), ("6 = t", "5"), ("6 = t", "s = 6"),
    ("6", r"6 = -x"), ("6", r"\det M = 6x"), ("f(x)=6", "g(x)=6"), ("6", r"7 = |PQ|"), ("ABC=12", "12"),
    ("XY=Z", "Y"),
    ("2", r"\lim_{n \to \infty} \frac{2n}{n+1} = 3"), (r"\frac14", r"\int_0^1 y^3\,dy = \frac13"),
    ("4", r"\sum_{j=1}^{4} j"),
    ("8", r"\begin{vmatrix} 2 & 1 \\ 1 & 4 \end{vmatrix} = 8"),
    ("7", r"\begin{vmatrix} 2 & 1 \\ 1 & 4 \end{vmatrix} = 8"),
    ("1", r"\sum_{j=1}^{4} j = 10"), ("10", r"\sum_{j=1}^{4} j = 10, 11"), ("10", r"\sum_{j=1}^4 j = 5+6"),
    (r"\frac23", r"\frac{2}{3} \approx 0.5"), (r"\frac23", r"\frac13 \approx 0.667"),
    (r"\frac23", r"0.667 \approx \frac23"), (r"\sqrt7 \approx 2.646", r"\sqrt6 \approx 2.45"),
    (r"\sqrt7 \approx 2.646", r"\sqrt7 \approx 2.9"), (r"x = \sqrt7 \approx 2.646", r"y = \sqrt7 \approx 2.65"),
    (r"m \approx 6.2", r"n \approx 6.2"),
    (r"\frac23", r"\approx 0.667"), (r"\frac94", r"x \approx 2.3"), (r"\frac94", r"\frac94 \approx 2.4"),
    (r"\frac{\sqrt5}{5} \approx 0.447", r"\frac{\sqrt5}{6}"), (r"\frac{\sqrt5}{5} \approx 0.447", "0.4"),
    (r"m \approx 6.2", "6.3"), (r"m \approx 6.2", "n = 6.2"), (r"x \approx 5", "5"), ("6", r"6 \approx 9"),
    (r"\frac{10}{3}\text{ cm}", r"\frac{10}{3}\text{ cm} \approx 3.33\text{ km}"),
    ("a_1^2", "a^1_2"), ("a_1^2", "a^2_2"), ("|y||z|", "||y|+|z||"), ("|y||z|", "|y|z"),
    ("a=3,b=4;a=4,b=3", "(3,4),(3,4)"), ("a=3,b=4;a=5,b=6", "(3,6),(5,4)"), ("a=3,b=4;a=5,b=6", "a=3,b=6;a=5,b=4"),
    ("a=3,b=4;a=5,b=6", "(4,3),(6,5)"), ("a=3,b=4;a=4,b=3", "x=3,y=4;x=4,y=3"), ("a=3,b=4;a=4,b=3", "(3,4)"),
    ("a=3,b=4;a=5,b=6", "3,4,5,6"), ("3", r"23 \bmod 5 = 4"), ("4", r"23 \bmod 5 = 4"), ("3", r"24 \equiv 3 \pmod 5"),
    ("3", r"8 \pmod 5"), (r"3 \pmod 5", r"3 \pmod 7"), (r"3 \pmod 5", r"4 \pmod 5"), ("3", r"23 \equiv 8 \pmod 5"),
    (r"x \equiv 3 \pmod 5", r"y \equiv 3 \pmod 5"), (r"x \equiv 3 \pmod 5", "8"), ("5", r"3 \pmod 5"),
    (r"3.08641975309 \times 10^{-3}", r"\frac{1}{325}"), (r"\pi \times 10^{-3}", r"3.14159 \times 10^{-2}"),
    (r"\pi \times 10^{-3}", r"3.14 \times 10^{-3}"), ("[2,5)", "[2, 5]"), ("[2,5)", "]2, 5["), ("(2,5)", "]2,6["),
    ("[2,5)", "[5, 2["), ("(2,5)", "]2,5]"), ("x^2 y", "x_2 y"),
]  # fmt: skip

MATRIX = r"\begin{pmatrix}%s\end{pmatrix}"
RIGHT += [
    ("0<g(x)<2", "(0,2)"), ("|x|<4", "(-4,4)"), (r"|x-1|\le 3", "[-2,4]"), ("|x|>2", r"(-\infty,-2)\cup(2,\infty)"),
    ("3>|x|", "(-3,3)"), ("0<x+y<2", "(0,2)"), ("(-4,4)", "|x|<4"), ("x+y<5", "5>y+x"), ("x+y<5", "2x+2y<10"),
    (r"\{1,2,4\}", r"\{1,2\}\cup\{4\}"), (r"\{1,4\}", r"\{1,2,4\}\setminus\{2\}"),
    (r"\{1,2\}", r"\{1,2,3\}\cap\{1,2\}"),
    (MATRIX % r"4\\6", MATRIX % r"1\\2" + "+" + MATRIX % r"3\\4"),
    (MATRIX % r"-2\\-2", MATRIX % r"1\\2" + "-" + MATRIX % r"3\\4"),
    (MATRIX % r"19&22\\43&50", MATRIX % r"1&2\\3&4" + MATRIX % r"5&6\\7&8"),
    (MATRIX % r"5\\8", "2" + MATRIX % r"1\\2" + "+" + MATRIX % r"3\\4"),
    (MATRIX % r"17\\39", MATRIX % r"1&2\\3&4" + r"\cdot" + MATRIX % r"5\\6"),
]  # fmt: skip
WRONG += [
    ("0<g(x)<2", "(0,3)"), ("0<g(x)<2", "0<x<2"), ("0<g(x)<2", "[0,2)"), ("|x|<4", "(-4,4]"), ("|x|<4", "(-5,4)"),
    ("x<5", "|x|<5"), (r"(-\infty,5)", "|x|<5"), ("|x|>2", r"(2,\infty)"), ("f(x)<2", "g(x)<2"), ("|x|<4", "|y|<4"),
    (r"\{1,2,4\}", r"\{1,2\}\cup\{5\}"), (r"\{1,4\}", r"\{1,2,4\}\setminus\{1\}"), (r"\{1,2\}", r"\{1,2\}\cup\{3\}"),
    (MATRIX % r"4\\6", MATRIX % r"1\\2" + "+" + MATRIX % r"3\\5"),
    (MATRIX % r"4\\6", MATRIX % "1&2" + "+" + MATRIX % r"3\\4"),
    (MATRIX % r"23&34\\31&46", MATRIX % r"1&2\\3&4" + MATRIX % r"5&6\\7&8"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_labels_chains_and_roundings_say_their_value(gold: str, answer: str) -> None:
    assert compare(gold, answer).same


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_what_says_another_value_or_another_label_is_wrong(gold: str, answer: str) -> None:
    assert not compare(gold, answer).same


numbers = st.integers(-99, 99)
LABELS = (
    "|PQ| = {}", "|z| = {}", r"\frac{{PA}}{{PB}} = {}", "P(A|B) = {}", "g^{{-1}}(4) = {}", r"(g \circ h)(1) = {}",
    "x^2+y^2 = {}", r"\sigma^2 = {}", r"\|u\| = {}", r"\det(M) = {}", r"\lim_{{x \to 0}} f(x) = {}", "{} = t", "= {}",
    r"\int_0^1 f(x)\,dx = {}", r"\sum_{{k=1}}^9 a_k = {}", r"\angle PQR = {}", r"x \equiv {} \pmod{{1000}}",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(numbers, numbers, st.sampled_from(LABELS))
def test_a_label_makes_no_other_value_right(number: int, other: int, label: str) -> None:
    assert compare(str(number), label.format(number)).same
    assert bool(compare(str(number), label.format(other)).same) == (number == other)
    assert bool(compare(label.format(number), str(other)).same) <= (number == other)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=3, unique=True), st.data())
def test_solutions_of_a_system_have_no_order_and_their_unknowns_have_one(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    gold = ";".join(f"x={x},y={y}" for x, y in pairs)
    shuffled = data.draw(st.permutations(pairs))
    assert compare(gold, ", ".join(f"({x},{y})" for x, y in shuffled)).same
    assert compare(gold, ";".join(f"y={y},x={x}" for x, y in shuffled)).same
    turned = [(y, x) for x, y in shuffled]
    assume(set(turned) != set(pairs))
    assert not compare(gold, ", ".join(f"({x},{y})" for x, y in turned)).same
    assert not compare(gold, ";".join(f"x={x},y={y}" for x, y in turned)).same
    assert not compare(gold, ";".join(f"x={x},z={y}" for x, y in pairs)).same


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 400), st.integers(3, 30), st.integers(-60, 60))
def test_a_rounding_is_one_only_where_it_is_near(top: int, bottom: int, shift: int) -> None:
    assume(top % bottom)
    value = top / bottom
    gold = rf"\frac{{{top}}}{{{bottom}}}"
    assert compare(gold, rf"{gold} \approx {value:.3f}").same
    off = value * (1 + shift / 200) + shift / 50
    assume(abs(off - value) > value / 100 + 0.006)
    assert not compare(gold, rf"{gold} \approx {off:.3f}").same
    assert not compare(gold, rf"\frac{{{top + 1}}}{{{bottom}}} \approx {value:.3f}").same


@settings(max_examples=150, deadline=None)
@given(st.sets(numbers, min_size=2, max_size=5), st.sets(numbers, min_size=1, max_size=3))
def test_finite_sets_are_united_and_subtracted(one: set[int], other: set[int]) -> None:
    def written(elements: set[int]) -> str:
        return rf"\{{{','.join(map(str, sorted(elements)))}\}}"

    assert compare(written(one | other), rf"{written(one)} \cup {written(other)}").same
    assert not compare(written(one | {100}), rf"{written(one)} \cup {written(other)}").same
    assume(len(one - other) > 1)
    assert compare(written(one - other), rf"{written(one)} \setminus {written(other)}").same
    assert bool(
        compare(written(one), rf"{written(one)} \setminus {written(other)}").same
    ) == one.isdisjoint(other)


@settings(max_examples=200, deadline=None)
@given(numbers, numbers, st.sampled_from("[]"), st.sampled_from("[]"))
def test_a_french_interval_has_the_ends_that_it_shows(
    low: int, high: int, opening: str, closing: str
) -> None:
    assume(low < high)
    brackets = {"]": "(", "[": "["}[opening] + "{},{}" + {"]": "]", "[": ")"}[closing]
    assert compare(brackets.format(low, high), f"{opening}{low}; {high}{closing}").same
    assert not compare(brackets.format(low, high + 1), f"{opening}{low}; {high}{closing}").same
    other = {"]": "[", "[": "("}[opening] + brackets[1:]
    assert not compare(other.format(low, high), f"{opening}{low}; {high}{closing}").same


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"$u = \boxed{3}$ and $v = \boxed{8}$", "u = 3, v = 8"),
        (r"$t = \boxed{3}$ or $t = \boxed{8}$", "t = 3, t = 8"),
        (r"\(x_1=\boxed{3}\), \(x_2=\boxed{8}\)", "x_1 = 3, x_2 = 8"),
        (r"$\alpha = \boxed{1}, \beta=\boxed{2}$", r"\alpha = 1, \beta = 2"),
        (r"First $u = \boxed{3}$. Then we see that $v = \boxed{8}$", "8"), (r"\boxed{3} and $v = \boxed{8}$", "8"),
        (r"$u = \boxed{3}$ but not $v = \boxed{8}$", "8"), (r"$2u = \boxed{3}$ and $v+u = \boxed{8}$", "8"),
        (r"$u = \boxed{3}$ $v = \boxed{8}$", "8"), (r"$u = \boxed{3}$", "3"),
    ],
)  # fmt: skip
def test_named_boxes_of_one_sentence_are_one_answer(text: str, answer: str) -> None:
    assert find_last_box(text) == answer


@pytest.mark.parametrize(
    ("gold", "text"),
    [("3, 8", r"$u = \boxed{3}$ and $v = \boxed{8}$"), ("3, 8", r"$t = \boxed{8}$ or $t = \boxed{3}$"),
     ("u=3, v=8", r"$v = \boxed{8}$ and $u = \boxed{3}$"), ("(3,8)", r"$u = \boxed{3}$, $v = \boxed{8}$")],
)  # fmt: skip
def test_named_boxes_are_compared_with_their_names(gold: str, text: str) -> None:
    problem = Problem("p", "math", "", gold)
    assert math(problem, Response(text)).correct
    swapped = text.replace("{3}", "{9}")
    assert not math(problem, Response(swapped)).correct


@pytest.mark.parametrize("gold", [r"$\sqrt{12}$.", r"\frac{6}{8}.", "5.", "$3$."])
def test_a_gold_that_ends_with_a_full_stop_passes_the_gate(gold: str) -> None:
    assert gate(Problem("p", "math", "", gold)) == ""


def test_sums_integrals_and_limits_are_computed_in_the_helper() -> None:
    pairs = [
        (r"\int_0^1 y^2\,dy", r"\frac13", True), (r"\int_0^1 y^2\,dy", r"\frac14", False),
        (r"\sum_{j=1}^{n} j^{2}", r"\sum_{j=1}^n j^2", True), (r"\int\limits_0^1 y\,dy", r"\frac12", True),
        (r"\lim\limits_{y\to 0} \frac{\sin y}{y}", "1", True), (r"\sum_{j=1}^{4} j", "10", True),
        (r"\sum_{j=1}^{4} j", "11", False), (r"\int_0^1 (y^2+y^3)\,dy", r"\frac{7}{12}", True),
    ]  # fmt: skip
    asked = []
    for gold, answer, _ in pairs:
        problem = Problem("p", "math", "", gold)
        asked.append(judge_safely(math, problem, Response(rf"\boxed{{{answer}}}")))
    found = [verdict.correct for verdict in wait_all(asked)]
    assert found == [is_right for _, _, is_right in pairs]


# The shape is what the guard looks at, so twos do, and the numbers stay small.
TOWERS = (
    "2^{2^{2}}", "2^{{2}^{2}}", "2^2^2", "(2^2)^2", "{2^2}^2", r"\left(2^{2}\right)^{2}", "2^{2}^{2}", r"2^\pi^2",
    r"2^{\frac{2^3}{4}}", "((2)^2)^2", "(x+1)^2^2", "2^ 2 ^2", r"\sum_{k=1}^{2^2} k", r"\sum_{k=2^2}^{n} k", "[2^2]^2",
    "2^{(2)^2}", r"\sqrt{2^2}^2", r"\frac{2^2}{1}^2", "2^2!^2", r"2^{2}\,^{2}",
    "2^22^2", "|2^2|^2",
)  # fmt: skip


@pytest.mark.parametrize("text", TOWERS)
def test_towers_are_not_handed_to_the_library(text: str) -> None:
    assert math_verify.guard(r"\int_0^1 x\,dx", text) in ("size", "operators")
    assert math_verify.guard(text, "5") == "size"


@pytest.mark.parametrize(
    "text",
    [r"\int_0^1 y^2\,dy", r"\sum_{j=1}^{n} j^{2}", r"\int_0^1 (x^2+x^3)\,dx", r"\sum_{k=0}^\infty x^k",
     r"\int_{-1}^{1} x^{2} e^{x}\,dx", r"\prod_{j=1}^{n} j"],
)  # fmt: skip
def test_ends_of_sums_and_powers_in_a_row_are_no_towers(text: str) -> None:
    assert math_verify.guard(text, text) == ""


@pytest.mark.parametrize(
    "gold",
    [
        "$y_1=x^{1/3}$\n$y_2=y_1 \\ln x+\\sum_{m=1}^9 x^m$",
        r"$x=1$ and $y=\int_0^1 t\,dt$",
        r"\frac{u \bullet v}{u \bullet u} u=\frac{5}{14}\begin{cases}1\\2\end{cases}",
    ],
)
def test_golds_of_which_the_library_reads_one_part_are_not_handed_over(gold: str) -> None:
    assert math_verify.guard(gold, gold.replace("1", "2")) == "parts"


# gold, answer, whether it is right
COMPUTED = (
    (r"\prod_{j=1}^{n} j", "n!", True), (r"\prod_{j=1}^{n} j", "(n-1)!", False), (r"\prod_{j=1}^{n} j", "n^2", False),
    (r"\lim_{y \to 2^{+}} y", r"\lim_{y \to 2^+} y", True), (r"\lim_{y \to 2^+} y", "2", True),
    (r"\lim_{y \to 2^+} y", "3", False),
    (r"\lim_{y \to 0^{-}} \frac{|y|}{y}", "-1", True), (r"\lim_{y \to 0^{-}} \frac{|y|}{y}", "1", False),
    (r"\lim_{y \to 0^-} \frac{|y|}{y}", r"\lim_{y \to 0^{+}} \frac{|y|}{y}", False),
)  # fmt: skip


def test_products_and_limits_from_one_side_are_computed() -> None:
    asked = []
    for gold, answer, _ in COMPUTED:
        problem = Problem("p", "math", "", gold)
        asked.append(judge_safely(math, problem, Response(rf"\boxed{{{answer}}}")))
    found = [verdict.correct for verdict in wait_all(asked)]
    assert found == [is_right for _, _, is_right in COMPUTED]


CASES = r"\begin{cases} x & x>0 \\ -x & x\le0\end{cases}"


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        (r"\begin{cases}x & x > 0\\-x & x \leq 0\end{cases}", True),
        (r"\begin{cases}x&x>0\\ -x&x\leqslant 0 \end{cases}", True),
        (r"\begin{cases}x, & x > 0\\ -x, & x \leq 0.\end{cases}", True),
        (r"\begin{cases}x & \text{if } x > 0,\\ -x & \text{if } x \leq 0.\end{cases}", True),
        (r"\begin{dcases}x, & \text{ for }x>0\\ -x, &\quad\mbox{when }x\le0\end{dcases}", True),
        (r"\left\{\begin{array}{ll}x & \text{if }x>0\\ -x & x\le0\end{array}\right.", True),
        (r"f(x) = \begin{cases}x & x > 0\\ -x & x \leq 0\end{cases}", True),
        (r"2f(x) = \begin{cases}x & x > 0\\ -x & x \leq 0\end{cases}", False),
        (r"f(x) = \begin{cases}x & x > 1\\ -x & x \leq 0\end{cases}", False),
        (r"\begin{cases}x & \text{unless } x > 0\\ -x & \text{if } x \leq 0\end{cases}", False),
        (r"\left\{\begin{array}{ll}-x & x>0\\ x & x\le0\end{array}\right.", False),
        (r"\begin{cases}x & x > 0\\ x & x \leq 0\end{cases}", False),
        (r"\begin{cases}x & x \ge 0\\ -x & x \leq 0\end{cases}", False),
        (r"\begin{cases}-x & x > 0\\ x & x \leq 0\end{cases}", False),
        (r"\begin{cases}x & x > 0\end{cases}", False),
    ],
)
def test_cases_are_compared_cell_by_cell_whatever_their_spaces(answer: str, is_right: bool) -> None:
    assert bool(compare(CASES, answer).same) is is_right


# question, gold, answer, and whether it is right where the field decides, with base 10 and with base e
LOGARITHMS = (
    ("Solve.", "2", r"\log 100", (True, True, False)),
    ("Solve.", "2", r"\log(e^2)", (False, False, True)),
    ("Solve.", r"\log 2", r"\log_{10} 2", (True, True, False)),
    ("Solve.", r"\log 2", r"\ln 2", (False, False, True)),
    ("Solve.", r"\ln 2", r"\log 2", (True, False, True)),
    ("Solve.", r"\ln 2", r"\log_{10} 2", (False, False, False)),
    ("Find the derivative.", r"\log x", r"\ln x", (True, False, True)),
    (r"Compute $\int_1^2 1/x\,dx$.", r"\log 2", "0.693147", (True, False, True)),
    ("Solve.", r"\log 2", "0.30102999566", (True, True, False)),
    ("Solve.", r"\log_2 8", "3", (True, True, True)),
    ("Solve.", r"\log _{2} 8", r"\log 1000", (True, True, False)),
    ("Solve.", r"\log^2 x", r"\log_{10}^2 x", (True, True, False)),
    ("Solve.", r"\operatorname{log} 5", "log(5)", (True, True, True)),
    ("Solve.", "logarithm", "logarithm", (True, True, True)),
)  # fmt: skip


@pytest.mark.parametrize(("question", "gold", "answer", "are_right"), LOGARITHMS)
def test_a_logarithm_without_a_base_has_that_of_its_field(
    question: str, gold: str, answer: str, are_right: tuple[bool, ...]
) -> None:
    problem = Problem("p", "math", question, gold)
    response = Response(rf"\boxed{{{answer}}}")
    found = [
        judge_safely(math, problem, response).correct,
        judge_safely(functools.partial(math, logarithm="10"), problem, response).correct,
        judge_safely(functools.partial(math, logarithm="e"), problem, response).correct,
    ]
    assert tuple(found) == are_right
