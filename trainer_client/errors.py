"""What can go wrong in the client, by what the caller should do next.

    HeadraceError
    ├── InvalidDatasetError     fix the dataset: its paths, filter, features or ops (ValueError)
    ├── RequestError            fix an argument of the stream, or a rank variable (ValueError)
    ├── StateMismatchError      restore into the stream the state came from (ValueError)
    ├── SnapshotMismatchError   give every rank the same snapshot
    ├── DataError               fix the files: they are not what the dataset expects
    ├── UdfError                fix a function of the dataset, or give it more time or memory
    ├── DeploymentError         fix the fleet: a setting, a version or a codec
    ├── ServerUnavailableError  retried by the stream itself; the cause of a timeout
    ├── StreamTimeoutError      look at the servers named, or raise timeout (TimeoutError)
    ├── CorruptBatchError       look at the network and memory of the servers named
    └── StreamClosedError       fix the program: a stream outlived its use (RuntimeError)

An error that a server reported keeps the server's own message, its reason (a name of
headrace.v1.ErrorReason without its prefix), the server's address, and the fields at fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A request field at fault, and why."""

    field: str
    description: str


class HeadraceError(Exception):
    """The root of every error that this package raises.

    reason, server and violations are empty where no server reported the error; status is None
    there; retry_delay_s is how long the server asked to be left alone, None if it did not.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        server: str = "",
        violations: tuple[FieldViolation, ...] = (),
        status: grpc.StatusCode | None = None,
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.server = server
        self.violations = violations
        self.status = status
        self.retry_delay_s = retry_delay_s


class InvalidDatasetError(HeadraceError, ValueError):
    """Fix the dataset."""


class RequestError(HeadraceError, ValueError):
    """Fix an argument."""


class StateMismatchError(HeadraceError, ValueError):
    """Restore the state into a stream with the same batches, or start over."""


class SnapshotMismatchError(HeadraceError):
    """Give every rank the same snapshot."""


class DataError(HeadraceError):
    """Fix the files."""


class UdfError(HeadraceError):
    """Fix the function."""


class DeploymentError(HeadraceError):
    """Fix the fleet."""


class ServerUnavailableError(HeadraceError):
    """One server did not answer, or cut a stream; the stream goes on elsewhere by itself."""


class StreamTimeoutError(HeadraceError, TimeoutError):
    """Nothing arrived for as long as the stream's timeout."""


class CorruptBatchError(HeadraceError):
    """The bytes that arrived, of a batch or of a call, are not those that were sent."""


class StreamClosedError(HeadraceError, RuntimeError):
    """The stream was closed, or is used in a process that did not build it."""


CLASS_BY_REASON: dict[str, type[HeadraceError]] = {
    "PATH_NOT_FOUND": InvalidDatasetError,
    "PATH_OUTSIDE_ROOT": InvalidDatasetError,
    "PATH_UNREADABLE": DeploymentError,
    "NOT_PARQUET": DataError,
    "FILE_CORRUPT": DataError,
    "REQUEST_CORRUPT": CorruptBatchError,
    "COLUMN_MISSING": DataError,
    "COLUMN_TYPE_MISMATCH": DataError,
    "DATASET_INVALID": InvalidDatasetError,
    "DATASET_TOO_NEW": DeploymentError,
    "FILTER_INVALID": InvalidDatasetError,
    "FILTER_FAILED": InvalidDatasetError,
    "FEATURE_UNMATCHED": InvalidDatasetError,
    "TYPE_UNFIT": InvalidDatasetError,
    "REQUEST_INVALID": RequestError,
    "CURSOR_INVALID": StateMismatchError,
    "SNAPSHOT_CHANGED": DataError,
    "SNAPSHOT_UNKNOWN": DeploymentError,
    "SNAPSHOT_INVALID": DeploymentError,
    "SPLIT_TOO_LARGE": DataError,
    "BATCH_TOO_LARGE": RequestError,
    "CODEC_UNSUPPORTED": DeploymentError,
    "ENCODING_UNSUPPORTED": DeploymentError,
    "UDF_NOT_ALLOWED": DeploymentError,
    "UDF_FAILED": UdfError,
    "UDF_CHANGED": DeploymentError,
    "UDF_UPLOAD_FORBIDDEN": DeploymentError,
    "UDF_PYTHON_MISMATCH": DeploymentError,
    "FITTED_CHANGED": DataError,
    "NULL_VALUE": DataError,
    "VALUE_OUT_OF_RANGE": DataError,
    "ROWS_UNEVEN": DataError,
    "LISTS_UNEVEN": DataError,
    "SERVER_BUSY": ServerUnavailableError,
    "DRAINING": ServerUnavailableError,
}

CLASS_BY_STATUS: dict[grpc.StatusCode, type[HeadraceError]] = {
    grpc.StatusCode.CANCELLED: ServerUnavailableError,
    grpc.StatusCode.UNKNOWN: DeploymentError,
    grpc.StatusCode.INVALID_ARGUMENT: RequestError,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServerUnavailableError,
    grpc.StatusCode.NOT_FOUND: DataError,
    grpc.StatusCode.ALREADY_EXISTS: RequestError,
    grpc.StatusCode.PERMISSION_DENIED: DeploymentError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: DeploymentError,
    grpc.StatusCode.FAILED_PRECONDITION: DataError,
    grpc.StatusCode.ABORTED: ServerUnavailableError,
    grpc.StatusCode.OUT_OF_RANGE: RequestError,
    grpc.StatusCode.UNIMPLEMENTED: DeploymentError,
    grpc.StatusCode.INTERNAL: DeploymentError,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailableError,
    grpc.StatusCode.DATA_LOSS: DataError,
    grpc.StatusCode.UNAUTHENTICATED: DeploymentError,
}


def from_rpc_error(error: grpc.RpcError, server: str) -> HeadraceError:
    """The error that a failed call stands for; a reason not known here goes by the status.

    server is the address that was called. The caller raises the result `from error`.
    """
    from google.protobuf import message as protobuf_message
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    assert isinstance(error, grpc.Call)
    status, text = error.code(), error.details() or ""
    reason, violations, delay = "", [], None
    try:
        rich = rpc_status.from_call(error)
    except (ValueError, protobuf_message.DecodeError):
        # Details that contradict the status, or are no details: the status itself still holds.
        rich = None
    for detail in rich.details if rich is not None else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason = info.reason if info.domain == "headrace" else ""
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay_message = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            delay = delay_message.seconds + delay_message.nanos / 1e9
    error_class = CLASS_BY_REASON.get(reason) or CLASS_BY_STATUS[status]
    fields = "".join(f"\n  {v.field}: {v.description}" for v in violations if v.field not in text)
    return error_class(
        f"{text or 'no message'} [{reason or status.name}, from {server}]{fields}",
        reason=reason,
        server=server,
        violations=tuple(violations),
        status=status,
        retry_delay_s=delay,
    )
