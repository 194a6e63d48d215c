"""Parquet's runs of one value repeated, or of bit-packed values, written in any mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st


class Coded(NamedTuple):
    """Values, and the bytes of runs that hold them in order."""

    values: list[int]
    data: bytes


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    octets = []
    while number > 127:
        octets.append(number & 127 | 128)
        number >>= 7
    return bytes([*octets, number])


def repeated(value: int, count: int, width: int) -> bytes:
    """A run of one value."""
    return varint(count << 1) + value.to_bytes((width + 7) // 8, "little")


def packed(values: Sequence[int], width: int) -> bytes:
    """A run of bit-packed values; the last group is filled up with zeros."""
    groups = -(-len(values) // 8)
    filled = np.zeros((groups * 8, 1), np.uint64)
    filled[: len(values), 0] = values
    bits = (filled >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    data = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    return varint(groups << 1 | 1) + data


@st.composite
def coded(draw: st.DrawFn, width: int, top: int) -> Coded:
    """Runs of values up to top, of so many bits; a packed run that is not the last is whole."""
    values: list[int] = []
    data = b""
    number = st.integers(0, top)
    for last in [*[False] * draw(st.integers(0, 5)), True]:
        if draw(st.booleans()):
            value, count = draw(number), draw(st.integers(0, 70))
            values += [value] * count
            data += repeated(value, count, width)
        else:
            size = draw(st.integers(0, 70)) if last else 8 * draw(st.integers(0, 9))
            found = draw(st.lists(number, min_size=size, max_size=size))
            values += found
            data += packed(found, width)
    return Coded(values, data)
