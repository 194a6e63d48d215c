"""What can go wrong on the server, by what the caller should do next.

    ServerError
    ├── RequestError       fix the request: a field is out of its bounds
    ├── DatasetError       fix the dataset: its paths, filter, features or ops
    ├── DataError          fix the files: they are not what the dataset expects
    ├── DeploymentError    fix the fleet: a setting, a version or a codec
    └── TemporaryError     try another server, now or a little later

Every error has a reason (a name of headrace.v1.ErrorReason without its prefix) that fixes its
gRPC status. Programs depend on reasons; people read messages, which name the thing at fault and
the way out. SettingsError stands by itself: it ends the process before there is anyone to answer.
So does FleetError, of who starts or changes a fleet on Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import grpc

T = TypeVar("T")

STATUS_BY_REASON: dict[str, grpc.StatusCode] = {
    "PATH_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "PATH_OUTSIDE_ROOT": grpc.StatusCode.PERMISSION_DENIED,
    "PATH_UNREADABLE": grpc.StatusCode.PERMISSION_DENIED,
    "NOT_PARQUET": grpc.StatusCode.FAILED_PRECONDITION,
    "FILE_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "REQUEST_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "COLUMN_MISSING": grpc.StatusCode.FAILED_PRECONDITION,
    "COLUMN_TYPE_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "DATASET_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "DATASET_TOO_NEW": grpc.StatusCode.FAILED_PRECONDITION,
    "FILTER_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "FILTER_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "FEATURE_UNMATCHED": grpc.StatusCode.INVALID_ARGUMENT,
    "TYPE_UNFIT": grpc.StatusCode.INVALID_ARGUMENT,
    "REQUEST_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "CURSOR_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "SNAPSHOT_CHANGED": grpc.StatusCode.FAILED_PRECONDITION,
    "SNAPSHOT_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "SNAPSHOT_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "SPLIT_TOO_LARGE": grpc.StatusCode.FAILED_PRECONDITION,
    "BATCH_TOO_LARGE": grpc.StatusCode.FAILED_PRECONDITION,
    "CODEC_UNSUPPORTED": grpc.StatusCode.FAILED_PRECONDITION,
    "ENCODING_UNSUPPORTED": grpc.StatusCode.FAILED_PRECONDITION,
    "ROWS_UNEVEN": grpc.StatusCode.FAILED_PRECONDITION,
    "LISTS_UNEVEN": grpc.StatusCode.FAILED_PRECONDITION,
    "UDF_NOT_ALLOWED": grpc.StatusCode.FAILED_PRECONDITION,
    "UDF_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "UDF_CHANGED": grpc.StatusCode.FAILED_PRECONDITION,
    "UDF_UPLOAD_FORBIDDEN": grpc.StatusCode.FAILED_PRECONDITION,
    "UDF_PYTHON_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "FITTED_CHANGED": grpc.StatusCode.FAILED_PRECONDITION,
    "NULL_VALUE": grpc.StatusCode.FAILED_PRECONDITION,
    "VALUE_OUT_OF_RANGE": grpc.StatusCode.FAILED_PRECONDITION,
    "SERVER_BUSY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
}


class ServerError(Exception):
    """The root: a reason, a message for people, and where the fault lies.

    field is the path of the request field at fault ("dataset.features[2].ops[0]"), or "".
    """

    def __init__(self, reason: str, message: str, *, field: str = "") -> None:
        if reason not in STATUS_BY_REASON:
            raise AssertionError(f"no such error reason: {reason}")
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field

    @property
    def status(self) -> grpc.StatusCode:
        """The gRPC status that the reason fixes."""
        return STATUS_BY_REASON[self.reason]

    def at(self, place: str) -> ServerError:
        """The same error with the place (a file and row group) put before its message."""
        return type(self)(self.reason, f"{place}: {self.message}", field=self.field)


def raising(found: Iterable[T | ServerError]) -> Iterator[T]:
    """What a search found, up to the first error, which is raised.

    Who looks for faults yields them beside what is sound: a server stops at the first one, and
    whoever writes a dataset is shown all (errors_in).
    """
    for each in found:
        if isinstance(each, ServerError):
            raise each
        yield each


def errors_in(found: Iterable[object]) -> Iterator[ServerError]:
    """The errors among what a search found."""
    return (each for each in found if isinstance(each, ServerError))


class RequestError(ServerError):
    """Fix the request."""


class DatasetError(ServerError):
    """Fix the dataset."""


class DataError(ServerError):
    """Fix the files."""


class DeploymentError(ServerError):
    """Fix the fleet."""


class TemporaryError(ServerError):
    """Try another server."""


class SettingsError(Exception):
    """Fix the flags or the environment of the server; the message names the setting."""


class FleetError(Exception):
    """Fix the fleet on Ray, or the cluster; the message names what is at fault."""
