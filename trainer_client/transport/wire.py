"""Responses of StreamBatches, taken apart without copying the payload, which protobuf does twice.

Only the fields on the way to the payload are read here
(https://protobuf.dev/programming-guides/encoding); everything else, and every message that is not
as a server writes it, is left to protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError

from headrace.v1 import batch_pb2, preprocessor_service_pb2
from headrace.v1.preprocessor_service_pb2 import StreamBatchesResponse
from trainer_client.errors import CorruptBatchError

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_BATCH_TAG = StreamBatchesResponse.BATCH_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_PAYLOAD_TAG = batch_pb2.CompactBatch.PAYLOAD_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
# Longer ones are no varint of 64 bits.
_MAX_VARINT_BITS = 63


class Response(NamedTuple):
    """One of schema, batch and end is set, or none if the message is of a kind not known here.

    payload is that of batch, which itself may lack it; size is that of the message, in bytes.
    """

    size: int
    schema: batch_pb2.BatchSchema | None = None
    batch: batch_pb2.CompactBatch | None = None
    payload: bytes | memoryview = b""
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
    try:
        found = _find_payload(data)
        if found is not None:
            start, end, header = found
            batch = batch_pb2.CompactBatch.FromString(header)
            return Response(len(data), batch=batch, payload=memoryview(data)[start:end])
        message = StreamBatchesResponse.FromString(data)
    except DecodeError as error:
        raise CorruptBatchError(
            f"a message of {len(data)} bytes is damaged: it cannot be read as protobuf"
        ) from error
    match message.WhichOneof("message"):
        case "schema":
            return Response(len(data), schema=message.schema)
        case "batch":
            return Response(len(data), batch=message.batch, payload=message.batch.payload)
        case "end":
            return Response(len(data), end=message.end)
    return Response(len(data))


def _find_payload(data: bytes) -> tuple[int, int, bytes] | None:
    """Where the payload starts and ends, and the batch without it.

    None if the message is anything but one batch with one payload.
    """
    try:
        tag, at = _varint(data, 0)
        if tag != _BATCH_TAG:
            return None
        size, first = _varint(data, at)
        if first + size != len(data):
            return None
        payloads = [field for field in _fields(data, first) if field[0] == _PAYLOAD_TAG]
    except (IndexError, ValueError):
        return None
    if len(payloads) != 1:
        return None
    _, field_start, start, end = payloads[0]
    return start, end, data[first:field_start] + data[end:]


def _fields(data: bytes, at: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, where the field starts, where its value does, where it ends) to the end of data.

    Raises IndexError or ValueError if something else follows.
    """
    while at < len(data):
        field_start = at
        tag, start = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, start)
        elif kind == _LENGTH_DELIMITED:
            size, start = _varint(data, start)
            at = start + size
        elif kind == _FIXED64:
            at = start + 8
        elif kind == _FIXED32:
            at = start + 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(data):
            raise ValueError("a field goes on after the end")
        yield tag, field_start, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer, and where it ends."""
    byte = data[at]
    value, shift = byte & 127, 0
    while byte > 127:
        at, shift = at + 1, shift + 7
        if shift > _MAX_VARINT_BITS:
            raise ValueError("a varint without end")
        byte = data[at]
        value |= (byte & 127) << shift
    return value, at + 1
