"""The header of a compact batch: the words that are checksummed are those that are used."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import xxhash

from headrace.v1 import preprocessor_service_pb2
from trainer_client.cursor import Cursor
from trainer_client.errors import CorruptBatchError, DeploymentError

U64 = (1 << 64) - 1

Bytes = bytes | memoryview
Table = npt.NDArray[np.int64]


class PartHeader(NamedTuple):
    """A part: features are places in the schema's block; buffers are rows first_buffer to end.

    by_run says that it has runs.
    """

    block: int
    features: tuple[int, ...]
    by_run: bool
    first_buffer: int
    buffer_end: int


@dataclass(slots=True)
class Header:
    """A verified header. payload is a view of the message.

    parts are the very object of the header before where they are equal: most of a stream's are, and
    what follows from them need not be found again. run_counts are those of each part.

    content_checksum is XXH64, seed 0, of the header's words behind the codec: those that, with
    the arena that they hold a checksum of, fix every value, whichever codec it travelled in.

    buffers is int64 [n, columns of kernels.unpacking], and the reader's: it is written anew for
    the next header.
    """

    shard: int
    index: int
    row_count: int
    cursor: Cursor
    next_cursor: Cursor
    codec: int
    uncompressed_size_bytes: int
    payload_checksum: int
    content_checksum: int
    block_count: int
    parts: Sequence[PartHeader]
    run_counts: list[int]
    buffers: Table
    payload: memoryview

    def damaged(self, problem: str, cause: Exception | None = None) -> NoReturn:
        """Raises the CorruptBatchError that names the batch."""
        raise CorruptBatchError(
            f"batch {self.index} of shard {self.shard} arrived damaged: {problem}"
        ) from cause


class HeaderReader:
    """Reads the headers of a stream whose schema has so many features; one thread at a time."""

    def __init__(self, feature_count: int) -> None:
        from trainer_client.kernels import parsing, unpacking

        # Every part has a feature, and besides a buffer for each feature at most three.
        part_count, buffer_count = feature_count, 4 * feature_count
        self._kernels = parsing
        self._numbers = np.zeros(parsing.NUMBER_COUNT, np.int64)
        self._parts = np.zeros((part_count, parsing.PART_COLUMNS), np.int64)
        self._features = np.zeros(feature_count, np.int64)
        self._buffers = np.zeros((buffer_count, unpacking.BUFFER_COLUMNS), np.int64)
        word_count = 4 * part_count + feature_count + parsing.BUFFER_WORDS * buffer_count
        self._words = np.zeros(parsing.NUMBER_COUNT + word_count, np.int64)
        # Those of the header before, and what they were made of.
        self._part_headers: list[PartHeader] = []
        self._made_of: tuple[bytes, bytes, list[bool]] | None = None

    def read(self, data: Bytes) -> Header:
        """The header of a CompactBatch. Raises CorruptBatchError if it is not what was sent."""
        k = self._kernels
        count = k.read_header(
            np.frombuffer(data, np.uint8),
            self._numbers,
            self._parts,
            self._features,
            self._buffers,
            self._words,
        )
        numbers: list[int] = self._numbers.tolist()
        if count < 0:
            what = "it is no message" if count == k.MALFORMED else "it has parts beyond its schema"
            raise CorruptBatchError(f"a batch of {len(data)} bytes arrived damaged: {what}")
        if xxhash.xxh64_intdigest(self._words[:count].data) != numbers[k.HEADER_CHECKSUM] & U64:
            raise CorruptBatchError(
                f"batch {numbers[k.INDEX]} of shard {numbers[k.SHARD]} arrived damaged: the header "
                "does not match its checksum"
            )
        cursors = [number & U64 for number in numbers[k.CURSOR : k.CODEC]]
        run_counts: list[int] = self._parts[: numbers[k.PARTS], k.RUN_COUNT].tolist()
        return Header(
            shard=numbers[k.SHARD],
            index=numbers[k.INDEX] & U64,
            row_count=numbers[k.ROW_COUNT],
            cursor=Cursor(*cursors[:4]),
            next_cursor=Cursor(*cursors[4:]),
            codec=numbers[k.CODEC],
            uncompressed_size_bytes=numbers[k.UNCOMPRESSED_SIZE] & U64,
            payload_checksum=numbers[k.PAYLOAD_CHECKSUM] & U64,
            content_checksum=xxhash.xxh64_intdigest(self._words[k.CODEC + 1 : count].data),
            block_count=numbers[k.BLOCKS],
            parts=self._headers_of(numbers[k.PARTS], numbers[k.FEATURES], run_counts),
            run_counts=run_counts,
            buffers=self._buffers[: numbers[k.BUFFERS]],
            payload=memoryview(data)[numbers[k.PAYLOAD_START] : numbers[k.PAYLOAD_END]],
        )

    def _headers_of(self, part_count: int, feature_count: int, runs: list[int]) -> list[PartHeader]:
        table = self._parts[:part_count, : self._kernels.RUN_COUNT]
        features = self._features[:feature_count]
        by_run = [count > 0 for count in runs]
        made_of = table.tobytes(), features.tobytes(), by_run
        if made_of != self._made_of:
            places: list[int] = features.tolist()
            self._made_of = made_of
            self._part_headers = [
                PartHeader(block, tuple(places[feature : feature + n]), has_runs, first, first + m)
                for (block, feature, n, first, m), has_runs in zip(
                    table.tolist(), by_run, strict=True
                )
            ]
        return self._part_headers


def end_checksum(message: preprocessor_service_pb2.StreamEnd) -> int:
    """XXH64, seed 0, of reason and cursor."""
    cursor = message.cursor
    # A reason from a damaged message can be negative: 64-bit two's complement, like the rest.
    words = (message.reason & U64, cursor.split, cursor.parquet_row, cursor.offset, cursor.batch)
    return xxhash.xxh64_intdigest(struct.pack("<5Q", *words))


def unknown(thing: str, what: str, value: int) -> NoReturn:
    """Raises the DeploymentError for a number that the contract gives no meaning to yet."""
    raise DeploymentError(
        f"{thing} has {what} {value}, which this client does not know: it was made by a newer "
        "server; upgrade headrace in the trainer"
    )
