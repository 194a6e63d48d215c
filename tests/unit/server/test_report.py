"""preprocessor-server describe: what its page says of columns whose facts are known."""

from __future__ import annotations

import datetime
import decimal
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.cli import cli
from preprocessor_server.frame import Bytes, Flat
from preprocessor_server.report import sketches
from preprocessor_server.report.facts import BINS, histogram
from preprocessor_server.report.gather import Report, gather
from preprocessor_server.report.page import report_html
from preprocessor_server.report.sketches import Distinct, Frequent
from preprocessor_server.settings import Settings
from preprocessor_server.transform import arrow_to_column

ROWS = 1_000
HOSTILE = "</style><script>alert('x')</script>&amp;\"<b>"
VOID = {"meta", "rect", "br"}
TABLE = pa.table(
    {
        "user": np.repeat(np.arange(ROWS // 5), 5),
        "price": pa.array([None if i % 4 == 0 else float(i) for i in range(ROWS)]),
        "items": pa.array([None if i == 7 else [i % 3] * (i % 4) for i in range(ROWS)]),
        HOSTILE: pa.array(["<i>&lt;" if i % 10 else 'say "no"' for i in range(ROWS)]),
        "at": pa.array([datetime.date(2026, 1, 1 + i % 28) for i in range(ROWS)]),
        "ns": pa.array(np.arange(ROWS) % 2 + 7, pa.timestamp("ns", "UTC")),
        "never": pa.array([2**62] * ROWS, pa.timestamp("us")),
        "money": pa.array([decimal.Decimal("0.25")] * ROWS, pa.decimal64(9, 2)),
        "nan": pa.array([float("nan"), float("inf")] * (ROWS // 2)),
        "nothing": pa.nulls(ROWS),
        "struct": pa.array([{"a": 1}, None] * (ROWS // 2)),
        "raw": pa.array([b"\xff\x00"] * ROWS),
        "hash": pa.array([2**64 - 1] * ROWS, pa.uint64()),
        "flag": pa.array([True, False] * (ROWS // 2)),
        "n" * 300: pa.array(np.arange(ROWS, dtype=np.float16)),
    }
)


class Page(HTMLParser):
    """Facts of each article, by heading; every element that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.articles: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._current: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in {"src", "srcset"}
            assert name != "href" or str(value).startswith("#c")
        while tag in {"td", "th", "tr", "tbody"} and self.open[-1] in {"td", "th"}:
            # The page leaves out end tags that HTML lets it leave out.
            self.open.pop()
        if tag not in VOID:
            self.open.append(tag)
        if tag == "article":
            self._current = []

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        while tag in {"tr", "table", "thead", "tbody"} and self.open[-1] in {"td", "th", "tr"} - {
            tag
        }:
            self.open.pop()
        assert self.open.pop() == tag
        if tag == "article":
            # Its heading, its type, its facts.
            self.articles[self._current[0]] = self._current[2:]

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        self._current.append(data)

    def fact(self, column: str, name: str) -> str:
        words = self.articles[column]
        return words[words.index(name) + 1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    pq.write_table(TABLE, folder / "rows.parquet", row_group_size=250)
    return folder


def look(root: Path, max_rows: int = 10_000) -> Report:
    parquet = dataset_pb2.ParquetSource(paths=["rows.parquet"])
    spec = dataset_pb2.DatasetSpec(source=dataset_pb2.Source(parquet=parquet))
    return gather(spec, f"rows of {HOSTILE}", Settings(data_root=(root,)), max_rows)


@pytest.fixture(scope="module")
def page(root: Path) -> Page:
    return Page(report_html(look(root)))


def test_a_share_that_is_nearly_nothing_is_no_markup(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([None, *range(20_000)])}), tmp_path / "rows.parquet")
    text = report_html(look(tmp_path, 30_000))
    assert "<td class=n>&lt; 0.01 %<" in text
    assert "< 0.01 %" not in text


def test_the_page_says_what_columns_hold(page: Page) -> None:
    assert list(page.articles) == TABLE.column_names
    assert page.fact("user", "distinct") == "200"
    assert page.fact("user", "mean run") == "5 rows"
    assert page.fact("user", "mean") == "99.5"
    assert page.fact("price", "null") == "250 (25 %)"
    assert page.fact("price", "min") == "1"
    assert page.fact("price", "max") == "999"
    assert page.fact("price", "50 %") == "499"
    assert page.fact("items", "null") == "1 (0.1 %)"
    # Of 1000 lists of 0 to 3 elements a null one has 3.
    assert page.fact("items", "elements") == "1,497"
    assert page.fact("items", "distinct") == "3"
    assert "1970-01-01 00:00:00.000000008Z" in page.articles["ns"]
    assert f"<value out of range: {2**62}>" in page.articles["never"]
    assert "0.25" in page.articles["money"]
    assert page.fact("at", "min") == "2026-01-01"
    assert page.fact("at", "max") == "2026-01-28"
    assert page.fact("nan", "NaN, infinite") == "500, 500"
    assert page.fact("struct", "null") == "500 (50 %)"
    assert page.fact("nothing", "null") == "1,000 (100 %)"
    assert page.fact("hash", "18,446,744,073,709,551,615") == "1,000"
    assert page.fact("raw", "0xff00") == "1,000"
    assert page.fact("flag", "True") == "500"
    assert "All 1,000 rows were read." in " ".join(page.words)
    assert "stored" in page.articles["flag"]


def test_what_files_hold_is_text_and_nothing_else(page: Page) -> None:
    assert page.tags["script"] == page.tags["b"] == 0
    assert page.tags["style"] == 1
    assert page.fact(HOSTILE, '"<i>&lt;"') == "900"
    assert page.fact(HOSTILE, r'"say \"no\""') == "100"
    assert page.words.count(f"rows of {HOSTILE}") == 2


def test_a_part_is_read_and_said(root: Path) -> None:
    report = look(root, max_rows=400)
    assert (report.rows_read, report.parts, report.share_read) == (400, 4, 0.4)
    assert report.columns[0].rows == 400
    page = Page(report_html(report))
    assert "400 rows were read (40 %): the first ones of 4 row groups" in " ".join(page.words)


def test_the_command_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    result = CliRunner().invoke(cli, ["describe", "rows.parquet", "--html", "page.html"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "wrote page.html: 15 columns, 1,000 rows read\n"
    assert list(Page((root / "page.html").read_text()).articles) == TABLE.column_names
    (root / "d.yaml").write_text(
        "source: {parquet: {paths: [rows.parquet]}}\nwhere: user > 5\n"
        "features:\n- dense: {columns: [price], ops: [{fit_normalize: {}}]}\n"
    )
    # Of a dataset that has not been fitted, too.
    result = CliRunner().invoke(cli, ["describe", "d.yaml", "--html", "page.html", "--rows", "100"])
    assert result.stdout == "wrote page.html: 15 columns, 100 rows read\n"
    result = CliRunner().invoke(cli, ["describe", "rows.parquet"])
    assert re.search(r"^user +int64 +0 % +200 +5$", result.stdout, re.MULTILINE)
    result = CliRunner().invoke(cli, ["describe", "none.parquet", "--html", "other.html"])
    assert (result.exit_code, "PATH_NOT_FOUND" in result.stderr) == (1, True)
    result = CliRunner().invoke(cli, ["describe", "rows.parquet", "--json"])
    assert (result.exit_code, "leave it out" in result.stderr) == (2, True)
    assert sorted(path.name for path in root.glob("*.html*")) == ["page.html"]


def test_a_histogram_counts_every_value_once(root: Path) -> None:
    for facts in look(root).columns:
        for numbers in (facts.numbers, facts.lengths, facts.sizes):
            drawn = None if numbers is None else histogram(numbers)
            if drawn is not None:
                assert 1 <= len(drawn.shares) <= BINS
                assert sum(drawn.shares) == pytest.approx(1)


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), max_size=30)),
    st.integers(1, 8),
)
def test_frequent_values_keep_their_error(parts: list[list[int]], kept: int) -> None:
    frequent, exact = Frequent(), Counter(value for part in parts for value in part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketches, "KEPT_VALUES", kept)
        for part in parts:
            frequent.add(pa.array(part, pa.int64()))
    found = dict(frequent.top(100))
    assert len(found) <= kept
    for value, count in exact.items():
        assert count - frequent.error <= found.get(value, 0) <= count
    if not frequent.error:
        assert found == exact


def test_distinct_is_exact_for_few_and_close_for_many() -> None:
    few, many, texts = Distinct(), Distinct(), Distinct()
    for start in range(0, 400_000, 40_000):
        few.add(Flat(np.arange(start, start + 80_000) % 1000 / 8))
        many.add(Flat(np.arange(start, start + 80_000)))
        column = arrow_to_column(pa.array(np.arange(start, start + 80_000)).cast(pa.string()))
        assert isinstance(column, Bytes)
        texts.add(column)
    assert (few.count, few.error) == (1000, 0.0)
    for distinct in (many, texts):
        assert 0.007 < distinct.error < 0.009
        assert distinct.count == pytest.approx(440_000, rel=4 * distinct.error)
