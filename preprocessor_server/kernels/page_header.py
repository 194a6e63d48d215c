"""Headers of Parquet pages.

They are structs in Thrift's compact protocol (apache/thrift,
doc/specs/thrift-compact-protocol.md); the fields are those of PageHeader (apache/parquet-format,
src/main/thrift/parquet.thrift).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out2d

# Kinds of values in the compact protocol; lists, sets and maps are in no page header.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_DEPTH = 8

# Where the fields are kept: the header's own by their ids, those of its data or dictionary page
# header, which of the two it is being _PAGE, by their ids behind _INNER. Last, where the page
# begins; 0 where there is no header.
_PAGE, _SIZE, _INNER, _START = 0, 3, 9, 18
# Headers that are read at once; few chunks have more pages.
_AT_ONCE = 8
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
_ABSENT = -(1 << 63)
# How levels are written in data pages of version 2 (the Encoding enum).
_RLE = 3

_0 = np.uint64(0)
_1 = np.uint64(1)
_7 = np.uint64(7)
_63 = np.uint64(63)
_127 = np.uint64(127)


@inner
def _varint(data: npt.NDArray[np.uint8], at: int) -> tuple[np.uint64, int]:
    """The number that starts at a byte, and where it ends; 0 if nowhere."""
    number, shift = _0, _0
    while at < len(data) and shift <= _63:
        byte = np.uint64(data[at])
        at += 1
        number |= (byte & _127) << shift
        if byte <= _127:
            return number, at
        shift += _7
    return _0, 0


@inner
def _signed(number: np.uint64) -> np.int64:
    return np.int64(number >> _1) ^ -np.int64(number & _1)


@inner
def _scalar(data: npt.NDArray[np.uint8], at: int, kind: np.int64) -> tuple[np.int64, int]:
    """The value of a field that starts at a byte, if it is an integer or boolean; where it ends.

    That is 0 if nowhere, or if it is of another kind.
    """
    if kind in (_TRUE, _FALSE):
        return np.int64(kind == _TRUE), at
    if kind == _BYTE:
        return np.int64(_ABSENT), at + 1
    if kind == _DOUBLE:
        return np.int64(_ABSENT), at + 8
    if kind not in (_I16, _I32, _I64, _BINARY):
        return np.int64(_ABSENT), 0
    number, at = _varint(data, at)
    if kind != _BINARY:
        return _signed(number), at
    if at == 0 or number > np.uint64(len(data) - at):
        return np.int64(_ABSENT), 0
    return np.int64(_ABSENT), at + int(number)


@inner
def _keep(fields: npt.NDArray[np.int64], depth: int, field: np.int64, value: np.int64) -> None:
    """Keeps a value where its field is one of those wanted."""
    if 0 < field < _INNER and value != _ABSENT:
        if depth == 0:
            fields[field] = value
        elif depth == 1 and fields[_PAGE] in (_DATA, _DICTIONARY, _DATA_V2):
            fields[_INNER + field] = value


@inner
def _read(data: npt.NDArray[np.uint8], at: int, fields: npt.NDArray[np.int64]) -> int:
    """Where the header that starts at a byte ends; 0 if it does not, or is none."""
    ids = np.zeros(_DEPTH + 1, np.int64)
    depth = 0
    fields[:] = _ABSENT
    while at < len(data):
        octet = np.int64(data[at])
        at += 1
        if octet == 0:
            if depth == 0:
                return at
            depth -= 1
            continue
        ids[depth] += octet >> 4
        if octet < 16:
            # The id itself, not by how much it is above the one before.
            number, at = _varint(data, at)
            ids[depth] = _signed(number)
        field, value = ids[depth], np.int64(_ABSENT)
        if octet & 15 == _STRUCT:
            if depth == 0:
                fields[_PAGE] = field
            depth += 1
            ids[depth] = 0
        elif at:
            value, at = _scalar(data, at, octet & 15)
        if at == 0 or depth == _DEPTH:
            return 0
        _keep(fields, depth, field, value)
    return 0


@kernel(types.int64(array(types.uint8), types.int64, out2d(types.int64)))
def _page_headers(data: npt.NDArray[np.uint8], at: int, found: npt.NDArray[np.int64]) -> int:
    """Reads headers of pages that follow each other, until one that is none; how many, with it."""
    count = 0
    while count < len(found) and at < len(data):
        fields = found[count]
        count += 1
        start = _read(data, at, fields)
        size = fields[_SIZE]
        fields[_START] = start
        if start == 0 or size < 0 or size > len(data) - start:
            break
        at = start + size
    return count


class PageHeader(NamedTuple):
    """What the header of a page says; encodings that it does not give are -1.

    version is 1 or 2 for data pages, 0 for dictionaries, None for pages without values. size is the
    page's in the file, decoded_size without compression, both in bytes; crc the CRC-32 of the page
    in the file. num_values count nulls too. rep_size and def_size are the bytes of levels in pages
    of version 2, which are never compressed; the rest is not if compressed is false.
    """

    version: int | None
    size: int
    decoded_size: int
    crc: int | None
    num_values: int = 0
    encoding: int = -1
    rep_encoding: int = -1
    def_encoding: int = -1
    num_rows: int | None = None
    rep_size: int = 0
    def_size: int = 0
    compressed: bool = True


# The type of a page (field 1) by the header that it has.
_TYPES = {_DATA: 0, _DICTIONARY: 2, _DATA_V2: 3}


def page_header(data: npt.NDArray[np.uint8], at: int) -> tuple[PageHeader, int]:
    """The header that starts at a byte of data uint8 [n], and where its page starts.

    Raises ValueError if there is no such header, or what it must say is missing or negative.
    """
    found = np.empty((1, _START + 1), np.int64)
    if not 0 <= at < len(data):
        raise ValueError("no page header")
    _page_headers(data, at, found)
    return _header(found[0].tolist())


def page_headers(data: npt.NDArray[np.uint8]) -> Iterator[tuple[PageHeader, int]]:
    """The headers of pages that fill data uint8 [n], each with where its page starts.

    Raises ValueError as page_header does, once it comes to such a header. The last page may end
    behind the data.
    """
    at = 0
    while at < len(data):
        found = np.empty((_AT_ONCE, _START + 1), np.int64)
        count = _page_headers(data, at, found)
        for fields in found[:count].tolist():
            header, start = _header(fields)
            yield header, start
            at = start + header.size


def _header(fields: list[int]) -> tuple[PageHeader, int]:
    """The header that has the given fields, and where its page starts. Raises ValueError."""
    page, kind, decoded_size, size, crc = fields[:5]
    start = fields[_START]
    if start == 0 or decoded_size < 0 or size < 0:
        raise ValueError("no page header")
    checksum = None if crc == _ABSENT else crc & 0xFFFFFFFF
    if kind not in _TYPES.values():
        return PageHeader(None, size, decoded_size, checksum), start
    if kind != _TYPES.get(page):
        raise ValueError("a page of another kind than its header")
    values, second, third, fourth, fifth, sixth, compressed, _ = fields[_INNER + 1 : _START]
    if page == _DATA_V2:
        if min(values, third, fifth, sixth) < 0:
            raise ValueError("no sizes in a page header")
        sizes = (_RLE, _RLE, third, sixth, fifth, compressed != 0)
        return PageHeader(2, size, decoded_size, checksum, values, fourth, *sizes), start
    if values < 0:
        raise ValueError("no number of values in a page header")
    version = 1 if page == _DATA else 0
    return PageHeader(version, size, decoded_size, checksum, values, second, fourth, third), start
