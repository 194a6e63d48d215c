"""The checksums that requests and answers carry beside their bytes."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import xxhash
from google.protobuf.message import Message

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.service import CHECKSUM_KEY, SERVICE
from tests.fakes.wire import spec

REQUESTS: dict[str, Message] = {
    "DescribeDataset": pb.DescribeDatasetRequest(dataset=spec()),
    "PlanEpoch": pb.PlanEpochRequest(
        dataset=spec(), identity=pb.BatchIdentity(batch_size=64, shuffle=True)
    ),
    "CountRows": pb.CountRowsRequest(dataset=spec("id < 5")),
    "PreviewBatch": pb.PreviewBatchRequest(dataset=spec()),
    "StreamBatches": pb.StreamBatchesRequest(
        dataset=spec(), identity=pb.BatchIdentity(batch_size=64)
    ),
}
# Nothing in it can be damaged.
EMPTY: dict[str, Message] = {"GetCounters": pb.GetCountersRequest()}


@pytest.fixture
def address(root: Any, start_server: Any) -> str:
    return str(start_server(data_root=(root,)).address)


def ask(address: str, call: str, data: bytes, checksum: str | None) -> tuple[bytes, str]:
    """The first message of an answer, and its checksum."""
    metadata = None if checksum is None else ((CHECKSUM_KEY, checksum),)
    with grpc.insecure_channel(address) as channel:
        name = f"/{SERVICE}/{call}"
        if call == "StreamBatches":
            streaming: Any = channel.unary_stream(name)
            stream = streaming(data, metadata=metadata, timeout=20)
            return next(stream), dict(stream.initial_metadata())[CHECKSUM_KEY]
        unary: Any = channel.unary_unary(name)
        answer, answered = unary.with_call(data, metadata=metadata, timeout=20)
        return answer, dict(answered.initial_metadata())[CHECKSUM_KEY]


def checksum_of(request: Message) -> str:
    """As docs/compact_batch.md defines it."""
    name = request.DESCRIPTOR.full_name.encode()
    return xxhash.xxh64_hexdigest(name + request.SerializeToString())


@pytest.mark.parametrize("call", REQUESTS | EMPTY)
def test_answers_carry_the_checksum_of_their_first_message(address: str, call: str) -> None:
    request = (REQUESTS | EMPTY)[call]
    data = request.SerializeToString()
    for checksum in (None, checksum_of(request)):
        answer, announced = ask(address, call, data, checksum)
        assert announced == xxhash.xxh64_hexdigest(answer)


@pytest.mark.parametrize("call", REQUESTS)
def test_damaged_requests_are_refused(address: str, call: str) -> None:
    data = REQUESTS[call].SerializeToString()
    damaged = bytearray(data)
    damaged[-1] ^= 1
    for sent, checksum in ((bytes(damaged), checksum_of(REQUESTS[call])), (b"\xff\xff", None)):
        with pytest.raises(grpc.RpcError) as caught:
            ask(address, call, sent, checksum)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.DATA_LOSS
        assert f"the request, {len(sent)} bytes" in error.details()
        assert "damaged on its way; send it again" in error.details()


@pytest.mark.parametrize("call", REQUESTS | EMPTY)
def test_requests_that_reach_another_call_are_refused(address: str, call: str) -> None:
    """As where a bit flips in the name of the call: all read a dataset, and would answer."""
    for meant, request in REQUESTS.items():
        if meant == call:
            continue
        with pytest.raises(grpc.RpcError) as caught:
            ask(address, call, request.SerializeToString(), checksum_of(request))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.DATA_LOSS
