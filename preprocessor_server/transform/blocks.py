"""The output: features, the blocks that they go to, in which order, and in which dtype."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Column, Flat
from preprocessor_server.transform.invalid import invalid, shorten
from preprocessor_server.transform.ops.base import ColumnOp

Kind: TypeAlias = Literal["dense", "sparse", "label", "meta"]
Body: TypeAlias = (
    dataset_pb2.DenseFeature
    | dataset_pb2.SparseFeature
    | dataset_pb2.LabelFeature
    | dataset_pb2.MetaFeature
)

_NUMBERS = (
    dataset_pb2.SCALAR_TYPE_FLOAT32,
    dataset_pb2.SCALAR_TYPE_FLOAT16,
    dataset_pb2.SCALAR_TYPE_BFLOAT16,
    dataset_pb2.SCALAR_TYPE_FLOAT64,
)


class KindRule(NamedTuple):
    """Of blocks of a kind: the name where none is given, and the dtypes, the default first."""

    name: str
    block_kind: batch_pb2.BlockKind
    dtypes: tuple[dataset_pb2.ScalarType, ...]


# In the order in which blocks come.
KINDS: dict[Kind, KindRule] = {
    "dense": KindRule("dense", batch_pb2.BLOCK_KIND_DENSE, _NUMBERS),
    "sparse": KindRule(
        "sparse",
        batch_pb2.BLOCK_KIND_SPARSE,
        (dataset_pb2.SCALAR_TYPE_INT64, dataset_pb2.SCALAR_TYPE_INT32),
    ),
    "label": KindRule("labels", batch_pb2.BLOCK_KIND_LABEL, _NUMBERS),
    "meta": KindRule("meta", batch_pb2.BLOCK_KIND_META, (dataset_pb2.SCALAR_TYPE_INT64,)),
}
_KIND_OF_DEFAULT: dict[str, Kind] = {rule.name: kind for kind, rule in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the output; dtype is that of what a trainer gets. Weighted: ids have weights."""

    name: str
    kind: Kind
    dtype: dataset_pb2.ScalarType
    is_weighted: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """The column of a sparse feature's weights; steps lead from it to float32."""

    column: str
    steps: tuple[ColumnOp, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """What is made of one column: a feature of its name, to which steps lead.

    Where it ends with a OneHot, classes are the names of its features instead, and spread makes
    them of what steps lead to. index is that of what selects it, in DatasetSpec.features.
    """

    name: str
    kind: Kind
    block: str
    column: str
    place: str
    index: int
    steps: tuple[ColumnOp, ...]
    weights: Weights | None = None
    classes: tuple[str, ...] = ()
    spread: Callable[[Column], Sequence[Flat]] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it is made of."""
        return (self.column,) if self.weights is None else (self.column, self.weights.column)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of its features."""
        return self.classes or (self.name,)


def body(feature: dataset_pb2.Feature) -> Body:
    """The feature's kind-specific part; the kind must have been checked."""
    found: Body = getattr(feature, kind_of(feature))
    return found


def kind_of(feature: dataset_pb2.Feature) -> Kind:
    """The feature's kind, which must have been checked."""
    kind = feature.WhichOneof("kind")
    assert kind is not None
    return cast(Kind, kind)


def block_name(feature: dataset_pb2.Feature) -> str:
    """The block that a feature goes to."""
    return body(feature).block or KINDS[kind_of(feature)].name


def blocks_of(spec: dataset_pb2.DatasetSpec) -> tuple[Block, ...]:
    """The blocks of a dataset, kind by kind, those of a kind in the order of their first features.

    What find_block_faults refuses has no meaning here; features without a kind are left out.
    """
    asked = {block.name: block.dtype for block in spec.blocks}
    found: dict[str, Block] = {}
    for feature in spec.features:
        if feature.WhichOneof("kind") is None:
            continue
        name, kind = block_name(feature), kind_of(feature)
        dtype = asked.get(name) or KINDS[kind].dtypes[0]
        found.setdefault(name, Block(name, kind, dtype, bool(feature.sparse.weights)))
    places = list(KINDS)
    return tuple(sorted(found.values(), key=lambda block: places.index(block.kind)))


def find_block_faults(spec: dataset_pb2.DatasetSpec) -> Iterator[DatasetError]:
    """Features that do not go together in a block, and dtypes that a block cannot have."""
    first: dict[str, tuple[Kind, str]] = {}
    for index, feature in enumerate(spec.features):
        if feature.WhichOneof("kind") is None:
            continue
        kind, name = kind_of(feature), block_name(feature)
        own = _KIND_OF_DEFAULT.get(name, kind)
        if own != kind:
            yield invalid(
                f"dataset.features[{index}].block",
                f"block {name!r} is that of {own} features, and this is a {kind} feature; give "
                "the block another name",
            )
            continue
        other, place = first.setdefault(name, (kind, f"features[{index}]"))
        if other != kind:
            yield invalid(
                f"dataset.features[{index}].block",
                f"block {name!r} holds {other} features ({place}), and this is a {kind} feature; "
                "give it a block of its own kind",
            )
    yield from _weights_faults(spec)
    listed: dict[str, str] = {}
    for index, block in enumerate(spec.blocks):
        path = f"dataset.blocks[{index}]"
        if not block.name:
            yield invalid(f"{path}.name", "an empty name; name a block of the dataset's features")
        elif block.name in listed:
            yield invalid(
                f"{path}.name",
                f"block {block.name!r} is listed in {listed[block.name]} already; leave one out",
            )
        elif block.name not in first:
            yield invalid(
                f"{path}.name",
                f"no feature goes to block {block.name!r}; " + _near(block.name, list(first)),
            )
        elif block.dtype not in KINDS[first[block.name][0]].dtypes:
            kind = first[block.name][0]
            names = map(dataset_pb2.ScalarType.Name, KINDS[kind].dtypes)
            given = "no dtype" if not block.dtype else f"dtype {_dtype_name(block.dtype)}"
            yield invalid(
                f"{path}.dtype",
                f"block {block.name!r} of {kind} features has {given}; give one of "
                + ", ".join(names),
            )
        listed.setdefault(block.name, shorten(path))


def _weights_faults(spec: dataset_pb2.DatasetSpec) -> Iterator[DatasetError]:
    """Blocks of which some features have weights and others none."""
    first: dict[str, tuple[int, bool]] = {}
    for index, feature in enumerate(spec.features):
        if feature.WhichOneof("kind") != "sparse":
            continue
        name, is_weighted = block_name(feature), bool(feature.sparse.weights)
        other, expected = first.setdefault(name, (index, is_weighted))
        if is_weighted == expected:
            continue
        bare, weighted = (other, index) if is_weighted else (index, other)
        yield invalid(
            f"dataset.features[{index}].weights",
            f"block {name!r} has weights for {_columns(spec, weighted)} and none for "
            f"{_columns(spec, bare)}; all features of a block have weights or none has, so give "
            "them to both, or put one of the two in a block of its own (block)",
        )


def _columns(spec: dataset_pb2.DatasetSpec, index: int) -> str:
    return f"{', '.join(map(repr, spec.features[index].sparse.columns))} (features[{index}])"


def _dtype_name(number: int) -> str:
    known = dataset_pb2.ScalarType.values()
    return dataset_pb2.ScalarType.Name(number) if number in known else str(number)


def _near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"the blocks are {', '.join(names)}" if names else "give a feature that does"
