from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from headrace.v1.preprocessor_service_pb2 import END_REASON_DRAINING, StreamBatchesResponse
from tests.fakes.encoder import encode_batch, encode_end, encode_schema
from tests.fakes.epochs import rows_of
from trainer_client import CorruptBatchError
from trainer_client.transport.wire import read_response

ROWS = rows_of([1, 2, 3, 4])
BATCH = encode_batch(ROWS, row_count=4, shard=7, next_cursor=(1, 1 << 40, 3, 1))


def whole(data: bytes) -> tuple[bytes, bytes]:
    """What protobuf makes of a batch: the message without its payload, and the payload."""
    message = StreamBatchesResponse.FromString(data)
    payload = message.batch.payload
    message.batch.ClearField("payload")
    return message.batch.SerializeToString(deterministic=True), payload


def test_a_batch_and_its_payload() -> None:
    data = StreamBatchesResponse(batch=BATCH).SerializeToString()
    response = read_response(data)
    assert response.batch is not None
    assert (response.kind, response.size) == ("batch", len(data))
    assert response.payload == BATCH.payload
    # A view of what arrived, not a copy.
    assert isinstance(response.payload, memoryview)
    assert response.payload.obj is data
    assert not response.batch.payload
    header = response.batch.SerializeToString(deterministic=True)
    assert (header, bytes(response.payload)) == whole(data)


def test_other_messages() -> None:
    schema = encode_schema(ROWS)
    response = read_response(StreamBatchesResponse(schema=schema).SerializeToString())
    assert (response.kind, response.schema) == ("schema", schema)
    end = encode_end(END_REASON_DRAINING, (1, 2, 3, 4))
    response = read_response(StreamBatchesResponse(end=end).SerializeToString())
    assert (response.kind, response.end) == ("end", end)


@pytest.mark.parametrize("data", [b"", b"\xa2\x06\x03abc"])
def test_messages_of_an_unknown_kind_are_told_as_such(data: bytes) -> None:
    assert read_response(data).kind == "a message of an unknown kind"


def nested(content: bytes) -> bytes:
    return StreamBatchesResponse(batch=BATCH).SerializeToString()[:1] + _size(content) + content


def _size(content: bytes) -> bytes:
    size, encoded = len(content), b""
    while size > 127:
        encoded += bytes([size & 127 | 128])
        size >>= 7
    return encoded + bytes([size])


def test_unusual_but_legal_encodings_mean_what_protobuf_says() -> None:
    plain = BATCH.SerializeToString()
    second = batch_pb2.CompactBatch(payload=b"the last one counts").SerializeToString()
    unknown = b"\xa5\x06abcd\xa9\x06abcdefgh\xa0\x06\xff\x01"
    for content in (plain + second, second + plain, unknown + plain, plain + unknown, b""):
        data = nested(content)
        response = read_response(data)
        assert response.batch is not None
        header, payload = whole(data)
        read = batch_pb2.CompactBatch.FromString(response.batch.SerializeToString())
        read.ClearField("payload")
        assert read.SerializeToString(deterministic=True) == header
        assert response.payload == payload
    # Twice the same field: protobuf merges them.
    twice = nested(plain) + nested(second)
    assert read_response(twice).payload == b"the last one counts"


@settings(max_examples=500)
@given(st.data())
def test_damaged_messages_are_refused_or_read_as_protobuf_reads_them(data: st.DataObject) -> None:
    good = bytearray(StreamBatchesResponse(batch=BATCH).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        header, payload = whole(damaged)
    except DecodeError:
        with pytest.raises(CorruptBatchError, match=f"a message of {len(damaged)} bytes"):
            read_response(damaged)
        return
    response = read_response(damaged)
    if response.batch is not None:
        response.batch.ClearField("payload")
        assert response.batch.SerializeToString(deterministic=True) == header
        assert response.payload == payload
