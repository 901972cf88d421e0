"""Trees in the form in which they are compared: without what only groups, with one sign for plus-minus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlvr.grading.traversal import contains, has_plus_minus
from rlvr.grading.tree import Node

EMPTY_SET = Node("symbol", (), "\\emptyset")

# Brackets of a matrix that mean the same: array, plain matrix, square brackets, small matrix.
_MATRIX_BRACKETS = ("a", "m", "b", "small")
MAX_ROWS = 6  # and columns of matrices that are added and multiplied
MAX_DETERMINANT = 4  # rows of one whose value is needed
_TRANSPOSE = ("T", "\\top")
_NO_FACTORS = frozenset({"text", "group", "set"})


def unwrap(node: Node) -> Node:
    """Return the tree without brackets that only group, and with a matrix in its brackets as one
    thing; a set of one is its element.
    """
    if node.kind == "set":
        if not node.parts:
            return EMPTY_SET
        if _is_single_element(node):
            return unwrap(node.parts[0])
    node = _strip_brackets(node)
    if node.kind == "rows" and node.name in _MATRIX_BRACKETS:
        return replace(node, name="p")
    return _transpose_matrix(node) or _compute_matrix(node) or node


def unwrap_sets(gold: Node, answer: Node) -> tuple[Node, Node]:
    r"""Return both unwrapped; beside an operation on sets a set of one stays a set, `\{2\}` beside `A\cap B`."""
    if "setop" in (gold.kind, answer.kind):
        gold = _combine_letters(gold) or gold
        answer = _combine_letters(answer) or answer
        if "set" in (gold.kind, answer.kind):
            return gold, answer
    return unwrap(gold), unwrap(answer)


def _combine_letters(node: Node) -> Node | None:
    """Return an operation on finite sets of letters as one set; None for anything else."""
    if node.kind != "setop":
        return None
    sides = [_combine_letters(part) or part for part in node.parts]
    if not all(_is_set_of_letters(side) for side in sides):
        return None
    left, right = (side.parts for side in sides)
    if node.name == "|":
        return Node("set", tuple(dict.fromkeys((*left, *right))))
    is_kept = node.name == "&"
    return Node("set", tuple(part for part in left if (part in right) == is_kept))


def _is_single_element(node: Node) -> bool:
    r"""Whether a set has one element: `\{3\}`, but neither `\{\pm 3\}` nor `\{\emptyset\}`."""
    return (
        len(node.parts) == 1 and node.parts[0].name != EMPTY_SET.name and not has_plus_minus(node)
    )


def _strip_brackets(node: Node) -> Node:
    """Return what stands in round brackets, or a matrix in round or square ones."""
    while node.kind == "group" and len(node.parts) == 1 and node.name in ("()", "[]"):
        inner = node.parts[0]
        if inner.kind == "rows":
            node = _bracket_matrix(inner)
        elif node.name == "()":
            node = inner
        else:
            return node  # [x] may be a closed thing of its own
    return node


def _bracket_matrix(matrix: Node) -> Node:
    """Return rows that had no brackets of their own as a matrix."""
    if matrix.name in ("a", "m"):
        return replace(matrix, name="p")
    return matrix


def _is_set_of_letters(node: Node) -> bool:
    return node.kind == "set" and all(part.kind == "symbol" for part in node.parts)


def _transpose_matrix(node: Node) -> Node | None:
    r"""Return a matrix with a raised T as the matrix that it is, None for anything else."""
    if node.kind != "pow" or node.parts[1].name not in _TRANSPOSE:
        return None
    matrix = unwrap(node.parts[0])
    if matrix.kind != "rows" or matrix.name != "p":
        return None
    if len({len(row.parts) for row in matrix.parts}) != 1:
        return None
    columns = zip(*(row.parts for row in matrix.parts), strict=True)
    rows = tuple(Node("group", column, "row") for column in columns)
    return replace(matrix, parts=rows)


def _compute_matrix(node: Node) -> Node | None:
    """Return a sum, a product or a multiple of matrices as one matrix, None where it is none."""
    if node.kind not in ("neg", "mul", "div", "add"):
        return None
    # Sums are frequent and seldom of matrices, which their first term shows.
    if node.kind == "add" and not contains(node.parts[0], "rows"):
        return None
    sides = [unwrap(part) for part in node.parts]
    kinds = [side.kind for side in sides]
    if set(kinds) == {"rows"} and len(sides) > 1:
        return _combine_matrices(node.kind, sides)
    if node.kind == "add" or kinds.count("rows") != 1:
        return None
    return _scale_matrix(node.kind, sides)


def _scale_matrix(operation: str, sides: list[Node]) -> Node | None:
    """Return a matrix times or over numbers as one matrix, None where it is none."""
    kinds = [side.kind for side in sides]
    if not _NO_FACTORS.isdisjoint(kinds):
        return None
    index = kinds.index("rows")
    matrix = sides.pop(index)
    # A determinant (rows between bars) is a number: a factor before it does not reach its cells.
    if matrix.name != "p":
        return None
    if operation == "div" and index == 1:
        return None
    return _apply_to_cells(matrix, operation, sides)


def _combine_matrices(operation: str, matrices: Sequence[Node]) -> Node | None:
    """Return the sum or the product of matrices as one, None where it is none."""
    if any(matrix.name != "p" or len(matrix.parts) > MAX_ROWS for matrix in matrices):
        return None
    shapes = {tuple(len(row.parts) for row in matrix.parts) for matrix in matrices}
    if operation == "add" and len(shapes) == 1:
        return _add_matrices(matrices)
    if operation == "mul":
        return _multiply_matrices(*matrices)
    return None


def _add_matrices(matrices: Sequence[Node]) -> Node:
    rows: list[Node] = []
    for same_rows in zip(*(matrix.parts for matrix in matrices), strict=True):
        cells = zip(*(row.parts for row in same_rows), strict=True)
        sums = tuple(Node("add", terms) for terms in cells)
        rows.append(replace(same_rows[0], parts=sums))
    return replace(matrices[0], parts=tuple(rows))


def _multiply_matrices(left: Node, right: Node) -> Node | None:
    height = len(right.parts)
    widths = {len(row.parts) for row in right.parts}
    if len(widths) != 1 or any(len(row.parts) != height for row in left.parts):
        return None
    columns = list(zip(*(row.parts for row in right.parts), strict=True))
    if max(height, len(columns)) > MAX_ROWS:
        return None
    rows: list[Node] = []
    for row in left.parts:
        cells = tuple(_multiply_row(row.parts, column) for column in columns)
        rows.append(replace(row, parts=cells))
    return replace(left, parts=tuple(rows))


def _multiply_row(row: Sequence[Node], column: Sequence[Node]) -> Node:
    terms = [Node("mul", pair) for pair in zip(row, column, strict=True)]
    return Node("add", tuple(terms))


def _apply_to_cells(matrix: Node, operation: str, operands: Sequence[Node]) -> Node:
    """Return the matrix whose cells are those of this one with the operands applied."""
    rows: list[Node] = []
    for row in matrix.parts:
        cells = tuple(Node(operation, (cell, *operands)) for cell in row.parts)
        rows.append(replace(row, parts=cells))
    return replace(matrix, parts=tuple(rows))


def expand_determinant(node: Node) -> Node | None:
    r"""Return the determinant that rows between bars are, or behind `\det`, as a sum; None for anything else."""
    if node.kind == "call" and node.name == "det" and node.parts[0].kind == "rows":
        node = replace(node.parts[0], name="v")
    size = len(node.parts)
    if node.kind != "rows" or node.name != "v" or size > MAX_DETERMINANT:
        return None
    if any(len(row.parts) != size for row in node.parts):
        return None
    return _expand([row.parts for row in node.parts])


def _expand(rows: Sequence[Sequence[Node]]) -> Node:
    """Return a determinant by its first row."""
    first, *others = rows
    if not others:
        return first[0]
    terms: list[Node] = []
    for column, cell in enumerate(first):
        minor = [[*row[:column], *row[column + 1 :]] for row in others]
        term = Node("mul", (cell, _expand(minor)))
        terms.append(Node("neg", (term,)) if column % 2 else term)
    return Node("add", tuple(terms))


def choose_sign(node: Node, *, upper: bool) -> Node:
    r"""Return the tree with the upper or the lower sign of every `\pm` and `\mp`."""
    if node.kind in ("pm", "mp"):
        inner = choose_sign(node.parts[0], upper=upper)
        is_plus = (node.kind == "pm") == upper
        if is_plus:
            return inner
        return Node("neg", (inner,))
    if not node.parts:
        return node
    parts = tuple(choose_sign(part, upper=upper) for part in node.parts)
    return replace(node, parts=parts)
