"""Lists told by another column's levels are those that their own levels tell."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.source.list_shape import Levels, ListShape
from tests.fakes.hybrid import packed

# A list that is null, or its elements: whether each is not null. The levels of both kinds are up to
# 3 then, and the definition level of an element is 2 at the least.
Lists = list[list[bool] | None]
ELEMENT, TOP = 2, 3
LISTS = st.lists(st.none() | st.lists(st.booleans(), max_size=12), max_size=12)
FULL = st.lists(st.lists(st.booleans(), min_size=1, max_size=12), max_size=12)


def levels_of(lists: Lists) -> list[tuple[int, int]]:
    found = []
    for each in lists:
        if not each:
            found.append((0, 0 if each is None else 1))
            continue
        found += [(int(i > 0), ELEMENT + valid) for i, valid in enumerate(each)]
    return found


def pages_of(levels: list[tuple[int, int]], cuts: list[int]) -> list[Levels]:
    bounds = sorted({0, len(levels), *(cut for cut in cuts if cut < len(levels))})
    found = []
    for start, end in pairwise(bounds):
        reps, defs = zip(*levels[start:end], strict=True)
        parts = [b"??", packed(reps, 1), packed(defs, 2), b"values"]
        ends = np.cumsum([len(part) for part in parts]).tolist()
        page = np.frombuffer(b"".join(parts), np.uint8)
        places = (slice(*pair) for pair in pairwise(ends[:3]))
        found.append(Levels(end - start, page, *places))
    return found


def read(lists: int, pages: list[Levels], like: ListShape | None) -> tuple[ListShape, list[Any]]:
    """A shape, and all that it says of its pages, up to the error if they are none."""
    shape = ListShape(lists, ELEMENT, TOP, like)
    said: list[Any] = []
    try:
        for page in pages:
            found = shape.add(page)
            masks = (None if mask is None else mask.tolist() for mask in found[3:])
            said.append((*found[:3], *masks, shape.lists, shape.elements))
        said.append(shape.finish().tolist())
    except ValueError as error:
        said.append(str(error))
    return shape, said


@given(LISTS | FULL, st.data())
def test_lists_like_those_of_another_column(lists: Lists, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(1, 60), max_size=4))
    other = [
        each if data.draw(st.integers(0, 9)) else data.draw(st.none() | st.lists(st.booleans()))
        for each in lists
    ]
    if data.draw(st.booleans()):
        other = [each and [data.draw(st.booleans()) for _ in each] for each in other]
    first, _ = read(len(lists), pages_of(levels_of(lists), cuts), None)
    cuts = cuts if data.draw(st.booleans()) else cuts[1:]
    pages = pages_of(levels_of(other), cuts)
    pages = pages[: data.draw(st.integers(len(pages) - 1, len(pages)))] if pages else pages
    own, expected = read(len(lists), pages, None)
    shape, said = read(len(lists), pages, first)
    assert said == expected
    # A third one, which may be like the second while that was like the first.
    if isinstance(expected[-1], list):
        assert read(len(lists), pages, shape)[1] == expected == read(len(lists), pages, own)[1]


@pytest.mark.parametrize("valid", [True, False], ids=["the same levels", "other nulls"])
def test_offsets_of_the_same_lists_are_the_same_array(valid: bool) -> None:
    lists: Lists = [[True] * 5, [True], [True, False]] * 20
    first, _ = read(60, pages_of(levels_of(lists), [50]), None)
    other: Lists = [[valid and each for each in row or []] for row in lists]
    shape, said = read(60, pages_of(levels_of(other), [50]), first)
    assert shape.finish() is first.finish()
    assert said == read(60, pages_of(levels_of(other), [50]), None)[1]


@pytest.mark.parametrize(
    ("lists", "other"),
    [
        ([[True], [], None], [[True], [False], [True]]),
        ([[True] * 9, [True]], [[True] * 7, [True] * 3]),
        ([[True] * 9, None], [[True] * 8, None]),
    ],
    ids=["elements where lists were empty", "a list that goes on", "other counts of levels"],
)
def test_lists_that_part_in_the_second_page(lists: Lists, other: Lists) -> None:
    before: Lists = [[True, True], None]
    pages = [pages_of(levels_of(before + end), [3, 5]) for end in (lists, other)]
    count = len(before + lists)
    first, _ = read(count, pages[0], None)
    said = read(count, pages[1], first)[1]
    assert said == read(count, pages[1], None)[1]
    lengths = [len(each or []) for each in before + other]
    assert said[-1] == [0, *np.cumsum(lengths).tolist()]


def test_levels_above_the_highest_are_none() -> None:
    first = ListShape(2, 1, 2, None)
    (page,) = pages_of([(0, 2), (0, 2)], [])
    first.add(page)
    first.finish()
    (page,) = pages_of([(0, 2), (0, 3)], [])
    with pytest.raises(ValueError, match="levels are none of lists"):
        ListShape(2, 1, 2, first).add(page)
