"""Every type that the data of others has, from Parquet to the trainer's tensors."""

import math
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from preprocessor_server.server import Server
from trainer_client import (
    Batch,
    BatchStream,
    Dataset,
    Dense,
    HeadraceError,
    Label,
    Sparse,
    ops,
    parquet,
)

Start = Callable[..., Server]
Feature = Dense | Sparse | Label

NAN, INF = math.nan, math.inf


@pytest.fixture
def read(start_server: Start, tmp_path: Path) -> Callable[..., Batch]:
    """Writes one column x as Parquet, with an empty row group beside it, and reads one batch."""
    server = start_server(data_root=(tmp_path,))

    def run(array: pa.Array, feature: Feature) -> Batch:
        table = pa.table({"x": array})
        with pq.ParquetWriter(tmp_path / "x.parquet", table.schema) as writer:
            writer.write_table(table.slice(0, 0))
            writer.write_table(table)
            writer.write_table(table.slice(0, 0))
        dataset = Dataset(source=parquet("x.parquet"), features=[feature])
        with BatchStream(
            dataset, target=f"static:///{server.address}", batch_size=1000, shuffle=False
        ) as stream:
            (batch,) = list(stream)
        return batch

    return run


def bits(values: list[float]) -> list[bytes]:
    """The float32 bits of values, NaN as one of them."""
    return [b"NaN" if math.isnan(v) else struct.pack("<f", v) for v in values]


DENSE: list[tuple[str, pa.Array, list[Any], list[float]]] = [
    ("bool", pa.array([True, False]), [], [1, 0]),
    ("int8", pa.array([-128, 127], pa.int8()), [], [-128, 127]),
    ("uint64", pa.array([2**64 - 1], pa.uint64()), [], [2.0**64]),
    ("int64 beyond float32", pa.array([2**53 + 1, -(2**63)]), [], [2.0**53, -(2.0**63)]),
    ("float16", pa.array(np.array([0.5, -0.0], np.float16)), [], [0.5, -0.0]),
    (
        "float32 specials",
        pa.array([NAN, INF, -INF, -0.0], pa.float32()),
        [],
        [NAN, INF, -INF, -0.0],
    ),
    ("float64", pa.array([0.1, 1e300, -1e300]), [], [0.1, INF, -INF]),
    ("nulls filled", pa.array([None, 2.5]), [ops.FillNull(7.0)], [7, 2.5]),
    ("all null", pa.array([None, None], pa.null()), [ops.FillNull(3)], [3, 3]),
    ("all null doubles", pa.array([None, None], pa.float64()), [ops.FillNull(3)], [3, 3]),
    ("decimal", pa.array([Decimal("1.50"), Decimal("-2.25")]), [ops.Cast("float64")], [1.5, -2.25]),
    (
        "timestamp",
        pa.array([2000], pa.timestamp("ms")),
        [ops.Cast("int64")],
        [2000],
    ),
    ("string", pa.array(["1.5", "-3"]), [ops.Cast("float32")], [1.5, -3]),
    ("dictionary", pa.array([1.5, 2.5, 1.5]).dictionary_encode(), [], [1.5, 2.5, 1.5]),
    (
        "mean of lists",
        pa.array([[1, 2, None], None], pa.list_(pa.int8())),
        [ops.ListAggregate("mean"), ops.FillNull(0)],
        [1.5, 0],
    ),
    ("list length", pa.array([["a", None], [], None]), [ops.ListLength()], [2, 0, 0]),
    ("clip and log", pa.array([-5.0, 0.0, NAN]), [ops.Clip(min=0), ops.Log1p()], [0, 0, NAN]),
    (
        "hour of a time",
        pa.array([1_782_945_000_000, None], pa.timestamp("ms", "Asia/Tokyo")),
        [ops.DateParts("hour", "Europe/Berlin"), ops.FillNull(-1)],
        [0, -1],
    ),
    ("day of a date", pa.array([19_782], pa.date32()), [ops.DateParts("day_of_month")], [29]),
    ("scaled", pa.array([3, 5]), [ops.Normalize(3, 2), ops.MinMax(0, 4)], [0, 0.25]),
    (
        "logit and power",
        pa.array([0.5, 2.0]),
        [ops.Logit(0.2), ops.BoxCox(2)],
        [-0.5, (math.log(4) ** 2 - 1) / 2],
    ),
]


@pytest.mark.parametrize(
    ("array", "chain", "expected"), [c[1:] for c in DENSE], ids=[c[0] for c in DENSE]
)
@pytest.mark.parametrize("kind", [Dense, Label])
def test_numbers(
    read: Callable[..., Batch],
    kind: type[Feature],
    array: pa.Array,
    chain: list[Any],
    expected: list[float],
) -> None:
    batch = read(array, kind("x", ops=chain))
    block = batch.dense if kind is Dense else batch.labels
    assert block is not None
    assert block.dtype == torch.float32
    assert block.shape == (len(array), 1)
    assert bits(block[:, 0].tolist()) == bits(expected)


LISTS = [[1, 2], [], None, [3]]
SPARSE: list[tuple[str, pa.Array, list[Any], list[list[int]]]] = [
    ("int32", pa.array([5, None, -1], pa.int32()), [], [[5], [], [-1]]),
    ("ends of int64", pa.array([2**63 - 1, -(2**63)]), [], [[2**63 - 1], [-(2**63)]]),
    ("uint64 that fits", pa.array([2**63 - 1], pa.uint64()), [], [[2**63 - 1]]),
    ("bool", pa.array([True, False, None]), [], [[1], [0], []]),
    ("all null", pa.array([None, None], pa.null()), [], [[], []]),
    ("list", pa.array(LISTS), [], [[1, 2], [], [], [3]]),
    ("large list", pa.array(LISTS, pa.large_list(pa.int16())), [], [[1, 2], [], [], [3]]),
    ("fixed size list", pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), [], [[1, 2], [3, 4]]),
    ("tail", pa.array([[1, 2, 3], [4], []]), [ops.Tail(2)], [[2, 3], [4], []]),
    ("head", pa.array([[1, 2, 3], [4], []]), [ops.Head(2)], [[1, 2], [4], []]),
    ("slice", pa.array([[1, 2, 3], [4], []]), [ops.Slice(-2, -1)], [[2], [], []]),
    ("modulus", pa.array([[-1, 12], [3]]), [ops.PositiveModulus(10)], [[9, 2], [3]]),
    ("map", pa.array([7, 8, None]), [ops.MapId({7: 70}, default=1)], [[70], [1], []]),
    ("map to null", pa.array([7, 8]), [ops.MapId({7: 70})], [[70], []]),
    ("vocabulary", pa.array([["b", "c"], None]), [ops.Vocabulary(["a", "b"], 1)], [[1, 2], []]),
    (
        "last of lists",
        pa.array([[1, None], [2, 3], []]),
        [ops.ListAggregate("last")],
        [[1], [3], []],
    ),
    (
        "unique, sorted, padded",
        pa.array([[3, 1, 3], [2], None]),
        [ops.Deduplicate(), ops.Sort(descending=True), ops.Pad(2, 0)],
        [[3, 1], [2, 0], [0, 0]],
    ),
    ("enumerate", pa.array([["a", None], [], ["b"]]), [ops.Enumerate()], [[0, 1], [], [0]]),
    ("n-grams", pa.array([["a", "b"], ["a"], None]), [ops.NGram(2, 1)], [[0], [], []]),
    ("sample of all", pa.array([[1, 2], [3]]), [ops.Sample(2)], [[1, 2], [3]]),
    ("null elements filled", pa.array([[1, None], [None]]), [ops.FillNull(9)], [[1, 9], [9]]),
    ("dictionary", pa.array([7, 8, 7]).dictionary_encode(), [], [[7], [8], [7]]),
    ("buckets", pa.array([[0.5, 1.0], None, [NAN]]), [ops.Bucketize([1, 2])], [[0, 1], [], [2]]),
    ("days", pa.array([0, None], pa.timestamp("s")), [ops.DateParts("day_of_week")], [[3], []]),
]


@pytest.mark.parametrize(
    ("array", "chain", "expected"), [c[1:] for c in SPARSE], ids=[c[0] for c in SPARSE]
)
def test_ids(
    read: Callable[..., Batch], array: pa.Array, chain: list[Any], expected: list[list[int]]
) -> None:
    batch = read(array, Sparse("x", ops=chain))
    assert batch.sparse is not None
    lists = batch.sparse["x"]
    assert (lists.values.dtype, lists.lengths.dtype) == (torch.int64, torch.int32)
    assert lists.lengths.tolist() == [len(part) for part in expected]
    assert lists.values.tolist() == [value for part in expected for value in part]


def test_strings_of_every_width_hash_alike(read: Callable[..., Batch]) -> None:
    texts = ["", "a", None, "ä" * 100]
    found = []
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        batch = read(pa.array(texts).cast(kind), Sparse("x", ops=[ops.HashBucket(1 << 20)]))
        assert batch.sparse is not None
        found.append((batch.sparse["x"].values.tolist(), batch.sparse["x"].lengths.tolist()))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == [1, 1, 0, 1]


REFUSED: list[tuple[str, pa.Array, Feature, str]] = [
    ("null without a value", pa.array([1.0, None]), Dense("x"), "FillNull"),
    ("null label", pa.array([1.0, None]), Label("x"), "FillNull"),
    ("null element", pa.array([[1, None]]), Sparse("x"), "FillNull"),
    ("uint64 beyond int64", pa.array([2**63], pa.uint64()), Sparse("x"), "HashBucket"),
    ("decimal", pa.array([Decimal("1.5")]), Dense("x"), "Cast"),
    ("timestamp", pa.array([0], pa.timestamp("us")), Dense("x"), "Cast"),
    ("hour of a date", pa.array([0], pa.date32()), Dense("x", ops=[ops.DateParts("hour")]), "hour"),
    ("string", pa.array(["a"]), Dense("x"), "Cast"),
    (
        "fraction cast to an integer",
        pa.array([1.5]),
        Sparse("x", ops=[ops.Cast("int64")]),
        "fraction",
    ),
    (
        "text that is no number",
        pa.array(["1x"]),
        Dense("x", ops=[ops.Cast("float32")]),
        "not a number",
    ),
    ("floats as ids", pa.array([1.5]), Sparse("x"), "double"),
    ("lists as numbers", pa.array([[1.5]]), Dense("x"), "list"),
    ("structs", pa.array([{"a": 1}]), Sparse("x"), "struct"),
    ("lists of lists", pa.array([[[1]]]), Sparse("x"), "list"),
]


@pytest.mark.parametrize(
    ("array", "feature", "word"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_has_no_meaning_is_refused(
    read: Callable[..., Batch], array: pa.Array, feature: Feature, word: str
) -> None:
    with pytest.raises(HeadraceError, match=word) as caught:
        read(array, feature)
    assert "'x'" in str(caught.value)
