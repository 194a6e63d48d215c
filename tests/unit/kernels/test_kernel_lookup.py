"""The kernels that look values up against a dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import find_strings, find_words, look_up, make_table

# Few hashes, so that many values share one.
hashes = st.integers(0, 3) | st.integers(0, 2**32 - 1)
words = st.dictionaries(st.integers(0, 2**64 - 1) | st.integers(0, 5), hashes)
strings = st.dictionaries(st.binary(max_size=4), hashes)


def ranges(values: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, values)])
    return offsets, np.frombuffer(b"".join(values), np.uint8)


@given(words, st.data())
@example({}, None)
def test_find_words_is_its_twin(hash_of: dict[int, int], data: st.DataObject | None) -> None:
    known = list(hash_of)
    listed = data.draw(st.permutations(known).map(lambda p: p[: len(p) // 2])) if data else []
    table = make_table(np.array([hash_of[word] for word in listed], np.int64))
    found = find_words(
        np.array([hash_of[word] for word in known], np.int64),
        np.array(known, np.uint64),
        table,
        np.array(listed, np.uint64),
    )
    assert found.dtype == np.int64
    assert found.tolist() == [listed.index(w) if w in listed else -1 for w in known]


@given(strings, st.data())
def test_find_strings_is_its_twin(hash_of: dict[bytes, int], data: st.DataObject) -> None:
    known = list(hash_of)
    listed = data.draw(st.permutations(known).map(lambda p: p[: len(p) // 2]))
    listed_hashes = np.array([hash_of[each] for each in listed], np.int64)
    found = find_strings(
        np.array([hash_of[each] for each in known], np.int64),
        *ranges(known),
        make_table(listed_hashes),
        listed_hashes,
        *ranges(listed),
    )
    assert found.tolist() == [listed.index(s) if s in listed else -1 for s in known]


def test_what_does_not_belong_together_is_refused() -> None:
    one, none = np.zeros(1, np.int64), np.zeros(0, np.uint64)
    with pytest.raises(IndexError, match="belong together"):
        find_words(one, none, make_table(one), np.zeros(1, np.uint64))
    with pytest.raises(IndexError, match="belong together"):
        find_words(one, np.zeros(1, np.uint64), make_table(one), none)
    with pytest.raises(IndexError, match="offsets leave"):
        find_strings(
            one, np.array([0, 9]), np.zeros(1, np.uint8), make_table(one), one, *ranges([b"a"])
        )


CODES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


@given(
    st.lists(st.none() | st.integers(0, 8), max_size=30),
    st.sampled_from(CODES),
    st.sampled_from(["?", "i4", "f4", "i8", "f8"]),
)
def test_values_are_looked_up_by_their_codes(codes: list[int | None], code: str, kind: str) -> None:
    values = (np.arange(9) % 5).astype(kind)
    # The code of what is not valid may be anything.
    given = np.array([100 if each is None else each for each in codes], code)
    valid = np.array([each is not None for each in codes], np.bool_)
    found = look_up(values, given, valid)
    assert found.dtype == values.dtype
    assert found.tolist() == [0 if each is None else values[each] for each in codes]
    assert look_up(values, given[valid], None).tolist() == found[valid].tolist()


@pytest.mark.parametrize("values", [[2**53 + 1, 2**63 - 1, -2], [0.1, -0.0, 3e-320]])
def test_values_that_are_looked_up_keep_their_bits(values: list[Any]) -> None:
    wide = np.array(values)
    for valid in (None, np.ones(3, np.bool_)):
        assert look_up(wide, np.arange(3), valid).tobytes() == wide.tobytes()


@pytest.mark.parametrize(
    ("dtype", "code"),
    [("i1", -1), ("u1", 9), ("i4", -(2**31)), ("u4", 2**32 - 1), ("i8", 2**32), ("u8", 2**64 - 9)],
)
def test_codes_of_no_value_are_refused(dtype: Any, code: int) -> None:
    codes = np.array([0, code], dtype)
    with pytest.raises(IndexError, match="none of 9 values"):
        look_up(np.zeros(9), codes, None)
    assert look_up(np.ones(9), codes, np.array([True, False])).tolist() == [1, 0]
    with pytest.raises(IndexError, match="1 marks for 2 codes"):
        look_up(np.ones(9), codes, np.ones(1, np.bool_))
