"""The order of hashes against numpy's stable sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.kernels import hashed_order, shuffle_keys

# Hashes that are alike in some bits, or in all of them.
a_hash = st.builds(
    lambda high, low: high << 40 | low,
    st.integers(0, 2**24 - 1) | st.integers(0, 2),
    st.integers(0, 2**40 - 1) | st.integers(0, 2),
)


@given(st.lists(a_hash | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]), max_size=60))
def test_the_order_is_that_of_a_stable_sort(drawn: list[int]) -> None:
    keys = np.array(drawn, np.uint64)
    keys.flags.writeable = False
    order = hashed_order(keys)
    assert order.dtype == np.int64
    assert order.tolist() == np.argsort(keys, kind="stable").tolist()


def test_many_hashes_and_groups_of_equal_ones() -> None:
    keys = shuffle_keys(1, 2, 3, 100_000)
    assert np.array_equal(hashed_order(keys), np.argsort(keys, kind="stable"))
    groups = keys[:1000].repeat(100)
    assert np.array_equal(hashed_order(groups), np.argsort(groups, kind="stable"))
    assert hashed_order(np.full(100_000, keys[0])).tolist() == list(range(100_000))


def test_keys_of_which_every_other_one_is_taken() -> None:
    keys = shuffle_keys(1, 2, 3, 1000)[::2]
    assert np.array_equal(hashed_order(keys), np.argsort(keys, kind="stable"))
