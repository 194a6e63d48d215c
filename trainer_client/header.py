"""The header of a compact batch as one list of words: what is checksummed is what is read."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NoReturn

import xxhash

from headrace.v1 import batch_pb2, preprocessor_service_pb2
from trainer_client.errors import CorruptBatchError, DeploymentError

# One call for each message, since that is what a header takes most of its time for.
_buffer_words = attrgetter(
    "role", "layout", "type", "offset_bytes", "size_bytes", "element_count", "width_bits", "base",
    "dictionary_size",
)  # fmt: skip
_cursor_words = attrgetter("split", "parquet_row", "offset", "batch")

BUFFER_WORDS = 9


@dataclass(frozen=True, slots=True)
class PartHeader:
    """A part of a block; words holds BUFFER_WORDS for each of its buffers from first_word on."""

    block: int
    features: Sequence[int]
    run_count: int
    first_word: int
    buffer_count: int


@dataclass(frozen=True, slots=True)
class Header:
    """The words of a header, each of 8 little-endian bytes, and where the parts are in them."""

    words: bytes
    parts: Sequence[PartHeader]


def read_header(message: batch_pb2.CompactBatch) -> Header:
    """The header of a message. Raises CorruptBatchError if it does not match its checksum."""
    words: list[int] = [message.shard, message.index, message.row_count]
    words += _cursor_words(message.cursor)
    words += _cursor_words(message.next_cursor)
    words += (message.codec, message.uncompressed_size_bytes, message.payload_checksum)
    words.append(len(message.blocks))
    parts = []
    for number, block in enumerate(message.blocks):
        words.append(len(block.parts))
        for part in block.parts:
            features, buffers, runs = list(part.features), part.buffers, part.run_count
            count = len(buffers)
            words.append(len(features))
            words += features
            words += (runs, count)
            parts.append(PartHeader(number, features, runs, len(words), count))
            for buffer in buffers:
                words += _buffer_words(buffer)
    packed = _pack(words)
    if xxhash.xxh64_intdigest(packed) != message.header_checksum:
        damaged(message, "the header does not match its checksum")
    return Header(packed, parts)


def end_checksum(message: preprocessor_service_pb2.StreamEnd) -> int:
    """XXH64, seed 0, of reason and cursor."""
    return xxhash.xxh64_intdigest(_pack([message.reason, *_cursor_words(message.cursor)]))


def damaged(
    message: batch_pb2.CompactBatch, problem: str, cause: Exception | None = None
) -> NoReturn:
    """Raises the CorruptBatchError that names the batch."""
    raise CorruptBatchError(
        f"batch {message.index} of shard {message.shard} arrived damaged: {problem}"
    ) from cause


def unknown(thing: str, what: str, value: int) -> NoReturn:
    """Raises the DeploymentError for a number that the contract gives no meaning to yet."""
    raise DeploymentError(
        f"{thing} has {what} {value}, which this client does not know: it was made by a newer "
        "server; upgrade headrace in the trainer"
    )


def _pack(words: Sequence[int]) -> bytes:
    try:
        return _packed(words)
    except struct.error:
        # A base below 0, or an enum from a damaged message: 64-bit two's complement.
        return _packed([word & 0xFFFF_FFFF_FFFF_FFFF for word in words])


def _packed(words: Iterable[int]) -> bytes:
    words = list(words)
    return struct.pack(f"<{len(words)}Q", *words)
