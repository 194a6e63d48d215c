"""check finds the mistakes of a dataset that is not fitted yet, and says how to fit it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from preprocessor_server.cli import cli

UNFITTED = """\
source: {parquet: {paths: [rows.parquet]}}
features:
  - dense:
      columns: ["age", "ci*"]
      ops: [{fit_fill_null: {by: FILLING_MEDIAN}}, {log1p: {}}, {fit_normalize: {}}]
  - sparse: {columns: [country], ops: [{fit_vocabulary: {}}], table: t, embedding_dim: 4}
  - sparse: {columns: [user], ops: [{fit_vocabulary: {}}], embedding_dim: 4}
  - label: {columns: [label]}
"""
TO_BE_FITTED = (
    "  not checked: the constants of 4 operations, still to be fitted: run "
    "`preprocessor-server fit x.yaml -o FOLDER`, and use the dataset.yaml that it writes\n"
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    rows = {
        "age": [1.5, None],
        "city": pa.array([1, 2], pa.int8()),
        "country": ["de", "fr"],
        "user": [3, 4],
        "label": [0, 1],
        "none": pa.nulls(2),
    }
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    monkeypatch.chdir(tmp_path)

    def run(text: str, *flags: str) -> str:
        Path("x.yaml").write_text(text)
        result = CliRunner().invoke(cli, ["check", "x.yaml", *flags])
        assert result.exit_code == int(" no mistakes" not in result.output)
        return result.output

    return run


def test_what_is_still_to_be_fitted_is_no_mistake(run: Callable[..., str]) -> None:
    assert run(UNFITTED) == (
        "x.yaml: no mistakes\n"
        "  checked: the structure\n"
        "  checked: features, filter and group_by against the 6 columns of rows.parquet\n"
        f"  checked: the footers of all its files: 1\n{TO_BE_FITTED}"
    )
    assert TO_BE_FITTED in run(UNFITTED, "--no-data")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        # What comes after it is judged by what it makes.
        ("log1p: {}", "tail: {count: 1}", "5:52: features[0].ops[1]: "),
        ("r], ops: [{fit_vocabulary", "r], ops: [{fit_normalize", "7:24: features[2].columns[0]: "),
        # Its own type and bounds, and what only a fit would refuse.
        ("MEDIAN", "MEAN", "5:13: features[0].ops[0]: "),
        ("y], ops: [{fit_vocabulary", "y], ops: [{fit_normalize", "6:40: features[1].ops[0]: "),
        ("fit_normalize: {}", "fit_bucketize: {num_buckets: 1}",
         "5:95: features[0].ops[2].fit_bucketize.num_buckets: "),
        ("[{fit_vocabulary: {}}], e", "[{fit_vocabulary: {}}], table: t, e",
         "7:67: features[2].table: "),
        ("r], ops: [{fit_vocabulary: {}}]", "r], ops: [{vocabulary: {integers: [3]}}], table: t",
         "7:76: features[2].table: "),
        ("user", "none", "7:5: features[2]: "),
        # And all the rest.
        ("[label]", "[lable]", "8:23: features[3].columns[0]: "),
    ],
)  # fmt: skip
def test_the_rest_is_checked(run: Callable[..., str], old: str, new: str, found: str) -> None:
    assert old in UNFITTED
    output = run(UNFITTED.replace(old, new))
    assert output.startswith(f"x.yaml:{found}")
    assert "\nx.yaml: 1 mistake\n" in output
