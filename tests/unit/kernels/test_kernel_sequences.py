"""The kernels of lists against plain Python."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import (
    first_occurrences,
    first_state,
    fold_words,
    sum_integers,
    sum_lists,
)

WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15
words = st.integers(0, 3) | st.integers(0, WORD - 1)


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def fold(state: int, word: int) -> int:
    return mix(((state ^ word) + GAMMA) % WORD)


@given(st.lists(st.lists(st.floats(), max_size=40), max_size=9))
@example([[0.1] * 1000, [1e308, 1e308, -1e308], [1e16, 1.0, -1e16]])
def test_sum_lists_adds_from_left_to_right(lists: list[list[float]]) -> None:
    offsets = np.cumsum([0, *map(len, lists)])
    values = np.array([value for each in lists for value in each], np.float64)
    expected = [functools.reduce(float.__add__, each, 0.0) for each in lists]
    result = sum_lists(offsets, values)
    assert result.dtype == np.float64
    assert repr(result.tolist()) == repr(expected)


@pytest.mark.parametrize(("dtype", "least"), [(np.int64, -(2**63)), (np.uint64, 0)])
@given(data=st.data())
def test_sum_integers_is_exact(dtype: type[Any], least: int, data: st.DataObject) -> None:
    most = least + WORD - 1
    integers = st.integers(least, most) | st.sampled_from([least, most, most // 2, 0, 1])
    lists = data.draw(st.lists(st.lists(integers, max_size=6), max_size=9))
    offsets = np.cumsum([0, *map(len, lists)])
    values = np.array([value for each in lists for value in each], dtype)
    sums, beyond = sum_integers(offsets, values)
    assert sums.dtype == np.int64
    assert beyond.dtype == np.bool_
    assert beyond.tolist() == [not -(2**63) <= sum(each) < 2**63 for each in lists]
    assert sums.view(np.uint64).tolist() == [sum(each) % WORD for each in lists]


@given(st.lists(st.lists(words, max_size=12), max_size=9))
@example([[], [5], [], [5, 5], list(range(100)) * 2, [5]])
def test_first_occurrences_is_its_twin(lists: list[list[int]]) -> None:
    offsets = np.cumsum([0, *map(len, lists)])
    values = np.array([value for each in lists for value in each], np.uint64)
    expected = [each.index(value) == i for each in lists for i, value in enumerate(each)]
    result = first_occurrences(offsets, values)
    assert result.dtype == np.bool_
    assert result.tolist() == expected


@given(st.lists(st.tuples(words, words), max_size=20))
def test_fold_words_is_its_twin(pairs: list[tuple[int, int]]) -> None:
    states = np.array([state for state, _ in pairs], np.uint64)
    taken = np.array([word for _, word in pairs], np.uint64)
    result = fold_words(states, taken)
    assert result.dtype == np.uint64
    assert result.tolist() == [fold(*pair) for pair in pairs]


@given(words)
def test_first_state(seed: int) -> None:
    assert first_state(seed) == mix((seed + GAMMA) % WORD)


def test_what_does_not_fit_together_is_refused() -> None:
    for offsets in ([0, 4], [-1, 2]):
        with pytest.raises(IndexError, match="leave 3 values"):
            sum_lists(np.array(offsets), np.zeros(3))
        with pytest.raises(IndexError, match="leave 3 values"):
            first_occurrences(np.array(offsets), np.zeros(3, np.uint64))
    with pytest.raises(ValueError, match="2 words for 3 states"):
        fold_words(np.zeros(3, np.uint64), np.zeros(2, np.uint64))
