"""The level changes the bytes of a payload and never what is in them."""

import numpy as np
import pytest
import zstandard

from preprocessor_server.encode.compress import (
    QUICK,
    SMALL,
    TRY_EVERY,
    Compression,
    Level,
    compress_bound,
)

RNG = np.random.default_rng(5)
UNIFORM = RNG.integers(0, 256, 300_000).astype(np.uint8)
# Single bytes of unlike frequency, in no order: only their coding makes them smaller.
SKEWED = np.minimum(RNG.geometric(0.05, 300_000), 255).astype(np.uint8)


def at_level(arena: np.ndarray, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(arena.tobytes())


@pytest.mark.parametrize("level", [-7, -1, 1, 3, "auto"])
@pytest.mark.parametrize("arena", [UNIFORM, SKEWED, np.zeros(0, np.uint8)])
def test_every_level_gives_the_arena_back(level: Level, arena: np.ndarray) -> None:
    frame = Compression(level).compress(arena)
    assert zstandard.get_frame_parameters(frame).content_size == len(arena)
    assert zstandard.ZstdDecompressor().decompress(frame) == arena.tobytes()
    assert len(frame) <= compress_bound(len(arena))


def test_auto_is_quick_where_coding_bytes_gains_nothing() -> None:
    compression = Compression("auto")
    for _ in range(3):
        assert compression.compress(UNIFORM) == at_level(UNIFORM, QUICK)


def test_auto_is_small_where_coding_bytes_pays() -> None:
    compression = Compression("auto")
    for _ in range(3):
        assert compression.compress(SKEWED) == at_level(SKEWED, SMALL)


def test_auto_tries_again_when_the_data_changes() -> None:
    compression = Compression("auto")
    frames = [compression.compress(UNIFORM)]
    frames += [compression.compress(SKEWED) for _ in range(TRY_EVERY)]
    assert frames[-2] == at_level(SKEWED, QUICK)
    assert frames[-1] == at_level(SKEWED, SMALL)
