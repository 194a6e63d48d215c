"""Runs of one value repeated, or of bit-packed values: Parquet's levels and codes.

apache/parquet-format, Encodings.md, "Run Length Encoding / Bit-Packing Hybrid". A kernel that uses
these is compiled anew when its own file changes, not when this one does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from preprocessor_server.kernels._jit import inner

_0 = np.uint64(0)
_1 = np.uint64(1)
_7 = np.uint64(7)
_63 = np.uint64(63)
_127 = np.uint64(127)


@inner
def head_of_run(
    data: npt.NDArray[np.uint8], at: np.uint64, end: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """The number that starts a run, and where it ends; 0 if nowhere."""
    number, shift = _0, _0
    while at < end and shift <= _63:
        octet = np.uint64(data[at])
        at += _1
        number |= (octet & _127) << shift
        if octet <= _127:
            return number, at
        shift += _7
    return _0, _0


@inner
def end_of_packed(at: np.uint64, end: np.uint64, groups: np.uint64, width: np.uint64) -> np.uint64:
    """Where a bit-packed run ends, which may be cut off behind its last value."""
    return end if groups > (end - at) // width else at + groups * width
