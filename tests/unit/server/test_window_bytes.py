"""What a window is reckoned to take up once batches are gathered from it."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessor_server.encode.columns import levels_of
from preprocessor_server.frame import Column, Flat, Frame, Jagged, OptionalIds, Runs
from preprocessor_server.window import packed_bytes

ROWS, RUNS = 600, 200
RNG = np.random.default_rng(0)
DENSE = [f"dense_{i}" for i in range(40)]
IDS = ["one_id", "wide_id", "weighted"]


def columns(level: str, count: int) -> dict[str, Column]:
    """Many numbers, ids of which rows may have none, and lists: wide, and with weights."""
    has_id = np.arange(count) % 3 > 0
    offsets = np.append(0, np.cumsum(has_id))
    ids = RNG.integers(0, 1000, offsets[-1])
    weights = np.ones(len(ids), np.float32)
    made: dict[str, Column] = {name: Flat(RNG.random(count, np.float32)) for name in DENSE}
    made["one_id"] = OptionalIds(np.where(has_id, 7, -1).astype(np.int32))
    made["wide_id"] = Jagged(offsets, Flat(ids << 40))
    made["weighted"] = Jagged(offsets, Flat(ids.astype(np.int32)), weights)
    return {f"{level}_{name}": column for name, column in made.items()}


@pytest.mark.parametrize("scattered", [True, False])
def test_what_rows_are_packed_into_is_counted(scattered: bool) -> None:
    inverse = np.arange(ROWS, dtype=np.int32) // (ROWS // RUNS)
    frame = Frame(ROWS, columns("row", ROWS), (Runs(inverse, columns("run", RUNS)),))
    packed = 0
    for level, count in (("row", ROWS), ("run", RUNS)):
        order = RNG.permutation(count) if scattered else np.arange(count)
        [dense] = levels_of(frame, [f"{level}_{name}" for name in DENSE])
        [(_, flats)] = dense.flats
        flats.gather(order)
        packed += flats.packed.nbytes
        for name in IDS:
            [listed] = levels_of(frame, [f"{level}_{name}"])
            if listed.optional_columns is not None:
                packed += listed.optional_columns.ids.nbytes
    assert packed_bytes(frame, scattered) == packed > 0
