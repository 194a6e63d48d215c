"""Calls that a server refuses: their status, reason, message and fields."""

from collections.abc import Callable

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from headrace.v1 import dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from tests.fakes.wire import spec

Stub = pb_grpc.PreprocessorServiceStub
Call = Callable[[], object]


class Refusal:
    """A failed call: its status, message and details."""

    def __init__(self, call: Call) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert isinstance(caught.value, grpc.Call)
        self.code: grpc.StatusCode = caught.value.code()
        self.message: str = caught.value.details() or ""
        status = rpc_status.from_call(caught.value)
        assert status is not None, f"no details: {self.code} {self.message}"
        info, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        self.retry: bool = False
        for detail in status.details:
            detail.Unpack(info) or detail.Unpack(violations)
            self.retry |= detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        assert info.domain == "headrace"
        self.reason: str = info.reason
        self.fields: list[str] = [v.field for v in violations.field_violations]


def named(*paths: str) -> dataset_pb2.DatasetSpec:
    return spec(source={"parquet": {"paths": list(paths)}})


def describe(stub: Stub, dataset: dataset_pb2.DatasetSpec) -> Refusal:
    return Refusal(
        lambda: stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset), timeout=60)
    )


def check(refusal: Refusal, code: grpc.StatusCode, reason: str, *words: str) -> None:
    assert (refusal.code, refusal.reason) == (code, reason), refusal.message
    for word in words:
        assert word in refusal.message, refusal.message
