"""The structure of a dataset: everything that can be checked without looking at a file."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError

MIN_SPLIT_BYTES = 1 << 20
MAX_SPLIT_BYTES = 64 << 30
MAX_BUCKETS = 1 << 32
MAX_TAIL = (1 << 31) - 1


def validate_spec(spec: dataset_pb2.DatasetSpec) -> None:
    """Checks that everything required is there and within its bounds.

    Raises DatasetError: DATASET_TOO_NEW for a field that this server does not know, anywhere;
    DATASET_INVALID with the path of the field otherwise.
    """
    _refuse_unknown(spec, "dataset")
    source = spec.source.WhichOneof("kind") if spec.HasField("source") else None
    if source is None:
        raise invalid("dataset.source", "the dataset names no source; give parquet and its paths")
    parquet = spec.source.parquet
    if not parquet.paths:
        raise invalid("dataset.source.parquet.paths", "the source names no path; give at least one")
    _refuse_empty(parquet.paths, "dataset.source.parquet.paths", "path")
    _refuse_empty(parquet.group_by, "dataset.source.parquet.group_by", "column")
    _refuse_empty(parquet.rows, "dataset.source.parquet.rows", "column")
    size = spec.max_split_bytes
    if size and not MIN_SPLIT_BYTES <= size <= MAX_SPLIT_BYTES:
        raise invalid(
            "dataset.max_split_bytes",
            f"max_split_bytes is {size:,}; it lies between {MIN_SPLIT_BYTES:,} (1 MiB) and "
            f"{MAX_SPLIT_BYTES:,} (64 GiB), or is 0 for the default",
        )
    if not spec.features:
        raise invalid("dataset.features", "the dataset has no feature; give at least one")
    for index, feature in enumerate(spec.features):
        _check_feature(feature, f"dataset.features[{index}]")


def invalid(field: str, message: str) -> DatasetError:
    """The error for a malformed field; short in the message, whole in the field path."""
    return DatasetError("DATASET_INVALID", f"{shorten(field)}: {message}", field=field)


def shorten(field: str) -> str:
    """A field path as messages give it."""
    return field.removeprefix("dataset.")


def body(
    feature: dataset_pb2.Feature,
) -> dataset_pb2.DenseFeature | dataset_pb2.SparseFeature | dataset_pb2.LabelFeature:
    """The feature's kind-specific part; the kind must have been checked."""
    kind = feature.WhichOneof("kind")
    if kind == "dense":
        return feature.dense
    if kind == "sparse":
        return feature.sparse
    assert kind == "label"
    return feature.label


def op_title(op: dataset_pb2.Op) -> str:
    """The name of an operation as the client's builders spell it."""
    kind = op.WhichOneof("op")
    assert kind is not None
    return type(getattr(op, kind)).__name__


def _refuse_unknown(message: Message, path: str) -> None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(str(unknown[i].field_number) for i in range(len(unknown)))
        raise DatasetError(
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
            _refuse_unknown(value, f"{path}.{field.name}")
            continue
        for index, item in enumerate(value):
            _refuse_unknown(item, f"{path}.{field.name}[{index}]")


def _refuse_empty(names: Sequence[str], path: str, what: str) -> None:
    for index, name in enumerate(names):
        if not name:
            raise invalid(f"{path}[{index}]", f"an empty {what}; name it, or leave it out")


def _check_feature(feature: dataset_pb2.Feature, path: str) -> None:
    if feature.WhichOneof("kind") is None:
        raise invalid(path, "the feature has no kind; make it dense, sparse or label")
    part = body(feature)
    if not part.columns:
        raise invalid(f"{path}.columns", "the feature selects no column; give at least one")
    _refuse_empty(part.columns, f"{path}.columns", "column")
    for index, op in enumerate(part.ops):
        _check_op(op, f"{path}.ops[{index}]")


def _check_op(op: dataset_pb2.Op, path: str) -> None:
    match op.WhichOneof("op"):
        case None:
            raise invalid(
                path, "not an operation that this server knows; give one, or upgrade the servers"
            )
        case "fill_null":
            if op.fill_null.value.WhichOneof("value") is None:
                raise invalid(f"{path}.fill_null.value", "FillNull has no value; give one")
        case "clip":
            _check_clip(op.clip, f"{path}.clip")
        case "cast":
            if op.cast.to not in dataset_pb2.ScalarType.values()[1:]:
                known = ", ".join(dataset_pb2.ScalarType.keys()[1:])
                raise invalid(f"{path}.cast.to", f"Cast to type {op.cast.to}; give one of {known}")
        case "hash_bucket":
            buckets = op.hash_bucket.num_buckets
            if not 1 <= buckets <= MAX_BUCKETS:
                raise invalid(
                    f"{path}.hash_bucket.num_buckets",
                    f"num_buckets is {buckets:,}; it lies between 1 and {MAX_BUCKETS:,} (2^32)",
                )
        case "tail":
            if not 1 <= op.tail.count <= MAX_TAIL:
                raise invalid(
                    f"{path}.tail.count",
                    f"count is {op.tail.count:,}; it lies between 1 and {MAX_TAIL:,} (2^31 - 1)",
                )


def _check_clip(clip: dataset_pb2.Clip, path: str) -> None:
    bounds = []
    for name in ("min", "max"):
        if not clip.HasField(name):
            continue
        scalar = clip.min if name == "min" else clip.max
        match scalar.WhichOneof("value"):
            case "number":
                bounds.append(scalar.number)
            case "integer":
                bounds.append(scalar.integer)
            case other:
                given = "text" if other else "nothing"
                raise invalid(f"{path}.{name}", f"the bound is {given}; give a number")
        if bounds[-1] != bounds[-1]:
            raise invalid(f"{path}.{name}", "the bound is NaN; give a number, or leave it out")
    if not bounds:
        raise invalid(path, "Clip has neither min nor max; give one or both")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        raise invalid(path, f"min {bounds[0]} is above max {bounds[1]}; exchange them")
