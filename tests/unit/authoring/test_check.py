"""check finds every mistake of a dataset's file, and lets through what a server takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocessor_server.authoring.check import Data, check
from preprocessor_server.authoring.reading import read_text
from preprocessor_server.catalog import Catalog
from preprocessor_server.cli import cli
from preprocessor_server.errors import ServerError
from preprocessor_server.settings import Settings

TEN = """\
source:
  parquet:
    paths: [rows.parquet, missing/*.parquet]
    group_by: [usr_id]
where: label IS NOT NULL AND lable < 2
max_split_bytes: 1000
features:
  - dense:
      columns: [age
      ops: [{log1p: {}}]
  - sparse:
      columns: [user_cat_11, user_cat_1]
      ops: [{hash_bukcet: {num_buckets: 100}}]
  - sparse:
      columns: [history]
      ops: [{tail: {count: many}}, {hash_bucket: {num_buckets: 1000}}]
  - sparse:
      columns: [country, city]
  - label:
      columns: [label, user_cat_1]
"""
TEN_MISTAKES = """\
ten.yaml:3:27: source.parquet.paths[1]: glob 'missing/*.parquet' matches no file below FOLDER; \
check it with ls
ten.yaml:4:16: source.parquet.group_by[0]: group_by names column 'usr_id', which the source does \
not have; did you mean 'user_id'?
ten.yaml:5:30: where: column 'lable' is not in the source; did you mean 'label'? (at character 23)
ten.yaml:6:18: max_split_bytes: max_split_bytes is 1,000; it lies between 1,048,576 (1 MiB) and \
68,719,476,736 (64 GiB), or is 0 for the default
ten.yaml:9:16: dataset: not YAML: while parsing a flow sequence expected ',' or ']', but got ':'; \
close the bracket, or put a comma
ten.yaml:12:17: features[1].columns[0]: 'user_cat_11' matches no column of the source; did you \
mean 'user_cat_1'?
ten.yaml:13:14: features[1].ops[0]: 'hash_bukcet' is no field of Op; did you mean 'hash_bucket'?
ten.yaml:16:28: features[2].ops[0].tail.count: it is 'many'; give an integer from 0 to 2^32 - 1
ten.yaml:18:17: features[3].columns[0]: feature 'country' (features[3], sparse): column 'country' \
is string; a sparse feature takes integers; put a HashBucket or a Vocabulary before it
ten.yaml:20:24: features[4].columns[1]: column 'user_cat_1' is selected by feature 'user_cat_1' \
(features[1]) already; a column makes one feature, so leave it out of one of them (globs count too)
ten.yaml: 10 mistakes
  checked: the structure
  checked: features, filter and group_by against the 8 columns of rows.parquet
  not checked: what stands in lines that are not YAML
  not checked: what its row groups hold: mend the mistakes first
"""
SOUND = """\
source: {parquet: {paths: [rows.parquet]}}
where: label IS NOT NULL
features:
  - dense: {columns: [age]}
  - label: {columns: [label]}
"""
UNSHOWN = """\
source: {parquet: {paths: [grouped.parquet], rows: [itemz, user]}}
features: [{label: {columns: [label]}}, {sparse: {columns: [shop]}}]
"""
GROUPED = """\
source: {parquet: {paths: [grouped.parquet], rows: [itemz, label, user]}}
features: [{label: {columns: [label]}}]
"""
MANY_KEYS = """\
source:
  parquet:
    paths: [rows.parquet]
    group_by: [user_id]
where: label = 1
max_split_bytes: 2000000
derive:
- name: crossed
  cross:
    columns: [country, city]
    num_buckets: 10
- name: recent
  mask:
    column: history
    by: history
    comparison: COMPARISON_GREATER
    values:
    - integer: 1
features:
- dense:
    columns: [age]
    ops:
    - fill_null:
        value: {number: 1.5}
    - clip:
        min: {integer: 0}
        max: {number: 5}
    - log1p: {}
- sparse:
    columns: [country]
    ops:
    - hash_bucket:
        num_buckets: 100
        seed: 3
- sparse:
    columns: [history, crossed, recent]
    ops:
    - hash_bucket:
        num_buckets: 5
- label:
    columns: [label]
"""


def with_op(columns: str, op: str) -> str:
    return SOUND.replace("[age]", f"[{columns}], ops: [{op}]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = {
        "user_id": [1, 2],
        "user_cat_1": [3, 4],
        "country": ["de", "fr"],
        "city": pa.array([1, 2], pa.int8()),
        "age": [1.5, None],
        "history": [[1, 2], []],
        "shop": [{"a": 1}, None],
        "label": pa.array([0, 1], pa.int8()),
    }
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    lists = {"user": [1], "items": pa.array([[1, 2]]), "label": pa.array([[0, 1]])}
    pq.write_table(pa.table(lists), folder / "grouped.parquet")
    return folder


Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)

    def run(text: str, *flags: str, name: str = "x.yaml") -> Result:
        Path(name).write_text(text)
        return CliRunner().invoke(cli, ["check", name, *flags])

    return run


def test_ten_mistakes_of_ten_kinds(run: Run, folder: Path) -> None:
    result = run(TEN, name="ten.yaml")
    assert result.output.replace(str(folder), "FOLDER") == TEN_MISTAKES
    assert result.exit_code == 1
    found = json.loads(run(TEN, "--json").output)
    assert [(each["line"], each["column"]) for each in found["mistakes"]] == [
        tuple(map(int, line.split(":")[1:3])) for line in TEN_MISTAKES.splitlines()[:10]
    ]
    assert found["mistakes"][7] == {
        "line": 16, "column": 28, "end_line": 16, "end_column": 32,
        "field": "dataset.features[2].ops[0].tail.count", "reason": "DATASET_INVALID",
        "message": "it is 'many'; give an integer from 0 to 2^32 - 1",
    }  # fmt: skip


def test_what_was_checked_and_what_was_not(run: Run) -> None:
    sound = run(SOUND)
    assert sound.exit_code == 0
    assert sound.output == (
        "x.yaml: no mistakes\n"
        "  checked: the structure\n"
        "  checked: features, filter and group_by against the 8 columns of rows.parquet\n"
        "  checked: the footers of all its files: 1\n"
    )
    elsewhere = SOUND.replace("rows.parquet", "/production/*.parquet")
    assert run(elsewhere).exit_code == 1
    assert run(elsewhere, "--data", "rows.parquet").output.endswith(
        "  not checked: the paths of the source: rows.parquet stands in for them\n"
    )
    assert run(elsewhere.replace("age", "agee"), "--data", "rows.parquet").exit_code == 1
    for text, code in ((elsewhere, 0), (elsewhere.replace("NOT NULL", "NUL"), 1)):
        bare = run(text, "--no-data")
        assert bare.exit_code == code
        assert "  not checked: paths, columns and types: without data\n" in bare.output


WITH_FUNCTIONS = """\
source: {parquet: {paths: [rows.parquet]}}
udfs:
  - function: features:scaled
    inputs: [age]
    outputs: [{name: scaled_age, type: float32}]
where: scaled_age > 0
features:
  - dense: {columns: [scaled_age]}
  - label: {columns: [label]}
"""


def test_functions_are_not_run_and_what_they_make_is_known(folder: Path) -> None:
    def fields_of(text: str) -> list[str]:
        report = check(read_text(text, "a.yaml"), Data((folder,)))
        return [mistake.field for mistake in report.mistakes]

    report = check(read_text(WITH_FUNCTIONS, "a.yaml"), Data((folder,)))
    assert report.mistakes == ()
    assert "the code of functions: servers run it" in report.not_checked
    wrong = WITH_FUNCTIONS.replace("[age]", "[agee]").replace("type: float32", "type: float31")
    assert fields_of(wrong) == ["dataset.udfs[0].inputs[0]", "dataset.udfs[0].outputs[0].type"]
    clash = WITH_FUNCTIONS.replace("scaled_age", "label").replace(
        "  - label: {columns: [label]}\n", ""
    )
    assert fields_of(clash) == ["dataset.udfs[0].outputs[0].name"]


def test_what_keeps_it_from_looking_is_exit_code_2(run: Run, tmp_path: Path) -> None:
    empty = run(SOUND, "--data", str(tmp_path))
    assert empty.exit_code == 2
    assert f"folder '{tmp_path}' holds no *.parquet file; name Parquet files" in empty.output
    both = run(SOUND, "--data", str(tmp_path), "--no-data")
    assert both.exit_code == 2
    assert "give one of --data-root" in both.output
    gone = CliRunner().invoke(cli, ["check", "gone.yaml"])
    assert gone.exit_code == 2
    assert "'gone.yaml' does not exist" in gone.output


def fields(text: str) -> list[str]:
    file = read_text(text, "x.yaml")
    report = check(file, Data((Path.cwd(), Path("/"))))
    return [mistake.field.removeprefix("dataset.") for mistake in report.mistakes]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # What only follows from a mistake is not told.
        (SOUND.replace("dense", "deep"), ["features[0]"]),
        (SOUND.replace("source", "sauce"), ["dataset"]),
        (SOUND.replace("source", "from"), ["dataset"]),
        (SOUND.replace("source", '"source'), ["dataset"]),
        (SOUND.replace("features", "[features"), ["dataset"]),
        (with_op("country", "!x y"), ["features[0].ops[0]"]),
        (with_op("country", "[a"), ["dataset"]),
        (SOUND.replace("[rows.parquet]", "rows.parquet"), ["source.parquet.paths"]),
        (SOUND.replace("[rows.parquet]", "[rows.parquet, 5]"), ["source.parquet.paths[1]"]),
        (with_op("age", "{clip: {min: 1}}"), ["features[0].ops[0].clip.min"]),
        (with_op("country", "{cats: {to: SCALAR_TYPE_INT64}}"), ["features[0].ops[0]"]),
        (SOUND.replace("label IS", "'label IS"), ["dataset"]),
        # One mistake for all columns of a glob, and for a column that is named twice.
        (with_op("country", "{cast: }").replace("ops", "steps"), ["features[0].dense"]),
        (with_op('"c*", "user*"', "{tail: {count: 1}}"), ["features[0].ops[0]"]),
        (SOUND.replace("IS NOT NULL", "= lable OR lable = 1"), ["where"]),
        # Independent ones in one place are told each.
        (SOUND.replace("IS NOT NULL", "= lable OR agee = 1"), ["where", "where"]),
        ("features: []\n", ["source", "features"]),
        (UNSHOWN, ["features[0].columns[0]", "features[1].columns[0]"]),
        (SOUND + "blocks: [{name: dens, dtype: SCALAR_TYPE_FLOAT16}]\n", ["blocks[0].name"]),
        (SOUND + "blocks: [{name: dense, dtype: SCALAR_TYPE_FLOAT1}]\n", ["blocks[0].dtype"]),
        (SOUND + "blocks: [{name: dense, dtype: SCALAR_TYPE_INT32}]\n", ["blocks[0].dtype"]),
        (SOUND + "blocks: [{dtype: SCALAR_TYPE_FLOAT16}]\n", ["blocks[0].name"]),
        (SOUND + "  - meta: {columns: [city], block: dense}\n", ["features[2].block"]),
        (GROUPED, ["source.parquet.rows[0]", "source.parquet.rows[2]"]),
        (
            SOUND + "distinct_by: [user_id, usr_id, history, '']\n",
            ["distinct_by[1]", "distinct_by[2]", "distinct_by[3]"],
        ),
    ],
)
@pytest.mark.usefixtures("run")
def test_each_mistake_is_told_once(text: str, found: list[str]) -> None:
    assert fields(text) == found


@pytest.mark.parametrize("wrong", ["{}x", '"{}', "[{}", "zzz"])
@pytest.mark.usefixtures("run")
def test_one_wrong_key_is_one_mistake_wherever_it_is(wrong: str) -> None:
    assert not fields(MANY_KEYS)
    for key in re.finditer(r"[a-z_]\w*(?=:)", MANY_KEYS):
        text = MANY_KEYS[: key.start()] + wrong.format(key[0]) + MANY_KEYS[key.end() :]
        assert len(fields(text)) == 1, text


COLUMNS = st.sampled_from(
    ["age", "age", "label", "user_id", "history", "country", "c*", "agee", ""]
)
SCALARS = st.sampled_from([{"number": 1.5}, {"integer": 2}, {"text": "x"}, {}])
OPS = st.one_of(
    st.just({}),
    st.just({"log1p": {}}),
    st.builds(lambda value: {"fill_null": {"value": value}}, SCALARS),
    st.builds(lambda low, high: {"clip": {"min": low, "max": high}}, SCALARS, SCALARS),
    st.builds(lambda to: {"cast": {"to": to}}, st.integers(0, 5)),
    st.builds(lambda n: {"hash_bucket": {"num_buckets": n}}, st.integers(0, 2)),
    st.builds(lambda n: {"tail": {"count": n}}, st.integers(0, 2)),
)
PARTS = st.fixed_dictionaries(
    {"columns": st.lists(COLUMNS, max_size=2)}, optional={"ops": st.lists(OPS, max_size=2)}
)
FEATURES = st.one_of(
    st.just({}), *(st.builds(lambda p, k=k: {k: p}, PARTS) for k in ("dense", "sparse", "label"))
)
DATASETS = st.fixed_dictionaries(
    {
        "source": st.fixed_dictionaries(
            {
                "parquet": st.fixed_dictionaries(
                    {"paths": st.lists(st.sampled_from(["rows.parquet", "gone", ""]), max_size=2)},
                    optional={"group_by": st.lists(COLUMNS, max_size=1)},
                )
            }
        ),
        "features": st.lists(FEATURES, max_size=3),
    },
    optional={
        "where": st.sampled_from(["label = 1", "x = 1", "label", "label =", "age > 'x'"]),
        "max_split_bytes": st.sampled_from([0, 5]),
        "distinct_by": st.lists(COLUMNS, max_size=1),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(DATASETS)
def test_it_lets_through_what_a_server_takes(folder: Path, form: dict[str, Any]) -> None:
    file = read_text(yaml.safe_dump(form), "x.yaml")
    assert not file.mistakes
    report = check(file, Data((folder,)))
    catalog = Catalog(Settings(data_root=(folder,)))
    refused = None
    try:
        catalog.describe(file.spec)
    except ServerError as error:
        refused = error
    finally:
        catalog.close()
    assert bool(report.mistakes) == (refused is not None)
    if refused is not None:
        assert refused.field in {mistake.field for mistake in report.mistakes}
