"""The tables of operations and derived columns in docs/ops.md are those that the code gives."""

from __future__ import annotations

import pytest

from docs import generate
from trainer_client import derive, ops


def test_the_tables_are_fresh() -> None:
    text = generate.PAGE.read_text()
    assert generate.write_into(text) == text, "run `make docs`"


@pytest.mark.parametrize("kind", [*ops.ALL, *derive.ALL], ids=lambda kind: kind.__name__)
def test_every_cell_says_something(kind: type[ops.Op | derive.Derived]) -> None:
    assert kind.doc[0].startswith(f"`{kind.__name__}")
    assert all(cell.strip() for cell in kind.doc)


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="put them around a table"):
        generate.write_into("# Operations\n")
    with pytest.raises(ValueError, match="put them around a table"):
        generate.write_into(f"{generate.BEGIN}\n{generate.END}\n")
