"""Responses of StreamBatches: a batch stays the bytes that it came as, for a decoder to read.

protobuf would copy its payload twice, and take longer than decompressing a small one.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError

from headrace.v1 import batch_pb2, preprocessor_service_pb2
from headrace.v1.preprocessor_service_pb2 import StreamBatchesResponse
from trainer_client.errors import CorruptBatchError

_LENGTH_DELIMITED = 2
_BATCH_TAG = StreamBatchesResponse.BATCH_FIELD_NUMBER << 3 | _LENGTH_DELIMITED


class Response(NamedTuple):
    """One of schema, batch (an encoded CompactBatch) and end is set.

    None is if the message is of a kind not known here. size is that of the message, in bytes.
    snapshot_id and identity come with the schema.
    """

    size: int
    schema: batch_pb2.BatchSchema | None = None
    snapshot_id: str = ""
    identity: preprocessor_service_pb2.BatchIdentity | None = None
    batch: bytes | memoryview | None = None
    end: preprocessor_service_pb2.StreamEnd | None = None

    @property
    def kind(self) -> str:
        """What it is, for people."""
        for name in ("schema", "batch", "end"):
            if getattr(self, name) is not None:
                return name
        return "a message of an unknown kind"


def read_response(data: bytes) -> Response:
    """The response that bytes encode. Raises CorruptBatchError if they encode none."""
    start = _start_of_batch(data)
    if start is not None:
        return Response(len(data), batch=memoryview(data)[start:])
    try:
        message = StreamBatchesResponse.FromString(data)
    except DecodeError as error:
        raise CorruptBatchError(
            f"a message of {len(data)} bytes arrived damaged: it cannot be read as protobuf"
        ) from error
    match message.WhichOneof("message"):
        case "schema":
            return Response(len(data), message.schema, message.snapshot_id, message.identity)
        case "batch":
            return Response(len(data), batch=message.batch.SerializeToString())
        case "end":
            return Response(len(data), end=message.end)
    return Response(len(data))


def _start_of_batch(data: bytes) -> int | None:
    """Where the batch starts in a message that has nothing else, as servers write it; else None.

    https://protobuf.dev/programming-guides/encoding: a tag, and the size in groups of 7 bits.
    """
    if not data or data[0] != _BATCH_TAG:
        return None
    size = 0
    for at in range(1, min(len(data), 11)):
        size |= (data[at] & 127) << (7 * (at - 1))
        if data[at] < 128:
            return at + 1 if at + 1 + size == len(data) else None
    return None
