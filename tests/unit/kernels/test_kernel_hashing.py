"""The hash and shuffle kernels against plain Python, xxhash, and golden vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import hash_ends, hash_integers, hash_strings, shuffle_keys, tail

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "hashes.json").read_text())
WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15

seeds = st.integers(0, WORD - 1)
buckets = st.integers(1, 2**32)


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def bucket(h: int, num_buckets: int) -> int:
    return ((h >> 32) * num_buckets) >> 32


def test_mix_is_splitmix64() -> None:
    # The first outputs from state 0, as published with the generator.
    outputs = [mix((i + 1) * GAMMA % WORD) for i in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(
    st.sampled_from(["b", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]),
    st.data(),
    buckets,
    seeds,
)
def test_hash_integers_is_its_twin(
    code: str, data: st.DataObject, num_buckets: int, seed: int
) -> None:
    dtype = np.dtype(code)
    if dtype.kind == "b":
        element: st.SearchStrategy[int] = st.booleans().map(int)
    else:
        element = st.integers(int(np.iinfo(code).min), int(np.iinfo(code).max))
    values = data.draw(st.lists(element, max_size=20))
    expected = [bucket(mix((value + (seed + 1) * GAMMA) % WORD), num_buckets) for value in values]
    result = hash_integers(np.array(values, dtype), num_buckets, seed)
    assert result.dtype == np.int64
    assert result.tolist() == expected


def test_integers_of_every_width_hash_alike() -> None:
    for code in ("i1", "i2", "i4", "i8"):
        assert hash_integers(np.array([-1, 5], code), 2**32, 3).tolist() == (
            hash_integers(np.array([-1, 5]), 2**32, 3).tolist()
        )
    assert hash_integers(np.array([True]), 9, 0) == hash_integers(np.array([1]), 9, 0)


@given(st.lists(st.binary(max_size=100), max_size=10), buckets, seeds, st.integers(0, 3))
@example([bytes(range(n)) for n in range(70)], 2**32, 0, 0)
@example([bytes(range(n)) for n in range(70)], 2**31, 2**64 - 1, 3)
def test_hash_strings_is_xxh64(
    strings: list[bytes], num_buckets: int, seed: int, skipped: int
) -> None:
    data = np.frombuffer(b"x" * skipped + b"".join(strings), np.uint8)
    offsets = skipped + np.cumsum([0, *map(len, strings)])
    expected = [bucket(xxhash.xxh64_intdigest(s, seed), num_buckets) for s in strings]
    result = hash_strings(offsets, data, num_buckets, seed)
    assert result.dtype == np.int64
    assert result.tolist() == expected
    if num_buckets <= 2**31:
        narrow = hash_strings(offsets, data, num_buckets, seed, narrow=True)
        assert narrow.dtype == np.int32
        assert narrow.tolist() == expected


def test_hash_strings_refuses_offsets_outside_the_data() -> None:
    data = np.zeros(3, np.uint8)
    for offsets in ([0, 4], [-1, 2], [2, 1], [4, 4], [0, 3, 2], [0, 3, 1, 2]):
        with pytest.raises(IndexError):
            hash_strings(np.array(offsets), data, 10, 0)


@pytest.mark.parametrize("num_buckets", [0, -1, 2**32 + 1])
def test_bucket_counts_are_bounded(num_buckets: int) -> None:
    with pytest.raises(ValueError, match="num_buckets"):
        hash_integers(np.zeros(1, np.int64), num_buckets, 0)
    with pytest.raises(ValueError, match="num_buckets"):
        hash_strings(np.zeros(1, np.int64), np.zeros(0, np.uint8), num_buckets, 0)


def test_narrow_buckets_are_fewer() -> None:
    with pytest.raises(ValueError, match="between 1 and 2,147,483,648"):
        hash_strings(np.zeros(1, np.int64), np.zeros(0, np.uint8), 2**31 + 1, 0, narrow=True)


@given(
    st.sampled_from(["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]),
    st.data(),
    st.integers(1, 4) | st.just(2**31 - 1),
    st.integers(1, 2**31) | st.just(2**31),
    seeds,
)
def test_hash_ends_hashes_the_ends_of_lists(
    code: str, data: st.DataObject, count: int, num_buckets: int, seed: int
) -> None:
    bounds = (0, 1) if code == "?" else (int(np.iinfo(code).min), int(np.iinfo(code).max))
    lists = data.draw(st.lists(st.lists(st.integers(*bounds), max_size=6), max_size=8))
    offsets = np.cumsum([0, *map(len, lists)])
    values = np.array([value for each in lists for value in each], np.dtype(code))
    result = hash_ends(values, offsets, tail(offsets, count), num_buckets, seed)
    ends = np.array([value for each in lists for value in each[-count:]], np.dtype(code))
    assert result.dtype == np.int32
    assert result.tolist() == hash_integers(ends, num_buckets, seed).tolist()


def test_hash_ends_refuses_what_int32_cannot_hold() -> None:
    offsets = np.array([0, 1])
    for num_buckets in (0, 2**31 + 1, 2**32):
        with pytest.raises(ValueError, match="num_buckets"):
            hash_ends(np.zeros(1, np.int64), offsets, offsets, num_buckets, 0)
    with pytest.raises(IndexError, match="leave 0 values"):
        hash_ends(np.zeros(0, np.int64), offsets, offsets, 9, 0)


@given(seeds, seeds, seeds, st.integers(0, 20))
def test_shuffle_keys_is_its_twin(seed: int, epoch: int, ordinal: int, count: int) -> None:
    state = mix((seed + GAMMA) % WORD)
    state = mix(((state ^ epoch) + GAMMA) % WORD)
    state = mix(((state ^ ordinal) + GAMMA) % WORD)
    expected = [mix((state + (i + 1) * GAMMA) % WORD) for i in range(count)]
    keys = shuffle_keys(seed, epoch, ordinal, count)
    assert keys.dtype == np.uint64
    assert keys.tolist() == expected


def test_shuffle_keys_differ() -> None:
    keys = shuffle_keys(1, 2, 3, 100_000)
    assert len(np.unique(keys)) == 100_000
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)):
        assert not np.any(keys == shuffle_keys(*other, 100_000))


def test_golden_vectors() -> None:
    for value, num_buckets, seed, expected in GOLDEN["integers"]:
        dtype = np.uint64 if value >= 2**63 else np.int64
        assert hash_integers(np.array([value], dtype), num_buckets, seed) == [expected]
    for text, num_buckets, seed, expected in GOLDEN["strings"]:
        data = np.frombuffer(text.encode(), np.uint8)
        assert hash_strings(np.array([0, len(data)]), data, num_buckets, seed) == [expected]
    for seed, epoch, ordinal, keys in GOLDEN["shuffle_keys"]:
        result = shuffle_keys(seed, epoch, ordinal, len(keys))
        assert [f"{key:016x}" for key in result.tolist()] == keys


def test_the_documentation_shows_the_golden_vectors() -> None:
    text = (Path(__file__).parents[3] / "docs" / "ops.md").read_text()
    for value, num_buckets, seed, expected in GOLDEN["integers"]:
        assert f"| {value} | {num_buckets} | {seed} | {expected} |" in text
    for value, num_buckets, seed, expected in GOLDEN["strings"]:
        assert f"| `{json.dumps(value)}` | {num_buckets} | {seed} | {expected} |" in text
    for seed, epoch, ordinal, keys in GOLDEN["shuffle_keys"]:
        assert f"| {seed} | {epoch} | {ordinal} | {' '.join(keys)} |" in text
