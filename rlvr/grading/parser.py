r"""Written mathematics to a tree: `\frac{1}{2}`, `3\sqrt[3]{x}`, `(1,2]\cup\{4\}`, `x=5 \text{ or } 6`, `15\text{ cm}`.

First to tokens, which `lexer` does; then by recursive descent. Time and depth are bounded by the length of the text.
The parser executes nothing and builds nothing but nodes: what a tree is worth is the business of `exact`, `numeric` and
`compare`. What it does not know is None.

The grammar, the loosest level first; each level is a method of `_Parser`:

    list        relation, or several with separators between them
    relation    set operation, or several with relations between them
    set op.     ratio, or several with `\cup`, `\cap`, `\setminus` between them
    ratio       sum, or several with `:` between them
    sum         terms, each a product with or without a sign before it
    product     signed factors with `\cdot` or `/` between them, and factors side by side
    factor      base, then `^argument`, `!`, `°`, `_base`
    base        number, symbol, function, words, matrix, or what a bracket or a command opens
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from rlvr.grading.cursor import NotInGrammar, TokenCursor
from rlvr.grading.french_intervals import rewrite_french_intervals
from rlvr.grading.lexer import Token, lex
from rlvr.grading.notation import GREEK, OPENERS, RELATIONS, SET_OPERATIONS
from rlvr.grading.tree import (
    MINUS_ONE,
    Node,
    find_number,
    is_differential,
    is_integer,
    join_factors,
    strip_brackets,
)

MAX_LENGTH = 1000
MAX_TOKENS = 800
MAX_CHAIN = 60  # factors or signs in a row

_RATIO_SIGNS = (":", "\\colon")
_MINUTES = re.compile("0[0-9]")
_PLUS_MINUS = ("+", "-")
_SIGNS = {"+": "", "-": "neg", "\\pm": "pm", "\\mp": "mp"}
_TIMES = frozenset({"*", "\\cdot", "\\times", "\\ast", "**"})
_OVER = ("/", "\\div")
_POWERS = ("^", "**")
_SCRIPTS = ("_", "^")
_DEGREES = ("\\circ", "°")
_REPEATS = ("\\overline", "\\dot", "\\bar")
_CONSTANTS = {"\\pi": "pi", "\\infty": "inf"}
_ELLIPSES = frozenset({"\\ldots", "\\dots", "\\cdots", "..."})

_UNITS_AND_FUNCTIONS = frozenset({"min", "sec", "deg"})

_NUMBER_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
_NESTING = {"{": 1, "}": -1}
_ALL_NESTING = {**_NESTING, "(": 1, ")": -1, "[": 1, "]": -1, "\\{": 1, "\\}": -1}

# What stands before a value and names nothing: `\approx 6.2`, `= 6`.
_EMPTY_LABELS = ("\\approx", "=")
# Operators whose value may follow behind `=`, names before a condition, functions between their arguments.
_OPERATORS = frozenset({"\\lim", "\\sum", "\\prod", "\\int", "\\iint", "\\iiint", "\\oint"})
_PROBABILITIES = frozenset({"P", "E", "\\mathbb{P}", "\\mathbb{E}"})
_ANGLES = ("\\angle", "\\measuredangle")
_INFIX_CALLS = {"\\bmod": "mod", "\\mod": "mod", "\\circ": "compose"}

# The function that each opening sign stands for, and the sign that closes it.
_ENCLOSED = {
    "\\lfloor": ("floor", "\\rfloor"),
    "\\lceil": ("ceil", "\\rceil"),
    "\\|": ("norm", "\\|"),
    "\\lVert": ("norm", "\\rVert"),
    "\\Vert": ("norm", "\\Vert"),
}
# Behind a bar that closes: another bar, an operator, the end.
_BEHIND_CLOSING_BAR = frozenset({"", "|", "+", "-", "=", ")", "}", "^", *_TIMES, *_OVER})
MIN_NESTED_BARS = 6


def parse(text: str, thousands: bool = True) -> Node | None:
    r"""Return the tree of a text, or None; `thousands` reads `1,234` outside brackets as one number.

    >>> parse(r"\frac12").kind, parse("1,234").value, parse("1,234", thousands=False).kind, parse(r"\foo")
    ('div', Fraction(1234, 1), 'list', None)
    """
    if len(text) > MAX_LENGTH:
        return None
    try:
        return _parse(text, thousands)
    # Caught outside of what is remembered: a full stack says more of the caller than of the text.
    except RecursionError:
        return None


@functools.lru_cache(maxsize=20_000)
def _parse(text: str, thousands: bool) -> Node | None:
    tokens = lex(text, thousands=thousands)
    if not tokens or len(tokens) > MAX_TOKENS:
        return None
    node = _read_tokens(tokens)
    if node is None:
        # What has no reading as it stands may have one as the French write intervals.
        rewritten = rewrite_french_intervals(tokens)
        if rewritten:
            return _read_tokens(rewritten)
    return node


def _read_tokens(tokens: Sequence[Token]) -> Node | None:
    """Return the tree of all tokens; where bars have no reading, the one in which they nest is tried."""
    node = _read_once(tokens, bars_are_nested=False)
    if node is None and sum(token.text == "|" for token in tokens) >= MIN_NESTED_BARS:
        return _read_once(tokens, bars_are_nested=True)
    return node


def _read_once(tokens: Sequence[Token], *, bars_are_nested: bool) -> Node | None:
    parser = _Parser(list(tokens), bars_are_nested)
    try:
        node = parser.parse_list()
    except NotInGrammar:
        return None
    return node if parser.at_end else None


class _Parser(TokenCursor):
    """Read an expression, each method one part of the grammar."""

    def __init__(self, tokens: list[Token], bars_are_nested: bool) -> None:
        super().__init__(tokens)
        self.bars_are_nested = bars_are_nested
        self.open_bars = 0  # absolute values that are open in the innermost bracket

    # Levels of precedence.

    def parse_list(self) -> Node:
        """Return items separated by commas, semicolons, `and`, `or`; a single one is no list."""
        self.enter()
        items = [self.parse_relation()]
        separators: set[str] = set()
        while self.peek_kind() == "separator":
            separators.add(self.take_separators())
            items.append(self.parse_relation())
        self.leave()
        if len(items) == 1:
            return items[0]
        if len(separators) == 1:
            return Node("list", tuple(items), separators.pop())
        # `1, 2 or 3` are alternatives, `1, 2 and 3` only a list.
        return Node("list", tuple(items), "or" if "or" in separators else ",")

    def take_separators(self) -> str:
        """Step over the separators between two items and return what they say: a word counts for more than a comma."""
        separators: set[str] = set()
        while self.peek_kind() == "separator":
            separators.add(self.take().text)
        for word in ("or", "and"):
            if word in separators:
                return word
        return ","

    def parse_relation(self) -> Node:
        r"""Return a chain such as `0 < x \le 1`, named by its relations."""
        self.accept_any(_EMPTY_LABELS)
        sides = [self.parse_operated() or self.parse_set_operation()]
        names: list[str] = []
        while sign := self.accept_any(RELATIONS):
            names.append(RELATIONS[sign])
            sides.append(self.parse_set_operation())
        node = Node("relation", tuple(sides), " ".join(names)) if names else sides[0]
        if self.accept("\\pmod"):
            return Node("modulo", (node, self.parse_argument(is_whole=True)))
        return node

    def parse_operated(self) -> Node | None:
        """Return a limit, sum or integral before `=` as one symbol, whose value follows; None for anything else."""
        if self.peek() not in _OPERATORS:
            return None
        start = self.place
        depth = 0
        while depth or self.peek() != "=":
            token = self.take()
            depth += _ALL_NESTING.get(token.text, 0)
            if depth < 0 or (token.kind == "separator" and not depth):
                raise NotInGrammar
        return Node("symbol", (), " ".join(self.list_texts(start)))

    def parse_set_operation(self) -> Node:
        r"""Return unions, intersections and differences, of which the first binds first: `A \cup B \setminus C`."""
        node = self.parse_ratio()
        while sign := self.accept_any(SET_OPERATIONS):
            node = Node("setop", (node, self.parse_ratio()), SET_OPERATIONS[sign])
        return node

    def parse_ratio(self) -> Node:
        """Return a ratio of two or more numbers: `1:2:3`."""
        parts = [self.parse_sum()]
        name = ""
        while self.accept_any(_RATIO_SIGNS):
            # Of a time the zero counts: 8:05 is not 8:5.
            if _MINUTES.fullmatch(self.peek()):
                name = "clock"
            parts.append(self.parse_sum())
        if len(parts) == 1:
            return parts[0]
        return Node("ratio", tuple(parts), name)

    def parse_sum(self) -> Node:
        """Return terms that are added, each with its sign."""
        self.enter()
        terms = [self.parse_term(is_first=True)]
        while self.peek() in _SIGNS:
            terms.append(self.parse_term(is_first=False))
        self.leave()
        if len(terms) == 1:
            return terms[0]
        return Node("add", tuple(terms))

    def parse_term(self, *, is_first: bool) -> Node:
        """Return a product with the sign before it."""
        kind = _SIGNS.get(self.accept_any(_SIGNS), "")
        # `+-3` may mean two numbers; `5 - -3` does not.
        if self.peek() in _SIGNS and (is_first or kind != "neg"):
            raise NotInGrammar
        term = self.parse_product()
        return Node(kind, (term,)) if kind else term

    def parse_product(self) -> Node:
        """Return factors that are multiplied or divided, by a sign or because they stand side by side."""
        node = self.parse_signed()
        for _ in range(MAX_CHAIN):
            if self.accept_any(_TIMES):
                node = Node("mul", (node, self.parse_operand()))
            elif self.accept_any(_OVER):
                node = Node("div", (node, self.parse_operand()))
            elif name := _INFIX_CALLS.get(self.peek()):
                self.take()
                node = Node("call", (node, self.parse_operand()), name)
            elif self.accept("%"):
                node = Node("percent", (node,))
            elif mixed := self.parse_mixed_number(node):
                node = mixed
            elif self.peek_kind() == "number" and _is_measure(node):
                return Node("group", (node, self.parse_product()), "measures")
            elif self.is_at_factor():
                node = join_factors(node, self.parse_unsigned_factor(node))
            else:
                return node
        raise NotInGrammar

    def parse_operand(self) -> Node:
        """Return what an operator takes: a signed factor, or a mixed number as a whole."""
        node = self.parse_signed()
        if is_integer(node) and self.peek() == "\\frac":
            return _mix(node, self.parse_factor())
        return node

    def parse_signed(self) -> Node:
        r"""Return a factor with or without a sign: after an operator, `2 \cdot -3` is common."""
        sign = self.accept_any(_PLUS_MINUS)
        if not sign:
            return self.parse_factor()
        self.enter()
        inner = self.parse_signed()
        self.leave()
        return Node("neg", (inner,)) if sign == "-" else inner

    def parse_unsigned_factor(self, left: Node) -> Node:
        """Return a factor that stands beside another.

        Raises NotInGrammar where it is a number, or a number in brackets that a space parts from a number.
        """
        spaced = self.tokens[self.place].spaced
        right = self.parse_factor()
        # `0 vs 17` is no product; behind words and constants a number is read on.
        if right.kind == "number" and left.kind not in ("text", "constant"):
            raise NotInGrammar
        # Nor is `3 (4)`.
        if spaced and left.kind == "number" and right.kind == "group" and find_number(right):
            raise NotInGrammar
        return right

    def parse_mixed_number(self, whole: Node) -> Node | None:
        """Return `4 2/3` as one number, None where no fraction of digits follows a whole number."""
        if not is_integer(whole):
            return None
        following = self.tokens[self.place : self.place + 3]
        if [token.kind for token in following] != ["number", "sign", "number"]:
            return None
        top, slash, bottom = following
        digits = top.text + bottom.text
        if slash.text != "/" or not digits.isdigit() or not top.spaced:
            return None
        self.place += 3
        numerator = Node("number", value=Fraction(top.text))
        denominator = Node("number", value=Fraction(bottom.text))
        return _mix(whole, Node("div", (numerator, denominator), "frac"))

    def is_at_factor(self) -> bool:
        """Whether the next token can begin a factor."""
        if self.peek_kind() in ("number", "letter", "function", "text", "environment"):
            return True
        text = self.peek()
        if text == "|":
            return self.is_at_opening_bar()
        return text in GREEK or text in _CONSTANTS or text in OPENERS

    def is_at_opening_bar(self) -> bool:
        """Whether a bar opens an absolute value and closes none."""
        if self.open_bars == 0:
            return True
        return self.bars_are_nested and self.peek(1) not in _BEHIND_CLOSING_BAR

    def parse_factor(self) -> Node:
        """Return one thing and what is written behind and above it: powers, factorials, degrees, a base."""
        self.enter()
        node = self.parse_base()
        for _ in range(MAX_CHAIN):
            if self.accept_any(_POWERS):
                if node.kind == "pow":
                    raise NotInGrammar  # 2^3^2 has two readings
                node = self.parse_power(node)
            elif self.accept("!"):
                node = Node("call", (node,), "factorial")
            elif self.accept("°"):
                node = _attach_degree(node)
            elif self.peek() == "_" and (digits := find_number(node)):
                self.take()
                node = self.parse_numeral(digits)
            elif self.peek() == "_" and _is_raised_symbol(node):
                node = self.parse_late_index(node)
            else:
                self.leave()
                return node
        raise NotInGrammar

    # What stands above, below and behind.

    def parse_power(self, node: Node) -> Node:
        """Return a power, or degrees where the exponent is only their sign."""
        if self.accept_any(_DEGREES):
            return _attach_degree(node)
        if self.peek() == "{" and self.peek(1) in _DEGREES and self.peek(2) == "}":
            self.place += 3
            return _attach_degree(node)
        return Node("pow", (node, self.parse_argument(is_whole=True)))

    def parse_late_index(self, power: Node) -> Node:
        """Return the power of a symbol whose index stands behind its exponent: `u^2_0`."""
        self.expect("_")
        base, exponent = power.parts
        name = f"{base.name}_{self.read_subscript()}"
        return Node("pow", (Node("symbol", (), name), exponent))

    def parse_numeral(self, digits: Node) -> Node:
        """Return digits with the base below them, which is a number or a word: `204_5`, `204_{five}`."""
        bases: list[int] = []
        for word in self.read_subscript().split():
            base = int(word) if word.isdigit() else _NUMBER_WORDS.get(word.lower())
            if base:
                bases.append(base)
        if len(bases) != 1 or digits.value is None or digits.value.denominator != 1:
            raise NotInGrammar
        return Node("based", (digits,), str(bases[0]))

    def read_subscript(self) -> str:
        """Return what stands below a line, as it is written."""
        if self.peek() != "{":
            return self.take().text
        start = self.place + 1
        depth = 0
        while depth != 1 or self.peek() != "}":
            depth += _NESTING.get(self.take().text, 0)
        written = " ".join(self.list_texts(start))
        self.expect("}")
        return written

    def parse_argument(self, *, is_whole: bool = False) -> Node:
        r"""Return what a command takes: a braced group, else one token.

        Of a number that is one digit, as in `\frac12`, unless it is wanted whole.
        """
        if self.accept("{"):
            return self.parse_rest_of_braces()
        if self.peek_kind() == "number" and not is_whole:
            return self.parse_digit()
        sign = self.accept_any(_PLUS_MINUS)
        if not sign:
            return self.parse_base()
        inner = self.parse_argument(is_whole=is_whole)
        return Node("neg", (inner,)) if sign == "-" else inner

    def parse_digit(self) -> Node:
        """Return the first digit of a number, of which the others stay for what follows."""
        _, digits, spaced = self.tokens[self.place]
        if len(digits) == 1 or not digits.isdigit():
            return self.parse_base()
        self.tokens[self.place] = Token("number", digits[1:], spaced)
        return Node("number", value=Fraction(digits[0]))

    def parse_rest_of_braces(self) -> Node:
        r"""Return what stands in braces whose first has been taken, `{n \choose k}` and `{a \over b}` among it."""
        node = self.parse_nested()
        if self.accept("\\choose"):
            node = Node("call", (node, self.parse_nested()), "binom")
        elif self.accept("\\over"):
            node = Node("div", (node, self.parse_nested()))
        self.expect("}")
        return node

    def parse_nested(self) -> Node:
        """Return what a bracket encloses, in which a bar opens again."""
        bars_outside = self.open_bars
        self.open_bars = 0
        node = self.parse_list()
        self.open_bars = bars_outside
        return node

    # One thing, by the token that it begins with.

    def parse_base(self) -> Node:
        """Return what the next token is or begins, without powers and signs."""
        kind, text, _ = self.take()
        match kind:
            case "number":
                return self.parse_number(text)
            case "letter":
                return self.parse_symbol(text)
            case "function":
                return self.parse_function(text)
            case "text":
                return Node("text", (), text)
            case "environment":
                return _parse_matrix(text)
            case _:
                return self.parse_sign(text)

    def parse_sign(self, text: str) -> Node:
        """Return a constant, a symbol or an ellipsis, or what the sign opens."""
        if text in _CONSTANTS:
            return Node("constant", (), _CONSTANTS[text])
        if text in GREEK:
            return self.parse_symbol(text)
        if text in _ELLIPSES:
            return Node("ellipsis")
        if text in _PROBABILITIES:
            return self.parse_symbol(text)
        if text.startswith("\\mathbb"):
            return Node("symbol", (), text)
        return self.parse_opened(text)

    def parse_number(self, text: str) -> Node:
        """Return a number with or without a decimal point, or with digits that repeat."""
        if "." in text and self.accept_any(_REPEATS):
            start = self.place
            self.parse_argument(is_whole=True)
            read = self.tokens[start : self.place]
            period = "".join(token.text for token in read if token.kind == "number")
            return _repeat(text, period)
        name = "decimal" if "." in text or "e" in text else ""
        _, _, digits = text.partition("e")[0].partition(".")
        return Node("number", name=name, value=Fraction(text), places=len(digits))

    def parse_symbol(self, name: str) -> Node:
        """Return a symbol with its index, its primes and the number at which it is evaluated: `a_1`, `f'(0)`."""
        if name in ("e", "i"):
            return Node("constant", (), name)
        if name in _ANGLES:
            name += self.take_corners()
        if self.accept("_"):
            name += "_" + self.read_subscript()
        while count := self.take_primes():
            name += "'" * count
        start = self.place
        if self.is_at_evaluation():
            self.place += 3
        elif name in _PROBABILITIES:
            self.skip_conditional()
        name += "".join(self.list_texts(start))
        return Node("symbol", (), name)

    def take_corners(self) -> str:
        """Step over three capitals behind the sign of an angle, and return them: read from either end they are one."""
        corners = "".join(self.peek(ahead) for ahead in range(3))
        if len(corners) != 3 or not (corners.isalpha() and corners.isupper()):
            return ""
        self.place += 3
        return min(corners, corners[::-1])

    def skip_conditional(self) -> None:
        """Step over what a probability is of, where a bar parts it from the condition: `P(A|B)`."""
        start = self.place
        if not self.accept("("):
            return
        bars = 0
        depth = 1
        while depth and not self.at_end:
            text = self.take().text
            depth += _ALL_NESTING.get(text, 0)
            bars += text == "|"
        if depth or bars != 1:
            self.place = start

    def is_at_evaluation(self) -> bool:
        """Whether a number in brackets follows at once: I(0) is the value of a function, not a product with zero."""
        if self.peek() != "(" or self.peek(2) != ")":
            return False
        bracket = self.tokens[self.place]
        inner = self.tokens[self.place + 1]
        return not bracket.spaced and inner.kind == "number"

    def take_primes(self) -> int:
        r"""Step over the primes that follow, and return how many: `'`, `^\prime`, `^{\prime\prime}`."""
        start = self.place
        if self.accept("'"):
            return 1
        if self.accept("^"):
            braced = self.accept("{")
            count = 0
            while (braced or not count) and self.accept("\\prime"):
                count += 1
            if count and (not braced or self.accept("}")):
                return count
        self.place = start  # it was another exponent
        return 0

    def parse_function(self, name: str) -> Node:
        r"""Return a call: `\sin x`, `\log_2 8`, `\sin^2 x`, `\sin^{-1} x`."""
        base: Node | None = None
        exponent: Node | None = None
        while sign := self.accept_any(_SCRIPTS):
            if sign == "_":
                base = self.parse_argument(is_whole=True)
            else:
                exponent = self.parse_argument(is_whole=True)
        if base is None and self.is_at_unit(name):
            unit = Node("text", (), name)
            return Node("pow", (unit, exponent)) if exponent else unit
        arguments = self.parse_function_arguments()
        if exponent == MINUS_ONE:
            return Node("call", arguments, f"arc{name}")
        call = Node("call", arguments, name)
        if base is not None:
            call = Node("call", (*arguments, base), f"{name}_")
        if exponent is None:
            return call
        return Node("pow", (call, exponent))

    def is_at_unit(self, name: str) -> bool:
        r"""Whether a name of a function is a unit, since it is applied to nothing: `20\text{ min}`."""
        if name not in _UNITS_AND_FUNCTIONS:
            return False
        return not self.is_at_factor() or (name == "min" and self.peek_kind() == "number")

    def parse_function_arguments(self) -> tuple[Node, ...]:
        """Return what a function is applied to, in brackets or without."""
        if self.peek() in ("(", "[", "{", "|"):
            return _list_items(strip_brackets(self.parse_base()))
        return _list_items(self.parse_bare_argument())

    def parse_bare_argument(self) -> Node:
        r"""Return the argument of `\sin 2x \cos y`: factors side by side, up to the next function or sign."""
        node = self.parse_signed()
        for _ in range(MAX_CHAIN):
            # `\sin x (y+1)` ends before the bracket, `\sin 2(x+1)` behind it.
            if self.peek() in ("(", "[") and node.kind != "number":
                return node
            if not self.is_at_factor() or self.peek_kind() in ("function", "text"):
                return node
            node = join_factors(node, self.parse_unsigned_factor(node))
        raise NotInGrammar

    def parse_opened(self, opening: str) -> Node:
        """Return what a command or a bracket opens; it has been taken."""
        match opening:
            case "\\frac":
                return self.parse_fraction()
            case "\\binom":
                return Node("call", (self.parse_argument(), self.parse_argument()), "binom")
            case "\\sqrt":
                return self.parse_root()
            case "{":
                return self.parse_bare_braces()
            case "|" | "\\lvert" | "\\vert":
                return self.parse_absolute_value()
            case "\\lfloor" | "\\lceil" | "\\|" | "\\lVert" | "\\Vert":
                return self.parse_enclosed(opening)
            case "(" | "[" | "\\{" | "\\langle" | "]":
                return self.parse_bracket(opening)
            case "\\overline" | "\\vec" | "\\hat" | "\\bar" | "\\overrightarrow" | "\\widehat":
                return self.parse_accented(opening)
            case _:
                raise NotInGrammar

    def parse_fraction(self) -> Node:
        """Return a fraction, or a derivative as one symbol."""
        start = self.place
        parts = (self.parse_argument(), self.parse_argument())
        if not all(is_differential(part) for part in parts):
            return Node("div", parts, "frac")
        # dx/dt is one thing, not a fraction whose d cancels.
        written = [text for text in self.list_texts(start) if text not in ("{", "}")]
        return Node("symbol", (), "/".join(written))

    def parse_root(self) -> Node:
        r"""Return a root: `\sqrt[3]{x}`, `\sqrt{2}`, `\sqrt2`, and `sqrt(2)` as it is typed."""
        if self.accept("["):
            degree = self.parse_nested()
            self.expect("]")
            return Node("call", (self.parse_argument(is_whole=True), degree), "root")
        if self.peek() == "(":
            return Node("call", (strip_brackets(self.parse_base()),), "sqrt")
        return Node("call", (self.parse_argument(is_whole=True),), "sqrt")

    def parse_bare_braces(self) -> Node:
        """Return what braces group."""
        node = self.parse_rest_of_braces()
        if node.kind == "list":  # a set whose backslashes were lost
            return Node("set", node.parts)
        return node

    def parse_absolute_value(self) -> Node:
        """Return an absolute value; a bar inside it closes it, unless it stands in a bracket of its own."""
        self.open_bars += 1
        node = self.parse_set_operation()
        self.open_bars -= 1
        if self.take().text not in ("|", "\\rvert", "\\vert"):
            raise NotInGrammar
        return Node("call", (node,), "abs")

    def parse_enclosed(self, opening: str) -> Node:
        r"""Return what `\lfloor … \rfloor`, `\lceil … \rceil` or the double bars of a norm enclose."""
        name, closing = _ENCLOSED[opening]
        node = self.parse_nested()
        self.expect(closing)
        return Node("call", (node,), name)

    def parse_accented(self, accent: str) -> Node:
        r"""Return a symbol under an accent, whose name is all that is written: `\overline{AB}`."""
        start = self.place
        self.parse_argument(is_whole=True)
        return Node("symbol", (), accent + "".join(self.list_texts(start)))

    def parse_bracket(self, opening: str) -> Node:
        """Return a set, a tuple, an interval, or what brackets only group."""
        if opening == "\\{" and self.accept("\\}"):
            return Node("set")
        parts = _list_items(self.parse_nested())
        closing = self.take().text
        if opening + closing == "\\{\\}":
            return Node("set", parts)
        if opening + closing == "\\langle\\rangle":
            return Node("group", parts, "<>")
        if opening not in ("(", "[", "]") or closing not in (")", "]", "["):
            raise NotInGrammar
        # The French write open ends as `]0, 1[`.
        name = opening.replace("]", "(") + closing.replace("[", ")")
        return Node("group", parts, name)


def _is_raised_symbol(node: Node) -> bool:
    """Whether it is the power of a symbol that has no index yet."""
    if node.kind != "pow" or node.parts[0].kind != "symbol":
        return False
    return "_" not in node.parts[0].name


def _mix(whole: Node, fraction: Node) -> Node:
    """Return a mixed number; raises NotInGrammar where the fraction is none or not below one."""
    node = join_factors(whole, fraction)
    if node.name != "mixed":
        raise NotInGrammar
    return node


def _is_measure(node: Node) -> bool:
    r"""Whether it is a number and its unit, behind which smaller units may follow: `3\text{ h }20\text{ min}`."""
    return node.kind == "mul" and node.parts[0].kind == "number" and node.parts[1].kind == "text"


def _attach_degree(node: Node) -> Node:
    return Node("mul", (node, Node("text", (), "degree")))


def _list_items(node: Node) -> tuple[Node, ...]:
    if node.kind == "list":
        return node.parts
    return (node,)


def _parse_matrix(text: str) -> Node:
    r"""Return the rows of an environment token, named by its bracket; raises NotInGrammar where there are none."""
    bracket, _, body = text.partition("\n")
    rows: list[Node] = []
    for line in body.replace("\\hline", "").split("\\\\"):
        if line.strip():
            rows.append(_parse_row(line.split("&")))
    if not rows:
        raise NotInGrammar
    return Node("rows", tuple(rows), bracket)


def _parse_row(cells: Iterable[str]) -> Node:
    parsed: list[Node] = []
    for cell in cells:
        node = parse(cell.strip())
        if node is None:
            raise NotInGrammar
        parsed.append(node)
    return Node("group", tuple(parsed), "row")


def _repeat(digits: str, period: str) -> Node:
    r"""Return a decimal whose last digits repeat: `0.1\overline{6}` is 1/6."""
    if not period.isdigit():
        raise NotInGrammar
    places = len(digits.partition(".")[2])
    # 0.1 and 6/9 of its last place: a period of n digits is a fraction over n nines.
    repeated = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    return Node("number", value=Fraction(digits + "0") + repeated)
