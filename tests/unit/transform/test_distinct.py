"""Rows by what they differ in: those that plain Python finds, in every layout, from anywhere."""

from __future__ import annotations

import datetime
import decimal
import itertools
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.catalog import BoundDataset, Catalog
from preprocessor_server.counting import count_rows
from preprocessor_server.cutter import Shard
from preprocessor_server.maker import Made
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.plan.identity import Cursor, Identity
from preprocessor_server.preview import preview
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import Metrics
from preprocessor_server.transform import distinct_faults, find_firsts, number_values
from preprocessor_server.udf.in_process import InProcess
from tests.fakes.grouped import FORMS, write_layout
from trainer_client import Dataset, Meta, Sampling, Udf, parquet

NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0001))[0]
DAY = datetime.date(2026, 11, 3)
VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int64(), [0, 1, -1, 2**63 - 1]),
    (pa.uint64(), [0, 2**64 - 1, 2**63]),
    (pa.int8(), [-1, 1]),
    (pa.bool_(), [True, False]),
    (pa.float64(), [0.0, -0.0, math.nan, NAN, math.inf, 1.5]),
    (pa.float32(), [0.0, -0.0, math.nan, -math.inf, 1.5]),
    (pa.float16(), [np.float16(x) for x in (0.0, -0.0, math.nan, 1.5)]),
    (pa.string(), ["", "a", "b", "ab"]),
    (pa.large_string(), ["", "a", "ab"]),
    (pa.string_view(), ["", "a", "a string that is longer than twelve bytes"]),
    (pa.binary(), [b"", b"\0", b"\0\0"]),
    (pa.binary(2), [b"ab", b"cd"]),
    (pa.dictionary(pa.int8(), pa.string()), ["", "a", "b"]),
    (pa.dictionary(pa.int32(), pa.int64()), [0, 7]),
    (pa.decimal128(5, 2), [decimal.Decimal("1.00"), decimal.Decimal("2.50")]),
    (pa.decimal64(5, 2), [decimal.Decimal("1.00"), decimal.Decimal("2.50")]),
    (pa.date32(), [DAY, DAY + datetime.timedelta(1)]),
    (pa.timestamp("us", "UTC"), [datetime.datetime(2026, 11, 3, 4, tzinfo=datetime.UTC)]),
    (pa.null(), []),
]


def same(value: Any) -> Any:
    """What stands for a value in Python's own comparison: NaN equals itself there by name only."""
    return "NaN" if isinstance(value, float | np.floating) and math.isnan(value) else value


def reference(rows: list[tuple[Any, ...]]) -> list[bool]:
    """Which rows are the first of their kind."""
    seen: set[tuple[Any, ...]] = set()
    return [not (row in seen or seen.add(row)) for row in rows]  # type: ignore[func-returns-value]


@st.composite
def columns(draw: st.DrawFn) -> list[tuple[pa.ChunkedArray, list[Any]]]:
    """Columns of as many rows, in slices of chunks, and the same as Python has them."""
    cuts = sorted(draw(st.lists(st.integers(0, 30), max_size=3)))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        kind, some = draw(st.sampled_from(VALUES))
        each = st.sampled_from([None, *some])
        values = draw(st.lists(each, min_size=30, max_size=30))
        bounds = itertools.pairwise([0, *cuts, 30])
        # Each chunk has a dictionary of its own, and none starts where its buffers do.
        chunks = [pa.array([*some[:1], *values[a:b]], kind).slice(len(some[:1])) for a, b in bounds]
        found.append((pa.chunked_array(chunks, kind), values))
    return found


@settings(max_examples=60)
@given(columns())
def test_the_first_rows_are_those_that_python_finds(
    case: list[tuple[pa.ChunkedArray, list[Any]]],
) -> None:
    rows = list(zip(*([same(value) for value in values] for _, values in case), strict=True))
    first = find_firsts([number_values(array) for array, _ in case])
    assert first.tolist() == reference(rows)


@pytest.mark.parametrize(("kind", "some"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_values_of_every_type(kind: pa.DataType, some: list[Any]) -> None:
    values = [None, *some, *reversed(some), None]
    numbers = number_values(pa.chunked_array([pa.array(values, kind)]))
    assert find_firsts([numbers]).tolist() == reference([(same(value),) for value in values])
    assert numbers.max() < len(values)


def test_a_dictionary_that_holds_a_value_twice_or_a_null() -> None:
    for words, first in ((["a", "b", "a"], [1, 1, 0, 1, 0]), (["a", None, "b"], [1, 1, 1, 0, 0])):
        coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None, 0]), pa.array(words))
        found = find_firsts([number_values(pa.chunked_array([coded]))])
        assert found.tolist() == [bool(each) for each in first]


def test_of_no_rows_none_is_first() -> None:
    empty = pa.chunked_array([], pa.string())
    assert find_firsts([number_values(empty), number_values(empty)]).tolist() == []


SCHEMA = pa.schema({"k": pa.int64(), "l": pa.list_(pa.int64()), "s": pa.struct({"x": pa.int8()})})
WANTED = "rows are told apart by columns of one value a row: numbers, booleans, strings, binary, "
WANTED += "decimals or times"

DERIVED = "column 'crossed' is derived, which is done after rows are chosen; name the columns that "
DERIVED += "it is made of, or make it by a UDF, which comes before"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kk", "there is no column 'kk'; did you mean 'k'?"),
        ("l", f"column 'l' is list<item: int64>; {WANTED}"),
        ("s", f"column 's' is struct<x: int8>; {WANTED}"),
        (
            "crossed",
            DERIVED,
        ),
    ],
)
def test_what_is_wrong_is_named(name: str, message: str) -> None:
    spec = dataset_pb2.DatasetSpec(
        distinct_by=["k", name], derive=[dataset_pb2.Derived(name="crossed")]
    )
    (fault,) = distinct_faults(spec, SCHEMA)
    assert (str(fault), fault.field) == (
        f"distinct_by[1]: {message}",
        "dataset.distinct_by[1]",
    )


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    settings = Settings(data_root=(tmp_path,), cpu_threads=1)
    pipeline = Pipeline(settings, Catalog(settings), Metrics())
    yield pipeline
    pipeline.close()
    pipeline.catalog.close()


def deliver(
    pipeline: Pipeline, dataset: BoundDataset, identity: Identity, shard: int, start: Cursor
) -> list[Made]:
    """The batches of a shard from a cursor on."""
    splits = pipeline.catalog.plan(dataset, identity).shards[shard]
    reader = pipeline.batches.open(
        Shard(dataset, identity, shard, splits), start, batch_pb2.CODEC_NONE
    )
    made = list(iter(lambda: reader.next(None), None))
    reader.close()
    return [each for each in made if each is not None]


def kept(folder: Path, names: list[str], where: bool, grouped: bool) -> list[int]:
    """The ids of the rows that are kept, row group by row group, in file order."""
    ids = []
    for path in sorted(folder.iterdir()):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            rows = table.to_pylist()
            if grouped:
                rows = [row | each for row in rows for each in row["impressions"] or ()]
            rows = [row for row in rows if not where or row["label"] == 1]
            first = reference([tuple(row[name] for name in names) for row in rows])
            ids += [row["id"] for row, keep in zip(rows, first, strict=True) if keep]
    return ids


@pytest.mark.parametrize("names", [["request"], ["region", "item_city"], ["item_score", "age"]])
@pytest.mark.parametrize("where", [False, True])
@pytest.mark.parametrize("layout", ["logged", "struct"])
def test_rows_of_a_split_differ_in_every_layout_and_from_every_batch_on(
    tmp_path: Path, pipeline: Pipeline, layout: str, where: bool, names: list[str]
) -> None:
    write_layout(tmp_path / layout, layout)
    spec = Dataset(
        parquet(layout, rows=FORMS.get(layout, ())),
        [Meta("id")],
        where="label = 1" if where else "",
        distinct_by=names,
    ).to_proto()
    bound = pipeline.catalog.describe(spec)
    assert not bound.counts_known
    expected = kept(tmp_path / layout, names, where, layout in FORMS)
    shown = preview(pipeline.catalog.reader, bound, 100).rows
    assert [row["id"] for row, _ in shown] == expected[:100]
    assert sum(count_rows(pipeline, bound, 0, 0)) == len(expected)
    for shuffle in (False, True):
        identity = Identity(7, 1, 2, 16, shuffle, 2, 1)
        total = 0
        for shard in range(2):
            whole = deliver(pipeline, bound, identity, shard, Cursor())
            total += sum(made.rows for made in whole)
            for i in (1, len(whole) // 2, len(whole) - 1):
                rest = deliver(pipeline, bound, identity, shard, whole[i].before)
                assert [made.message for made in rest] == [made.message for made in whole[i:]]
        assert total == len(expected)


def test_it_comes_after_sampling(tmp_path: Path, pipeline: Pipeline) -> None:
    count = 2000
    table = pa.table({"k": np.arange(count) % 50, "id": range(count)})
    (tmp_path / "rows").mkdir()
    pq.write_table(table, tmp_path / "rows" / "0.parquet")

    def found(**options: Any) -> list[int]:
        sample = Sampling(0.1, key="id", weight="w")
        dataset = Dataset(parquet("rows"), [Meta("id")], sample=sample, **options)
        bound = pipeline.catalog.describe(dataset.to_proto())
        rows = preview(pipeline.catalog.reader, bound, 100).rows
        return [int(row["id"]) for row, _ in rows]  # type: ignore[arg-type]

    drawn = found(where="id < 900")
    assert 60 < len(drawn) < 100
    first = reference([(each % 50,) for each in drawn])
    assert found(where="id < 900", distinct_by=["k"]) == [
        each for each, keep in zip(drawn, first, strict=True) if keep
    ]


def test_what_leaves_rows_out_is_counted_of_what_streams_read(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    table = pa.table({"k": np.arange(2000) % 50, "id": range(2000)})
    pq.write_table(table, tmp_path / "rows.parquet")

    def bind(**options: Any) -> BoundDataset:
        dataset = Dataset(parquet("rows.parquet"), [Meta("id")], where="id < 900", **options)
        return pipeline.catalog.describe(dataset.to_proto())

    sample = Sampling(0.1, key="id")
    [drawn] = count_rows(pipeline, bind(sample=sample), 0, 0)
    made = deliver(
        pipeline,
        bind(sample=sample, distinct_by=["k"]),
        Identity(7, 1, 1, 16, True, 1, 1),
        shard=0,
        start=Cursor(),
    )
    first = sum(each.rows for each in made)
    assert 900 > drawn > first
    left_out = {
        by: pipeline.metrics.registry.get_sample_value(
            "headrace_server_rows_left_out_total", {"by": by}
        )
        for by in ("where", "sampling", "distinct_by")
    }
    assert left_out == {"where": 1100, "sampling": 900 - drawn, "distinct_by": drawn - first}


def test_of_a_row_group_that_is_cut_each_part_has_its_own(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    count = 300_000
    (tmp_path / "rows").mkdir()
    table = pa.table({"k": np.arange(count) % 1000, "id": range(count)})
    pq.write_table(table, tmp_path / "rows" / "0.parquet", row_group_size=count)
    spec = Dataset(
        parquet("rows"), [Meta("id")], distinct_by=["k"], max_split_bytes=1 << 20
    ).to_proto()
    bound = pipeline.catalog.describe(spec)
    [splits] = pipeline.catalog.plan(bound, Identity(7, 1, 1, 256, False, 2, 1)).shards
    assert len(splits) > 2
    assert count_rows(pipeline, bound, 0, 0) == [1000 * len(splits)]
    made = deliver(pipeline, bound, Identity(7, 1, 1, 256, False, 2, 1), 0, Cursor())
    assert sum(each.rows for each in made) == 1000 * len(splits)


def test_columns_of_functions_in_blocks_of_any_size(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    prices = [1.0, 2.0, 2.0, 1.0, 3.0, 2.0, 3.0]
    table = pa.table({"price": prices, "id": range(7)})
    pq.write_table(table, tmp_path / "rows" / "0.parquet")
    settings = Settings(data_root=(tmp_path,), udf_module=("tests.fakes.udfs",))
    catalog = Catalog(settings, InProcess(settings))
    for block in (2, 7):
        dataset = Dataset(
            parquet("rows"),
            [Meta("id")],
            udfs=[Udf("tests.fakes.udfs:same", inputs=["price"], outputs={"made": "float64"})],
            udf_block_rows=block,
            distinct_by=["made"],
        )
        found = preview(catalog.reader, catalog.describe(dataset.to_proto()), 7)
        assert [row["id"] for row, _ in found.rows] == [0, 1, 4]
    catalog.close()
