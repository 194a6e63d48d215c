"""Features: which columns become tensors, and in which block of a batch they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

from headrace.v1 import dataset_pb2
from trainer_client import ops as operations
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops import Op
from trainer_client.ops.base import check_range

TYPE_PREFIX = "SCALAR_TYPE_"
# What blocks can be delivered in: of numbers, and of ids.
DTYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64")


@dataclass(frozen=True, slots=True, init=False)
class _Feature:
    """Columns, by name or glob, the operations on each of them, in order, and their block.

    block "" is the kind's default: "dense", "sparse", "labels", "meta".
    """

    kind: ClassVar[str]
    columns: tuple[str, ...]
    ops: tuple[Op, ...]
    block: str

    def __init__(self, *columns: str, ops: Iterable[Op] = (), block: str = "") -> None:
        kind = type(self).__name__
        check_names(f"{kind} columns", columns)
        chain = tuple(ops)
        for i, op in enumerate(chain):
            if not isinstance(op, operations.ALL):
                raise InvalidDatasetError(
                    f"{kind}({', '.join(columns)}) ops[{i}] is {op!r}: it must be one of "
                    f"{', '.join(known.__name__ for known in operations.ALL)}"
                )
        if not isinstance(block, str):
            raise InvalidDatasetError(
                f"{kind}({', '.join(columns)}) block is {block!r}: give the block's name"
            )
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "ops", chain)
        object.__setattr__(self, "block", block)

    def to_proto(self) -> dataset_pb2.Feature:
        """The message of this feature."""
        return dataset_pb2.Feature(**{self.kind: self._fields()})

    def _fields(self) -> dict[str, Any]:
        chain = [op.to_proto() for op in self.ops]
        return {"columns": self.columns, "ops": chain, "block": self.block}

    @classmethod
    def of_message(cls, message: Any, chain: Iterable[Op]) -> Self:
        """The feature of its kind's message, whose operations are a chain."""
        return cls(*message.columns, ops=chain, block=message.block)


class Dense(_Feature):
    """Columns of one number a row, delivered as float32 unless their block has another dtype."""

    __slots__ = ()
    kind: ClassVar[str] = "dense"


@dataclass(frozen=True, slots=True, init=False)
class Sparse(_Feature):
    """Columns of ids, one a row or a list a row, delivered as int64 unless their block is int32.

    num_embeddings, embedding_dim and table say what embedding table the ids are looked up in, for
    trainer_client.integrations.torchrec; batches are the same without them. Rows that are not given
    follow from the operations (HashBucket, Vocabulary, ...), columns are the trainer's choice.
    Features with the same table share it; without one each has its own, of its name.
    weights names a column of numbers, one for each id of the one column: a list beside each list of
    ids, or one a row. They are float32 and go with the ids, as the weights of a KeyedJaggedTensor:
    all features of a block have some or none has (docs/sparse_features.md).
    """

    kind: ClassVar[str] = "sparse"
    num_embeddings: int
    embedding_dim: int
    table: str
    weights: str

    def __init__(
        self,
        *columns: str,
        ops: Iterable[Op] = (),
        block: str = "",
        num_embeddings: int = 0,
        embedding_dim: int = 0,
        table: str = "",
        weights: str = "",
    ) -> None:
        _Feature.__init__(self, *columns, ops=ops, block=block)
        title = f"Sparse({', '.join(columns)})"
        check_range(f"{title} num_embeddings", num_embeddings, 0, (1 << 63) - 1)
        check_range(f"{title} embedding_dim", embedding_dim, 0, (1 << 31) - 1)
        if not isinstance(table, str):
            raise InvalidDatasetError(f"{title} table is {table!r}: give the table's name")
        object.__setattr__(self, "num_embeddings", num_embeddings)
        object.__setattr__(self, "embedding_dim", embedding_dim)
        if not isinstance(weights, str):
            raise InvalidDatasetError(
                f"{title} weights is {weights!r}: give the name of the column that has them"
            )
        if weights and len(columns) > 1:
            raise InvalidDatasetError(
                f"{title} has {len(columns)} columns, and weights {weights!r} are those of one: "
                "make a Sparse of each, with its weights"
            )
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "weights", weights)

    def _fields(self) -> dict[str, Any]:
        return _Feature._fields(self) | {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "table": self.table,
            "weights": self.weights,
        }

    @classmethod
    def of_message(cls, message: Any, chain: Iterable[Op]) -> Self:
        """The feature of its kind's message, whose operations are a chain."""
        return cls(
            *message.columns,
            ops=chain,
            block=message.block,
            num_embeddings=message.num_embeddings,
            embedding_dim=message.embedding_dim,
            table=message.table,
            weights=message.weights,
        )


class Label(_Feature):
    """Label columns, one number a row, delivered as float32 unless their block is of another."""

    __slots__ = ()
    kind: ClassVar[str] = "label"


class Meta(_Feature):
    """Columns of one integer or time a row, carried through exactly, as int64: not trained on.

    Times are the integer that they are stored as, in their column's unit.
    """

    __slots__ = ()
    kind: ClassVar[str] = "meta"


Feature: TypeAlias = Dense | Sparse | Label | Meta
FEATURES: dict[str, type[Feature]] = {cls.kind: cls for cls in (Dense, Sparse, Label, Meta)}


@dataclass(frozen=True, slots=True)
class Block:
    """The dtype of a block: of its name, or of the default "dense", "sparse" or "labels".

    Dense and label blocks: "float32" (what they are without a Block), "float16", "bfloat16" or
    "float64". Sparse blocks: "int64" or "int32". Raises InvalidDatasetError for another.
    """

    name: str
    dtype: str

    def __post_init__(self) -> None:
        check_names("Block name", (self.name,))
        if self.dtype not in DTYPES:
            near = difflib.get_close_matches(str(self.dtype), DTYPES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidDatasetError(
                f"Block {self.name!r} has dtype {self.dtype!r}: the dtypes are "
                f"{', '.join(DTYPES)}{hint}"
            )

    def to_proto(self) -> dataset_pb2.OutputBlock:
        """The message of this block."""
        return dataset_pb2.OutputBlock(name=self.name, dtype=TYPE_PREFIX + self.dtype.upper())

    @classmethod
    def from_proto(cls, message: dataset_pb2.OutputBlock) -> Self:
        """The block of a message. Raises InvalidDatasetError for a dtype that is none."""
        names = {number: name for name, number in dataset_pb2.ScalarType.items()}
        name = names.get(message.dtype, str(message.dtype))
        return cls(message.name, name.removeprefix(TYPE_PREFIX).lower())


def feature_from_proto(message: dataset_pb2.Feature, place: str) -> Feature:
    """The feature of a message. Raises InvalidDatasetError that names the field at fault."""
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
        return FEATURES[kind].of_message(body, chain)
    except InvalidDatasetError as error:
        raise InvalidDatasetError(f"{place}.{kind}: {error.message}") from error


def check_names(what: str, names: tuple[str, ...]) -> None:
    """Raises InvalidDatasetError if there is no name, or one is no text or empty."""
    if not names:
        raise InvalidDatasetError(f"{what}: at least one is needed")
    for name in names:
        if not isinstance(name, str) or not name:
            raise InvalidDatasetError(f"{what}: {name!r} is no name; give non-empty strings")
