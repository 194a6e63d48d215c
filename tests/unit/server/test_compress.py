"""Levels change the bytes of a payload and never what is in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.encode.compress import (
    CODED,
    KNOWN_KINDS,
    LEAST_SAVED_BYTES,
    QUICK,
    TRY_EVERY,
    Compression,
    Level,
    compress_bound,
)
from tests.fakes.wire import decompressed

Array = npt.NDArray[np.uint8]

RNG = np.random.default_rng(5)
UNIFORM = RNG.integers(0, 256, 300_000).astype(np.uint8)
# Single bytes of unlike frequency, in no order: only their coding makes them smaller.
SKEWED = np.minimum(RNG.geometric(0.05, 300_000), 255).astype(np.uint8)
SIZE = 30_000
REPEATED = np.tile(UNIFORM[:16], 2500)


def planes(*sizes: int) -> npt.NDArray[np.int64]:
    """Those of one buffer that starts with the arena, one of as many bytes behind the other."""
    return np.cumsum([0, *sizes, *[0] * (10 - len(sizes))])[None]


def at_level(arena: Array, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(arena.tobytes())


def quick(arena: Array) -> bytes:
    return at_level(arena, QUICK)


def coded(arena: Array) -> bytes:
    return zstandard.ZstdCompressor(compression_params=CODED).compress(arena.tobytes())


@pytest.mark.parametrize("level", [-7, -1, 1, 3])
@pytest.mark.parametrize("arena", [UNIFORM, SKEWED, np.zeros(0, np.uint8)])
def test_a_level_that_is_given_makes_one_frame(level: Level, arena: Array) -> None:
    (frame,) = Compression(level).compress(arena, planes(len(arena)))
    assert zstandard.get_frame_parameters(frame).content_size == len(arena)
    assert zstandard.ZstdDecompressor().decompress(frame) == arena.tobytes()
    assert len(frame) <= compress_bound(len(arena), planes(len(arena)))


@given(st.lists(st.sampled_from([0, 1, 1000, 1001, SIZE]), min_size=10, max_size=10), st.data())
def test_auto_gives_the_arena_back_whatever_it_has_learned(
    sizes: list[int], data: st.DataObject
) -> None:
    kind = st.sampled_from([UNIFORM, SKEWED])
    padding = data.draw(st.integers(0, 63))
    compression = Compression("auto")
    for _ in range(2):
        parts = [data.draw(kind)[:size] for size in sizes]
        arena = np.concatenate([*parts, np.zeros(padding, np.uint8)])
        payload = b"".join(compression.compress(arena, planes(*sizes)))
        assert decompressed(payload) == arena.tobytes()
        assert len(payload) <= compress_bound(len(arena), planes(*sizes))


def test_auto_codes_the_planes_where_that_pays() -> None:
    uniform, skewed = UNIFORM[:SIZE], SKEWED[:SIZE]
    compression = Compression("auto")
    for _ in range(3):
        frames = compression.compress(
            np.concatenate([skewed, skewed, uniform, uniform, skewed]), planes(*[SIZE] * 5)
        )
        assert frames == [
            coded(skewed),
            coded(skewed),
            quick(np.concatenate([uniform, uniform])),
            coded(skewed),
        ]


def test_auto_codes_no_plane_that_has_little_to_save() -> None:
    for size, form in ((LEAST_SAVED_BYTES, quick), (4000, quick), (SIZE, coded)):
        arena = SKEWED[:size]
        assert Compression("auto").compress(arena, planes(size)) == [form(arena)]
        assert len(coded(arena)) < 0.8 * size


def test_what_a_plane_has_to_save_is_weighed_against_what_the_search_leaves() -> None:
    # What repeats is found by the search: a sixth of the rest is less than a sixth of all.
    arena = np.concatenate([REPEATED, SKEWED[: len(REPEATED) // 2]])
    saved = len(quick(arena)) - len(coded(arena))
    assert LEAST_SAVED_BYTES + len(quick(arena)) / 6 < saved < LEAST_SAVED_BYTES + len(arena) / 6
    assert Compression("auto").compress(arena, planes(len(arena))) == [coded(arena)]


def test_auto_tries_again_when_the_data_changes() -> None:
    size = planes(len(UNIFORM))
    compression = Compression("auto")
    payloads = [compression.compress(UNIFORM, size)]
    payloads += [compression.compress(SKEWED, size) for _ in range(TRY_EVERY)]
    assert payloads[0] == [quick(UNIFORM)]
    assert payloads[-2] == [quick(SKEWED)]
    assert payloads[-1] == [coded(SKEWED)]


def test_auto_learns_for_each_number_of_buffers() -> None:
    compression = Compression("auto")
    one = planes(SIZE)
    two = np.concatenate([one, one + SIZE])
    for _ in range(2):
        first, second = SKEWED[:SIZE], UNIFORM[:SIZE]
        assert compression.compress(first, one) == [coded(first)]
        both = np.concatenate([second, first])
        assert compression.compress(both, two) == [quick(second), coded(first)]


def test_auto_knows_the_kinds_that_came_last() -> None:
    compression = Compression("auto")
    first, nothing = planes(SIZE), planes()
    for others in (KNOWN_KINDS - 1, KNOWN_KINDS):
        compression.compress(UNIFORM[:SIZE], first)
        for buffers in range(2, 2 + others):
            compression.compress(UNIFORM[:64], np.repeat(nothing, buffers, axis=0))
        forgotten = others == KNOWN_KINDS
        expected = coded if forgotten else quick
        assert compression.compress(SKEWED[:SIZE], first) == [expected(SKEWED[:SIZE])]
