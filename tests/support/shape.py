"""The shape of the code, room by room: `make size` prints it, `tests/test_house.py` holds the limits.

Code lines are lines that hold neither prose nor nothing. Tokens are those of Python's tokenizer without comments,
docstrings and line ends. The complexity of a function is one and one more for each `if`, loop, handler, case, inline
`if`, `and`, `or`, comprehension and condition of one; a function inside it counts for itself.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "rlvr"
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ONE_MORE = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
VERBS = frozenset(
    """
    accept accumulate adapt add advance all allow answer append apply approximate ask assemble assert assign attach
    attend average await balance be begin bind bound break bring build call cancel canonicalise carry cast center
    centre change check choose clamp clean clear clip clone close collate collect combine come compare complete
    compose compute configure consume contain contrast convert copy correct count cover cross cut deal decide
    declare decode deep_merge delete derive describe detach detect determine differ digest discount distribute
    divide do download draw drop dump emit encode end enter equal escape estimate evaluate exchange exit expand
    expect explain export express extend extract factor fail fetch fill filter find finish fit fix flatten flush
    fold follow forget format forward free freeze gather generate get give go grade group grow guard guess handle
    has have hide hold identify ignore import include index infer init insert inspect install interpret interrupt is
    iterate join judge keep kill know launch lay lead leave lex list load localise locate lock log look lower make
    map mark mask match mean measure meet merge mix move multiply name need normalise note number offer open order
    pack pad paint parse pass pay peek penalise pick place plan pop predict prepare print probe project publish pull
    push put quote raise rank read receive record recover reduce refuse register reject release remove rename render
    repair repeat replace report request require reserve reset resolve restore resume retry return reverse rewrite
    round run sample save say scale score search see select send separate serve set settle shape shard share shorten
    show shuffle skip sleep solve sort split spread start state step stop store strip style subtract suggest sum
    summarise support swap switch sync take tell terminate test tie tokenise total trace track train translate
    transpose trim truncate try turn undo unfold unite unpack unwrap update upload use validate verify view visit
    wait walk warm warn watch weigh whiten wrap write yield
    """.split()
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Counts of one file, which add up to those of a room."""

    files: int = 0
    lines: int = 0
    tokens: int = 0
    comprehensions: int = 0
    conditionals: int = 0
    tuple_assignments: int = 0
    functions: int = 0
    verbs: int = 0
    complex: tuple[str, ...] = ()

    def __add__(self, other: Shape) -> Shape:
        return Shape(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def per_hundred(self, count: int) -> float:
        return 100 * count / max(1, self.lines)

    @property
    def density(self) -> float:
        """Tokens a code line."""
        return self.tokens / max(1, self.lines)


def shape_of(path: Path) -> Shape:
    """Measure one file."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    prose = find_prose(tree)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    named = [function for function in functions if counts_for_its_name(function)]
    return Shape(
        files=1,
        lines=count_code_lines(source, prose),
        tokens=count_tokens(source, prose),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        conditionals=sum(isinstance(node, ast.IfExp) for node in nodes),
        tuple_assignments=sum(is_tuple_assignment(node) for node in nodes),
        functions=len(named),
        verbs=sum(begins_with_a_verb(function.name) for function in named),
        complex=tuple(
            f"{path.relative_to(PACKAGE)}:{function.name}"
            for function in functions
            if complexity_of(function) > 10
        ),
    )


def find_prose(tree: ast.AST) -> set[int]:
    """The lines of docstrings."""
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return prose


def count_code_lines(source: str, prose: set[int]) -> int:
    count = 0
    for number, line in enumerate(source.splitlines(), start=1):
        text = line.strip()
        count += bool(text) and not text.startswith("#") and number not in prose
    return count


def count_tokens(source: str, prose: set[int]) -> int:
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        count += token.type not in LAYOUT and token.start[0] not in prose
    return count


def is_tuple_assignment(node: ast.AST) -> bool:
    """Whether several values are bound at once: `a, b = 1, 2` or `a = b = 1`."""
    if not isinstance(node, ast.Assign):
        return False
    to_tuple = any(isinstance(target, ast.Tuple) for target in node.targets)
    return len(node.targets) > 1 or (to_tuple and isinstance(node.value, ast.Tuple))


def complexity_of(function: ast.AST) -> int:
    return 1 + sum(_weight(node) for node in _own_nodes(function))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function and in no function inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, FUNCTIONS):
            yield from _own_nodes(child)


def _weight(node: ast.AST) -> int:
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return int(isinstance(node, ONE_MORE))


def counts_for_its_name(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether its first word should be a verb: not that of a property, a plug-in or a method that Python names."""
    marks = [ast.unparse(mark) for mark in function.decorator_list]
    free = any("property" in mark or mark.startswith("register(") for mark in marks)
    return not free and not function.name.startswith("__")


def begins_with_a_verb(name: str) -> bool:
    return name.lstrip("_").partition("_")[0] in VERBS


def rooms_of(package: Path = PACKAGE) -> dict[str, dict[Path, Shape]]:
    """The shape of every file, by room; files beside the rooms are `(top)`."""
    rooms: dict[str, dict[Path, Shape]] = {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        room = inside.parts[0] if len(inside.parts) > 1 else "(top)"
        rooms.setdefault(room, {})[inside] = shape_of(path)
    return rooms


def add_up(shapes: Iterable[Shape]) -> Shape:
    total = Shape()
    for shape in shapes:
        total += shape
    return total


def rows(rooms: dict[str, dict[Path, Shape]]) -> Iterator[tuple[str, Shape]]:
    for room, files in rooms.items():
        yield room, add_up(files.values())
    yield "all", add_up(shape for files in rooms.values() for shape in files.values())


def main(arguments: Sequence[str] = ()) -> None:
    package = Path(arguments[0]).resolve() if arguments else PACKAGE
    globals()["PACKAGE"] = package
    rooms = rooms_of(package)
    print(
        f"{'room':<14}{'files':>6}{'lines':>7}{'tokens/line':>13}{'compr.':>8}{'inline if':>11}"
        f"{'tuple =':>9}{'complex':>9}{'verbs':>8}"
    )
    for room, shape in rows(rooms):
        share = shape.verbs / max(1, shape.functions)
        print(
            f"{room:<14}{shape.files:>6}{shape.lines:>7}{shape.density:>13.2f}"
            f"{shape.per_hundred(shape.comprehensions):>8.2f}{shape.per_hundred(shape.conditionals):>11.2f}"
            f"{shape.per_hundred(shape.tuple_assignments):>9.2f}{len(shape.complex):>9}{share:>8.0%}"
        )
    files = {path: shape for room in rooms.values() for path, shape in room.items()}
    densest = sorted(files, key=lambda path: -files[path].density)[:10]
    print("\ndensest: " + ", ".join(f"{path} {files[path].density:.1f}" for path in densest))
    print(
        "compr., inline if and tuple = are per 100 code lines; complex: functions above complexity 10"
    )
    for name in add_up(files.values()).complex:
        print(f"  {name}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
