"""Where the counts of grouped files come from, and what becomes of promises that are not kept."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessor_server.errors import DataError
from preprocessor_server.source.footer import FooterCache
from preprocessor_server.source.inner_rows import count_inner_rows
from preprocessor_server.source.leaves import leaves_of
from preprocessor_server.source.nesting import RowColumn, RowSchema
from preprocessor_server.source.paths import NamedFile

# Two row groups: of 3 and 2 Parquet rows.
FULL = [[1, 2], [3], [4, 5, 6], [7], [8, 9]]
GAPS = [[1, None], None, [4, 5, 6], [], [8, 9]]
TAGS = [[["a"], []], None, [["b"], None, []], [], [[], ["c"]]]


def write(path: Path, metadata: object = None, **columns: Any) -> NamedFile:
    table = pa.table(dict(columns))
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table, row_group_size=3)
        if metadata is not None:
            text = metadata if isinstance(metadata, str) else json.dumps(metadata)
            writer.add_key_value_metadata({"headrace.row_group_rows": text})
    return NamedFile(path.name, path)


def count(file: NamedFile, *names: str) -> list[int]:
    footer = FooterCache().read(file)
    columns = RowSchema(
        tuple(
            RowColumn(name, footer.schema.field(name).type.value_type, name, in_lists=True)
            for name in names
        ),
        grouped=True,
    )
    leaves = leaves_of(file.name, footer.schema, footer.metadata, columns)
    return count_inner_rows(file, footer, leaves)


def damaged(file: NamedFile) -> NamedFile:
    """The file with every byte of its pages changed, and its footer whole."""
    content = bytearray(file.real.read_bytes())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    content[4 : len(content) - footer] = bytes(len(content) - footer - 4)
    file.real.write_bytes(content)
    return file


@pytest.mark.parametrize("names", [("gaps",), ("tags",), ("gaps", "tags")])
def test_rows_are_counted_where_nothing_tells_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    file = write(tmp_path / "x.parquet", gaps=GAPS, tags=TAGS)
    assert count(file, *names) == [5, 2]
    with pytest.raises(DataError, match=r"'x.parquet', row group 0: a page cannot be decoded"):
        count(damaged(file), *names)


def test_a_column_without_nulls_proves_its_count(tmp_path: Path) -> None:
    file = damaged(write(tmp_path / "x.parquet", full=FULL, other=FULL))
    assert count(file, "full") == [6, 3]


def test_metadata_is_believed(tmp_path: Path) -> None:
    file = damaged(write(tmp_path / "x.parquet", [5, 2], gaps=GAPS, tags=TAGS))
    assert count(file, "gaps", "tags") == [5, 2]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([5], "is not a list of 2 counts, one a row group"),
        ([5, -2], "is not a list of 2 counts"),
        ([5, True], "is not a list of 2 counts"),
        ({"a": 1}, "is not a list of 2 counts"),
        ("5, 2", "is not a list of 2 counts"),
        ([5, 0], "row group 1: its metadata .* promises 0 rows, but its lists hold from 1 to 3"),
        ([7, 2], "row group 0: its metadata .* promises 7 rows, but its lists hold from 3 to 6"),
    ],
)
def test_metadata_that_the_footer_contradicts_is_refused(
    tmp_path: Path, metadata: object, words: str
) -> None:
    file = write(tmp_path / "x.parquet", metadata, gaps=GAPS)
    with pytest.raises(DataError, match=words) as caught:
        count(file, "gaps")
    assert caught.value.reason == "FILE_CORRUPT"
    assert "may have been copied from another file" in caught.value.message


def test_files_without_rows(tmp_path: Path) -> None:
    assert (
        sum(count(write(tmp_path / "x.parquet", full=pa.array([], pa.list_(pa.int8()))), "full"))
        == 0
    )
