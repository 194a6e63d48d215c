"""What is kept for others: a window in bytes, and row groups of which several want parts."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from preprocessor_server.budget import MemoryBudget
from preprocessor_server.catalog import BoundDataset, Catalog
from preprocessor_server.kept import KeptValues, KeptWindow
from preprocessor_server.plan.identity import Split
from preprocessor_server.settings import Settings
from tests.fakes.grouped import ROW_LEVEL, write_layout
from trainer_client import Dataset, Label, Sparse, parquet

MIB = 1 << 20


def sized(value: bytes) -> int:
    return len(value)


def test_the_oldest_goes_first() -> None:
    budget = MemoryBudget(100)
    window = KeptWindow(budget, 50)
    mine: dict[str, int] = {}
    other: dict[str, int] = {}
    for number, (owner, size) in enumerate([(mine, 20), (other, 20), (mine, 20), (other, 51)]):
        window.put(owner, str(number), number, size)
    # The last is larger than all that may be kept; the third took the place of the first.
    assert (mine, other) == ({"2": 2}, {"1": 1})
    assert (window.used, budget.used) == (40, 40)


def test_who_needs_memory_goes_before_what_is_kept() -> None:
    budget = MemoryBudget(100)
    window = KeptWindow(budget, 60)
    owner: dict[int, int] = {}
    for number in range(3):
        window.put(owner, number, number, 20)
    lease = budget.open(lambda: 0)
    assert lease.try_acquire(70)
    assert owner == {2: 2}
    assert lease.try_acquire(30)
    assert owner == {}
    assert (window.used, budget.used) == (0, 100)
    assert not lease.try_acquire(1)


def test_a_value_is_made_once_for_all_who_wait_for_it() -> None:
    budget = MemoryBudget(100)
    values: KeptValues[bytes] = KeptValues(KeptWindow(budget, 60))
    begun, go = threading.Event(), threading.Event()

    def make() -> bytes:
        assert not begun.is_set()
        begun.set()
        assert go.wait(10)
        return b"x" * 30

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(values.get, "key", 60, make, sized)
        assert begun.wait(10)
        assert budget.used == 60
        others = [pool.submit(values.get, "key", 60, make, sized) for _ in range(2)]
        go.set()
        found = [each.result(10) for each in (first, *others)]
    assert found == [b"x" * 30] * 3
    assert budget.used == 30


def test_what_cannot_be_made_is_told_to_all_and_tried_again() -> None:
    budget = MemoryBudget(100)
    values: KeptValues[bytes] = KeptValues(KeptWindow(budget, 60))

    def fail() -> bytes:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        values.get("key", 60, fail, sized)
    assert budget.used == 0
    assert values.get("key", 60, lambda: b"x", sized) == b"x"
    # No room: nothing is made.
    assert values.get("other", 61, fail, sized) is None
    assert budget.open(lambda: 0).try_acquire(99)
    assert values.get("other", 60, fail, sized) is None


def bound(tmp_path: Path, layout: str) -> tuple[Catalog, BoundDataset]:
    write_layout(tmp_path / "rows", layout)
    rows: dict[str, Any] = {
        "lists": {"rows": list(ROW_LEVEL)},
        "struct": {"rows": ["impressions"]},
    }.get(layout, {})
    dataset = Dataset(
        source=parquet("rows", **rows),
        features=[Sparse("history"), Sparse("request"), Label("label")],
    )
    catalog = Catalog(Settings(data_root=(tmp_path,)))
    return catalog, catalog.describe(dataset.to_proto())


@pytest.mark.parametrize("layout", ["clustered", "lists", "struct"])
def test_parts_of_a_row_group_are_the_same_kept_or_not(tmp_path: Path, layout: str) -> None:
    catalog, dataset = bound(tmp_path, layout)
    window = KeptWindow(MemoryBudget(64 * MIB), 32 * MIB)
    full = KeptWindow(MemoryBudget(64 * MIB), 100)
    kept, without = catalog.reader.sharing(window), catalog.reader.sharing(full)
    for group in range(dataset.snapshot.message.files[0].row_group_count):
        rows = int(dataset.snapshot.row_groups.parquet_rows[group])
        cuts = sorted({0, min(1, rows), rows // 3, rows // 2, rows})
        for first, last in itertools.pairwise(cuts):
            split = Split(0, group, first, last - first)
            expected = catalog.reader.read(dataset.snapshot, split, dataset.columns)
            for reader in (kept, without):
                found = reader.read(dataset.snapshot, split, dataset.columns)
                assert found.rows.equals(expected.rows)
                assert found.parquet_rows.equals(expected.parquet_rows)
                if expected.lengths is not None:
                    assert pa.array(found.lengths).equals(pa.array(expected.lengths))
    assert window.used > 0 == full.used
    catalog.close()
