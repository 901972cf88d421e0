"""Times of day, units as they are typeset, money, counted nouns, ohms, and a tolerance wherever a number stands."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlvr.grading.compare import compare
from rlvr.tasks.judge import judge_safely, wait_all
from rlvr.tasks.math import math
from rlvr.types import Problem, Response, Status


def is_right(gold: str, answer: str, **options: Any) -> bool:
    problem = Problem("p", "math", "", gold)
    response = Response(rf"\boxed{{{answer}}}")
    (verdict,) = wait_all([judge_safely(partial(math, **options), problem, response)])
    assert verdict.status is not Status.ERROR
    return verdict.correct


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"3:30 \text{ p.m.}", r"3:30 \text{ a.m.}", False), (r"5\text{ p.m.}", r"5\text{ a.m.}", False),
        (r"4\!:\!40\text{ a.m.}", r"4:40\text{ p.m.}", False), ("4:40 a.m.", r"4:40 \text{ a.m.}", True),
        ("5 PM", r"5\text{ PM}", True), ("5 p.m.", "5 PM", True), ("5pm", r"5\text{ p.m.}", True),
        ("10:30", r"10{:}30", True), ("10:30", r"10{:}31", False), (r"10{:}30\text{ AM}", "10:30 am", True),
        ("10:30", r"10:30\text{ a.m.}", True), ("10:30", r"\text{10:30 a.m.}", True), ("10:30", r"\text{10:30}", True),
        ("5 PM", "5 AM", False), (r"\text{5 p.m.}", "5 pm", True), (r"3:30\text{ PM}", r"3:30\,\mathrm{pm}", True),
        ("15am", "15a m", True), ("a_m", "5 am", False), ("4:40 a.m.", "4:04 a.m.", False),
        (r"9\text{ a.m.}, 5\text{ p.m.}", r"9\text{ p.m.}, 5\text{ a.m.}", False), ("x^{3am}", "x^{3a m}", True),
    ],
)  # fmt: skip
def test_the_half_of_the_day_counts(gold: str, answer: str, right: bool) -> None:
    assert is_right(gold, answer) is right


ACCELERATIONS = [
    r"\text{ m/s}^2", r"\text{ m/s^2}", r"\text{ m/s}^{2}", r"\,\frac{\text{m}}{\text{s}^2}",
    r" \mathrm{~m} / \mathrm{s}^2", r"\text{ m/s²}", r"\ \mathrm{m/s^{2}}", r"\text{ m}/\text{s}^2",
    r"\text{ m}\cdot\text{s}^{-2}", r"\text{ m s}^{-2}", r"\text{ m s^-2}", r"\text{ meters per second}^2",
    r"\text{ m/s/s}", r"\,\text{m}\,\text{s}^{-2}", r"\text{ m}\text{/s}^2",
]  # fmt: skip
NO_ACCELERATIONS = [
    r"\text{ m/s}", r"\left(\text{m/s}\right)^2", r"\frac{\text{m}^2}{\text{s}^2}", r"\text{ m}^2/\text{s}",
    r"\text{ m/s}^3", r"\text{ m s}^2", r"\text{ m}^2\text{/s}^2", r"\text{ km/s}^2", r"\frac{\text{m}^2}{\text{s}}",
    r"\text{ m s}^{-1}", r"\text{ s/m}^2", r"\text{ m/s}^{-2}", r"\text{ m/min}^2",
]  # fmt: skip


@pytest.mark.parametrize("answer", ACCELERATIONS)
@pytest.mark.parametrize("gold", ACCELERATIONS[:6])
def test_a_compound_unit_is_read_as_it_is_typeset(gold: str, answer: str) -> None:
    assert is_right(f"9.8{gold}", f"9.8{answer}") and is_right("9.8", f"9.8{answer}")


@pytest.mark.parametrize("answer", NO_ACCELERATIONS)
def test_a_square_on_the_wrong_factor_is_another_unit(answer: str) -> None:
    for gold in ACCELERATIONS:
        assert not is_right(f"9.8{gold}", f"9.8{answer}")
        assert not is_right(f"9.8{answer}", f"9.8{gold}")


def test_what_stands_in_brackets_below_a_slash_divides() -> None:
    assert is_right(r"3\frac{\text{J}}{\text{kg}\cdot\text{K}}", r"3\text{ J/(kg K)}")
    assert is_right(r"3\text{ J/(kg·K)}", r"3\text{ J kg}^{-1}\text{ K}^{-1}")
    assert not is_right(r"3\text{ J/(kg K)}", r"3\text{ J K/kg}")


MONEY = {
    "dollar": [r"\${}", r"{}\$", "{} dollars", r"US\${}", "{} USD", "USD {}", r"\text{{USD }}{}", "{}USD"],
    "euro": ["€{}", "{} €", "{} euros", "EUR {}", r"{}\text{{ EUR}}", r"\text{{€}}{}", r"\text{{{} €}}", r"\euro {}"],
    "sterling": ["£{}", "{} GBP", r"\pounds {}", r"\pounds{}", r"\text{{£{}}}", "{}£", "GBP{}"],
    "yen": ["{} yen", "JPY {}", "{} JPY", "{}日元"],
    "yuan": ["{}元", "{} yuan", "{} RMB", "CNY {}", r"{}\text{{元}}"],
    "rupee": ["₹{}", "{} rupees", "INR {}"],
    "australian": [r"A\${}", "{} AUD", r"AU\${}"],
    "canadian": [r"C\${}", "CAD {}"],
    "francs": ["CHF {}", "{} CHF"],
}  # fmt: skip


@pytest.mark.parametrize("currency", MONEY)
def test_a_currency_may_stand_before_or_behind_a_bare_gold(currency: str) -> None:
    for form in [*MONEY[currency], "¥{}"]:
        assert is_right("18", form.format(18)), form
        assert not is_right("18", form.format(17)), form
    for form in MONEY[currency]:
        assert is_right(form.format(18), "18") and is_right(
            MONEY[currency][0].format(18), form.format(18)
        ), form


def test_one_sign_is_written_for_yen_and_yuan() -> None:
    assert is_right("¥18", "18元") and is_right("18 yen", "￥18") and not is_right("18 yen", "18元")
    assert not is_right("¥18", "€18") and not is_right("£18", "¥18")


NAMES = st.sampled_from(sorted(MONEY))


@settings(max_examples=250, deadline=None)
@given(gold=NAMES, other=NAMES, amount=st.integers(1, 999), data=st.data())
def test_another_currency_is_wrong(gold: str, other: str, amount: int, data: st.DataObject) -> None:
    assume(gold != other)
    wanted = data.draw(st.sampled_from(MONEY[gold])).format(amount)
    given_ = data.draw(st.sampled_from(MONEY[other])).format(amount)
    assert not is_right(wanted, given_), (wanted, given_)


@pytest.mark.parametrize(
    "answer",
    [
        r"12 \text{ people}", "12 red apples", "12页", r"\text{12 people}", "12 people",
        r"12\text{ years old}",
        r"12\text{ large red apples}", "12个苹果", r"12\,\text{页}", r"12\text{ children}", r"12\text{ sheep.}",
        "12 years",
    ],
)  # fmt: skip
def test_what_was_counted_may_stand_beside_a_bare_gold(answer: str) -> None:
    assert is_right("12", answer) and not is_right("13", answer)
    assert not is_right("x", answer) and not is_right(r"12\text{ cm}", answer)


def test_the_rule_of_counted_nouns_has_a_switch() -> None:
    assert is_right("12", "12 red apples") and not is_right("12", "12 red apples", counted=False)
    assert is_right("12", r"12\text{ cm}", counted=False) and is_right(
        "12", "12 eggs", counted=False
    )


@pytest.mark.parametrize(
    "answer",
    [
        r"12\text{ thousand people}", r"12\text{ or more people}", r"\text{not }12", r"12\text{ squared}",
        "12万", "12亿人",
        r"12\text{ dozen eggs}", r"12\text{ factorial}", r"12\text{ people too many}", "12 score", "12 twenty", "12倍",
        r"12\text{ hundredths}", r"12\text{ th}", r"12\text{ is wrong}", r"12\text{ people, 13 dogs}",
        r"12\%\text{ people}",
        r"12\text{ of the many red apples}", r"12\text{ vs seventeen}", r"12\text{ people}^2", r"\text{people }12",
        r"12x\text{ people}", r"12\text{ people} \cdot 2", "12分之一", r"12\text{ people per day}",
    ],
)  # fmt: skip
def test_words_that_may_change_a_number_are_no_counted_noun(answer: str) -> None:
    assert not is_right("12", answer)


@settings(max_examples=200, deadline=None)
@given(
    gold=st.integers(0, 400),
    other=st.integers(0, 400),
    noun=st.sampled_from([r"\text{ people}", " red apples", "页", "元", r"\text{ sheep}", " USD", "人"]),
)  # fmt: skip
def test_another_count_is_wrong(gold: int, other: int, noun: str) -> None:
    assert is_right(str(gold), f"{other}{noun}") is (gold == other)


@settings(max_examples=150, deadline=None)
@given(hour=st.integers(1, 12), minute=st.integers(0, 59), data=st.data())
def test_another_time_of_day_is_wrong(hour: int, minute: int, data: st.DataObject) -> None:
    forms = [" {}.m.", r"\text{{ {}.m.}}", " {}m", r"\text{{ {}M}}", r"\,\mathrm{{{}m}}", "{}m"]
    clock = f"{hour}:{minute:02d}"
    wanted = clock + data.draw(st.sampled_from(forms)).format("p")
    assert not is_right(wanted, clock + data.draw(st.sampled_from(forms)).format("a"))
    assert is_right(wanted, clock + data.draw(st.sampled_from(forms)).format("p"))
    later = f"{hour}:{(minute + 1) % 60:02d}"
    assert not is_right(wanted, later + data.draw(st.sampled_from(forms)).format("p"))


UNITS = st.sampled_from(["m", "s", "kg", "N", "cm", "mol"])
POWERS = st.integers(-3, 3).filter(bool)


@settings(max_examples=250, deadline=None)
@given(
    units=st.lists(UNITS, min_size=2, max_size=2, unique=True),
    gold=st.tuples(POWERS, POWERS),
    other=st.tuples(POWERS, POWERS),
)
def test_another_power_of_a_unit_is_wrong(
    units: list[str], gold: tuple[int, int], other: tuple[int, int]
) -> None:
    first, second = units
    wanted = rf"5\text{{ {first}}}^{{{gold[0]}}}\text{{ {second}}}^{{{gold[1]}}}"
    same_unit = gold == other
    apart = rf"5\,\mathrm{{{first}}}^{{{other[0]}}}\cdot\mathrm{{{second}}}^{{{other[1]}}}"
    assert is_right(wanted, apart) is same_unit
    if other[0] == 1:
        assert is_right(wanted, rf"5\text{{ {first} {second}}}^{{{other[1]}}}") is same_unit
        if other[1] < 0:
            assert is_right(wanted, rf"5\text{{ {first}/{second}}}^{-other[1]}") is same_unit


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"6\,\Omega", "6 Ω", True), ("6", r"6\,\Omega", True), ("6", r"6\Omega", True), (r"6\,\Omega", "6", True),
        (r"6\,\Omega", r"6\text{ ohms}", True), (r"6\,\mathrm{k}\Omega", r"6\text{ kilohms}", True),
        (r"6\,\Omega", r"6\,\mathrm{k}\Omega", False), (r"6\,\Omega", r"7\,\Omega", False), ("7", r"6\,\Omega", False),
        (r"6\,\mathrm{\Omega}", r"6\Omega", True), (r"2\Omega", "2", False), (r"2\Omega t", r"2 t\Omega", True),
        (r"6\,\mathrm{k\Omega}", "6 kΩ", True), (r"6\,\mathrm{k\Omega}", r"6\,\mathrm{k}\,\Omega", True),
        ("6", "6 kΩ", True),
        (r"6\,\mathrm{k\Omega}", "6 MΩ", False), (r"6\,\mathrm{k\Omega}", "6 Ω", False), ("7", "6 kΩ", False),
        (r"6\text{ V}", r"6\,\Omega", False), (r"6\text{ }\Omega", "6Ω", True), (r"\Omega", r"1\,\Omega", False),
    ],
)  # fmt: skip
def test_ohms(gold: str, answer: str, right: bool) -> None:
    assert is_right(gold, answer) is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("9.81", r"9.80 \text{ m/s}^2", True), (r"9.81\text{ N}", r"9.80\text{ N}", True), (r"\pi", "3.14", True),
        (r"\sqrt{3}", "1.73", True), ("(1.50, 2.50)", "(1.501, 2.50)", True), ("9.81", "g = 9.80", True),
        ("x = 5", "x = 5.01", True), ("1.5, 2.5", "2.51, 1.5", True), (r"\{1.5, 2.5\}", "1.5, 2.49", True),
        ("9.81", "9.80 apples", True), (r"28\%", "28.1", True), (r"-\sqrt{3}", "-1.73", True), ("3.14", r"\pi", True),
        (r"\begin{pmatrix}1.5\\2\end{pmatrix}", r"\begin{pmatrix}1.501\\2\end{pmatrix}", True),
        ("2+3i", "2.01+3i", True),
        ("9.81", r"9.60 \text{ m/s}^2", False), (r"9.81\text{ N}", r"9.80\text{ J}", False), (r"\pi", "3.2", False),
        ("(1.50, 2.50)", "(2.50, 1.501)", False), ("(1.50, 2.50)", "[1.501, 2.50]", False),
        ("x = 5", "y = 5.01", False),
        ("1.5, 2.5", "1.5, 1.5", False), ("1.5, 2.5", "1.5, 2.5, 3.5", False), ("10:30", "10.01:30", False),
        ("x", "1.001x", False), ("5", r"\text{about } 5.01", False), (r"\infty", "10000", False),
        ("5", "5.01 thousand", False),
        ("204_5", "205_5", False), ("5", "4.99 or 5.01", False), ("x<5", "x<5.01", False), ("-5", "5", False),
        (r"9.81\text{ m/s}^2", r"g = 9.8\frac{m}{s^2}", True), (r"9.81\text{ m/s}^2", r"9.8\frac{m}{s}", False),
        (r"9.81\text{ m/s}^2", r"9.3\frac{m}{s^2}", False), ("5xy", "5.01xy", False),
    ],
)  # fmt: skip
def test_a_tolerance_counts_wherever_a_number_stands(gold: str, answer: str, right: bool) -> None:
    assert is_right(gold, answer, tolerance=0.01) is right


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.lists(st.integers(10, 9999), min_size=1, max_size=4, unique=True),
    factor=st.sampled_from([1.03, 0.97, 2, -1]),
    form=st.sampled_from(["({})", "{}", r"\{{{}\}}", "[{}]"]),
)
def test_a_number_beyond_the_tolerance_is_wrong_in_any_place(
    numbers: list[int], factor: float, form: str
) -> None:
    wanted = [number / 100 for number in numbers]
    off = [*wanted[:-1], wanted[-1] * factor]
    gold = form.format(", ".join(f"{number:.6f}" for number in wanted))
    answer = form.format(", ".join(f"{number:.6f}" for number in off))
    assume(all(abs(off[-1] - number) > 0.011 * number for number in wanted))
    assert not is_right(gold, answer, tolerance=0.01)


def test_a_lone_dollar_sign_is_money_and_a_pair_delimits() -> None:
    assert compare("18", "$18").same and compare("18", "$18$").same and compare("18", "US$18").same
    assert not compare("€18", "$18").same and compare("€18", "$18$").same


def test_what_has_no_value_beside_words_or_a_tolerance_is_wrong_and_no_error() -> None:
    for answer in (
        "x people",
        r"\frac{1}{0}\text{ people}",
        r"\ln(0)\text{ m}",
        "{" * 300,
    ):
        assert not is_right("12", answer) and not is_right("12", answer, tolerance=0.1)
        assert not is_right(r"\pi", answer, tolerance=0.1)
