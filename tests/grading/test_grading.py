"""Extraction, number reading and the tag format: what is read, what is refused, and that no text is
slow or crashes.
"""

from __future__ import annotations

import doctest
import importlib
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.grading.compare import compare
from rlvr.grading.extract import find_form, find_last_box, find_last_number
from rlvr.grading.tags import check_tags
from rlvr.grading.units import read_number
from rlvr.tasks.gym_comparisons import calculate

FORMS = ("box", "answer", "hash", "number")
PIECES = (
    "\\boxed{",
    "\\fbox {",
    "\\\\",
    "\\{",
    "\\}",
    "{",
    "}",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "####",
    "\n",
    " ",
    "1",
    "12,345",
    ".5",
    "-",
    "/",
    "%",
    "\\frac{1}{2}",
    "e",
    "e9",
    "\\times 10^{",
    "$",
    "\\text{",
    "٣",
    "²",
    "\x00",
    "x",
)


@pytest.mark.parametrize(
    "module",
    [
        "grading.extract",
        "grading.tags",
        "grading.notation",
        "grading.tree",
        "grading.compare",
        "grading.parser",
        "grading.math_verify",
        "grading.units",
        "grading.exact",
        "tasks.math",
        "tasks.knights",
        "tasks.arithmetic",
        "tasks.files",
    ],
)
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    assert doctest.testmod(importlib.import_module(f"rlvr.{module}")).failed == 0


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"so \boxed{42}", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed {4}", "4"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"x \\\boxed{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{2 + \boxed{5}}", r"2 + \boxed{5}"),
        (r"\boxed{1 and \boxed{5}", "5"),
        (r"\boxed{3} so \boxed{}", ""),
        (r"\boxed{3} so \boxed{ }", ""),
        (r"\boxed{3} so \boxed{4", ""),
        (r"\boxed{3} so \boxed{4\}", ""),
        (r"\boxed{" + "word " * 4_200 + "}", ""),
        (r"\boxed{4}, \boxed{5}", "4, 5"),
        (r"$\boxed{4}$ and $\boxed{5}$", "4, 5"),
        (r"\boxed{4} \text{ or } \boxed{5}", "4, 5"),
        (r"\boxed{4}\boxed{4}", "4"),
        (r"\boxed{4}, \boxed{}", ""),
        (r"\boxed{4}. So \boxed{5}", "5"),
        (r"\boxed 5", None),
        ("5", None),
    ],
)
def test_the_last_box_decides(text: str, box: str | None) -> None:
    assert find_last_box(text) == box


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        ("answer", "<answer>4</answer> <answer> 5\n</answer>", "5"),
        ("answer", "<answer>4</answer> <answer>5", ""),
        ("answer", "4</answer>", None),
        ("hash", "#### 4\n#### 5 \nmore 6", "5"),
        ("hash", "####", ""),
        ("hash", "4", None),
        ("number", "7 - 12 = -5.", "-5"),
        ("number", "it is 12-5", "5"),
        ("number", "$1,234.50, of course", "1,234.50"),
        ("number", "1,2,3", "3"),
        ("number", "3/4 of it", "3/4"),
        ("number", r"-\frac{3}{4}", r"-\frac{3}{4}"),
        ("number", "50% sure", "50%"),
        ("number", "none", None),
    ],
)
def test_the_other_forms(form, text: str, found: str | None) -> None:
    assert find_form(form, text) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        ("-7", Fraction(-7)),
        ("\u2212 7", Fraction(-7)),
        ("+3.50", Fraction(7, 2)),
        (".5", Fraction(1, 2)),
        ("1,234,567", Fraction(1234567)),
        (r"1{,}234", Fraction(1234)),
        (r"12\,345", Fraction(12345)),
        ("3/4", Fraction(3, 4)),
        ("-6/8", Fraction(-3, 4)),
        (r"\frac{1}{3}", Fraction(1, 3)),
        (r"\dfrac{-1}{3}", Fraction(-1, 3)),
        (r"\frac12", Fraction(1, 2)),
        (r"4\frac{2}{3}", Fraction(14, 3)),
        ("4 2/3", Fraction(14, 3)),
        (r"-4\frac{2}{3}", Fraction(-14, 3)),
        (r"28\%", Fraction(28, 100)),
        ("1.2e-3", Fraction(12, 10000)),
        (r"1.2 \times 10^{-3}", Fraction(12, 10000)),
        (r"3 \cdot 10^5", Fraction(300000)),
        ("$18$", Fraction(18)),
        (r"\$18.", Fraction(18)),
        (r"18 \text{ dollars}", Fraction(18)),
        ("5 cm^2", Fraction(5)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    assert read_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,23",
        "12,34,567",
        "1 2",
        "3 or 4",
        "5 million",
        "18 m",
        "1/0",
        r"\frac{1}{0}",
        "1e1000",
        "1.2.3",
        "٣",
        "²",
        "5x",
        "--5",
        "118=119",
        "1_000",
        "0x10",
        "nan",
        "inf",
        "٤/2",
        ".",
        "-",
        "4 5/3",
    ],
)
def test_what_is_no_number_is_refused(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("28\\%", "28", True),
        ("28\\%", "0.28", True),
        ("0.28", "28\\%", True),
        ("28", "28\\%", False),
        ("15", "15 cm", True),
        ("15 cm", "15", True),
        ("15 cm", "15 km", False),
        ("15 cm", "15 centimeters", True),
        ("5 cm^2", "5 cm^{2}", True),
        ("5 cm^2", "5 cm", False),
        ("1/3", "0.33333", False),
        ("1/3", "0.333333", True),
        ("50", "0.5", False),
    ],
)
def test_units_and_percent(gold: str, answer: str, same: bool) -> None:
    assert compare(gold, answer).same is same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6 * 4", 24),
        ("(1 + 2) \u00d7 8", 24),
        ("-2 - -26", 24),
        ("48 / (1 + 1)", 24),
        ("int('24')", None),
        ("2 ** 9", None),
        ("1 / 0", None),
        ("f(2)", None),
        ("True + 1", None),
        ("2.0", None),
        ("(" * 15 + "1", None),
        ("1 +" * 100, None),
        ("\x00", None),
        ("24; 1", None),
        ("(24 := 3)", None),
        ("", None),
    ],
)
def test_calculations_are_worked_out_and_never_executed(text: str, value: int | None) -> None:
    found = calculate(text)
    assert (found and found[0]) == value


@pytest.mark.parametrize(
    ("text", "prefilled", "fault"),
    [
        ("<think>a</think><answer>b</answer>", False, None),
        ("a</think>\n\n<answer>b</answer>\n", True, None),
        ("<think>a</think><answer>b</answer>", True, None),
        ("a</think><answer>b</answer>", False, "ordered"),
        ("<think>a</think><answer>b</answer><answer>c</answer>", False, "ordered"),
        ("<answer>b</answer><think>a</think>", False, "ordered"),
        ("<think>a<think>b</think><answer>c</answer>", False, "ordered"),
        ("<Think>a</Think><answer>b</answer>", False, "ordered"),
        ("well <think>a</think><answer>b</answer>", False, "clean"),
        ("<think>a</think> so <answer>b</answer>", False, "clean"),
        ("<think>a</think><answer>b</answer> done", False, "clean"),
        ("<think>a</think><answer> </answer>", False, "answered"),
    ],
)
def test_the_tag_format_names_its_fault(text: str, prefilled: bool, fault: str | None) -> None:
    tags = check_tags(text, prefilled=prefilled)
    assert tags.ok is (fault is None)
    assert fault is None or getattr(tags, fault) is False


def test_a_truncated_response_is_not_well_formed_and_thinking_can_be_demanded() -> None:
    text = "<think>one two</think><answer>b</answer>"
    assert not check_tags(text, truncated=True).ok
    assert check_tags(text, min_think=2).ok
    assert not check_tags(text, min_think=3).ok


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
)
def test_no_text_crashes_the_readers(text: str) -> None:
    for form in FORMS:
        found = find_form(form, text)
        assert found is None or (found == found.strip() and found in text)
    number = read_number(text)
    assert number is None or isinstance(number, Fraction)
    check_tags(text)
    calculate(text)


@settings(max_examples=200, deadline=None)
@given(st.fractions(min_value=-(10**9), max_value=10**9), st.integers(-(10**12), 10**12))
def test_written_numbers_are_read_back(fraction: Fraction, whole: int) -> None:
    assert read_number(str(fraction)) == fraction
    sign = "-" if fraction < 0 else ""
    assert (
        read_number(rf"{sign}\frac{{{abs(fraction.numerator)}}}{{{fraction.denominator}}}")
        == fraction
    )
    assert read_number(f"{whole:,}") == whole
    assert read_number(find_last_number(f"the sum is {whole:,}.") or "") == whole


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("prefix", ["", "\\boxed{", "1"])
def test_hostile_texts_take_linear_time(piece: str, prefix: str) -> None:
    text = prefix + piece * (10_000 // len(piece))
    start = time.process_time()
    for form in FORMS:
        find_form(form, text)
    read_number(text)
    check_tags(text)
    assert time.process_time() - start < 0.2
