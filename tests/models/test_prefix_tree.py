"""Texts that begin alike stand once in a pass, and each is still whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlvr.models.packing import Sharing, Tokens, split_into_passes
from rlvr.models.prefix_tree import (
    Laid,
    PrefixCounter,
    lay_out_fan,
    lay_out_tree,
    list_ancestors,
)

# Few different tokens, so that texts share much.
texts = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12), min_size=1, max_size=10)


def check_each_is_whole(laid: Laid, wanted: list[list[int]]) -> None:
    """Check that the columns of each text hold it, in the order in which its segments see each other."""
    starts = [0]
    for segment in laid.segments:
        starts.append(starts[-1] + segment.length)
    ancestors = list_ancestors(laid.segments)
    ways: set[tuple[int, ...]] = set()
    for number, path in enumerate(ancestors):
        way: list[int] = []
        for segment in [*path, number]:
            way.extend(range(starts[segment], starts[segment + 1]))
        ways.add(tuple(way))
    assert starts[-1] == len(laid.tokens) == len(laid.positions) == len(laid.previous)
    for text, columns in zip(wanted, laid.columns, strict=True):
        assert [laid.tokens[column] for column in columns] == text
        assert [laid.positions[column] for column in columns] == list(range(len(text)))
        assert [laid.previous[column] for column in columns] == [-1, *columns[:-1]]
        assert tuple(columns) in {way[: len(columns)] for way in ways}


@given(texts)
def test_a_tree_holds_every_text_and_no_beginning_twice(wanted: list[list[int]]) -> None:
    laid = lay_out_tree(wanted)
    check_each_is_whole(laid, wanted)
    beginnings = {tuple(text[:end]) for text in wanted for end in range(1, len(text) + 1)}
    assert len(laid.tokens) == len(beginnings)
    counter, added = PrefixCounter(), 0
    for text in wanted:
        added += counter.count_new(text)
        counter.add(text)
    assert added == len(beginnings)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), texts)
def test_a_fan_has_its_stem_once(stem: list[int], wanted: list[list[int]]) -> None:
    laid = lay_out_fan(stem, wanted)
    check_each_is_whole(laid, [[*stem, *text] for text in wanted])
    assert len(laid.tokens) == len(stem) + sum(map(len, wanted))


def test_a_token_that_several_responses_have_in_common_is_predicted_once() -> None:
    sequences = [Tokens((1, 2), (5, 6, 7)), Tokens((1, 2), (5, 6)), Tokens((1, 2), (5, 7))]
    (part,) = split_into_passes(sequences, 100, Sharing.PREFIXES)
    assert part.input_ids.tolist() == [[1, 2, 5, 6, 7, 7]]
    assert part.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert part.column.tolist() == [1, 2, 3, 2]
    assert part.target.tolist() == [5, 6, 7, 7]
    assert part.source.tolist() == [0, 1, 2, 0, 1, 0, 3]
    (part,) = split_into_passes(sequences[:2], 100, Sharing.PROMPTS)
    assert part.input_ids.tolist() == [[1, 2, 5, 6, 7, 5, 6]]
    assert part.source.tolist() == [0, 1, 2, 3, 4]
