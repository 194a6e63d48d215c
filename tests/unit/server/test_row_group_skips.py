"""Row groups that are not read: never one of which a row passes, and the batches stay the same."""

from __future__ import annotations

import datetime
import decimal
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1.dataset_pb2 import DatasetSpec
from preprocessor_server.catalog import BoundDataset, Catalog
from preprocessor_server.counting import count_rows
from preprocessor_server.cutter import Shard
from preprocessor_server.errors import DataError
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.plan.identity import Cursor, Identity
from preprocessor_server.settings import Settings
from preprocessor_server.source.bounds import row_group_bounds
from preprocessor_server.source.footer import Footer
from preprocessor_server.telemetry import Metrics
from preprocessor_server.transform import compile_where
from tests.fakes.splits import flat_schema
from trainer_client import Dataset, Label, Sparse, parquet

GROUP_ROWS = 4


def judge(where: str, table: pa.Table, **options: Any) -> list[tuple[bool, bool]]:
    """Of each row group: whether it is read, and whether a row of it passes."""
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=GROUP_ROWS, **options)
    with pq.ParquetFile(file) as parquet:
        footer = Footer(parquet.metadata, parquet.schema_arrow, 0, 0)
        groups = [parquet.read_row_group(i) for i in range(parquet.num_row_groups)]
    filter_ = compile_where(DatasetSpec(where=where), footer.schema)
    assert filter_ is not None
    passing = [bool(filter_.mask(group).any()) for group in groups]
    if filter_.pushdown is None:
        return [(True, passes) for passes in passing]
    columns = flat_schema(footer.schema).columns
    named = [column for column in columns if column.name in filter_.pushdown.columns]
    read = filter_.pushdown.may_pass(row_group_bounds("file", footer, named))
    return list(zip(read.tolist(), passing, strict=True))


DAY = datetime.date(2026, 11, 1)
NOON = datetime.datetime(2026, 11, 1, 12)  # noqa: DTZ001
NAN = math.nan
SECOND = datetime.timedelta(seconds=1)
TEXTS = ["", "a", "ab", "b" * 90, "é", "\U0010ffff" * 30]
PRICES = [decimal.Decimal(text) for text in ("-1.50", "0.00", "99.99")]
FLOATS = [-math.inf, -1e30, -0.0, 0.0, 0.1, NAN, math.inf]
# A type, values of it, and what they are compared with.
VALUES: dict[str, tuple[pa.DataType, list[Any], str]] = {
    "i": (
        pa.int64(),
        [-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1],
        "-1; 0; 9007199254740993; '1'; 9007199254740992e0; 0.5; 9223372036854775807",
    ),
    "small": (pa.int8(), [-128, -1, 0, 127], "-129; 0; 127; 200"),
    "u": (pa.uint64(), [0, 1, 2**63, 2**64 - 1], "-1; 0; 9223372036854775808; 1e19"),
    "u4": (pa.uint32(), [0, 2**31, 2**32 - 1], "1; 2147483648; 4294967295"),
    "f": (pa.float32(), FLOATS, "0; 0.1; -1; 'nan'; 1e39"),
    "g": (pa.float64(), [*FLOATS, 5e-324], "0; 1e-320; 'inf'; 'nan'"),
    "h": (pa.float16(), [np.float16(value) for value in (-1, 0, 2, NAN)], "0; 2"),
    "p": (pa.decimal128(20, 2), PRICES, "-1.5; 0; 99.991; 1e1"),
    "s": (pa.string(), TEXTS, f"''; 'a'; 'é'; '{'b' * 70}'"),
    "d": (pa.dictionary(pa.int8(), pa.string()), ["", "x", "z"], "'x'; 'y'"),
    "x": (pa.binary(), [b"", b"\x00", b"\x7f", b"\xff" * 70], r"'a'; '\x7F'"),
    "b": (pa.bool_(), [False, True], "TRUE; FALSE"),
    "day": (
        pa.date32(),
        [DAY, DAY + datetime.timedelta(1)],
        "DATE '2026-11-01'; '2026-11-02'; TIMESTAMP '2026-11-01 00:00:01'",
    ),
    "t": (
        pa.timestamp("us"),
        [NOON, NOON + SECOND],
        "TIMESTAMP '2026-11-01 12:00:00'; DATE '2026-11-02'; '2026-11-01 12:00:00.000001'",
    ),
    "ns": (
        pa.timestamp("ns"),
        [0, 1, 10**18],
        "'1970-01-01 00:00:00.000000001'; DATE '1970-01-01'",
    ),
    "tz": (
        pa.timestamp("ms", "Asia/Tokyo"),
        [0, 1000, 10**12],
        "TIMESTAMPTZ '1970-01-01 09:00:01+09'; DATE '1970-01-01'; '1970-01-01'",
    ),
}
SIGNS = ["=", "<>", "<", "<=", ">", ">="]


@st.composite
def conditions_on(draw: st.DrawFn, name: str) -> str:
    literal = st.sampled_from(VALUES[name][2].split("; "))
    one, two = draw(literal), draw(literal)
    kinds = [
        f"{name} {draw(st.sampled_from(SIGNS))} {one}",
        f"{one} {draw(st.sampled_from(SIGNS))} {name}",
        f"{name} BETWEEN {one} AND {two}",
        f"{name} NOT BETWEEN {one} AND {two}",
        f"{name} IN ({one}, {two})",
        f"{name} IN ({one}, NULL)",
        f"{name} NOT IN ({one}, {two})",
        f"{name} IS NULL",
        f"{name} IS NOT NULL",
        f"{name} IS DISTINCT FROM {one}",
        f"NOT ({name} = {one})",
        *(["b", "NOT b"] if name == "b" else []),
    ]
    return draw(st.sampled_from(kinds))


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, pa.Table, dict[str, Any]]:
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3, unique=True))
    rows = draw(st.integers(1, 3 * GROUP_ROWS))
    columns = {}
    for name in names:
        kind, values, _ = VALUES[name]
        # Few values, in order or not: bounds that prove something, and nulls only.
        some = draw(st.lists(st.none() | st.sampled_from(values), min_size=rows, max_size=rows))
        columns[name] = pa.array(some, kind)
    where = draw(conditions_on(names[0]))
    for name in names[1:]:
        where = f"({where}) {draw(st.sampled_from(['AND', 'OR']))} {draw(conditions_on(name))}"
    writing: dict[str, Any] = {
        "write_statistics": draw(st.sampled_from([True, True, True, False])),
        "use_dictionary": draw(st.booleans()),
    }
    if draw(st.booleans()):
        # It has no nanoseconds; nor, in the file, the unit of the column.
        writing |= {"version": "1.0", "coerce_timestamps": "us", "allow_truncated_timestamps": True}
    return where, pa.table(columns), writing


@settings(max_examples=60, deadline=None)
@given(cases())
def test_no_row_group_is_skipped_of_which_a_row_passes(
    case: tuple[str, pa.Table, dict[str, Any]],
) -> None:
    where, table, writing = case
    judged = judge(where, table, **writing)
    assert [read for read, passes in judged if passes] == [True] * sum(p for _, p in judged)


SORTED = pa.table(
    {
        "i": [*range(8), None, None, None, None],
        "f": [0.0, 1.0, NAN, 2.0, *(5.0 + n for n in range(4)), NAN, NAN, NAN, NAN],
        "s": ["a" * 100, "b", "b", "b", *("c" * 4), "d", "d", None, "e"],
        "b": [*[False] * 4, *[True] * 4, None, None, None, None],
        "t": pa.array([*range(12)], pa.timestamp("us")),
    }
)
JUDGED = [
    # X: read, as a row passes; o: read for nothing; .: skipped.
    ("i > 3", ".X."),
    ("i >= 4 AND s <> 'c'", "..."),
    ("i = 3", "X.."),
    ("i IN (9, 10)", "..."),
    ("i BETWEEN 2 AND 5", "XX."),
    ("i IS NULL", "..X"),
    ("i IS NOT NULL", "XX."),
    ("i IS NULL AND f < 9", "..o"),
    ("5 < i OR s = 'd'", ".XX"),
    ("5 < i OR lower(s) = 'd'", "oXX"),
    ("abs(i) > 5 AND i < 4", "o.."),
    ("i <> 4", "XX."),
    ("i + 1 = 4", "Xoo"),
    # NaN is above all numbers, and no bound says that there is none.
    ("f > 100", "XoX"),
    ("f < 3", "X.o"),
    ("f = 5", ".Xo"),
    ("s >= 'c'", ".XX"),
    ("s < 'aab'", "X.."),
    ("b", ".X."),
    ("NOT b", "X.."),
    ("b = FALSE", "X.."),
    ("t >= TIMESTAMP '1970-01-01 00:00:00.000008'", "..X"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "judged"), JUDGED, ids=[where for where, _ in JUDGED])
def test_what_statistics_prove(where: str, judged: str) -> None:
    shown = {(True, True): "X", (True, False): "o", (False, False): "."}
    assert "".join(shown[each] for each in judge(where, SORTED)) == judged


CUT = [
    ("s = 'bbbb9'", True),
    ("s > 'bbbb9'", True),
    ("s = 'bbbb'", True),
    ("s < 'bbbb'", False),
    ("s = 'bbba'", False),
    ("s > 'bbbd'", False),
    ("s <> 'bbbb'", True),
]


@pytest.mark.parametrize(("where", "may"), CUT, ids=[where for where, _ in CUT])
def test_statistics_that_a_writer_cut_are_bounds(where: str, may: bool) -> None:
    """Of values "bbbb1" to "bbbb9": the least cut off, the greatest cut off and counted up."""
    filter_ = compile_where(DatasetSpec(where=where), pa.schema({"s": pa.string()}))
    assert filter_ is not None
    assert filter_.pushdown is not None
    bounds = pa.table({"lo0": ["bbbb"], "hi0": ["bbbc"], "none0": [False], "full0": [True]})
    assert filter_.pushdown.may_pass(bounds).tolist() == [may]


def test_without_statistics_all_is_read() -> None:
    assert [read for read, _ in judge("i > 3", SORTED, write_statistics=False)] == [True] * 3


WHERES = [
    "id BETWEEN 1300 AND 1420 OR id = 3999",
    "id >= 1000 AND id < 1003 AND price >= 0",
    "id < 0",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    ids = np.arange(4000)
    table = pa.table(
        {
            "id": ids,
            "request": ids // 10,
            "price": ids % 7 / 7,
            "label": (ids % 2).astype(np.float32),
        }
    )
    (root / "flat").mkdir()
    for part in range(2):
        rows = table.slice(2000 * part, 2000)
        pq.write_table(rows, root / "flat" / f"{part}.parquet", row_group_size=100)
    lists = [[2 * request, 2 * request + 1] for request in range(200)]
    grouped = pa.table({"request": range(200), "id": lists, "label": lists})
    (root / "grouped").mkdir()
    pq.write_table(grouped, root / "grouped" / "0.parquet", row_group_size=10)
    return root


@contextmanager
def opened(root: Path) -> Iterator[Pipeline]:
    settings = Settings(data_root=(root,), cpu_threads=1)
    pipeline = Pipeline(settings, Catalog(settings), Metrics())
    yield pipeline
    pipeline.close()
    pipeline.catalog.close()


@pytest.fixture
def pipeline(root: Path) -> Iterator[Pipeline]:
    with opened(root) as pipeline:
        yield pipeline


def read_all(root: Path, spec: dataset_pb2.DatasetSpec, identity: Identity) -> list[Any]:
    """The batches of an epoch of which every row group is read."""
    with opened(root) as pipeline:
        found = batches(pipeline, unskipping(pipeline.catalog.describe(spec)), identity)
        assert skipped(pipeline) == 0
        return found


def unskipping(dataset: BoundDataset) -> BoundDataset:
    assert dataset.filter is not None
    return replace(dataset, filter=replace(dataset.filter, pushdown=None))


def batches(pipeline: Pipeline, dataset: BoundDataset, identity: Identity) -> list[Any]:
    """The messages of every batch of an epoch, and the cursors around each."""
    found = []
    for number, splits in enumerate(pipeline.catalog.plan(dataset, identity).shards):
        shard = Shard(dataset, identity, number, splits)
        reader = pipeline.batches.open(shard, Cursor(), batch_pb2.CODEC_NONE)
        found.append(list(iter(lambda reader=reader: reader.next(None), None)))  # type: ignore[misc]
        reader.close()
    return found


def skipped(pipeline: Pipeline) -> float:
    name = "headrace_server_skipped_row_groups_total"
    return pipeline.metrics.registry.get_sample_value(name) or 0.0


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize(
    ("shuffle", "window", "group_by"),
    [(False, 1, ()), (True, 1, ("request",)), (True, 3, ()), (True, 3, ("request",))],
)
def test_batches_and_cursors_are_the_same(
    pipeline: Pipeline,
    root: Path,
    where: str,
    shuffle: bool,
    window: int,
    group_by: tuple[str, ...],
) -> None:
    spec = Dataset(
        source=parquet("flat", group_by=group_by),
        where=where,
        features=[Sparse("id"), Label("label")],
    ).to_proto()
    dataset = pipeline.catalog.describe(spec)
    identity = Identity(7, 1, 3, 16, shuffle, window, 1)
    assert batches(pipeline, dataset, identity) == read_all(root, spec, identity)
    if window == 1:
        assert dataset.skips is not None
        assert skipped(pipeline) == dataset.skips.count(pipeline.catalog.reader) > 30


@pytest.mark.parametrize("where", ["request >= 175", "label = 41", "id < 0"])
def test_grouped_files_skip_row_groups_too(pipeline: Pipeline, root: Path, where: str) -> None:
    spec = Dataset(
        source=parquet("grouped", rows=["id", "label"]),
        where=where,
        features=[Sparse("id", "request"), Label("label")],
    ).to_proto()
    dataset = pipeline.catalog.describe(spec)
    for window in (1, 2):
        identity = Identity(7, 1, 2, 16, True, window, 1)
        expected = read_all(root, spec, identity)
        assert any(expected) == (where != "id < 0")
        assert batches(pipeline, dataset, identity) == expected
    assert skipped(pipeline) > 0


def test_counting_reads_only_what_may_pass(pipeline: Pipeline) -> None:
    where = "id BETWEEN 1300 AND 1420"
    spec = Dataset(source=parquet("flat"), where=where, features=[Sparse("id")]).to_proto()
    dataset = pipeline.catalog.describe(spec)
    counts = count_rows(pipeline, dataset, 0, 0)
    assert counts == [0] * 13 + [100, 21] + [0] * 25
    assert skipped(pipeline) == 38


def test_a_file_that_has_changed_is_an_error_though_none_of_it_is_read(
    pipeline: Pipeline, root: Path
) -> None:
    path = root / "changing" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"id": range(10)}), path)
    spec = Dataset(source=parquet("changing"), where="id > 99", features=[Sparse("id")]).to_proto()
    dataset = pipeline.catalog.describe(spec)
    assert batches(pipeline, dataset, Identity(7, 1, 1, 16, True, 1, 1)) == [[]]
    pq.write_table(pa.table({"id": range(200)}), path)
    with pytest.raises(DataError, match="has changed since the snapshot"):
        batches(pipeline, dataset, Identity(7, 2, 1, 16, True, 1, 1))
