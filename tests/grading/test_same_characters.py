"""The same characters written otherwise are the same answer, in formulas, words and Knights answers alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.grading.characters import unify_characters
from rlvr.grading.compare import compare
from rlvr.tasks.choice import choice
from rlvr.tasks.knights_answer import read_assignment
from rlvr.types import Problem, Response

WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        # Full-width forms and CJK punctuation.
        ("5", "5。"), ("5", "5．"), ("-6", "－6"), ("x>5", "x＞5"), ("x<5", "x＜5"), ("3:5", "3：5"),
        ("2, 3", "x=2；x=3"), ("2, 3", "2、3"), ("(2,3)", "（2，3）"), ("[2,3]", "［2，3］"), ("x=5", "x＝5"),
        ("x+1", "ｘ＋１"), ("2/3", "2／3"), ("3!", "3！"), (r"\{1,2\}", "｛1，2｝"), (r"|x|", "｜x｜"), ("A", "Ａ"),
        ("A", "A。"), ("2^3", "2＾3"), ("x_1", "x＿1"), (r"50\%", "50％"), ("3.5", "３．５"),
        # Other types of letters, ligatures, signs that are a letter.
        ("x", "𝑥"), ("xy", "𝒙𝐲"), ("5", "𝟓"), (r"\pi", "𝜋"), (r"\mathbb{R}", "ℝ"), (r"\text{five}", "ﬁve"),
        # Greek letters.
        *[(command, letter) for command, letter in zip(
            r"\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \pi \rho \sigma "
            r"\tau \upsilon \phi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi "
            r"\Omega".split(), "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", strict=True)],
        ("6", "ν = 6"), (r"\frac{\Phi}{2}", "Φ/2"), (r"\varepsilon", "ε"), (r"\varphi", "ϕ"), (r"\vartheta", "ϑ"),
        # Indices and exponents.
        ("x_1", "x₁"), ("6", "a₁ = 6"), ("x_{12}", "x₁₂"), ("a_n", "aₙ"), ("x^2+1", "x²+1"), ("x^{-1}", "x⁻¹"),
        ("x^{2n}", "x²ⁿ"), ("a_1^2", "a₁²"), ("204_5", "204₅"), (r"3\frac{1}{3}", "3⅓"),
        # Doubled backslashes.
        (r"\frac{2}{3}", r"\\frac{2}{3}"), (r"\sqrt{7}", r"\\sqrt{7}"), (r"2\pi", r"2\\pi"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        # Words.
        ("星期三", r"\text{星期三}"), ("第二象限", "第二象限。"), ("充要条件", r"\text{充要条件}"),
        ("はい", r"\text{はい}"),
        (r"\text{July 4}", "July 4"), (r"\text{Alice, Bob}", "Alice, Bob"), (r"\text{Point B}", "Point B"),
        (r"\text{a cat}", "a cat"), (r"\text{I am}", "I am"), (r"\text{Room 12}", "Room 12"), ("no", "No"),
        ("no", r"\text{no}"), (r"\text{Mary Ann}", "Mary Ann"),
        # Layout that lost its space.
        (r"t_1=3,\quadt_2=8", "3, 8"), (r"x=1,\qquadx=2", "1, 2"), (r"\displaystylex+1", "x+1"),
        # Type.
        ("3x", r"3\mathrm{x}"), (r"\sin x", r"\operatorname{sin} x"), (r"\gcd(a,b)", r"\operatorname{gcd}(a,b)"),
        (r"\sinh^{-1}(y)", r"\operatorname{arsinh}(y)"), (r"\cosh^{-1} 2", r"\operatorname{arcosh} 2"),
        (r"\tanh^{-1} x", r"\operatorname{artanh} x"),
    ],
)  # fmt: skip
def test_the_same_characters_written_otherwise(gold: str, answer: str) -> None:
    assert compare(gold, answer).same and compare(answer, gold).same


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "²"), ("25", "2⁵"), ("12", "1₂"), ("x2", "x₂"), ("x2", "x²"), ("1", "①"), ("3", "٣"), ("3.5", "3。5"),
        ("35", "3。5"), ("15", "3～5"), ("x_1", "x₂"), ("x^2", "x³"), (r"\nu", "v"), ("v", "ν"), ("o", "ο"), ("A", "Α"),
        (r"\Sigma", "σ"), (r"\psi", "φ"), ("x<5", "x＞5"), ("5", "－5"), ("A", "Ｂ"), ("1234", "1、234"),
        ("no", "on"), ("on", r"\text{no}"), ("of", "fo"), (r"\text{July 4}", "July 5"), ("4", "July 4"),
        ("July 4", "4"), (r"\text{July 4}", "June 4"), (r"\text{Alice, Bob}", "Alice"), ("星期三", "星期四"),
        (r"\text{Alice, Bob}", "Alice, Carol"), (r"\text{Point B}", "Point C"), (r"\text{a cat}", "a dog"),
        (r"\frac{2}{3}", r"\\frac{3}{2}"), ("x=1,x=2", r"\quadx=1"), (r"\sinh^{-1} y", r"\sinh y"),
        (r"\sinh^{-1} y", r"\operatorname{arcosh} y"), ("第二象限", "第三象限"), ("5", "5第二"),
    ],
)  # fmt: skip
def test_other_characters_stay_wrong(gold: str, answer: str) -> None:
    assert not compare(gold, answer).same


def test_products_of_letters_stay_products() -> None:
    assert compare("ab", "ba").same
    assert compare("ab+c", "c+ba").same


numbers = st.integers(-999, 999)


@settings(max_examples=200, deadline=None)
@given(numbers, numbers, st.sampled_from(("{}+x", "({},x)", "[{},y)", "x={}", "{}/7", "x_{}")))
def test_a_full_width_answer_is_right_exactly_where_the_plain_one_is(
    number: int, other: int, form: str
) -> None:
    gold = form.format(number)
    assert compare(gold, gold.translate(WIDE)).same
    answer = form.format(other)
    assert compare(gold, answer.translate(WIDE)).same == compare(gold, answer).same


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99))
def test_an_index_or_exponent_of_unicode_is_the_one_that_it_shows(one: int, other: int) -> None:
    lowered = str(one).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    raised = str(one).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert bool(compare(f"a_{{{other}}}", f"a{lowered}").same) == (one == other)
    assert bool(compare(f"7^{{{other}}}", f"7{raised}").same) == (one == other)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_characters_are_unified_once_and_for_all(text: str) -> None:
    assert unify_characters(unify_characters(text)) == unify_characters(text)


@pytest.mark.parametrize(
    "text",
    [
        "(1) Zoey is a knight；(2) Oliver is a knave。", "Zoey  is  a  knight\nOliver is\na knave",
        "（1）Zoey：knight\n（2）Oliver：knave", "Ｚｏｅｙ is a knight。Oliver is a knave。",
        "Zoey is a knight、Oliver is a knave", "Zoey\nis a knight，and Oliver is\n not\na knight",
    ],
)  # fmt: skip
def test_a_knights_answer_in_other_punctuation_and_white_space(text: str) -> None:
    roles, _ = read_assignment(text, ["Zoey", "Oliver"])
    assert roles == {"Zoey": True, "Oliver": False}


@pytest.mark.parametrize(
    "text",
    ["Zoey is a knight；Oliver is", "Zoey is a knight\nis a knave\nOliver", "Zoey is a knight。a knave。",
     "Zoey is a knight\nOliver is a knave\nOliver is\na knight"],
)  # fmt: skip
def test_a_knights_answer_that_says_less_or_contradicts_itself_is_none(text: str) -> None:
    roles, _ = read_assignment(text, ["Zoey", "Oliver"])
    assert roles is None


@pytest.mark.parametrize(
    "text", [r"\boxed{Ａ}", r"\boxed{A。}", r"\boxed{（A）}", "The answer is Ａ。"]
)
def test_a_choice_in_other_characters_is_its_letter(text: str) -> None:
    options = "A. red\nB. blue"
    assert choice(Problem("p", "choice", options, "A"), Response(text)).correct
    assert not choice(Problem("p", "choice", options, "B"), Response(text)).correct
    later = f"{text}<\uff5cend\u2581of\u2581sentence\uff5c>\\boxed{{B}}"
    assert choice(Problem("p", "choice", options, "A"), Response(later)).correct
