"""The pages of a column chunk: found, checked against their checksums, decompressed."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pyarrow as pa
import zstandard

from preprocessor_server.kernels import PageHeader, page_headers
from preprocessor_server.source.chunk_bytes import Octets
from preprocessor_server.source.chunk_form import UNCOMPRESSED, ChunkForm
from preprocessor_server.source.pages import PageError


class OtherPageError(Exception):
    """A page is not one that is decoded here: Arrow reads its chunk instead, and judges it."""


class _Worker(threading.local):
    """What a worker thread uses again for every page."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_worker = _Worker()


def pages(form: ChunkForm, chunk: Octets) -> Iterator[tuple[PageHeader, Octets]]:
    """The header and the decompressed bytes of each dictionary or data page of a chunk uint8 [n].

    Raises PageError for a page that does not have its checksum or its size, OtherPageError where no
    page begins or the last one ends behind the chunk.
    """
    for header, at in headers(chunk):
        page = chunk[at : at + header.size]
        if len(page) != header.size or header.decoded_size > form.decoded_bytes:
            raise OtherPageError("a page that is larger than its column chunk")
        if header.crc is not None and zlib.crc32(page.data) != header.crc:
            raise PageError("a page does not have its checksum")
        if header.version is None:
            continue
        levels = header.rep_size + header.def_size
        if levels > min(header.size, header.decoded_size):
            raise PageError("a page is shorter than its levels")
        if form.codec == UNCOMPRESSED or not header.compressed:
            if header.size != header.decoded_size:
                raise PageError("a page that is not compressed has two sizes")
            yield header, page
        else:
            values = _decompress(form.codec, page[levels:], header.decoded_size - levels)
            yield header, np.concatenate((page[:levels], values)) if levels else values


def headers(chunk: Octets) -> Iterator[tuple[PageHeader, int]]:
    """The headers of a chunk's pages, with where each page starts.

    Raises OtherPageError where no page begins.
    """
    found_here = page_headers(chunk)
    while True:
        try:
            found = next(found_here, None)
        except ValueError as error:
            raise OtherPageError(str(error)) from None
        if found is None:
            return
        yield found


def _decompress(codec: str, page: Octets, size: int) -> Octets:
    """A page of so many bytes. Arrow says nothing where there are fewer, other than of ZSTD."""
    if size == 0:
        return page[:0]
    if codec == "SNAPPY" and _snappy_size(page) != size:
        raise PageError(f"a page of {size} bytes decompresses to {_snappy_size(page)}")
    if codec == "GZIP" and int.from_bytes(page[-4:].tobytes(), "little") != size:
        # Damaged, or written in several members, or by zlib.
        raise OtherPageError("a page that does not end with its size")
    if codec == "ZSTD":
        # Arrow would make a context for every page. What is no single frame is left to it.
        with suppress(zstandard.ZstdError):
            if zstandard.frame_content_size(page.data) == size:
                content = _worker.zstd.decompress(page.data, allow_extra_data=False)
                return np.frombuffer(content, np.uint8)
    try:
        return np.frombuffer(pa.Codec(codec.lower()).decompress(page.data, size), np.uint8)
    except (pa.ArrowException, OSError) as error:
        raise PageError(f"a page does not decompress: {error}") from error


def _snappy_size(page: Octets) -> int:
    """The varint before a block (google/snappy, format_description.txt): its size decompressed."""
    size = 0
    for place, octet in enumerate(page[:5].tolist()):
        size |= (octet & 127) << 7 * place
        if octet < 128:
            break
    return size
