"""preprocessor-server fit, on files: what it writes, what it leaves, and what it refuses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from headrace.v1 import dataset_pb2
from preprocessor_server.catalog import Catalog
from preprocessor_server.cli import cli
from preprocessor_server.errors import ServerError
from preprocessor_server.fit.run import FitOptions, fit
from preprocessor_server.preview import preview
from preprocessor_server.settings import Settings
from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet
from trainer_client.features import Feature
from trainer_client.ops import Op

ROWS = 5_000


def rows(seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    price = rng.lognormal(size=ROWS)
    price[::50], price[1::50] = np.nan, np.inf
    cities = np.array(["Bonn", "Köln", "Ulm", "Rom", ""])
    lists = [rng.zipf(1.5, n).tolist() for n in rng.integers(0, 4, ROWS)]
    return pa.table(
        {
            "price": pa.array(price, mask=rng.random(ROWS) < 0.1),
            "age": pa.array(rng.integers(18, 90, ROWS), pa.int32(), mask=rng.random(ROWS) < 0.3),
            "city": pa.array(cities[rng.zipf(2.0, ROWS) % 5], mask=rng.random(ROWS) < 0.1),
            "items": pa.array([None if i % 9 == 0 else row for i, row in enumerate(lists)]),
            "same": pa.array(np.ones(ROWS)),
            "label": pa.array(rng.integers(0, 2, ROWS)),
        }
    )


DATASET = Dataset(
    source=parquet("rows"),
    where="label = 1",
    features=[
        Dense("price", ops=[ops.FitFillNull("mean"), ops.Clip(0, 9), ops.FitNormalize()]),
        Sparse("age", ops=[ops.FitFillNull("median"), ops.FitBucketize(4)]),
        Sparse("city", "items", ops=[ops.FitVocabulary(min_count=2, num_oov_buckets=1)]),
        Label("label"),
    ],
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "rows").mkdir()
    table = rows()
    pq.write_table(table[:3000], folder / "rows" / "0.parquet", row_group_size=700)
    pq.write_table(table[3000:], folder / "rows" / "1.parquet", row_group_size=900)
    return folder


def run(
    dataset: Dataset, root: Path, out: str, threads: int = 2, **options: Any
) -> tuple[Dataset, dict[str, Any]]:
    settings = Settings(data_root=(root,), cpu_threads=threads)
    summary = fit(dataset.to_proto(), "d.yaml", root / out, settings, FitOptions(**options))
    assert json.loads((root / out / "summary.json").read_text()) == summary
    return Dataset.from_yaml(root / out / "dataset.yaml"), summary


@pytest.fixture(scope="module")
def fitted(root: Path) -> tuple[Dataset, dict[str, Any]]:
    return run(DATASET, root, "stats")


def test_numbers_are_inlined(fitted: tuple[Dataset, dict[str, Any]]) -> None:
    price, age = (fitted[0].features[i].ops for i in (0, 1))
    passing = rows().filter(pc.equal(rows().column("label"), 1))
    values = passing.column("price").drop_null().to_numpy()
    finite = values[np.isfinite(values)]
    filling, _, normalize = price
    assert isinstance(filling, ops.FillNull)
    assert isinstance(normalize, ops.Normalize)
    assert filling.value == pytest.approx(finite.mean(), rel=1e-12)
    # Of what the operations before it give, NaN left out.
    given = np.clip(passing.column("price").fill_null(filling.value).to_numpy(), 0, 9)
    given = given[np.isfinite(given)]
    assert normalize.mean == pytest.approx(given.mean(), rel=1e-12)
    assert normalize.std == pytest.approx(given.std(), rel=1e-12)
    ages = np.sort(passing.column("age").drop_null().to_numpy())
    median = ages[-(-len(ages) // 2) - 1]
    assert age[0] == ops.FillNull(int(median))
    filled = np.sort(passing.column("age").fill_null(int(median)).to_numpy())
    ranks = [-(-len(filled) * i // 4) - 1 for i in (1, 2, 3)]
    assert age[1] == ops.Bucketize([float(value) for value in np.unique(filled[ranks])])


def test_vocabularies_are_exact_counts(root: Path, fitted: tuple[Dataset, dict[str, Any]]) -> None:
    values = {"city": "city", "items": "unnest(items)"}
    for feature, (name, expression) in zip(fitted[0].features[2:4], values.items(), strict=True):
        assert feature.columns == (name,)
        [vocabulary] = feature.ops
        assert isinstance(vocabulary, ops.Vocabulary)
        assert vocabulary.num_oov_buckets == 1
        relation = duckdb.sql(
            f"SELECT value, count(*) AS n FROM (SELECT {expression} AS value "  # noqa: S608
            f"FROM read_parquet('{root}/rows/*.parquet') WHERE label = 1) "
            "WHERE value IS NOT NULL GROUP BY value HAVING n >= 2 ORDER BY n DESC, value"
        )
        assert relation is not None
        expected = relation.fetchall()
        table = pq.read_table(root / vocabulary.file)
        assert [tuple(row.values()) for row in table.to_pylist()] == expected


def test_a_server_gives_positions_in_the_vocabulary(
    root: Path, fitted: tuple[Dataset, dict[str, Any]]
) -> None:
    catalog = Catalog(Settings(data_root=(root,)))
    [vocabulary] = fitted[0].features[2].ops
    assert isinstance(vocabulary, ops.Vocabulary)
    listed = pq.read_table(root / vocabulary.file).column("value").to_pylist()
    found = preview(catalog.reader, catalog.describe(fitted[0].to_proto()), 50)
    for source, output in found.rows:
        city = source["city"]
        expected = [] if city is None else [listed.index(city) if city in listed else len(listed)]
        assert output["city"] == expected
    catalog.close()


def test_threads_and_memory_change_nothing(root: Path) -> None:
    written = []
    for threads, memory_bytes in ((2, 1 << 31), (1, 8_000_000)):
        out = f"threads-{threads}"
        run(DATASET, root, out, threads=threads, memory_bytes=memory_bytes)
        both = [(root / out / name).read_text() for name in ("dataset.yaml", "summary.json")]
        # The folder's name is in the paths of vocabularies.
        text = "".join(both).replace(out, "out")
        written.append(re.sub('"fitted_dataset": ".*"', "", text))
    assert written[0] == written[1]


def test_the_summary_says_what_was_read(fitted: tuple[Dataset, dict[str, Any]]) -> None:
    summary = fitted[1]
    passing = int(np.sum(rows().column("label").to_numpy() == 1))
    assert (summary["files"], summary["rows_in_files"], summary["rows"]) == (2, ROWS, passing)
    assert summary["passes"] == 2
    assert [each["operation"] for each in summary["fitted"]] == [
        *("fit_fill_null", "fit_fill_null", "fit_vocabulary", "fit_vocabulary"),
        *("fit_normalize", "fit_bucketize"),
    ]


def test_columns_of_one_table_share_a_vocabulary(root: Path) -> None:
    chain = [ops.FitVocabulary(num_oov_buckets=3)]
    # A feature that says what its table is like has one of its own name.
    features = [
        Sparse("items", ops=chain, embedding_dim=8),
        Sparse("label", ops=chain, table="items"),
    ]
    dataset, summary = run(Dataset(parquet("rows"), features), root, "shared")
    first, second = (feature.ops[0] for feature in dataset.features)
    assert isinstance(first, ops.Vocabulary)
    assert first == second
    assert first.file.startswith("shared/vocabulary/items-")
    listed = pq.read_table(root / first.file)
    values = rows().column("items").combine_chunks().flatten().drop_null().to_pylist()
    expected = Counter(values + rows().column("label").to_pylist())
    assert dict(zip(*listed.to_pydict().values(), strict=True)) == expected
    assert [each["nulls"] for each in summary["fitted"]] == [0, 0]
    catalog = Catalog(Settings(data_root=(root,)))
    [table] = catalog.describe(dataset.to_proto()).schema.tables
    assert (table.name, table.num_embeddings) == ("items", len(expected) + 3)
    catalog.close()


def test_classes_of_a_one_hot_are_those_of_the_fitted_vocabulary(root: Path) -> None:
    chain = [ops.FitVocabulary(max_size=3, num_oov_buckets=1), ops.OneHot()]
    dataset = Dataset(source=DATASET.source, features=[Dense("city", ops=chain)])
    catalog = Catalog(Settings(data_root=(root,)))
    bound = catalog.describe(run(dataset, root, "classes")[0].to_proto())
    assert bound.schema.blocks[0].features == [f"city_{i}" for i in range(4)]
    catalog.close()


def test_columns_of_one_table_that_cannot_share_are_named(root: Path) -> None:
    one, other = ops.FitVocabulary(), ops.FitVocabulary(min_count=2)
    filled = [ops.FitFillNull("median"), one]
    for column, chain, message in (
        ("label", [other], "differ in options or type"),
        ("city", [one], "differ in options or type"),
        ("age", filled, "come after other operations"),
    ):
        features = [Sparse("items", ops=[one], table="t"), Sparse(column, ops=chain, table="t")]
        with pytest.raises(ServerError, match=f"'items' and '{column}' share table 't'.*{message}"):
            run(Dataset(parquet("rows"), features), root, "refused")


@pytest.mark.parametrize("given_first", [True, False])
def test_a_given_vocabulary_beside_one_to_be_fitted_is_refused(
    root: Path, given_first: bool
) -> None:
    # Both fit into the table: nothing else tells that its rows would mean two things.
    fitted = Sparse("items", ops=[ops.FitVocabulary()], num_embeddings=1 << 20)
    given = Sparse("c*y", ops=[ops.Vocabulary(["Bonn", "Ulm"])], table="items")
    features = [given, fitted] if given_first else [fitted, given]
    with pytest.raises(ServerError, match="'items' and 'city' share table 'items'") as it:
        run(Dataset(parquet("rows"), features), root, "refused")
    assert it.value.field == f"dataset.features[{features.index(given)}].table"


def test_ctrl_c_leaves_the_folder_as_it_was(root: Path) -> None:
    calls = []

    @contextlib.contextmanager
    def interrupted(title: str, total: int) -> Iterator[Callable[[int], None]]:
        def report(done: int) -> None:
            calls.append((title, total, done))
            if title == "pass 2":
                raise KeyboardInterrupt

        yield report

    with pytest.raises(KeyboardInterrupt):
        run(DATASET, root, "stopped", progress=interrupted)
    # Vocabularies were written after the first pass.
    assert sum(done for title, _, done in calls if title == "pass 1") == ROWS == calls[0][1]
    assert not (root / "stopped").exists()


def test_another_file_is_refused(root: Path) -> None:
    dataset, _ = run(DATASET, root, "changed")
    [vocabulary] = dataset.features[2].ops
    assert isinstance(vocabulary, ops.Vocabulary)
    file = root / vocabulary.file
    pq.write_table(pq.read_table(file)[::-1], file)
    assert refusal(root, dataset).startswith("FITTED_CHANGED: vocabulary file 'changed/vocabulary/")
    file.unlink()
    assert refusal(root, dataset).startswith("PATH_NOT_FOUND")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"word": ["a"]}, "COLUMN_MISSING: .* has no column 'value'.*it has word"),
        ({"value": [1.5]}, "COLUMN_TYPE_MISMATCH: .* lists double; list integers"),
        ({"value": ["a", None]}, "DATASET_INVALID: .* lists a null"),
        ({"value": ["a", "b", "a"]}, "DATASET_INVALID: .* lists b'a' twice"),
        ({"value": pa.array([], pa.string())}, "DATASET_INVALID: .* lists no value"),
        ({"value": [1]}, "TYPE_UNFIT: .* lists integers; list strings"),
        (None, "NOT_PARQUET: .* is not Parquet"),
    ],
)
def test_files_that_are_no_vocabulary_are_refused(
    root: Path, table: dict[str, Any] | None, message: str
) -> None:
    file = root / "listed.parquet"
    file.write_bytes(b"words")
    if table is not None:
        pq.write_table(pa.table(table), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    vocabulary = ops.Vocabulary(file="listed.parquet", sha256=digest)
    feature = Sparse("city", ops=[vocabulary])
    assert_matches(message, refusal(root, Dataset(parquet("rows"), [feature])))


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def refusal(root: Path, dataset: Dataset) -> str:
    catalog = Catalog(Settings(data_root=(root,)))
    with pytest.raises(ServerError) as caught:
        catalog.describe(dataset.to_proto())
    catalog.close()
    return f"{caught.value.reason}: {caught.value.message}"


def test_servers_refuse_what_is_not_fitted(root: Path) -> None:
    assert_matches(
        "FitFillNull has not been fitted; run `preprocessor-server fit", refusal(root, DATASET)
    )


def one(kind: type[Feature], column: str, *chain: Op) -> Dataset:
    return Dataset(parquet("rows"), [kind(column, ops=chain)])


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (one(Label, "label"), "nothing to fit"),
        (one(Dense, "same", ops.FitNormalize()), "'same' .*: all its values are 1; leave"),
        (one(Sparse, "same", ops.FitBucketize(3)), "'same' .*: all its values are 1; leave"),
        (one(Dense, "age", ops.FitFillNull("mean")), "mean of integers .* FILLING_MEDIAN"),
        (one(Dense, "city", ops.FitMinMax()), "FitMinMax takes numbers"),
        (one(Dense, "price", ops.FitVocabulary()), "FitVocabulary takes integers, strings"),
        (one(Sparse, "price", ops.FitNormalize()), "a sparse feature takes integers"),
        (one(Sparse, "city", ops.FitVocabulary(min_count=9_999)), "no value occurs 9,999 times"),
        (one(Dense, "prize", ops.FitNormalize()), "did you mean 'price'"),
    ],
)
def test_what_cannot_be_fitted_is_named(root: Path, dataset: Dataset, message: str) -> None:
    with pytest.raises(ServerError, match=message):
        run(dataset, root, "refused")
    assert not (root / "refused").exists()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (dataset_pb2.Op(fit_fill_null=dataset_pb2.FitFillNull()), "give FILLING_MEAN"),
        (dataset_pb2.Op(fit_bucketize=dataset_pb2.FitBucketize(num_buckets=1)), "between 2 and"),
        (
            dataset_pb2.Op(fit_vocabulary=dataset_pb2.FitVocabulary(num_oov_buckets=1 << 33)),
            "at most 4,294,967,296",
        ),
    ],
)
def test_bounds_are_checked_before_any_row(root: Path, op: dataset_pb2.Op, message: str) -> None:
    spec = one(Dense, "price").to_proto()
    spec.features[0].dense.ops.append(op)
    with pytest.raises(ServerError, match=message):
        fit(spec, "d.yaml", root / "refused", Settings(data_root=(root,)), FitOptions())


def test_the_command_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    (root / "d.yaml").write_text(DATASET.to_yaml())
    result = CliRunner().invoke(cli, ["fit", "d.yaml", "-o", "by-command"])
    assert result.exit_code == 0, result.output
    assert "city   vocabulary of 5 of 5 values, 100.00% of what occurs" in result.stdout
    assert "wrote by-command/dataset.yaml" in result.stdout
    result = CliRunner().invoke(cli, ["fit", "by-command/dataset.yaml", "-o", "by-command"])
    assert (result.exit_code, "would replace" in result.stderr) == (2, True)
