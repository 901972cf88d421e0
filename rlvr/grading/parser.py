r"""Written mathematics to a tree: `\frac{1}{2}`, `3\sqrt[3]{x}`, `(1,2]\cup\{4\}`, `x=5 \text{ or }
6`, `15\text{ cm}`.

First to tokens, by linear scans: one spelling for what looks the same, no layout, words told apart
from letters; `$`, `\dfrac`, `\left(`, `\displaystyle`, thin spaces, currency signs and thousands
separators end here, and nothing that carries meaning does. Then a recursive-descent parser whose
time and depth are bounded by the length of the text. It executes nothing and builds nothing but
nodes: what a tree is worth is the business of `values` and `compare`. What it does not know is
None.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

from rlvr.grading.lexer import NOTATION, Token, lex

MAX_LENGTH = 1000


MAX_DEPTH = 40


MAX_TOKENS = 800


MAX_CHAIN = 60  # factors or signs in a row


RELATIONS = {sign: name for name, signs in NOTATION["relations"].items() for sign in signs.split()}


SET_OPERATIONS = {
    "\\cup": "|",
    "\\bigcup": "|",
    "\\cap": "&",
    "\\setminus": "-",
    "\\backslash": "-",
}


_TIMES = ("*", "\\cdot", "\\times", "\\ast", "**")


_OVER = ("/", "\\div")


_SIGNS = {"+": "", "-": "neg", "\\pm": "pm", "\\mp": "mp"}


_DEGREE = ("\\circ", "°")


_GREEK = frozenset(NOTATION["greek"].split())


_CONSTANTS = {"\\pi": "pi", "\\infty": "inf"}


_BASES: dict[str, int] = dict(
    zip("two three four five six seven eight nine ten".split(), range(2, 11), strict=True)
)


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an expression; `kind` says how to read the rest.

    number (value; name "decimal" where a point was written), symbol, constant (pi e i inf), text,
    add, mul, div, pow, neg, pm, mp, call (name), percent, based (number in a base), ratio, group
    (name "(]"), set, list (name "," or "or"), rows (a matrix; name is its bracket), relation (name:
    its operators), setop, ellipsis.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None


MINUS_ONE = Node("neg", (Node("number", value=Fraction(1)),))


class _Unknown(Exception):
    """The text is not in the grammar."""


def parse(text: str, thousands: bool = True) -> Node | None:
    r"""The tree of a text, or None; `thousands` reads `1,234` outside brackets as one number.

    >>> parse(r"\frac12").kind, parse("1,234").value, parse("1,234", thousands=False).kind, parse(r"\foo")
    ('div', Fraction(1234, 1), 'list', None)
    """
    try:
        return _parse(text, thousands) if len(text) <= MAX_LENGTH else None
    # outside of what is remembered: it says more of the caller than of the text
    except RecursionError:
        return None


@functools.lru_cache(maxsize=20_000)
def _parse(text: str, thousands: bool) -> Node | None:
    tokens = lex(text, thousands=thousands)
    if not tokens or len(tokens) > MAX_TOKENS:
        return None
    parser = _Parser(tokens)
    try:
        node = parser.listing()
        return node if parser.place == len(tokens) else None
    except _Unknown:
        return None


class _Parser:
    """Reads tokens from left to right; each method is one level of precedence, the loosest first."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place].text if place < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.place].kind if self.place < len(self.tokens) else "end"

    def take(self) -> Token:
        if self.place >= len(self.tokens):
            raise _Unknown
        self.place += 1
        return self.tokens[self.place - 1]

    def accept(self, *texts: str) -> str:
        """The text of the next token where it is one of these, which is then taken; else nothing."""
        return self.take().text if self.peek() in texts else ""

    def expect(self, text: str) -> None:
        if self.take().text != text:
            raise _Unknown

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unknown

    def listing(self) -> Node:
        """Items separated by commas, semicolons, `and`, `or`."""
        self.enter()
        items, words = [self.relation()], set[str]()
        while self.kind() == "separator":
            here = set[str]()
            while self.kind() == "separator":
                here.add(self.take().text)
            words.add((here - {","} or {","}).pop())
            items.append(self.relation())
        self.depth -= 1
        name = words.pop() if len(words) == 1 else "or" if "or" in words else ","
        return Node("list", tuple(items), name) if len(items) > 1 else items[0]

    def relation(self) -> Node:
        parts, names = [self.sets()], []
        while sign := self.accept(*RELATIONS):
            names.append(RELATIONS[sign])
            parts.append(self.sets())
        return Node("relation", tuple(parts), " ".join(names)) if names else parts[0]

    def sets(self) -> Node:
        node = self.ratio()
        while sign := self.accept(*SET_OPERATIONS):
            node = Node("setop", (node, self.ratio()), SET_OPERATIONS[sign])
        return node

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.accept(":", "\\colon"):
            parts.append(self.sum())
        return Node("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    def sum(self) -> Node:
        self.enter()
        parts = []
        while not parts or self.peek() in _SIGNS:
            sign = _SIGNS.get(self.accept(*_SIGNS), "")
            if self.peek() in _SIGNS and not (parts and sign == "neg"):
                raise _Unknown  # `+-3` may mean two numbers; `5 - -3` does not
            term = self.product()
            parts.append(Node(sign, (term,)) if sign else term)
        self.depth -= 1
        return Node("add", tuple(parts)) if len(parts) > 1 else parts[0]

    def product(self) -> Node:
        node = self.signed()
        for _ in range(MAX_CHAIN):
            if self.accept(*_TIMES):
                node = Node("mul", (node, self.operand()))
            elif self.accept(*_OVER):
                node = Node("div", (node, self.operand()))
            elif self.accept("%"):
                node = Node("percent", (node,))
            elif mixed := self.mixed(node):
                node = mixed
            elif self.starts_factor():
                node = self.beside(node, self.spaced_factor(node))
            else:
                return node
        raise _Unknown

    def operand(self) -> Node:
        """What an operator takes: a signed factor, or a mixed number as a whole."""
        node = self.signed()
        if node.kind == "number" and not node.name and self.peek() == "\\frac":
            node = self.beside(node, self.factor())
            if node.name != "mixed":
                raise _Unknown
        return node

    def spaced_factor(self, left: Node) -> Node:
        """A factor without a sign before it; a number there, or in brackets apart from a number, is
        no factor.
        """
        spaced = self.tokens[self.place].spaced
        right = self.factor()
        apart = (
            spaced and left.kind == "number" and right.kind == "group" and _alone(right) is not None
        )
        if (right.kind == "number" and left.kind not in ("text", "constant")) or apart:
            raise _Unknown  # `0 vs 17` is no product
        return right

    def signed(self) -> Node:
        """A factor after an operator, where `2 \\cdot -3` is common."""
        if sign := self.accept("-", "+"):
            self.enter()
            inner = self.signed()
            self.depth -= 1
            return Node("neg", (inner,)) if sign == "-" else inner
        return self.factor()

    def mixed(self, node: Node) -> Node | None:
        """`4 2/3` as one number."""
        texts = [self.tokens[i] for i in range(self.place, min(self.place + 3, len(self.tokens)))]
        if (
            node.kind != "number"
            or node.name
            or [t.kind for t in texts] != ["number", "sign", "number"]
        ):
            return None
        if (
            texts[1].text != "/"
            or not (texts[0].text + texts[2].text).isdigit()
            or not texts[0].spaced
        ):
            return None
        self.place += 3
        parts = (Node("number", value=Fraction(t.text)) for t in (texts[0], texts[2]))
        joined = self.beside(node, Node("div", tuple(parts), "frac"))
        if joined.name != "mixed":
            raise _Unknown
        return joined

    @staticmethod
    def beside(left: Node, right: Node) -> Node:
        r"""Two things side by side: a product, but a whole number and a proper fraction are a mixed number."""
        whole = left.kind == "number" and not left.name and left.value is not None
        if (
            whole
            and right.kind == "div"
            and right.name == "frac"
            and all(p.kind == "number" for p in right.parts)
        ):
            top, under = (p.value or Fraction(0) for p in right.parts)
            if under and 0 < top < under:
                return Node("add", (left, right), "mixed")
        return Node("mul", (left, right))

    def starts_factor(self) -> bool:
        text, kind = self.peek(), self.kind()
        if kind in ("number", "letter", "function", "text", "environment"):
            return True
        if text == "|":
            return self.bars == 0
        return text in _GREEK or text in _CONSTANTS or text in _OPENERS

    def factor(self) -> Node:
        self.enter()
        node = self.base()
        for _ in range(MAX_CHAIN):
            if self.accept("^", "**"):
                if node.kind == "pow":
                    raise _Unknown  # 2^3^2 has two readings
                node = self.power(node)
            elif self.accept("!"):
                node = Node("call", (node,), "factorial")
            elif self.accept("°"):
                node = Node("mul", (node, Node("text", (), "degree")))
            elif (number := _alone(node)) and self.accept("_"):
                node = self.based(number)
            else:
                self.depth -= 1
                return node
        raise _Unknown

    def power(self, node: Node) -> Node:
        braced = self.peek() == "{" and self.peek(1) in _DEGREE and self.peek(2) == "}"
        if braced or self.peek() in _DEGREE:
            self.place += 3 if braced else 1
            return Node("mul", (node, Node("text", (), "degree")))
        return Node("pow", (node, self.argument(whole=True)))

    def based(self, node: Node) -> Node:
        """Digits with the base below them, as a number or in words."""
        digits = [
            int(word) if word.isdigit() else _BASES.get(word.lower())
            for word in self.below().split()
        ]
        bases = [base for base in digits if base]
        if len(bases) != 1 or (node.value or Fraction(0)).denominator != 1:
            raise _Unknown
        return Node("based", (node,), str(bases[0]))

    def below(self) -> str:
        """What stands below a line, as it is written."""
        if self.peek() != "{":
            return self.take().text
        start, depth = self.place, 0
        while not (depth == 1 and self.peek() == "}"):
            depth += {"{": 1, "}": -1}.get(self.take().text, 0)
        self.take()
        return " ".join(token.text for token in self.tokens[start + 1 : self.place - 1])

    def argument(self, *, whole: bool = False) -> Node:
        """What a command takes: a braced group, else one token; of a number one digit, unless it is
        wanted whole.
        """
        if self.peek() == "{":
            return self.braced()
        token = self.take()
        if token.kind == "number" and not whole and len(token.text) > 1 and token.text.isdigit():
            self.place -= 1
            self.tokens[self.place] = Token("number", token.text[1:], token.spaced)
            return Node("number", value=Fraction(token.text[0]))
        self.place -= 1
        if sign := self.accept("-", "+"):
            inner = self.argument(whole=whole)
            return Node("neg", (inner,)) if sign == "-" else inner
        return self.base()

    def braced(self) -> Node:
        self.expect("{")
        node = self.nested()
        if self.accept("\\choose"):
            node = Node("call", (node, self.nested()), "binom")
        self.expect("}")
        return node

    def nested(self) -> Node:
        """What a bracket encloses, in which a bar opens again."""
        bars, self.bars = self.bars, 0
        node = self.listing()
        self.bars = bars
        return node

    def base(self) -> Node:
        kind, text, _ = self.take()
        readers = {
            "letter": self.symbol,
            "function": self.function,
            "environment": self.matrix,
            "number": self.number,
        }
        if kind in readers:
            return readers[kind](text)
        if kind == "text":
            return Node("text", (), text)
        if text in _CONSTANTS:
            return Node("constant", (), _CONSTANTS[text])
        if text in _GREEK:
            return self.symbol(text)
        return self.opened(text)

    def number(self, text: str) -> Node:
        if "." in text and self.accept("\\overline", "\\dot", "\\bar"):
            start = self.place
            self.argument(whole=True)
            return _repeating(
                text, "".join(t.text for t in self.tokens[start : self.place] if t.kind == "number")
            )
        return Node(
            "number", name="decimal" if "." in text or "e" in text else "", value=Fraction(text)
        )

    def symbol(self, name: str) -> Node:
        if name in ("e", "i"):
            return Node("constant", (), name)
        if self.accept("_"):
            name += "_" + self.below()
        while primes := self.primes():
            name += "'" * primes
        if self.peek() == "(" and self.peek(2) == ")" and self.evaluated():
            name += "".join(self.take().text for _ in range(3))
        return Node("symbol", (), name)

    def evaluated(self) -> bool:
        """Whether a number in brackets follows at once: I(0) is the value of a function, not a
        product with zero.
        """
        bracket, inner = self.tokens[self.place : self.place + 2]
        return not bracket.spaced and inner.kind == "number"

    def primes(self) -> int:
        """The primes that follow, however they are written; they are taken."""
        start, count = self.place, 0
        if self.accept("'"):
            return 1
        if self.accept("^"):
            braced = self.accept("{")
            while (braced or not count) and self.accept("\\prime"):
                count += 1
            if count and (not braced or self.accept("}")):
                return count
        self.place = start
        return 0

    def function(self, name: str) -> Node:
        base = exponent = None
        while sign := self.accept("_", "^"):
            if sign == "_":
                base = self.argument(whole=True)
            else:
                exponent = self.argument(whole=True)
        bracketed = self.peek() in ("(", "[", "{", "|")
        inner = _inside(self.base()) if bracketed else self.product_of_factors()
        parts = inner.parts if inner.kind == "list" else (inner,)
        node = Node("call", (*parts, base) if base else parts, f"{name}_" if base else name)
        if exponent is None:
            return node
        if exponent == MINUS_ONE:
            return Node("call", parts, f"arc{name}")
        return Node("pow", (node, exponent))

    def product_of_factors(self) -> Node:
        r"""The argument of `\sin 2x \cos y`: factors side by side, up to the next function or sign."""
        node = self.signed()
        for _ in range(MAX_CHAIN):
            bracket = self.peek() in ("(", "[") and node.kind != "number"
            if bracket or not self.starts_factor() or self.kind() in ("function", "text"):
                return node
            node = self.beside(node, self.spaced_factor(node))
        raise _Unknown

    def opened(self, text: str) -> Node:
        match text:
            case "\\frac":
                return self.fraction()
            case "\\binom":
                return Node("call", (self.argument(), self.argument()), "binom")
            case "\\sqrt":
                return self.root()
            case "{":
                self.place -= 1
                node = self.braced()  # a list in bare braces is a set whose backslashes were lost
                return Node("set", node.parts) if node.kind == "list" else node
            case "|" | "\\lvert" | "\\vert":
                return self.absolute(text)
            case "\\lfloor" | "\\lceil":
                node = self.nested()
                self.expect(text.replace("\\l", "\\r"))
                return Node("call", (node,), text.removeprefix("\\l"))
            case "(" | "[" | "\\{" | "\\langle" | "]":
                return self.bracket(text)
            case "\\ldots" | "\\dots" | "\\cdots" | "...":
                return Node("ellipsis")
            case "\\overline" | "\\vec" | "\\hat" | "\\bar" | "\\overrightarrow" | "\\widehat":
                start = self.place
                self.argument(whole=True)
                return Node(
                    "symbol", (), text + "".join(t.text for t in self.tokens[start : self.place])
                )
            case _ if text.startswith("\\mathbb"):
                return Node("symbol", (), text)
            case _:
                raise _Unknown

    def fraction(self) -> Node:
        start = self.place
        parts = self.argument(), self.argument()
        # dx/dt is one thing, not a fraction whose d cancels
        if all(_differential(part) for part in parts):
            written = (t.text for t in self.tokens[start : self.place] if t.text not in "{}")
            return Node("symbol", (), "/".join(written))
        return Node("div", parts, "frac")

    def root(self) -> Node:
        if self.accept("["):
            degree = self.nested()
            self.expect("]")
            return Node("call", (self.argument(whole=True), degree), "root")
        if self.peek() == "(":
            return Node("call", (_inside(self.base()),), "sqrt")
        return Node("call", (self.argument(whole=True),), "sqrt")

    def absolute(self, text: str) -> Node:
        self.bars += 1
        node = self.sum()
        self.bars -= 1
        if self.take().text not in ("|", "\\rvert", "\\vert"):
            raise _Unknown
        return Node("call", (node,), "abs")

    def bracket(self, opening: str) -> Node:
        if opening == "\\{" and self.accept("\\}"):
            return Node("set")
        node = self.nested()
        closing = self.take().text
        parts = node.parts if node.kind == "list" else (node,)
        if opening + closing == "\\{\\}":
            return Node("set", parts)
        if opening + closing == "\\langle\\rangle":
            return Node("group", parts, "<>")
        if opening not in ("(", "[", "]") or closing not in (")", "]", "["):
            raise _Unknown
        if opening == "]" or closing == "[":  # the French way to write open ends
            opening, closing = {"]": "("}.get(opening, opening), {"[": ")"}.get(closing, closing)
        return Node("group", parts, opening + closing)

    def matrix(self, text: str) -> Node:
        name, _, body = text.partition("\n")
        rows = []
        for row in body.replace("\\hline", "").split("\\\\"):
            if row.strip():
                cells = [parse(cell.strip()) for cell in row.split("&")]
                if any(cell is None for cell in cells):
                    raise _Unknown
                rows.append(Node("group", tuple(cell for cell in cells if cell), "row"))
        if not rows:
            raise _Unknown
        return Node("rows", tuple(rows), name)


_OPENERS = frozenset(NOTATION["openers"].split())


def _differential(node: Node) -> bool:
    """Whether it begins with the d of a derivative and has more."""
    while node.kind == "mul":
        first = node.parts[0]
        if first.kind in ("symbol", "pow") and (first.parts[0] if first.parts else first).name in (
            "d",
            "\\partial",
        ):
            return True
        node = first
    return False


def _alone(node: Node) -> Node | None:
    """The number that a node is, with or without brackets."""
    inner = _inside(node)
    return inner if inner.kind == "number" else None


def _inside(node: Node) -> Node:
    """Without the brackets that only group.   (x) -> x"""
    if node.kind == "group" and node.name in ("()", "[]"):
        return node.parts[0] if len(node.parts) == 1 else Node("list", node.parts, ",")
    return node


def _repeating(text: str, period: str) -> Node:
    r"""`0.1\overline{6}` as 1/6."""
    if not period.isdigit():
        raise _Unknown
    places = len(text.partition(".")[2])
    value = Fraction(text + "0") + Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    return Node("number", value=value)
