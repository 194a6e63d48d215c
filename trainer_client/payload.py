"""The arena of the wire: a payload, decompressed. Its checksum is yet to be verified."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
import zstandard

from headrace.v1 import batch_pb2
from trainer_client.arena_pool import POOL
from trainer_client.header import Header, unknown

ACCEPTED_CODECS = (batch_pb2.CODEC_ZSTD, batch_pb2.CODEC_NONE)
MAX_ZSTD_WINDOW_BYTES = 1 << 27

# Each is used by one thread at a time, and keeps tables that are not made anew for every batch.
_decompressors: deque[zstandard.ZstdDecompressor] = deque()


def unwrap(header: Header) -> npt.NDArray[np.uint8]:
    """The arena uint8 [uncompressed_size_bytes], read-only or pooled. Raises CorruptBatchError."""
    size = header.uncompressed_size_bytes
    if header.codec == batch_pb2.CODEC_ZSTD:
        # A byte more than it should fill: what would fill that is too much.
        room = POOL.take(size + 1)
        arena = room[:size]
        _decompress(header, room.data)
    elif header.codec == batch_pb2.CODEC_NONE:
        if len(header.payload) != size:
            header.damaged(f"{len(header.payload)} bytes for an arena of {size}")
        arena = np.frombuffer(header.payload, np.uint8)
    else:
        unknown("a batch", "codec", header.codec)
    return arena


def _decompress(header: Header, room: memoryview) -> None:
    """Decompresses the payload into all of the room but its last byte."""
    try:
        decompressor = _decompressors.pop()
    except IndexError:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
    filled = 0
    try:
        with decompressor.stream_reader(header.payload, read_across_frames=True) as reader:
            while filled < len(room) and (count := reader.readinto(room[filled:])):
                filled += count
    except zstandard.ZstdError as error:
        header.damaged(f"the payload does not decompress ({error})", error)
    _decompressors.append(decompressor)
    if filled != len(room) - 1:
        header.damaged(f"the payload does not decompress to the {len(room) - 1} bytes announced")
