import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from headrace.v1 import batch_pb2 as _batch_pb2
from headrace.v1 import dataset_pb2 as _dataset_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_PATH_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_PATH_OUTSIDE_ROOT: _ClassVar[ErrorReason]
    ERROR_REASON_PATH_UNREADABLE: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_PARQUET: _ClassVar[ErrorReason]
    ERROR_REASON_FILE_CORRUPT: _ClassVar[ErrorReason]
    ERROR_REASON_COLUMN_MISSING: _ClassVar[ErrorReason]
    ERROR_REASON_COLUMN_TYPE_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_DATASET_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_DATASET_TOO_NEW: _ClassVar[ErrorReason]
    ERROR_REASON_FILTER_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_FEATURE_UNMATCHED: _ClassVar[ErrorReason]
    ERROR_REASON_TYPE_UNFIT: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_CURSOR_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_SNAPSHOT_CHANGED: _ClassVar[ErrorReason]
    ERROR_REASON_SNAPSHOT_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_SNAPSHOT_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_SPLIT_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_BATCH_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_CODEC_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_ENCODING_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_NULL_VALUE: _ClassVar[ErrorReason]
    ERROR_REASON_VALUE_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_SERVER_BUSY: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_FILTER_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_ROWS_UNEVEN: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_CORRUPT: _ClassVar[ErrorReason]
    ERROR_REASON_UDF_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_UDF_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_UDF_CHANGED: _ClassVar[ErrorReason]
    ERROR_REASON_LISTS_UNEVEN: _ClassVar[ErrorReason]
    ERROR_REASON_UDF_UPLOAD_FORBIDDEN: _ClassVar[ErrorReason]
    ERROR_REASON_UDF_PYTHON_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_FITTED_CHANGED: _ClassVar[ErrorReason]

class EndReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    END_REASON_UNSPECIFIED: _ClassVar[EndReason]
    END_REASON_SHARD_END: _ClassVar[EndReason]
    END_REASON_BATCH_LIMIT: _ClassVar[EndReason]
    END_REASON_DRAINING: _ClassVar[EndReason]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_READ: _ClassVar[Stage]
    STAGE_DECODE: _ClassVar[Stage]
    STAGE_TRANSFORM: _ClassVar[Stage]
    STAGE_ORDER: _ClassVar[Stage]
    STAGE_ENCODE: _ClassVar[Stage]
    STAGE_SEND: _ClassVar[Stage]
    STAGE_WAIT: _ClassVar[Stage]
    STAGE_MEMORY: _ClassVar[Stage]
    STAGE_OPEN: _ClassVar[Stage]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_PATH_NOT_FOUND: ErrorReason
ERROR_REASON_PATH_OUTSIDE_ROOT: ErrorReason
ERROR_REASON_PATH_UNREADABLE: ErrorReason
ERROR_REASON_NOT_PARQUET: ErrorReason
ERROR_REASON_FILE_CORRUPT: ErrorReason
ERROR_REASON_COLUMN_MISSING: ErrorReason
ERROR_REASON_COLUMN_TYPE_MISMATCH: ErrorReason
ERROR_REASON_DATASET_INVALID: ErrorReason
ERROR_REASON_DATASET_TOO_NEW: ErrorReason
ERROR_REASON_FILTER_INVALID: ErrorReason
ERROR_REASON_FEATURE_UNMATCHED: ErrorReason
ERROR_REASON_TYPE_UNFIT: ErrorReason
ERROR_REASON_REQUEST_INVALID: ErrorReason
ERROR_REASON_CURSOR_INVALID: ErrorReason
ERROR_REASON_SNAPSHOT_CHANGED: ErrorReason
ERROR_REASON_SNAPSHOT_UNKNOWN: ErrorReason
ERROR_REASON_SNAPSHOT_INVALID: ErrorReason
ERROR_REASON_SPLIT_TOO_LARGE: ErrorReason
ERROR_REASON_BATCH_TOO_LARGE: ErrorReason
ERROR_REASON_CODEC_UNSUPPORTED: ErrorReason
ERROR_REASON_ENCODING_UNSUPPORTED: ErrorReason
ERROR_REASON_NULL_VALUE: ErrorReason
ERROR_REASON_VALUE_OUT_OF_RANGE: ErrorReason
ERROR_REASON_SERVER_BUSY: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_FILTER_FAILED: ErrorReason
ERROR_REASON_ROWS_UNEVEN: ErrorReason
ERROR_REASON_REQUEST_CORRUPT: ErrorReason
ERROR_REASON_UDF_NOT_ALLOWED: ErrorReason
ERROR_REASON_UDF_FAILED: ErrorReason
ERROR_REASON_UDF_CHANGED: ErrorReason
ERROR_REASON_LISTS_UNEVEN: ErrorReason
ERROR_REASON_UDF_UPLOAD_FORBIDDEN: ErrorReason
ERROR_REASON_UDF_PYTHON_MISMATCH: ErrorReason
ERROR_REASON_FITTED_CHANGED: ErrorReason
END_REASON_UNSPECIFIED: EndReason
END_REASON_SHARD_END: EndReason
END_REASON_BATCH_LIMIT: EndReason
END_REASON_DRAINING: EndReason
STAGE_UNSPECIFIED: Stage
STAGE_READ: Stage
STAGE_DECODE: Stage
STAGE_TRANSFORM: Stage
STAGE_ORDER: Stage
STAGE_ENCODE: Stage
STAGE_SEND: Stage
STAGE_WAIT: Stage
STAGE_MEMORY: Stage
STAGE_OPEN: Stage

class BatchIdentity(_message.Message):
    __slots__ = ("seed", "epoch", "num_shards", "batch_size", "shuffle", "shuffle_window_splits", "encoding_version")
    SEED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_WINDOW_SPLITS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_VERSION_FIELD_NUMBER: _ClassVar[int]
    seed: int
    epoch: int
    num_shards: int
    batch_size: int
    shuffle: bool
    shuffle_window_splits: int
    encoding_version: int
    def __init__(self, seed: _Optional[int] = ..., epoch: _Optional[int] = ..., num_shards: _Optional[int] = ..., batch_size: _Optional[int] = ..., shuffle: bool = ..., shuffle_window_splits: _Optional[int] = ..., encoding_version: _Optional[int] = ...) -> None: ...

class Split(_message.Message):
    __slots__ = ("file", "row_group", "first_row", "row_count")
    FILE_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    file: int
    row_group: int
    first_row: int
    row_count: int
    def __init__(self, file: _Optional[int] = ..., row_group: _Optional[int] = ..., first_row: _Optional[int] = ..., row_count: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("files", "row_group_rows", "row_group_decoded_bytes", "arrow_schema", "measured_columns", "row_group_inner_rows", "counted_filter", "row_group_passing_rows", "udfs", "counted_sampling", "counted_distinct_by")
    FILES_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_ROWS_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_DECODED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARROW_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    MEASURED_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_INNER_ROWS_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FILTER_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_PASSING_ROWS_FIELD_NUMBER: _ClassVar[int]
    UDFS_FIELD_NUMBER: _ClassVar[int]
    COUNTED_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    COUNTED_DISTINCT_BY_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[SnapshotFile]
    row_group_rows: _containers.RepeatedScalarFieldContainer[int]
    row_group_decoded_bytes: _containers.RepeatedScalarFieldContainer[int]
    arrow_schema: bytes
    measured_columns: _containers.RepeatedScalarFieldContainer[str]
    row_group_inner_rows: _containers.RepeatedScalarFieldContainer[int]
    counted_filter: str
    row_group_passing_rows: _containers.RepeatedScalarFieldContainer[int]
    udfs: _containers.RepeatedCompositeFieldContainer[SnapshotUdf]
    counted_sampling: _dataset_pb2.Sampling
    counted_distinct_by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files: _Optional[_Iterable[_Union[SnapshotFile, _Mapping]]] = ..., row_group_rows: _Optional[_Iterable[int]] = ..., row_group_decoded_bytes: _Optional[_Iterable[int]] = ..., arrow_schema: _Optional[bytes] = ..., measured_columns: _Optional[_Iterable[str]] = ..., row_group_inner_rows: _Optional[_Iterable[int]] = ..., counted_filter: _Optional[str] = ..., row_group_passing_rows: _Optional[_Iterable[int]] = ..., udfs: _Optional[_Iterable[_Union[SnapshotUdf, _Mapping]]] = ..., counted_sampling: _Optional[_Union[_dataset_pb2.Sampling, _Mapping]] = ..., counted_distinct_by: _Optional[_Iterable[str]] = ...) -> None: ...

class SnapshotUdf(_message.Message):
    __slots__ = ("function", "fingerprint")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    function: str
    fingerprint: str
    def __init__(self, function: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class SnapshotFile(_message.Message):
    __slots__ = ("path", "size_bytes", "mtime_ns", "row_group_count")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_COUNT_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    mtime_ns: int
    row_group_count: int
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., row_group_count: _Optional[int] = ...) -> None: ...

class DescribeDatasetRequest(_message.Message):
    __slots__ = ("dataset", "include_snapshot", "count_skipped_row_groups")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COUNT_SKIPPED_ROW_GROUPS_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.DatasetSpec
    include_snapshot: bool
    count_skipped_row_groups: bool
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.DatasetSpec, _Mapping]] = ..., include_snapshot: bool = ..., count_skipped_row_groups: bool = ...) -> None: ...

class SourceColumn(_message.Message):
    __slots__ = ("name", "type", "needed", "list_column")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    LIST_COLUMN_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    needed: bool
    list_column: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., needed: bool = ..., list_column: _Optional[str] = ...) -> None: ...

class MadeColumn(_message.Message):
    __slots__ = ("name", "type", "needed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    needed: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., needed: bool = ...) -> None: ...

class DescribeDatasetResponse(_message.Message):
    __slots__ = ("snapshot_id", "snapshot", "source_columns", "output_schema", "file_count", "row_group_count", "parquet_row_count", "file_bytes", "decoded_bytes", "row_count", "dataset_fingerprint", "encoding_version", "server_version", "unfiltered_row_count", "udfs", "made_columns", "skipped_row_group_count")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_COUNT_FIELD_NUMBER: _ClassVar[int]
    PARQUET_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DECODED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENCODING_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    UNFILTERED_ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    UDFS_FIELD_NUMBER: _ClassVar[int]
    MADE_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_ROW_GROUP_COUNT_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    snapshot: bytes
    source_columns: _containers.RepeatedCompositeFieldContainer[SourceColumn]
    output_schema: _batch_pb2.BatchSchema
    file_count: int
    row_group_count: int
    parquet_row_count: int
    file_bytes: int
    decoded_bytes: int
    row_count: int
    dataset_fingerprint: str
    encoding_version: int
    server_version: str
    unfiltered_row_count: int
    udfs: _containers.RepeatedCompositeFieldContainer[SnapshotUdf]
    made_columns: _containers.RepeatedCompositeFieldContainer[MadeColumn]
    skipped_row_group_count: int
    def __init__(self, snapshot_id: _Optional[str] = ..., snapshot: _Optional[bytes] = ..., source_columns: _Optional[_Iterable[_Union[SourceColumn, _Mapping]]] = ..., output_schema: _Optional[_Union[_batch_pb2.BatchSchema, _Mapping]] = ..., file_count: _Optional[int] = ..., row_group_count: _Optional[int] = ..., parquet_row_count: _Optional[int] = ..., file_bytes: _Optional[int] = ..., decoded_bytes: _Optional[int] = ..., row_count: _Optional[int] = ..., dataset_fingerprint: _Optional[str] = ..., encoding_version: _Optional[int] = ..., server_version: _Optional[str] = ..., unfiltered_row_count: _Optional[int] = ..., udfs: _Optional[_Iterable[_Union[SnapshotUdf, _Mapping]]] = ..., made_columns: _Optional[_Iterable[_Union[MadeColumn, _Mapping]]] = ..., skipped_row_group_count: _Optional[int] = ...) -> None: ...

class PutSnapshotRequest(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: bytes
    def __init__(self, snapshot: _Optional[bytes] = ...) -> None: ...

class PutSnapshotResponse(_message.Message):
    __slots__ = ("snapshot_id",)
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    def __init__(self, snapshot_id: _Optional[str] = ...) -> None: ...

class PlanEpochRequest(_message.Message):
    __slots__ = ("dataset", "snapshot_id", "identity", "shards", "omit_splits", "page_size", "page_token")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    OMIT_SPLITS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.DatasetSpec
    snapshot_id: str
    identity: BatchIdentity
    shards: _containers.RepeatedScalarFieldContainer[int]
    omit_splits: bool
    page_size: int
    page_token: str
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.DatasetSpec, _Mapping]] = ..., snapshot_id: _Optional[str] = ..., identity: _Optional[_Union[BatchIdentity, _Mapping]] = ..., shards: _Optional[_Iterable[int]] = ..., omit_splits: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ShardPlan(_message.Message):
    __slots__ = ("shard", "splits", "row_count", "batch_count")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    BATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    splits: _containers.RepeatedCompositeFieldContainer[Split]
    row_count: int
    batch_count: int
    def __init__(self, shard: _Optional[int] = ..., splits: _Optional[_Iterable[_Union[Split, _Mapping]]] = ..., row_count: _Optional[int] = ..., batch_count: _Optional[int] = ...) -> None: ...

class PlanEpochResponse(_message.Message):
    __slots__ = ("snapshot_id", "identity", "row_count", "batch_count", "shard_batch_counts", "reread_share", "notes", "shards", "next_page_token")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    BATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    SHARD_BATCH_COUNTS_FIELD_NUMBER: _ClassVar[int]
    REREAD_SHARE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    identity: BatchIdentity
    row_count: int
    batch_count: int
    shard_batch_counts: _containers.RepeatedScalarFieldContainer[int]
    reread_share: float
    notes: _containers.RepeatedScalarFieldContainer[str]
    shards: _containers.RepeatedCompositeFieldContainer[ShardPlan]
    next_page_token: str
    def __init__(self, snapshot_id: _Optional[str] = ..., identity: _Optional[_Union[BatchIdentity, _Mapping]] = ..., row_count: _Optional[int] = ..., batch_count: _Optional[int] = ..., shard_batch_counts: _Optional[_Iterable[int]] = ..., reread_share: _Optional[float] = ..., notes: _Optional[_Iterable[str]] = ..., shards: _Optional[_Iterable[_Union[ShardPlan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CountRowsRequest(_message.Message):
    __slots__ = ("dataset", "snapshot_id", "first_row_group", "row_group_count")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_GROUP_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_COUNT_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.DatasetSpec
    snapshot_id: str
    first_row_group: int
    row_group_count: int
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.DatasetSpec, _Mapping]] = ..., snapshot_id: _Optional[str] = ..., first_row_group: _Optional[int] = ..., row_group_count: _Optional[int] = ...) -> None: ...

class CountRowsResponse(_message.Message):
    __slots__ = ("snapshot_id", "row_counts")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNTS_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    row_counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, snapshot_id: _Optional[str] = ..., row_counts: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamBatchesRequest(_message.Message):
    __slots__ = ("dataset", "snapshot_id", "identity", "shard", "splits", "cursor", "batch_limit", "accepted_codecs", "first_batch")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    BATCH_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_CODECS_FIELD_NUMBER: _ClassVar[int]
    FIRST_BATCH_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.DatasetSpec
    snapshot_id: str
    identity: BatchIdentity
    shard: int
    splits: _containers.RepeatedCompositeFieldContainer[Split]
    cursor: _batch_pb2.Cursor
    batch_limit: int
    accepted_codecs: _containers.RepeatedScalarFieldContainer[_batch_pb2.Codec]
    first_batch: int
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.DatasetSpec, _Mapping]] = ..., snapshot_id: _Optional[str] = ..., identity: _Optional[_Union[BatchIdentity, _Mapping]] = ..., shard: _Optional[int] = ..., splits: _Optional[_Iterable[_Union[Split, _Mapping]]] = ..., cursor: _Optional[_Union[_batch_pb2.Cursor, _Mapping]] = ..., batch_limit: _Optional[int] = ..., accepted_codecs: _Optional[_Iterable[_Union[_batch_pb2.Codec, str]]] = ..., first_batch: _Optional[int] = ...) -> None: ...

class StreamEnd(_message.Message):
    __slots__ = ("reason", "cursor", "checksum")
    REASON_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    reason: EndReason
    cursor: _batch_pb2.Cursor
    checksum: int
    def __init__(self, reason: _Optional[_Union[EndReason, str]] = ..., cursor: _Optional[_Union[_batch_pb2.Cursor, _Mapping]] = ..., checksum: _Optional[int] = ...) -> None: ...

class StreamBatchesResponse(_message.Message):
    __slots__ = ("schema", "batch", "end", "snapshot_id", "identity")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    schema: _batch_pb2.BatchSchema
    batch: _batch_pb2.CompactBatch
    end: StreamEnd
    snapshot_id: str
    identity: BatchIdentity
    def __init__(self, schema: _Optional[_Union[_batch_pb2.BatchSchema, _Mapping]] = ..., batch: _Optional[_Union[_batch_pb2.CompactBatch, _Mapping]] = ..., end: _Optional[_Union[StreamEnd, _Mapping]] = ..., snapshot_id: _Optional[str] = ..., identity: _Optional[_Union[BatchIdentity, _Mapping]] = ...) -> None: ...

class PreviewBatchRequest(_message.Message):
    __slots__ = ("dataset", "snapshot_id", "row_count")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    dataset: _dataset_pb2.DatasetSpec
    snapshot_id: str
    row_count: int
    def __init__(self, dataset: _Optional[_Union[_dataset_pb2.DatasetSpec, _Mapping]] = ..., snapshot_id: _Optional[str] = ..., row_count: _Optional[int] = ...) -> None: ...

class PreviewRow(_message.Message):
    __slots__ = ("source", "output")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    source: _struct_pb2.Struct
    output: _struct_pb2.Struct
    def __init__(self, source: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., output: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class PreviewBatchResponse(_message.Message):
    __slots__ = ("output_schema", "rows", "rows_scanned", "elapsed")
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_SCANNED_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    output_schema: _batch_pb2.BatchSchema
    rows: _containers.RepeatedCompositeFieldContainer[PreviewRow]
    rows_scanned: int
    elapsed: _duration_pb2.Duration
    def __init__(self, output_schema: _Optional[_Union[_batch_pb2.BatchSchema, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[PreviewRow, _Mapping]]] = ..., rows_scanned: _Optional[int] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PartCounters(_message.Message):
    __slots__ = ("name", "wall")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WALL_FIELD_NUMBER: _ClassVar[int]
    name: str
    wall: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., wall: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StageCounters(_message.Message):
    __slots__ = ("stage", "wall", "cpu", "queued", "size_bytes", "parts")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    WALL_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    wall: _duration_pb2.Duration
    cpu: _duration_pb2.Duration
    queued: _duration_pb2.Duration
    size_bytes: int
    parts: _containers.RepeatedCompositeFieldContainer[PartCounters]
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., wall: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queued: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., size_bytes: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[PartCounters, _Mapping]]] = ...) -> None: ...

class GetCountersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCountersResponse(_message.Message):
    __slots__ = ("instance_id", "uptime", "cpu_threads", "cores", "cpu", "stages", "row_count", "batch_count", "wire_bytes", "stream_count", "held_bytes", "read_ahead_bytes")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    CPU_THREADS_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    BATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    WIRE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STREAM_COUNT_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_AHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    instance_id: int
    uptime: _duration_pb2.Duration
    cpu_threads: int
    cores: float
    cpu: _duration_pb2.Duration
    stages: _containers.RepeatedCompositeFieldContainer[StageCounters]
    row_count: int
    batch_count: int
    wire_bytes: int
    stream_count: int
    held_bytes: int
    read_ahead_bytes: int
    def __init__(self, instance_id: _Optional[int] = ..., uptime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu_threads: _Optional[int] = ..., cores: _Optional[float] = ..., cpu: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[StageCounters, _Mapping]]] = ..., row_count: _Optional[int] = ..., batch_count: _Optional[int] = ..., wire_bytes: _Optional[int] = ..., stream_count: _Optional[int] = ..., held_bytes: _Optional[int] = ..., read_ahead_bytes: _Optional[int] = ...) -> None: ...
