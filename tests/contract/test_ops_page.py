"""The table of operations in docs/ops.md is the one that the code gives."""

from __future__ import annotations

import pytest

from docs import generate
from trainer_client.ops import ALL, Op


def test_the_table_is_fresh() -> None:
    text = generate.PAGE.read_text()
    assert generate.write_into(text) == text, "run `make docs`"


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.__name__)
def test_every_cell_says_something(op: type[Op]) -> None:
    assert op.doc.operation.startswith(f"`{op.__name__}")
    assert all(cell.strip() for cell in op.doc)


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="put them around a table"):
        generate.write_into("# Operations\n")
