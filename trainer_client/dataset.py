"""Datasets: what a training job reads and how it becomes tensors.

Builders of headrace.v1.DatasetSpec. They are pure data; the canonical JSON form of the message,
written as YAML, is the form for people.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.v1 import dataset_pb2
from trainer_client import derive as derivation
from trainer_client.derive import Derived
from trainer_client.errors import InvalidDatasetError
from trainer_client.features import (
    Block,
    Dense,
    Feature,
    Label,
    Meta,
    Sparse,
    check_names,
    feature_from_proto,
)
from trainer_client.sampling import Sampling
from trainer_client.udfs import MAX_BLOCK_ROWS, Udf, check_size, identity_of

if TYPE_CHECKING:
    from trainer_client.dataset_plan import DatasetPlan
    from trainer_client.dataset_preview import Preview

MIN_SPLIT_BYTES, MAX_SPLIT_BYTES = 1 << 20, 64 << 30


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
    texts = tuple(os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths)
    check_names("parquet paths", texts)
    groups = _column_names("group_by", group_by)
    lists = (rows,) if isinstance(rows, str) else tuple(rows)
    if lists:
        check_names("rows", lists)
    return ParquetSource(texts, groups, lists)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where rows come from, which of them count, and how they become features.

    where is an SQL boolean expression ("" keeps every row); max_split_bytes bounds the decoded
    size of what a server reads in one go (0: 256 MiB) and is part of what fixes the order of rows.
    udfs make further columns, for each other, where and features, from blocks of udf_block_rows
    rows (0: 65,536); the source of those that are functions is read when the dataset is made.
    derive makes further columns of several ones, for each other and for features, of the rows that
    where keeps. sample keeps a share of these rows. Of those that are left and are equal in all
    columns of distinct_by, the first of each split (a row group, or a part of one over
    max_split_bytes) is kept. blocks sets the dtypes of blocks that features go to.
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
    blocks: Sequence[Block] = ()
    distinct_by: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.source, ParquetSource):
            raise InvalidDatasetError(f"source is {self.source!r}: give parquet(...)")
        self._take(
            "features", (Dense, Sparse, Label, Meta), "it must be a Dense, Sparse, Label or Meta"
        )
        if not self.features:
            raise InvalidDatasetError("features is empty: give at least one Dense, Sparse or Label")
        if not isinstance(self.where, str):
            raise InvalidDatasetError(f"where is {self.where!r}: it must be an SQL expression")
        size = self.max_split_bytes
        if type(size) is not int or (size and not MIN_SPLIT_BYTES <= size <= MAX_SPLIT_BYTES):
            raise InvalidDatasetError(
                f"max_split_bytes is {size!r}: it must be from 1 MiB ({MIN_SPLIT_BYTES}) to 64 GiB "
                f"({MAX_SPLIT_BYTES}), or 0 for the default"
            )
        self._take(
            "udfs",
            (Udf,),
            "say which columns it takes and makes, with @udf(inputs=..., outputs=...) or "
            "Udf(function, inputs=..., outputs=...)",
        )
        # Now, and not when it is sent: what the functions use may change meanwhile.
        object.__setattr__(self, "udfs", tuple(udf.packed() for udf in self.udfs))
        check_size(self.udfs)
        self._take("blocks", (Block,), 'give Block("name", dtype="float16")')
        rows = self.udf_block_rows
        if type(rows) is not int or not 0 <= rows <= MAX_BLOCK_ROWS:
            raise InvalidDatasetError(
                f"udf_block_rows is {rows!r}: it must be from 1 to {MAX_BLOCK_ROWS:,}, or 0 for "
                "the default"
            )
        _check_sample(self.sample)
        object.__setattr__(self, "distinct_by", _column_names("distinct_by", self.distinct_by))
        kinds = ", ".join(known.__name__ for known in derivation.ALL)
        self._take("derive", derivation.ALL, f"it must be one of {kinds}")

    def _take(self, field: str, classes: tuple[type, ...], remedy: str) -> None:
        """Keeps a sequence of a field as a tuple. Raises InvalidDatasetError for other members."""
        members = tuple(getattr(self, field))
        object.__setattr__(self, field, members)
        for i, member in enumerate(members):
            if not isinstance(member, classes):
                raise InvalidDatasetError(f"{field}[{i}] is {member!r}: {remedy}")

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
            features=[feature.to_proto() for feature in self.features],
            max_split_bytes=self.max_split_bytes,
            udfs=[udf.to_proto() for udf in self.udfs],
            udf_block_rows=self.udf_block_rows,
            derive=[derived.to_proto() for derived in self.derive],
            sampling=None if self.sample is None else self.sample.to_proto(),
            blocks=[block.to_proto() for block in self.blocks],
            distinct_by=self.distinct_by,
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
            features.append(feature_from_proto(feature, f"features[{i}]"))
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
            blocks=_blocks_from_proto(message),
            distinct_by=tuple(message.distinct_by),
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


def _udfs_from_proto(message: dataset_pb2.DatasetSpec) -> tuple[Udf, ...]:
    udfs = []
    for i, udf in enumerate(message.udfs):
        try:
            udfs.append(Udf.from_proto(udf))
        except InvalidDatasetError as error:
            raise InvalidDatasetError(f"udfs[{i}]: {error.message}") from error
    return tuple(udfs)


def _column_names(field: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; none is allowed. Raises InvalidDatasetError."""
    if isinstance(names, str):
        raise InvalidDatasetError(f"{field} is {names!r}: it must be a list of column names")
    found = tuple(names)
    if found:
        check_names(field, found)
    return found


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


def _blocks_from_proto(message: dataset_pb2.DatasetSpec) -> tuple[Block, ...]:
    blocks = []
    for i, block in enumerate(message.blocks):
        try:
            blocks.append(Block.from_proto(block))
        except InvalidDatasetError as error:
            raise InvalidDatasetError(f"blocks[{i}]: {error.message}") from error
    return tuple(blocks)
