"""Datasets: what a training job reads and how it becomes tensors.

Builders of headrace.v1.DatasetSpec. They are pure data; the canonical JSON form of the message,
written as YAML, is the form for people.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from headrace.v1 import dataset_pb2
from trainer_client import derive as derivation
from trainer_client import ops as operations
from trainer_client.derive import Derived
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops import Op
from trainer_client.sampling import Sampling
from trainer_client.udfs import MAX_BLOCK_ROWS, Udf, check_size, identity_of

if TYPE_CHECKING:
    from trainer_client.dataset_plan import DatasetPlan
    from trainer_client.dataset_preview import Preview

MIN_SPLIT_BYTES, MAX_SPLIT_BYTES = 1 << 20, 64 << 30


@dataclass(frozen=True, slots=True, init=False)
class _Feature:
    """Columns, by name or glob, and the operations on each of them, in order."""

    kind: ClassVar[str]
    columns: tuple[str, ...]
    ops: tuple[Op, ...]

    def __init__(self, *columns: str, ops: Iterable[Op] = ()) -> None:
        kind = type(self).__name__
        _check_names(f"{kind} columns", columns)
        chain = tuple(ops)
        for i, op in enumerate(chain):
            if not isinstance(op, operations.ALL):
                raise InvalidDatasetError(
                    f"{kind}({', '.join(columns)}) ops[{i}] is {op!r}: it must be one of "
                    f"{', '.join(known.__name__ for known in operations.ALL)}"
                )
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "ops", chain)


class Dense(_Feature):
    """Columns of one number a row, delivered as float32."""

    __slots__ = ()
    kind: ClassVar[str] = "dense"


class Sparse(_Feature):
    """Columns of ids, one a row or a list a row, delivered as int64."""

    __slots__ = ()
    kind: ClassVar[str] = "sparse"


class Label(_Feature):
    """Label columns, one number a row, delivered as float32."""

    __slots__ = ()
    kind: ClassVar[str] = "label"


Feature: TypeAlias = Dense | Sparse | Label
FEATURES: dict[str, type[Feature]] = {cls.kind: cls for cls in (Dense, Sparse, Label)}


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """Parquet files, folders and globs, and how their rows belong together."""

    paths: tuple[str, ...]
    group_by: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


def parquet(
    *paths: str | os.PathLike[str], group_by: Sequence[str] = (), rows: str | Sequence[str] = ()
) -> ParquetSource:
    """A source of Parquet files; relative paths are resolved against the server's first data root.

    group_by are columns whose equal values, in adjacent rows, keep those rows together when
    shuffling. rows are names or globs of the columns that hold, in each Parquet row of grouped
    files, a list with one element a training row: rows="impressions" for one list of structs,
    rows=["item_*", "label"] for lists side by side. The same source reads flat files of the same
    rows. Raises InvalidDatasetError if no path is given, or a path or name is none.
    """
    if isinstance(group_by, str):
        raise InvalidDatasetError(f"group_by is {group_by!r}: it must be a list of column names")
    texts = tuple(os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths)
    _check_names("parquet paths", texts)
    if group_by:
        _check_names("group_by", tuple(group_by))
    lists = (rows,) if isinstance(rows, str) else tuple(rows)
    if lists:
        _check_names("rows", lists)
    return ParquetSource(texts, tuple(group_by), lists)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where rows come from, which of them count, and how they become features.

    where is an SQL boolean expression ("" keeps every row); max_split_bytes bounds the decoded
    size of what a server reads in one go (0: 256 MiB) and is part of what fixes the order of rows.
    udfs make further columns, for each other, where and features, from blocks of udf_block_rows
    rows (0: 65,536); the source of those that are functions is read when the dataset is made.
    derive makes further columns of several ones, for each other and for features, of the rows that
    where keeps. sample keeps a share of these rows.
    Raises InvalidDatasetError that names the field at fault.
    """

    source: ParquetSource
    features: Sequence[Feature]
    where: str = ""
    max_split_bytes: int = 0
    udfs: Sequence[Udf] = ()
    udf_block_rows: int = 0
    derive: Sequence[Derived] = ()
    sample: Sampling | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, ParquetSource):
            raise InvalidDatasetError(f"source is {self.source!r}: give parquet(...)")
        object.__setattr__(self, "features", tuple(self.features))
        if not self.features:
            raise InvalidDatasetError("features is empty: give at least one Dense, Sparse or Label")
        for i, feature in enumerate(self.features):
            if not isinstance(feature, Dense | Sparse | Label):
                raise InvalidDatasetError(
                    f"features[{i}] is {feature!r}: it must be a Dense, Sparse or Label"
                )
        if not isinstance(self.where, str):
            raise InvalidDatasetError(f"where is {self.where!r}: it must be an SQL expression")
        size = self.max_split_bytes
        if type(size) is not int or (size and not MIN_SPLIT_BYTES <= size <= MAX_SPLIT_BYTES):
            raise InvalidDatasetError(
                f"max_split_bytes is {size!r}: it must be from 1 MiB ({MIN_SPLIT_BYTES}) to 64 GiB "
                f"({MAX_SPLIT_BYTES}), or 0 for the default"
            )
        object.__setattr__(self, "udfs", tuple(self.udfs))
        for i, udf in enumerate(self.udfs):
            if not isinstance(udf, Udf):
                raise InvalidDatasetError(
                    f"udfs[{i}] is {udf!r}: say which columns it takes and makes, with "
                    "@udf(inputs=..., outputs=...) or Udf(function, inputs=..., outputs=...)"
                )
        # Now, and not when it is sent: what the functions use may change meanwhile.
        object.__setattr__(self, "udfs", tuple(udf.packed() for udf in self.udfs))
        check_size(self.udfs)
        rows = self.udf_block_rows
        if type(rows) is not int or not 0 <= rows <= MAX_BLOCK_ROWS:
            raise InvalidDatasetError(
                f"udf_block_rows is {rows!r}: it must be from 1 to {MAX_BLOCK_ROWS:,}, or 0 for "
                "the default"
            )
        _check_sample(self.sample)
        object.__setattr__(self, "derive", tuple(self.derive))
        for i, derived in enumerate(self.derive):
            if not isinstance(derived, derivation.ALL):
                raise InvalidDatasetError(
                    f"derive[{i}] is {derived!r}: it must be one of "
                    f"{', '.join(known.__name__ for known in derivation.ALL)}"
                )

    def to_proto(self) -> dataset_pb2.DatasetSpec:
        """The message of this dataset."""
        return dataset_pb2.DatasetSpec(
            source=dataset_pb2.Source(
                parquet=dataset_pb2.ParquetSource(
                    paths=self.source.paths,
                    group_by=self.source.group_by,
                    rows=self.source.rows,
                )
            ),
            where=self.where,
            features=[_feature_to_proto(feature) for feature in self.features],
            max_split_bytes=self.max_split_bytes,
            udfs=[udf.to_proto() for udf in self.udfs],
            udf_block_rows=self.udf_block_rows,
            derive=[derived.to_proto() for derived in self.derive],
            sampling=None if self.sample is None else self.sample.to_proto(),
        )

    @classmethod
    def from_proto(cls, message: dataset_pb2.DatasetSpec) -> Dataset:
        """The dataset of a message.

        Raises InvalidDatasetError that names the field at fault, or says that the message holds
        fields of a newer contract, since leaving one out could mean other data.
        """
        if message.source.WhichOneof("kind") != "parquet":
            raise InvalidDatasetError("source: no parquet source is given")
        features = []
        for i, feature in enumerate(message.features):
            features.append(_feature_from_proto(feature, f"features[{i}]"))
        source = message.source.parquet
        dataset = cls(
            source=parquet(*source.paths, group_by=tuple(source.group_by), rows=tuple(source.rows)),
            features=tuple(features),
            where=message.where,
            max_split_bytes=message.max_split_bytes,
            udfs=_udfs_from_proto(message),
            udf_block_rows=message.udf_block_rows,
            derive=_derived_from_proto(message),
            sample=_sampling_from_proto(message),
        )
        if _fingerprint(dataset.to_proto()) != _fingerprint(message):
            raise InvalidDatasetError(
                "the dataset holds fields that this client does not know: upgrade headrace here"
            )
        return dataset

    @property
    def fingerprint(self) -> str:
        """The text "sha256:" and the hexadecimal SHA-256 of the deterministic serialisation.

        Where the code of udfs stood, and the version of Python, are left out of it.
        """
        return _fingerprint(self.to_proto())

    def preview(
        self, rows: int = 5, *, target: str = "local://1", timeout: float = 60.0
    ) -> Preview:
        """The first rows, from 1 to 100, before and after transformation: a table where shown.

        target are the servers to ask, as of BatchStream; timeout is in seconds. Raises the
        HeadraceError that a stream would: a dataset that a server refuses, files at fault.
        """
        from trainer_client.dataset_preview import fetch_preview

        return fetch_preview(self.to_proto(), rows, target, timeout)

    def explain(self, *, target: str = "local://1", timeout: float = 60.0) -> DatasetPlan:
        """What servers do for this dataset: columns read, operations, output; drawn where shown.

        target are the servers to ask, as of BatchStream; timeout is in seconds. Raises the
        HeadraceError that a stream would. What bounds the rate of a run stream.explain() says.
        """
        from trainer_client.dataset_plan import fetch_plan

        return fetch_plan(self, target, timeout)

    def to_yaml(self) -> str:
        """The canonical JSON form of the message, as YAML."""
        from trainer_client.dataset_yaml import dump

        return dump(self.to_proto())

    @classmethod
    def from_yaml(cls, source: str | os.PathLike[str]) -> Dataset:
        """The dataset of a YAML file, or of YAML text (a str that has a line break).

        Raises InvalidDatasetError that names the file, the line and the field at fault.
        """
        from trainer_client.dataset_yaml import load, located

        message, name = load(source)
        with located(name):
            return cls.from_proto(message)


def _fingerprint(message: dataset_pb2.DatasetSpec) -> str:
    return "sha256:" + hashlib.sha256(identity_of(message)).hexdigest()


def _feature_to_proto(feature: Feature) -> dataset_pb2.Feature:
    chain = [op.to_proto() for op in feature.ops]
    if isinstance(feature, Dense):
        return dataset_pb2.Feature(
            dense=dataset_pb2.DenseFeature(columns=feature.columns, ops=chain)
        )
    if isinstance(feature, Sparse):
        return dataset_pb2.Feature(
            sparse=dataset_pb2.SparseFeature(columns=feature.columns, ops=chain)
        )
    return dataset_pb2.Feature(label=dataset_pb2.LabelFeature(columns=feature.columns, ops=chain))


def _feature_from_proto(message: dataset_pb2.Feature, place: str) -> Feature:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidDatasetError(f"{place}: one of {', '.join(FEATURES)} is expected")
    body = getattr(message, kind)
    chain = []
    for i, op in enumerate(body.ops):
        try:
            chain.append(operations.from_proto(op))
        except InvalidDatasetError as error:
            raise InvalidDatasetError(f"{place}.{kind}.ops[{i}]: {error.message}") from error
    try:
        return FEATURES[kind](*body.columns, ops=chain)
    except InvalidDatasetError as error:
        raise InvalidDatasetError(f"{place}.{kind}: {error.message}") from error


def _udfs_from_proto(message: dataset_pb2.DatasetSpec) -> tuple[Udf, ...]:
    udfs = []
    for i, udf in enumerate(message.udfs):
        try:
            udfs.append(Udf.from_proto(udf))
        except InvalidDatasetError as error:
            raise InvalidDatasetError(f"udfs[{i}]: {error.message}") from error
    return tuple(udfs)


def _check_sample(sample: object) -> None:
    if sample is not None and not isinstance(sample, Sampling):
        raise InvalidDatasetError(f"sample is {sample!r}: give Sampling(rate, ...)")


def _sampling_from_proto(message: dataset_pb2.DatasetSpec) -> Sampling | None:
    if not message.HasField("sampling"):
        return None
    try:
        return Sampling.from_proto(message.sampling)
    except InvalidDatasetError as error:
        raise InvalidDatasetError(f"sampling: {error.message}") from error


def _derived_from_proto(message: dataset_pb2.DatasetSpec) -> tuple[Derived, ...]:
    found = []
    for i, derived in enumerate(message.derive):
        try:
            found.append(derivation.from_proto(derived))
        except InvalidDatasetError as error:
            raise InvalidDatasetError(f"derive[{i}]: {error.message}") from error
    return tuple(found)


def _check_names(what: str, names: tuple[str, ...]) -> None:
    if not names:
        raise InvalidDatasetError(f"{what}: at least one is needed")
    for name in names:
        if not isinstance(name, str) or not name:
            raise InvalidDatasetError(f"{what}: {name!r} is no name; give non-empty strings")
