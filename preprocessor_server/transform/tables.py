"""Embedding tables: what a dataset says of them, and what its operations prove."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform.blocks import Output
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.listed import ReadListed, read_no_file

_PARTS_BELOW = {
    dataset_pb2.DATE_PART_HOUR: 24,
    dataset_pb2.DATE_PART_MINUTE: 60,
    dataset_pb2.DATE_PART_DAY_OF_WEEK: 7,
    dataset_pb2.DATE_PART_DAY_OF_MONTH: 32,
    dataset_pb2.DATE_PART_DAY_OF_YEAR: 367,
    dataset_pb2.DATE_PART_MONTH: 13,
}
# What leaves the ids of a list as they are, or leaves some of them out.
_KEEPING = {"tail", "head", "slice", "deduplicate", "sort", "sample", "fit_fill_null"}
# The least that what is still to be fitted bounds ids by.
_ONCE_FITTED = {"fit_vocabulary": 1, "fit_bucketize": 2}
_CHOOSING = {
    dataset_pb2.AGGREGATION_MIN,
    dataset_pb2.AGGREGATION_MAX,
    dataset_pb2.AGGREGATION_FIRST,
    dataset_pb2.AGGREGATION_LAST,
}


def ids_below(
    ops: Iterable[dataset_pb2.Op], path: str = "", read: ReadListed = read_no_file
) -> int | None:
    """The number below which operations keep ids, none of them below 0; None for no such number.

    read reads the vocabularies that lie in files; path is the feature's field.
    """
    bound: int | None = None
    for index, op in enumerate(ops):
        match op.WhichOneof("op"):
            case "hash_bucket" | "n_gram" as name:
                bound = getattr(op, name).num_buckets
            case "positive_modulus":
                bound = op.positive_modulus.divisor
            case "vocabulary":
                listed = _listed(op.vocabulary, f"{path}.ops[{index}].vocabulary.file", read)
                bound = listed + op.vocabulary.num_oov_buckets
            case "bucketize":
                bound = len(op.bucketize.boundaries) + 1
            case "date_parts":
                bound = _PARTS_BELOW.get(op.date_parts.part)
            case "map_id":
                values = [*op.map_id.values]
                values += [op.map_id.default] if op.map_id.HasField("default") else []
                bound = None if min(values) < 0 else max(values) + 1
            case "fill_null":
                bound = _with(bound, op.fill_null.value)
            case "pad":
                bound = _with(bound, op.pad.value)
            case "list_aggregate" if op.list_aggregate.by in _CHOOSING:
                pass
            case name if name not in _KEEPING:
                bound = _ONCE_FITTED.get(name or "")
    return bound


def _listed(op: dataset_pb2.Vocabulary, field: str, read: ReadListed) -> int:
    """The number of values that a vocabulary lists, in the dataset or in a file."""
    if op.file:
        return len(read(op.file, op.sha256, field))
    return len(op.integers) + len(op.strings)


def _with(bound: int | None, value: dataset_pb2.Scalar) -> int | None:
    """The bound once a constant is among the ids."""
    number = value.integer if value.WhichOneof("value") == "integer" else value.number
    return None if bound is None or number < 0 else max(bound, int(number) + 1)


def bind_tables(
    spec: dataset_pb2.DatasetSpec, outputs: Sequence[Output], read: ReadListed = read_no_file
) -> Iterator[batch_pb2.EmbeddingTable | DatasetError]:
    """The tables of a dataset's features, or why one cannot be."""
    members: dict[str, list[Output]] = {}
    for output in outputs:
        hint = spec.features[output.index].sparse
        if hint.num_embeddings or hint.embedding_dim or hint.table:
            members.setdefault(hint.table or output.name, []).append(output)
    for name, features in members.items():
        try:
            yield batch_pb2.EmbeddingTable(
                name=name,
                features=[feature.name for feature in features],
                num_embeddings=_num_embeddings(spec, name, features, read),
                embedding_dim=_agreed(spec, name, features, "embedding_dim"),
            )
        except DatasetError as error:
            yield error


def _num_embeddings(
    spec: dataset_pb2.DatasetSpec, table: str, features: Sequence[Output], read: ReadListed
) -> int:
    given = _agreed(spec, table, features, "num_embeddings")
    first = 0
    for feature in features:
        path = f"dataset.features[{feature.index}]"
        bound = ids_below(spec.features[feature.index].sparse.ops, path, read)
        field = f"{path}.num_embeddings"
        if given and bound is not None and bound > given:
            raise invalid(
                field,
                f"table {table!r} has num_embeddings {given:,}, and the ids of feature "
                f"{feature.name!r} reach {bound - 1:,}; make it {bound:,}, or hash to fewer",
            )
        if given:
            continue
        if bound is None:
            raise invalid(
                field,
                f"table {table!r} has no num_embeddings, and no operation bounds the ids of "
                f"feature {feature.name!r}; give it, or end the operations with HashBucket",
            )
        if first and bound != first:
            raise invalid(
                field,
                f"features {features[0].name!r} and {feature.name!r} share table {table!r}, and "
                f"their operations make {first:,} and {bound:,} ids; give both num_embeddings",
            )
        first = bound
    return given or first


def _agreed(
    spec: dataset_pb2.DatasetSpec, table: str, features: Sequence[Output], field: str
) -> int:
    """What the features that give a field of a table agree on; 0 if none does."""
    first: tuple[str, int] | None = None
    for feature in features:
        value: int = getattr(spec.features[feature.index].sparse, field)
        if not value:
            continue
        name, agreed = first = first or (feature.name, value)
        if value != agreed:
            raise invalid(
                f"dataset.features[{feature.index}].{field}",
                f"features {name!r} and {feature.name!r} share table {table!r}, with {field} "
                f"{agreed:,} and {value:,}; give both the same, or tables of their own",
            )
    return first[1] if first else 0
