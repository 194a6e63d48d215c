"""What Dataset.preview and Dataset.explain show, from real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessor_server.server import Server
from trainer_client import (
    BatchStream,
    Block,
    Dataset,
    Dense,
    EmbeddingTable,
    InvalidDatasetError,
    Label,
    Meta,
    RequestError,
    Sampling,
    Sparse,
    StreamTimeoutError,
    derive,
    ops,
    parquet,
)
from trainer_client.dataset_plan import (
    NEVER,
    PER_PARQUET_ROW,
    PER_RUN,
    PlannedBlock,
    PlannedColumn,
    PlannedFeature,
)

FLAT = {
    "age": [20.0, None, 7.25],
    "name": ["<b>", "x" * 60, None],
    "history": [[1, 2, 3, 4, 5, 6], [], None],
    "at": pa.array([0, 1, 2], pa.timestamp("us")),
    "label": [0, 1, 1],
}
DATASET = Dataset(
    source=parquet("flat.parquet"),
    where="label >= 0",
    features=[
        Dense("age", ops=[ops.FillNull(0.0), ops.Log1p()]),
        Sparse("name", ops=[ops.HashBucket(10)]),
        Sparse("hist*"),
        Label("label"),
    ],
)


@pytest.fixture
def target(tmp_path: Path, start_server: Callable[..., Server]) -> str:
    pq.write_table(pa.table(FLAT), tmp_path / "flat.parquet")
    items = [[{"item": 1, "label": 0}, {"item": 2, "label": 1}]]
    rows = pa.table({"user": [5], "items": items, "unused": [1]})
    pq.write_table(rows, tmp_path / "grouped.parquet")
    return f"static:///{start_server(data_root=(tmp_path,)).address}"


def test_a_preview_is_a_table(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    preview = DATASET.preview(3, target=target)
    lines = repr(preview).splitlines()
    assert all(len(line) <= 100 for line in lines)
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert cells["age"] == ["dense", "float32", "3.04452", "0", "2.11021"]
    assert " ".join(cells["history"]) == "sparse int64 [1, 2, 3, 4, … 6 in all] [] []"
    assert lines[-1] == "3 rows; 3 scanned"
    (name,) = [column for column in preview.source if column.name == "name"]
    assert name.values == ("<b>", "x" * 60, None)
    page = preview._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<table>") == page.count("</table>") == 2


def test_names_are_whole_however_wide_the_values(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = repr(DATASET.preview(3, target=target)).splitlines()
    assert all(len(line) <= 60 for line in lines)
    words = [line.split() for line in lines if line.strip()]
    for name in ("age", "name", "history", "label"):
        assert [name] in [each[:1] for each in words]
    assert ["history", "sparse", "int64"] in [each[:3] for each in words]


def test_a_preview_of_no_row_says_so(target: str) -> None:
    empty = Dataset(source=DATASET.source, where="label > 5", features=DATASET.features)
    preview = empty.preview(target=target)
    assert preview.row_count == 0
    assert repr(preview).endswith("no row passes the filter; 0 scanned")


def test_the_plan_of_flat_files(target: str) -> None:
    plan = DATASET.explain(target=target)
    assert plan.columns == ("age", "name", "history", "label")
    assert (plan.column_count, plan.unfiltered_row_count, plan.row_count) == (5, 3, None)
    assert plan.blocks == (
        PlannedBlock("dense", "float32", "[B, 1]"),
        PlannedBlock("sparse", "int64", "values of lists, lengths int32 [2, B]"),
        PlannedBlock("labels", "float32", "[B, 1]"),
    )
    assert plan.features[0] == PlannedFeature(
        "age", "double", ("FillNull(value=0.0)", "Log1p()"), PER_RUN, "dense", "age"
    )
    drawn = repr(plan)
    assert "read       4 of 5 columns, 3 rows in 1 row groups of 1 files; " in drawn
    assert "pushdown   columns: no other is read; row groups: none is skipped; pages: none" in drawn
    assert "age  double  FillNull(value=0.0) → Log1p()  once a row, or run of equal values" in drawn
    assert plan._repr_html_().startswith("<pre>read ")


def test_features_of_one_column_are_shown(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    chain = [ops.Vocabulary(["<b>", "y"], 1), ops.OneHot()]
    dataset = Dataset(
        source=DATASET.source, features=[Dense("name", ops=chain), Dense("label"), Sparse("hist*")]
    )
    plan = dataset.explain(target=target)
    assert plan.blocks[0] == PlannedBlock("dense", "float32", "[B, 4]")
    assert [(each.name, each.column, each.type) for each in plan.features] == [
        *((f"name_{i}", "name", "string") for i in range(3)),
        ("label", "label", "int64"),
        ("history", "history", "list<element: int64>"),
    ]
    assert (plan.columns, plan.other_columns) == (("name", "history", "label"), ())
    [line] = [line for line in repr(plan).splitlines() if "name_" in line]
    assert line.split()[:4] == ["name_0", "…", "name_2", "string"]
    assert "→ OneHot(num_classes=0)  once a row" in line
    values = {column.name: column.values for column in dataset.preview(3, target=target).features}
    assert [values[f"name_{i}"] for i in range(3)] == [(1, 0, 0), (0, 0, 0), (0, 1, 0)]


def test_the_plan_says_which_row_groups_are_not_read(target: str) -> None:
    plan = Dataset(source=DATASET.source, where="label > 5", features=DATASET.features).explain(
        target=target
    )
    assert (plan.skipped_row_groups, plan.row_group_count) == (1, 1)
    assert "row groups: 1 of 1 are skipped, as their statistics prove" in repr(plan)


def test_the_plan_of_a_sample_with_weights(target: str) -> None:
    sample = Sampling(0.1, when="label = 0", key="name", seed=7, weight="weight")
    plan = Dataset(DATASET.source, [Dense("weight"), Label("label")], sample=sample).explain(
        target=target
    )
    assert plan.row_count is None
    assert plan.features[0] == PlannedFeature("weight", "double", (), PER_RUN, "dense", "weight")
    assert (
        "sampling   keeps 0.1 of rows where label = 0, by name (seed 7); weight in weight"
        in repr(plan)
    )


def test_the_plan_of_rows_that_differ(target: str) -> None:
    plan = Dataset(DATASET.source, [Label("label")], distinct_by=["name", "age"]).explain(
        target=target
    )
    assert (plan.row_count, plan.distinct_by) == (None, ("name", "age"))
    drawn = repr(plan)
    assert "distinct   the first row of each name, age in a row group, or part of one" in drawn
    assert "read for filter, sampling, distinct_by or group_by alone: age, name\n" in drawn


def test_the_plan_of_grouped_files(target: str) -> None:
    source = parquet("grouped.parquet", rows="items")
    plan = Dataset(source=source, features=[Sparse("user", "item"), Label("label")]).explain(
        target=target
    )
    assert [feature.work for feature in plan.features] == [PER_PARQUET_ROW, PER_RUN, PER_RUN]
    assert plan.row_count == plan.unfiltered_row_count == 2
    assert plan.columns == ("user", "item", "label")


def test_derived_columns_are_shown(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    dataset = Dataset(
        source=parquet("grouped.parquet", rows="items"),
        derive=[
            derive.Cross("user_twice", ["user", "user"], 1000),
            derive.Cross("user_item", ["user_twice", "item"], 1000, seed=3),
            derive.Cross("spare", ["unused", "item"], 10),
        ],
        features=[Sparse("user_*", ops=[ops.PositiveModulus(10)]), Label("label")],
    )
    plan = dataset.explain(target=target)
    assert plan.derived == (
        PlannedColumn(
            "user_twice",
            "int64",
            "Cross(columns=('user', 'user'), num_buckets=1000)",
            PER_PARQUET_ROW,
        ),
        PlannedColumn(
            "user_item",
            "int64",
            "Cross(columns=('user_twice', 'item'), num_buckets=1000, seed=3)",
            PER_RUN,
        ),
        PlannedColumn("spare", "int64", "Cross(columns=('unused', 'item'), num_buckets=10)", NEVER),
    )
    assert plan.columns == ("user", "item", "label")
    assert plan.other_columns == ()
    assert [feature.work for feature in plan.features] == [PER_PARQUET_ROW, PER_RUN, PER_RUN]
    (line,) = [line for line in repr(plan).splitlines() if line.startswith("derive ")]
    assert line.split()[1:4] == ["user_twice", "int64", "Cross(columns=('user',"]
    preview = dataset.preview(2, target=target)
    before = {column.name: column.values for column in preview.source}
    after = {column.name: column.values for column in preview.features}
    assert list(before) == ["item", "label", "user", "user_item", "user_twice"]
    twice, crossed = before["user_twice"], before["user_item"]
    assert len(set(twice)) == 1
    assert len(set(crossed)) == 2
    assert after["user_item"] == tuple([value % 10] for value in crossed)  # type: ignore[operator]


def test_views_show_blocks_as_they_are_delivered(target: str) -> None:
    dataset = Dataset(
        source=DATASET.source,
        features=[
            Dense("age", ops=[ops.FillNull(257.0)], block="wide"),
            Sparse("name", ops=[ops.HashBucket(10)], table="names", embedding_dim=4),
            Meta("at", "label"),
        ],
        blocks=[Block("wide", dtype="bfloat16")],
    )
    preview = dataset.preview(3, target=target)
    assert [(c.name, c.block, c.dtype, c.values) for c in preview.features] == [
        ("age", "wide", "bfloat16", (20.0, 256.0, 7.25)),
        ("name", "sparse", "int64", ([3.0], [8.0], [])),
        ("at", "meta", "int64", (0.0, 1.0, 2.0)),
        ("label", "meta", "int64", (0.0, 1.0, 1.0)),
    ]
    plan = dataset.explain(target=target)
    assert plan.blocks == (
        PlannedBlock("wide", "bfloat16", "[B, 1]"),
        PlannedBlock("sparse", "int64", "values of lists, lengths int32 [1, B]"),
        PlannedBlock("meta", "int64", "[B, 2]"),
    )
    assert plan.tables == (EmbeddingTable("names", ("name",), 10, 4),)
    assert "table      names: 10 x 4, of name" in repr(plan)


def test_weights_are_shown_and_streamed(target: str, tmp_path: Path) -> None:
    ids = [[n // 5, 9] for n in range(12)]
    dwell = [[1.0, n // 5 + n // 10 / 2] for n in range(12)]
    pq.write_table(pa.table({"ids": ids, "dwell": dwell, "z": [1] * 12}), tmp_path / "w.parquet")
    dataset = Dataset(parquet("w.parquet"), [Sparse("ids", weights="dwell", ops=[ops.Tail(2)])])
    preview = dataset.preview(1, target=target)
    assert [(c.name, c.block, c.dtype, c.values) for c in preview.features] == [
        ("ids", "sparse", "int64", ([0.0, 9.0],)),
        ("ids (weights)", "sparse", "float32", ([1.0, 0.0],)),
    ]
    plan = dataset.explain(target=target)
    assert (plan.columns, plan.other_columns) == (("ids", "dwell"), ())
    assert plan.features[0].weights == "dwell"
    assert "Tail(count=2), weights dwell  once a row" in repr(plan)
    shape = "values of lists, a float32 weight each, lengths int32 [1, B]"
    assert plan.blocks == (PlannedBlock("sparse", "int64", shape),)
    found, sizes = [], []
    # Batches end inside of runs.
    with BatchStream(dataset, target=target, batch_size=4, shuffle=False, num_shards=1) as stream:
        for batch in stream:
            assert batch.sparse is not None
            lists = batch.sparse["ids"]
            assert lists.weights is not None
            weights = lists.weights.reshape(-1, 2).tolist()
            found += [*zip(lists.to_list(), weights, strict=True)]
            sizes += [part.size for part in batch.sparse.deduplicated.parts]
    assert found == [*zip(ids, dwell, strict=True)]
    assert sizes == [1, 2, 2]


def test_errors_say_what_to_do(target: str) -> None:
    wrong = Dataset(source=DATASET.source, features=[Label("lable")])
    for ask in (wrong.preview, wrong.explain):
        with pytest.raises(InvalidDatasetError, match="did you mean 'label'"):
            ask(target=target)
    for rows in (0, 101, "5"):
        with pytest.raises(RequestError, match=f"rows is {rows!r}: it must be an integer from 1"):
            DATASET.preview(rows, target=target)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="timeout is 0: it must be a number of seconds above 0"):
        DATASET.explain(target=target, timeout=0)
    with pytest.raises(RequestError, match="the forms are local://"):
        DATASET.preview(target="here")
    with pytest.raises(StreamTimeoutError, match="describing the dataset"):
        DATASET.explain(target="static:///127.0.0.1:9", timeout=0.2)
