"""check tells mistakes in derived columns once, with their places."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from preprocessor_server.cli import cli

DERIVED = """\
source: {parquet: {paths: [rows.parquet]}}
where: crossed > 1
derive:
  - name: crossed
    cross: {columns: [user_id, contry], num_buckets: 10}
  - name: again
    cross: {columns: [user_id, crossed], num_buckets: 10}
  - name: again
    mask: {column: history, by: history, comparison: COMPARISON_LESS, values: [{text: x}]}
  - name: aged
    time_since: {column: age, event_time: user_id, unit: TIME_UNIT_FORTNIGHT}
  - name: kept
    mask: {column: history, by: history, comparison: COMPARISON_LESS, values: [{text: x}]}
features:
  - sparse: {columns: [again, crossed, agian], ops: [{tail: {count: 1}}]}
  - label: {columns: [label]}
"""
MISTAKES = """\
x.yaml:2:8: where: column 'crossed' is derived, which is done after the filter, on the rows that \
it keeps; filter by the columns that it is made of, or make it by a UDF, which comes before
x.yaml:5:32: derive[0].cross.columns[1]: 'contry' is no column; did you mean 'country'?
x.yaml:8:11: derive[2].name: an earlier derived column has a column 'again' already; give the \
derived column another name
x.yaml:11:58: derive[3].time_since.unit: it is 'TIME_UNIT_FORTNIGHT'; give one of \
TIME_UNIT_NANOSECOND, TIME_UNIT_MICROSECOND, TIME_UNIT_MILLISECOND, TIME_UNIT_SECOND, \
TIME_UNIT_MINUTE, TIME_UNIT_HOUR, TIME_UNIT_DAY
x.yaml:13:80: derive[4].mask.values[0]: derived column 'kept' (derive[4]) Mask: column 'history' \
is list<element: int64>; the value 'x' is no int64; give one that is
x.yaml:15:40: features[0].columns[2]: 'agian' matches no column of the source; did you mean 'again'?
x.yaml: 6 mistakes
"""


def test_derived_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {"user_id": [1], "country": ["de"], "age": [1.5], "history": [[1, 2]], "label": [0]}
    pq.write_table(pa.table(rows), "rows.parquet")
    Path("x.yaml").write_text(DERIVED)
    result = CliRunner().invoke(cli, ["check", "x.yaml"])
    assert result.exit_code == 1
    assert result.output.partition("  checked")[0] == MISTAKES
