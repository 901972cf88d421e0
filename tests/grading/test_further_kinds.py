"""Kinds of answers beyond those in which they were first met: right spellings beside near misses."""

from __future__ import annotations

import functools

import pytest

from rlvr.tasks.choice import choice
from rlvr.tasks.judge import judge_safely, wait_all
from rlvr.tasks.math import STRING_ONLY, gate, math
from rlvr.types import Problem, Response

# Of each kind: gold, right answers, wrong answers.
UNITS = (
    (
        r"5\text{ kg}\cdot\text{m/s}^2",
        (r"5\,\mathrm{kg\,m\,s^{-2}}", r"5\,\mathrm{kg\cdot m/s^2}"),
        (r"5\,\mathrm{kg\,m\,s^{-1}}", r"5\,\mathrm{kg\,m^2\,s^{-2}}"),
    ),
    (
        r"5\text{ m/s}",
        (
            r"5\ \mathrm{m\,s^{-1}}",
            r"5\,\mathrm{m\;s^{-1}}",
            r"5\frac{m}{s}",
            "5 m/s",
            r"5\,m\,s^{-1}",
        ),
        (r"5\ \mathrm{m\,s}", r"5\frac{s}{m}", r"5\frac{m}{t}", r"6\frac{m}{s}", r"5\frac{m}{s^2}"),
    ),
    (
        r"9.8\text{ m/s}^2",
        (r"9.8\frac{m}{s^2}", r"9.8\,\frac{\mathrm{m}}{s^2}", "9.8 m/s^2"),
        (r"9.8\frac{m^2}{s}", r"9.8\frac{m^2}{s^2}", r"9.7\frac{m}{s^2}", "9.8ms^2"),
    ),
    (
        r"9.8\frac{m}{s^2}",
        (r"9.8\text{ m/s}^2", r"9.8\,\mathrm{m/s^2}"),
        (r"9.8\text{ m/s}", "9.8", r"9.8\text{ m}^2/\text{s}"),
    ),
    (
        r"60\text{ km/h}",
        (r"60\frac{km}{h}", "60km/h"),
        (r"60\frac{m}{h}", r"60\frac{km}{s}", r"60\frac{k}{h}"),
    ),
    (
        r"5\text{ N}\cdot\text{m}",
        (r"5\,\mathrm{N\,m}", r"5\,\mathrm{N\cdot m}"),
        (r"5\,\mathrm{N/m}", r"5\,\mathrm{N\,m^2}"),
    ),
    (
        r"4.18\,\mathrm{J\,g^{-1}\,K^{-1}}",
        (r"4.18\,\mathrm{J/(g\cdot K)}", r"4.18\,\mathrm{J/(g\,K)}"),
        (r"4.18\,\mathrm{J\,g^{-1}\,K}", r"4.18\,\mathrm{J/g}"),
    ),
    ("12", ("12 halls",), ("12 halves", "12 thirds", "12 tenths", "12 tens", "12 scores")),
    (
        "12",
        (r"12\text{ two-seaters}", r"12\text{ three-digit numbers}", "12 paths"),
        (
            "12 sevenths",
            "12 eighths",
            r"12\text{ one-thirds}",
            "12 millionths",
            "12 ppm",
            "12 permille",
            "12 basis points",
            "12 percentage points",
            "12 orders of magnitude",
            "12 doubled",
            "12 tripled",
        ),
    ),
)
MEASURES = (
    (
        r"3\text{ h }20\text{ min}",
        (r"3\text{ hours }20\text{ minutes}", "3 hours 20 minutes"),
        (
            r"3\text{ h }21\text{ min}",
            r"4\text{ h }20\text{ min}",
            r"3\text{ min }20\text{ h}",
            r"3\text{ h}",
            "3",
            "320",
            "60",
        ),
    ),
    (
        r"5\text{ ft }3\text{ in}",
        (r"5\text{ feet }3\text{ inches}",),
        (r"5\text{ ft }4\text{ in}", r"15\text{ ft}"),
    ),
    (
        r"10\,\mu\text{F}",
        (r"10\,\mathrm{\mu F}", r"10\,\mu F", r"10\text{ }\mu\text{F}", "10 μF"),
        (r"10\,\text{F}", r"10\,\text{mF}", r"11\,\mu\text{F}", r"10\,\mu\text{H}"),
    ),
    ("10", (r"10\,\mathrm{\mu F}", "5+5"), (r"10\mu",)),
    ("5", ("5 o'clock", r"5\text{ o'clock}"), ("6 o'clock", "5 bn", r"5\text{ mn}")),
)
LETTERS = (
    ("2h", ("2h", "2 h"), (r"2\text{ hours}", r"2\text{ h}^2")),
    (r"2\text{ h}", ("2h", "2 h", r"2\text{ hours}"), ("2m", "2h^2", "3h")),
)
TIMES = (
    (
        "9:00 a.m.",
        (r"9\text{:}00 \text{ a.m.}", r"9{:}00\text{ AM}"),
        (r"9\text{:}00 \text{ p.m.}", r"9\text{:}01 \text{ a.m.}"),
    ),
    ("8:05", ("8:05", "08:05"), ("8:5", "8:50")),
)
MONEY = (
    ("-18", (r"-\$18", "-18 USD", r"-\$18.00"), (r"\$18", r"-\$19", r"-\$-18")),
    (r"-\$18", ("-18", r"-\$18"), ("18", r"\$18", "-€18")),
    ("18", ("￥18", "￡18", "18 EUR"), ("￥19", "-￡18")),
)
CHARACTERS = (
    (r"x\le 3", ("x⩽3", "x≦3", "x≤3"), ("x⩾3", "x≧3")),
    (r"x\ge 3", ("x⩾3", "x≧3"), ("x⩽3", "x＞3")),
    (r"p\land q", ("p∧q", r"p \wedge q"), ("p∨q", "p∧r")),
    (r"\lfloor x\rfloor", ("⌊x⌋",), ("⌈x⌉", "x")),
    ("5", ("‖v‖ = 5",), ("‖v‖ = 6", "∣x∣ = 5")),
    (r"\overline{AB}", (r"\bar{AB}",), (r"\bar{AC}", "AB")),
    ("甲、乙", (r"\text{甲,乙}", "乙、甲", r"\text{甲}、\text{乙}"), ("甲、丙", "甲")),
    ("-3", ("﹣3", "－3"), ("﹢3", "3")),
    (r"\sqrt[3]{2}", ("∛2", "∛(2)", "∛{2}"), ("√2", "∜2")),
    (r"60^\circ", ("60º", "60˚", "60°"), ("61º",)),
    ("3:5", ("3∶5", "3：5"), ("5∶3",)),
    (r"\{1,2\}", ("｛1，2｝", "﹛1﹐2﹜"), ("｛1，3｝",)),
    ("|x|", ("∣x∣", "｜x｜"), ("x", "∣y∣")),
    ("2*x", ("2∗x", "2＊x"), ("2＋x",)),
    ("50\\%", ("50％", "50﹪"), ("51％",)),
)
WORDS = (
    (
        r"\text{Tom and Jerry}",
        ("Tom and Jerry", r"\text{Tom} and \text{Jerry}", "Jerry and Tom"),
        ("Tom", "Tom or Jerry", "Tom and Spike"),
    ),
    (
        r"\text{Ann, Ben and Cid}",
        ("Ann, Ben and Cid", "Ann, Ben, Cid"),
        ("Ann, Ben", "Ann, Ben and Dan"),
    ),
    ("Tom and Jerry", (r"\text{Tom and Jerry}",), (r"\text{Tom}", r"\text{Tom or Jerry}")),
)
SYSTEMS = (
    (
        r"\begin{cases}x=1\\y=2\end{cases}",
        (
            "x=1,y=2",
            "(1,2)",
            r"\begin{cases} y = 2 \\ x = 1 \end{cases}",
            r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.",
        ),
        ("x=2,y=1", "(2,1)", r"\begin{cases}x=1\\y=3\end{cases}", "x=1"),
    ),
    (
        "x=1,y=2",
        (r"\begin{cases}x=1,\\y=2.\end{cases}", "(x,y)=(1,2)", r"(x, y) = (1, 2)"),
        (r"\begin{cases}x=2,\\y=1.\end{cases}", "(x,y)=(2,1)", "(a,b)=(1,2)"),
    ),
    ("(x,y)=(2,5)", ("x=2,y=5", "y=5, x=2", "(2,5)"), ("x=5,y=2", "a=2,b=5", "(5,2)", "x=2")),
)
LABELS = (
    (
        "0.75",
        (
            r"\Pr(X > 1) = 0.75",
            r"\mathbb{P}(A|B)=\frac{3}{4}",
            r"\mathbb{P}(A \mid B) = 0.75",
            r"\Pr(A|B) = 0.75",
        ),
        (r"\Pr(X > 1) = 0.25", r"\mathbb{P}(A|B)=\frac{1}{4}"),
    ),
    (
        "10",
        (
            r"|A\cup B| = 10",
            r"|A \cap B| = 10",
            "[ABC] = 10",
            r"\max_{x} f(x) = 10",
            "C_5^2 = 10",
            r"\min_{x>0} g(x) = 10",
        ),
        (r"|A\cup B| = 11", "[ABC] = 11", r"\max_{x} f(x) = 9", "C_5^2 = 11", "[x] = 10"),
    ),
    (
        r"\frac12",
        (
            r"\cos\theta=\frac12",
            r"\sin A = \frac12",
            r"\tan \angle ABC = \frac12",
            r"\cos \alpha = 0.5",
        ),
        (r"\cos x=\frac12", r"\sin A = \frac13", r"\sin^2 A = \frac12", r"2\sin A = \frac12"),
    ),
)
COMPUTED = (
    (
        r"\sum\limits_{k=1}^{5} k^2",
        ("55", r"\sum_{k=1}^{5} k^2", r"\sum\limits_{j=1}^{5} j^2"),
        ("54", r"\sum\limits_{k=1}^{4} k^2"),
    ),
    (r"\prod\limits_{k=1}^{4} k", ("24",), ("25",)),
)
RESIDUES = (
    (
        r"x\equiv3\pmod{7}",
        (
            r"x \equiv 3\ (\text{mod } 7)",
            r"x \equiv 3\ (\bmod\ 7)",
            r"x \equiv 3 (\mathrm{mod}\ 7)",
            "x ≡ 3 (mod 7)",
        ),
        (r"x \equiv 3\ (\text{mod } 8)", r"x \equiv 4\ (\bmod\ 7)", "x ≡ 3 (mod 17)"),
    ),
)
SETS = (
    (
        r"\{2\}",
        (r"\{1,2\}\cap\{2,3\}", "2", r"\{4,2\}\setminus\{4\}"),
        (r"\{1,2\}\cap\{1,3\}", r"\{1,2\}\cup\{2\}"),
    ),
    (r"\{1,2\}\cap\{2,3\}", (r"\{2\}",), (r"\{3\}", r"\{2,3\}")),
    (
        r"\{a,b\}",
        (
            r"\{a\}\cup\{b\}",
            r"\{b,a\}\cup\{a\}",
            r"\{a,b,c\}\setminus\{c\}",
            r"\{a,b,c\}\cap\{b,a,d\}",
        ),
        (r"\{a\}\cup\{c\}", r"\{a\}\cap\{b\}", r"\{a,b\}\setminus\{b\}"),
    ),
    (
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        (r"\begin{pmatrix}1&2\end{pmatrix}^T", r"\begin{bmatrix}1&2\end{bmatrix}^{\top}"),
        (
            r"\begin{pmatrix}1&2\end{pmatrix}",
            r"\begin{pmatrix}2&1\end{pmatrix}^T",
            r"\begin{pmatrix}1\\2\end{pmatrix}^T",
        ),
    ),
    (
        r"\begin{pmatrix}1\\2\end{pmatrix}+t\begin{pmatrix}1\\1\end{pmatrix}",
        (r"\begin{pmatrix}1+t\\2+t\end{pmatrix}",),
        (r"\begin{pmatrix}1+t\\2-t\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ),
)
TIMES_IN_UNITS = (
    (
        r"20\text{ min}",
        (r"20\text{ minutes}", "20 min", "20"),
        (r"20\text{ h}", r"20\text{ s}", r"20\text{ sec}"),
    ),
    (
        r"20\text{ sec}",
        (r"20\text{ s}", r"20\text{ seconds}", "20"),
        (r"20\text{ min}",),
    ),
    (
        r"3\,\text{L/min}",
        (r"3\,\text{L}\,\text{min}^{-1}",),
        (r"3\,\text{L min}", r"3\,\text{L/h}"),
    ),
    (
        r"\int_0^1 2x\,dx \text{ m}",
        (r"\int_0^1 2x\,dx \text{ m}",),
        (r"\int_0^1 2x\,dx \text{ km}", r"1\text{ s}"),
    ),
)
ROUNDED = (
    (r"\lfloor n/2\rfloor", (r"\lceil (n-1)/2\rceil",), (r"\lceil n/2\rceil",)),
    (
        r"\lfloor x+1\rfloor",
        (r"\lfloor x\rfloor+1",),
        (r"\lceil x\rceil", r"\lceil x\rceil+1", "x+1"),
    ),
)
KINDS = {
    "times in units": TIMES_IN_UNITS,
    "rounded": ROUNDED,
    "units": UNITS,
    "letters": LETTERS,
    "measures": MEASURES,
    "times": TIMES,
    "money": MONEY,
    "characters": CHARACTERS,
    "words": WORDS,
    "systems": SYSTEMS,
    "labels": LABELS,
    "computed": COMPUTED,
    "residues": RESIDUES,
    "sets": SETS,
}


def list_mistaken(golds, judge=math) -> list[tuple[str, str, bool]]:
    """The gold, answer and verdict of whatever is judged wrongly."""
    asked = []
    for gold, right, wrong in golds:
        problem = Problem("p", "math", "", gold)
        assert gate(problem) == ""
        for answer, is_right in [*((a, True) for a in right), *((a, False) for a in wrong)]:
            response = Response(rf"\boxed{{{answer}}}")
            asked.append((gold, answer, is_right, judge_safely(judge, problem, response)))
    verdicts = wait_all([pending for *_, pending in asked])
    return [
        (gold, answer, verdict.correct)
        for (gold, answer, is_right, _), verdict in zip(asked, verdicts, strict=True)
        if verdict.correct is not is_right
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_ones_of_a_kind_are_accepted_and_the_near_misses_are_not(kind: str) -> None:
    assert list_mistaken(KINDS[kind]) == []


# With a tolerance of one part in a hundred.
NEAR = (
    (
        "9.81",
        (
            r"g \approx 9.8",
            r"\frac{98}{10} = 9.8",
            r"\sqrt{96} \approx 9.8",
            r"g = \frac{98}{10} = 9.8",
        ),
        (r"g \approx 9.6", r"\frac{90}{10} = 9.8", r"\sqrt{90} \approx 9.8", r"\frac{98}{10} = 9"),
    ),
    (
        r"9.81\text{ N}",
        (r"F \approx 9.8\text{ N}", r"F = 9.8"),
        (r"F \approx 9.8\text{ J}", r"F \approx 9.6\text{ N}"),
    ),
    ("x=1.5", (r"x \approx 1.49", "1.49"), (r"y \approx 1.49", r"x \approx 1.4")),
)


def test_a_tolerance_holds_in_chains_and_behind_signs_of_approximation() -> None:
    assert list_mistaken(NEAR, functools.partial(math, tolerance=0.01)) == []


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("答案：B", True),
        ("答案是B。", True),
        ("故选：B．", True),
        ("不选B", False),
        ("正确答案为（B）", True),
        ("答案：A", False),
        ("答案：B或C", False),
        ("答案：B、C", False),
        (r"\boxed{x=3} 答案：B", True),
        (r"\boxed{A} 答案：B", False),
        (r"\boxed{\text{I choose B}}", True),
        (r"\boxed{\text{I choose A}}", False),
    ],
)
def test_an_answer_line_in_chinese_counts(text: str, is_right: bool) -> None:
    problem = Problem("p", "choice", "Which?", "B")
    assert judge_safely(choice, problem, Response(text)).correct is is_right


def test_a_point_of_that_name_makes_no_calculus() -> None:
    problem = Problem("p", "math", "Point E lies on AB. Find $x$.", "2")
    assert judge_safely(math, problem, Response(r"\boxed{\log 100}")).correct


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (r"A\subseteq B", "A⊆B", "B⊆A"),
        (r"x\notin A", "x∉A", "x∈A"),
        (r"AB\perp CD", "AB⊥CD", "AB∥CD"),
        (r"\neg p", "¬p", "p"),
        (r"p \Rightarrow q", "p⇒q", "p⇔q"),
    ],
)
def test_signs_without_a_rule_are_compared_as_texts(gold: str, right: str, wrong: str) -> None:
    problem = Problem("p", "math", "", gold, meta={STRING_ONLY: True})
    verdicts = [judge_safely(math, problem, Response(rf"\boxed{{{a}}}")) for a in (right, wrong)]
    assert [verdict.correct for verdict in verdicts] == [True, False]


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (r"\boxed{\frac12}", True),
        (r"\boxed{0.5}", False),
        (r"\boxed{\frac13}", False),
        ("The correct option is B", True),
        ("The right choice is: **B**", True),
        ("The correct option is not B", False),
        ("The correct option is A", False),
    ],
)
def test_what_an_option_says_may_be_laid_out_otherwise(text: str, is_right: bool) -> None:
    question = "Q?\nA) 3 apples\nB) $\\frac{1}{2}$\nC) Paris, France"
    problem = Problem("p", "choice", question, "B")
    assert judge_safely(choice, problem, Response(text)).correct is is_right
