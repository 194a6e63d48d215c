"""The bytes of a batch's message, put together so that the payload is copied once.

A protobuf message is its fields one after the other, each with a tag and, for bytes and messages,
a length: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb

_LENGTH_DELIMITED = 2
_BATCH_TAG = bytes([pb.StreamBatchesResponse.BATCH_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])
_PAYLOAD_TAG = bytes([batch_pb2.CompactBatch.PAYLOAD_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


def batch_response(
    head: batch_pb2.CompactBatch,
    blocks: bytes,
    tail: batch_pb2.CompactBatch,
    payload: Sequence[bytes | memoryview],
) -> bytes:
    """The serialised StreamBatchesResponse of a batch.

    blocks is the field of that name, head and tail have the fields before and behind it; payload
    comes in parts.
    """
    payload_bytes = sum(map(len, payload))
    header = b"".join(
        (
            head.SerializeToString(),
            blocks,
            tail.SerializeToString(),
            _PAYLOAD_TAG,
            _varint(payload_bytes),
        )
    )
    return b"".join((_BATCH_TAG, _varint(len(header) + payload_bytes), header, *payload))


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that another byte follows."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
