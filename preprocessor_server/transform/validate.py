"""The structure of a dataset: everything that can be checked without looking at a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform.blocks import body, find_block_faults
from preprocessor_server.transform.derive.kinds import derived_faults
from preprocessor_server.transform.invalid import invalid, shorten
from preprocessor_server.transform.ops import check_op
from preprocessor_server.transform.ops.one_hot import one_hot_faults
from preprocessor_server.transform.sampling import sampling_faults
from preprocessor_server.transform.weights import weights_faults

MIN_SPLIT_BYTES = 1 << 20
MAX_SPLIT_BYTES = 64 << 30


def validate_spec(spec: dataset_pb2.DatasetSpec) -> None:
    """Checks that everything required is there and within its bounds.

    Raises DatasetError: DATASET_TOO_NEW for a field that this server does not know, anywhere;
    DATASET_INVALID with the path of the field otherwise.
    """
    fault = next(find_faults(spec), None)
    if fault is not None:
        raise fault


def find_faults(spec: dataset_pb2.DatasetSpec) -> Iterator[DatasetError]:
    """All that validate_spec refuses, in its order."""
    yield from _unknown_fields(spec, "dataset")
    source = spec.source.WhichOneof("kind") if spec.HasField("source") else None
    if source is None:
        yield invalid("dataset.source", "the dataset names no source; give parquet and its paths")
    else:
        yield from _source_faults(spec.source.parquet)
    size = spec.max_split_bytes
    if size and not MIN_SPLIT_BYTES <= size <= MAX_SPLIT_BYTES:
        yield invalid(
            "dataset.max_split_bytes",
            f"max_split_bytes is {size:,}; it lies between {MIN_SPLIT_BYTES:,} (1 MiB) and "
            f"{MAX_SPLIT_BYTES:,} (64 GiB), or is 0 for the default",
        )
    yield from _derive_faults(spec)
    yield from sampling_faults(spec)
    yield from _empty_names(spec.distinct_by, "dataset.distinct_by", "column")
    if not spec.features:
        yield invalid("dataset.features", "the dataset has no feature; give at least one")
    for index, feature in enumerate(spec.features):
        yield from _feature_faults(feature, f"dataset.features[{index}]")
    yield from find_block_faults(spec)


def op_title(op: dataset_pb2.Op) -> str:
    """The name of an operation as the client's builders spell it."""
    kind = op.WhichOneof("op")
    assert kind is not None
    return type(getattr(op, kind)).__name__


def _unknown_fields(message: Message, path: str) -> Iterator[DatasetError]:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(str(unknown[i].field_number) for i in range(len(unknown)))
        yield DatasetError(
            "DATASET_TOO_NEW",
            f"{shorten(path)}: this server does not know field number {numbers} of "
            f"{message.DESCRIPTOR.name}, and leaving it out could mean other data; upgrade the "
            "servers, or write the dataset with the client version that they have",
            field=path,
        )
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        if isinstance(value, Message):
            yield from _unknown_fields(value, f"{path}.{field.name}")
            continue
        for index, item in enumerate(value):
            yield from _unknown_fields(item, f"{path}.{field.name}[{index}]")


def _source_faults(parquet: dataset_pb2.ParquetSource) -> Iterator[DatasetError]:
    if not parquet.paths:
        yield invalid("dataset.source.parquet.paths", "the source names no path; give at least one")
    yield from _empty_names(parquet.paths, "dataset.source.parquet.paths", "path")
    yield from _empty_names(parquet.group_by, "dataset.source.parquet.group_by", "column")
    yield from _empty_names(parquet.rows, "dataset.source.parquet.rows", "column")


def _empty_names(names: Sequence[str], path: str, what: str) -> Iterator[DatasetError]:
    for index, name in enumerate(names):
        if not name:
            yield invalid(f"{path}[{index}]", f"an empty {what}; name it, or leave it out")


def _derive_faults(spec: dataset_pb2.DatasetSpec) -> Iterator[DatasetError]:
    for index, derived in enumerate(spec.derive):
        yield from derived_faults(derived, f"dataset.derive[{index}]")


def _feature_faults(feature: dataset_pb2.Feature, path: str) -> Iterator[DatasetError]:
    if feature.WhichOneof("kind") is None:
        yield invalid(path, "the feature has no kind; make it dense, sparse, label or meta")
        return
    part = body(feature)
    if not part.columns:
        yield invalid(f"{path}.columns", "the feature selects no column; give at least one")
    yield from _empty_names(part.columns, f"{path}.columns", "column")
    if isinstance(part, dataset_pb2.SparseFeature) and part.weights:
        yield from weights_faults(part, path)
    for index, op in enumerate(part.ops):
        try:
            check_op(op, f"{path}.ops[{index}]")
        except DatasetError as error:
            yield error
    yield from one_hot_faults(feature, part.ops, path)
