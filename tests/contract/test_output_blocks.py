"""Blocks by name and in every dtype: from columns, through server and wire, to a trainer's tensors.

What comes out is compared with plain Python, whatever the columns are kept as.
"""

from __future__ import annotations

import bisect
import datetime
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.encode.batch import BatchEncoder, Piece
from preprocessor_server.encode.compress import Compression
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.frame import Frame
from preprocessor_server.runs import find_runs
from preprocessor_server.transform import arrow_to_column, compile_features, validate_spec
from tests.fakes import page
from trainer_client import Batch, SparseBlock
from trainer_client.decode import Decoder

DTYPES = {
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "FLOAT32": torch.float32,
    "FLOAT64": torch.float64,
}
LARGEST = {"FLOAT16": 65504.0, "BFLOAT16": float.fromhex("0x1.fep127")}
CURSORS = batch_pb2.Cursor(), batch_pb2.Cursor(split=1, batch=1)


def feature(kind: str, *columns: str, **fields: Any) -> dict[str, Any]:
    return {kind: {"columns": columns, **fields}}


def dataset(*features: dict[str, Any], **blocks: str) -> dataset_pb2.DatasetSpec:
    form = {
        "source": {"parquet": {"paths": ["x"]}},
        "features": features,
        "blocks": [{"name": n, "dtype": f"SCALAR_TYPE_{d}"} for n, d in blocks.items()],
    }
    spec = json_format.ParseDict(form, dataset_pb2.DatasetSpec())
    validate_spec(spec)
    return spec


def encode(
    spec: dataset_pb2.DatasetSpec, columns: dict[str, Any], *, runs: bool = False
) -> tuple[batch_pb2.BatchSchema, batch_pb2.CompactBatch]:
    """All rows in one batch."""
    table = pa.table(columns)
    transform = compile_features(spec, table.schema)
    frame = Frame(table.num_rows, {n: arrow_to_column(table[n]) for n in transform.columns})
    whole = Piece(transform.apply(find_runs(frame) if runs else frame), np.arange(table.num_rows))
    encoder = BatchEncoder(transform.schema(1), batch_pb2.CODEC_NONE, Compression(1), 1 << 24)
    message = pb.StreamBatchesResponse.FromString(bytes(encoder.encode([whole], 0, *CURSORS)))
    return transform.schema(1), message.batch


def deliver(
    spec: dataset_pb2.DatasetSpec, columns: dict[str, Any], *, runs: bool = False
) -> tuple[Batch, page.Decoded]:
    """All rows in one batch, as a trainer gets it and as the page's decoder reads it."""
    schema, message = encode(spec, columns, runs=runs)
    return Decoder(schema)(message.SerializeToString()), page.decode(schema, message)


def values_of(dtype: str) -> list[float]:
    """Every finite number of 16 bits from 0 up, by its bits."""
    if dtype == "FLOAT16":
        halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    else:
        halves = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32)
    found: list[float] = halves.astype(np.float64).tolist()
    return found


GRIDS = {dtype: values_of(dtype) for dtype in LARGEST}


def nearest(value: float, dtype: str) -> float:
    """The nearest number of 16 bits, ties to the one with an even last bit; inf beyond them."""
    grid = GRIDS[dtype]
    above = bisect.bisect_left(grid, abs(value))
    if above == len(grid):
        # As if numbers went on: the next one would be even.
        last, step = Fraction(grid[-1]), Fraction(grid[-1]) - Fraction(grid[-2])
        found = grid[-1] if Fraction(abs(value)) - last < step / 2 else math.inf
    elif grid[above] == abs(value):
        found = grid[above]
    else:
        low, high = Fraction(grid[above - 1]), Fraction(grid[above])
        to_low, to_high = Fraction(abs(value)) - low, high - Fraction(abs(value))
        take_low = to_low < to_high or (to_low == to_high and (above - 1) % 2 == 0)
        found = float(low if take_low else high)
    return math.copysign(found, value)


def same(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Equal, signs of zeros included; NaN to NaN."""
    pairs = itertools.zip_longest(map(float, found), map(float, expected))
    return all(a.hex() == b.hex() or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


def near_ties(dtype: str, rng: np.random.Generator) -> list[float]:
    """The halves between two numbers of 16 bits, and what only float64 can tell from them."""
    grid = np.array(GRIDS[dtype])
    places = rng.integers(0, len(grid) - 1, 30)
    middles = (grid[places] + grid[places + 1]) / 2
    towards = rng.choice([-math.inf, 0.0, math.inf], 30)
    nudged = np.where(towards == 0, middles, np.nextafter(middles, towards))
    found: list[float] = (nudged * rng.choice([-1, 1], 30)).tolist()
    return found


def large_integers(rng: np.random.Generator) -> list[int]:
    """Halves between two bfloat16, and those next to them, which no float64 is."""
    halves = [(128 + int(m)) * 2 + 1 << int(e) for m, e in rng.integers(0, [128, 54], (30, 2))]
    return [
        h * int(s) + int(d) for h, s, d in zip(halves, *rng.integers(-1, 2, (2, 30)), strict=True)
    ]


@pytest.mark.parametrize("dtype", [*LARGEST])
@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_16_bits_are_rounded_once_to_nearest_even(dtype: str, seed: int, runs: bool) -> None:
    rng = np.random.default_rng(seed)
    doubles = [*near_ties(dtype, rng), math.nan, math.inf, -math.inf, -0.0]
    with np.errstate(over="ignore"):
        singles = np.array([*rng.uniform(-6e4, 6e4, 16), *doubles[16:]], np.float32).tolist()
    singles = [value if abs(value) <= LARGEST[dtype] else math.nan for value in singles]
    wholes = [*large_integers(rng), 2**63 - 1, -(2**63), 0, -1]
    if dtype == "FLOAT16":
        wholes = [int(math.copysign(abs(value) % 65504, value)) for value in wholes]
    spec = dataset(feature("dense", "d", "s", "w"), dense=dtype)
    columns = {
        "d": pa.array(doubles, pa.float64()),
        "s": pa.array(singles, pa.float32()),
        "w": pa.array(wholes, pa.int64()),
    }
    batch, paged = deliver(spec, columns, runs=runs)
    assert batch.dense is not None
    assert batch.dense.dtype is DTYPES[dtype]
    for number, values in enumerate((doubles, singles, wholes)):
        expected = [nearest(v, dtype) if math.isfinite(v) else v for v in values]
        assert same(batch.dense[:, number].tolist(), expected)
        assert same(paged["dsw"[number]], expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [*LARGEST])
def test_what_16_bits_cannot_hold_is_refused(dtype: str) -> None:
    largest = LARGEST[dtype]
    half = Fraction(largest) + (Fraction(largest) - Fraction(GRIDS[dtype][-2])) / 2
    below = math.nextafter(float(half), 0)
    spec = dataset(feature("label", "x"), labels=dtype)
    batch, _ = deliver(spec, {"x": [below, -below, math.inf]})
    assert batch.labels is not None
    assert batch.labels[:, 0].tolist() == [largest, -largest, math.inf]
    with pytest.raises(DataError, match=r"'x'.*2 numbers are beyond .*16.*row 1 .*Clip") as caught:
        deliver(spec, {"x": [0.0, float(half), 1.0, -float(half)]})
    assert caught.value.reason == "VALUE_OUT_OF_RANGE"


@settings(max_examples=20)
@given(
    st.lists(st.floats(allow_nan=False) | st.floats(width=32, allow_nan=False), min_size=1),
    st.booleans(),
)
def test_float64_stays_and_is_sent_as_float32_where_it_is_one(
    values: list[float], runs: bool
) -> None:
    values.append(math.nan)
    spec = dataset(feature("dense", "x"), dense="FLOAT64")
    batch, paged = deliver(spec, {"x": values}, runs=runs)
    assert batch.dense is not None
    assert batch.dense.dtype is torch.float64
    assert same(batch.dense[:, 0].tolist(), values)
    assert same(paged["x"], values)  # type: ignore[arg-type]
    with np.errstate(over="ignore"):
        is_float32 = same(np.array(values, np.float32).tolist(), values)
    schema, sent = encode(spec, {"x": values})
    (buffer,) = sent.blocks[0].parts[0].buffers
    assert schema.blocks[0].dtype == page.FLOAT64
    assert buffer.type == (page.FLOAT32 if is_float32 else page.FLOAT64)


ID32 = st.integers(-(2**31), 2**31 - 1) | st.integers(0, 3)


@settings(max_examples=20)
@given(
    st.lists(st.lists(ID32, max_size=4) | st.none(), min_size=1, max_size=12),
    st.integers(1, 5),
    st.booleans(),
)
def test_int32_ids_and_several_sparse_blocks(
    lists: list[list[int] | None], times: int, runs: bool
) -> None:
    """Rows repeat, so that features are sent once a run too."""
    rows = [row for row in lists for _ in range(times)]
    ids = [None if row is None else sum(row) for row in rows]
    spec = dataset(
        feature("sparse", "ids", block="items"),
        feature("sparse", "lists", block="users"),
        feature("sparse", "again", block="items"),
        items="INT64",
        users="INT32",
    )
    columns = {
        "ids": pa.array(ids, pa.int64()),
        "lists": pa.array(rows, pa.list_(pa.int64())),
        "again": pa.array(rows, pa.list_(pa.int32())),
    }
    batch, paged = deliver(spec, columns, runs=runs)
    assert list(batch.blocks) == ["items", "users"]
    assert batch.sparse is None
    assert batch.keys() == ["ids", "again", "lists"]
    expected = [row or [] for row in rows]
    for name, keys, dtype in (
        ("items", ("ids", "again"), torch.int64),
        ("users", ("lists",), torch.int32),
    ):
        block = batch.blocks[name]
        assert isinstance(block, SparseBlock)
        assert block.keys == keys
        one = block[keys[-1]]
        assert one.values.dtype is dtype
        assert one.to_list() == expected
        assert block.values.dtype is dtype
        assert block[keys[-1]].to_list() == expected
        tensor = batch.to("cpu").blocks[name]
        assert isinstance(tensor, SparseBlock)
        assert torch.equal(tensor.values, block.values)
        for part in block.deduplicated.parts:
            assert part.values.dtype is dtype
    assert paged["lists"] == paged["again"] == expected
    assert paged["ids"] == [[] if value is None else [value] for value in ids]


def test_ids_beyond_int32_are_refused_unless_an_operation_makes_them_fit() -> None:
    columns = {"x": [7, 2**31, -(2**31) - 1]}
    with pytest.raises(DataError, match=r"'x'.*2 ids do not fit int32, first at row 1 ") as caught:
        deliver(dataset(feature("sparse", "x"), sparse="INT32"), columns)
    assert caught.value.reason == "VALUE_OUT_OF_RANGE"
    hashed = feature("sparse", "x", ops=[{"hash_bucket": {"num_buckets": 10}}])
    batch, _ = deliver(dataset(hashed, sparse="INT32"), columns)
    assert batch.sparse is not None
    assert batch.sparse.values.dtype is torch.int32


TIMES = [datetime.datetime(2026, 11, 26, 12, 0, 0, n, datetime.UTC) for n in (0, 1, 1, 999_999)]


@pytest.mark.parametrize("runs", [False, True])
def test_meta_columns_are_carried_through_exactly(runs: bool) -> None:
    ids = [2**63 - 1, -(2**63), -(2**63), 5]
    spec = dataset(
        feature("meta", "ts"), feature("label", "y"), feature("meta", "id", "day", "flag")
    )
    columns = {
        "ts": pa.array(TIMES, pa.timestamp("us", "Europe/Berlin")),
        "id": pa.array(ids, pa.int64()),
        "day": pa.array([datetime.date(1969, 12, 31)] * 4),
        "flag": [True, False, True, True],
        "y": [0.0, 1.0, 0.0, 1.0],
    }
    batch, paged = deliver(spec, columns, runs=runs)
    assert list(batch.blocks) == ["labels", "meta"]
    assert batch.meta is not None
    assert batch.meta.dtype is torch.int64
    stored = [int(time.timestamp()) * 1_000_000 + time.microsecond for time in TIMES]
    expected = {"ts": stored, "id": ids, "day": [-1] * 4, "flag": [1, 0, 1, 1]}
    for number, (name, values) in enumerate(expected.items()):
        assert batch.meta[:, number].tolist() == values
        assert torch.equal(batch[name], batch.meta[:, number])  # type: ignore[arg-type]
        assert paged[name] == values


@pytest.mark.parametrize(
    ("column", "reason", "what"),
    [
        (pa.array([1, None]), "NULL_VALUE", "nulls reach a meta column.*FillNull"),
        (pa.array([1, 2**64 - 1], pa.uint64()), "VALUE_OUT_OF_RANGE", "above 2.63 - 1"),
        (pa.array(["a"]), "TYPE_UNFIT", "HashBucket or a Vocabulary"),
        (pa.array([[1]]), "TYPE_UNFIT", "one integer a row"),
        (pa.array([0.5]), "TYPE_UNFIT", "Cast to int64"),
    ],
)
def test_what_a_meta_column_cannot_be(column: pa.Array, reason: str, what: str) -> None:
    with pytest.raises((DataError, DatasetError), match=what) as caught:
        deliver(dataset(feature("meta", "x")), {"x": column})
    assert caught.value.reason == reason


def test_arrow_has_the_same_values() -> None:
    from trainer_client.integrations.ray_data import to_arrow

    spec = dataset(
        feature("dense", "a", block="half"),
        feature("dense", "b"),
        feature("sparse", "s"),
        feature("meta", "m"),
        half="FLOAT16",
        dense="BFLOAT16",
        sparse="INT32",
    )
    batch, _ = deliver(spec, {n: [1, 257] for n in "absm"})
    assert to_arrow(batch).to_pydict() == {
        "a": [1, 257],
        "b": [1, 256],
        "s": [[1], [257]],
        "m": [1, 257],
    }
    kinds = [str(column.type) for column in to_arrow(batch).columns]
    assert kinds == ["halffloat", "float", "list<item: int32>", "int64"]


def test_blocks_come_by_kind_and_then_by_first_feature() -> None:
    spec = dataset(
        feature("label", "y"),
        feature("dense", "b", block="deep"),
        feature("sparse", "s"),
        feature("dense", "a"),
        feature("dense", "c", block="deep"),
        deep="BFLOAT16",
    )
    batch, _ = deliver(spec, {n: [1, 2] for n in "yabcs"})
    assert list(batch.blocks) == ["deep", "dense", "sparse", "labels"]
    assert batch.keys() == ["b", "c", "a", "s", "y"]
    assert batch.blocks["dense"] is batch.dense
    assert batch.blocks["labels"] is batch.labels
    assert batch.blocks["sparse"] is batch.sparse
    deep = batch.blocks["deep"]
    assert isinstance(deep, torch.Tensor)
    assert deep.dtype is torch.bfloat16
    assert deep.T.is_contiguous()


@pytest.mark.parametrize(
    ("make", "field", "what"),
    [
        (
            lambda: dataset(feature("dense", "a", block="x"), feature("sparse", "b", block="x")),
            "dataset.features[1].block",
            r"block 'x' holds dense features \(features\[0\]\)",
        ),
        (
            lambda: dataset(feature("sparse", "a", block="labels")),
            "dataset.features[0].block",
            "block 'labels' is that of label features",
        ),
        (
            lambda: dataset(feature("dense", "a", block="wide"), wid="FLOAT16"),
            "dataset.blocks[0].name",
            "no feature goes to block 'wid'; did you mean 'wide'",
        ),
        (
            lambda: dataset(feature("dense", "a"), dense="INT32"),
            "dataset.blocks[0].dtype",
            "of dense features has dtype SCALAR_TYPE_INT32; give one of SCALAR_TYPE_FLOAT32, S",
        ),
        (
            lambda: dataset(feature("dense", "a"), dense="UNSPECIFIED"),
            "dataset.blocks[0].dtype",
            "has no dtype",
        ),
    ],
)
def test_blocks_that_cannot_be_are_refused(
    make: Callable[[], object], field: str, what: str
) -> None:
    with pytest.raises(DatasetError, match=what) as caught:
        make()
    assert caught.value.field == field
    assert caught.value.reason == "DATASET_INVALID"


def test_a_block_is_listed_once() -> None:
    spec = dataset(feature("dense", "a"), dense="FLOAT16")
    spec.blocks.add(name="dense", dtype=dataset_pb2.SCALAR_TYPE_FLOAT64)
    with pytest.raises(DatasetError, match=r"'dense' is listed in blocks\[0\] already"):
        validate_spec(spec)


def check_numbers(
    numbers: npt.NDArray[np.float64], dtype: str, layout: batch_pb2.BufferLayout
) -> None:
    """Sends a column in a layout, and compares what arrives."""
    spec = dataset(feature("dense", "x", block="x"), x=dtype)
    (buffer,) = encode(spec, {"x": numbers})[1].blocks[0].parts[0].buffers
    assert buffer.layout == layout
    batch, read = deliver(spec, {"x": numbers})
    expected = torch.tensor(numbers).to(DTYPES[dtype])
    found = batch.blocks["x"]
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found[:, 0], expected)
    assert same(read["x"], expected.tolist())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "narrow"), [*((dtype, True) for dtype in DTYPES), ("FLOAT64", False)]
)
@pytest.mark.parametrize("distinct", [2, 5, 180])
def test_few_distinct_numbers_arrive_in_every_dtype(
    dtype: str, narrow: bool, distinct: int
) -> None:
    rng = np.random.default_rng(distinct)
    known = np.concatenate([[-0.0, 0.0], rng.standard_normal(200)])[:distinct]
    if narrow:
        known = known.astype(np.float32).astype(np.float64)
    numbers = rng.choice(known, 3000)
    check_numbers(numbers, dtype, batch_pb2.BUFFER_LAYOUT_DICTIONARY)


@pytest.mark.parametrize(
    ("dtype", "narrow"), [*((dtype, True) for dtype in DTYPES), ("FLOAT64", False)]
)
@pytest.mark.parametrize("tops", [2, 5, 16])
def test_numbers_of_few_highest_bytes_arrive_in_every_dtype(
    dtype: str, narrow: bool, tops: int
) -> None:
    rng = np.random.default_rng(tops)
    # The highest byte tells such numbers apart by sign and power; of FLOAT64 not every power.
    powers = 4.0 ** (2 * rng.integers(0, tops // 2, 3000) - 7)
    most = 1.24 if dtype == "FLOAT16" else 1.99
    numbers = rng.choice([-1.0, 1.0], 3000) * rng.uniform(1, most, 3000) * powers
    if narrow:
        numbers = numbers.astype(np.float32).astype(np.float64)
    check_numbers(numbers, dtype, batch_pb2.BUFFER_LAYOUT_TOP_DICTIONARY)
