"""Frames with runs hold the same rows as their expansions."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.frame import (
    Bytes,
    Column,
    Flat,
    Frame,
    Jagged,
    Opaque,
    OptionalIds,
    Runs,
    as_lists,
    concat_frames,
    frame_bytes,
    take_rows,
)

Value = int | str | list[int] | None


def flat(values: list[int | None]) -> Flat:
    return Flat(
        np.array([0 if v is None else v for v in values], np.int64),
        np.array([v is not None for v in values], np.bool_),
    )


def strings(values: list[str]) -> Bytes:
    encoded = [value.encode() for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded])]).astype(np.int64)
    return Bytes(offsets, np.frombuffer(b"".join(encoded), np.uint8))


def jagged(lists: list[list[int]]) -> Jagged:
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in lists])]).astype(np.int64)
    return Jagged(offsets, Flat(np.array([v for part in lists for v in part], np.int64)))


def values_of(column: Column) -> list[Value]:
    match column:
        case Flat(values, valid):
            return [
                value if valid is None or valid[i] else None
                for i, value in enumerate(values.tolist())
            ]
        case Bytes(offsets, data, _):
            return [
                data[offsets[i] : offsets[i + 1]].tobytes().decode() for i in range(len(column))
            ]
        case Jagged(offsets, inner):
            assert isinstance(inner, Flat)
            return [inner.values[offsets[i] : offsets[i + 1]].tolist() for i in range(len(column))]
        case Opaque(array):
            return array.to_pylist()  # type: ignore[no-any-return]


def rows_of(frame: Frame) -> list[dict[str, Value]]:
    plain = frame.expanded()
    columns = {name: values_of(column) for name, column in plain.columns.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(plain.row_count)]


row = st.tuples(
    st.none() | st.integers(-5, 5), st.text(max_size=3), st.lists(st.integers(0, 9), max_size=3)
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    runs = draw(st.lists(row, min_size=1, max_size=5))
    inverse = sorted(draw(st.lists(st.integers(0, len(runs) - 1), max_size=12)))
    count = len(inverse)
    rows = draw(st.lists(row, min_size=count, max_size=count))
    columns: dict[str, Column] = {
        "a": flat([r[0] for r in rows]),
        "j": jagged([r[2] for r in rows]),
    }
    scalars: dict[str, Column] = {
        "b": flat([r[0] for r in runs]),
        "s": strings([r[1] for r in runs]),
    }
    lists: dict[str, Column] = {"k": jagged([r[2] for r in runs])}
    of_runs = np.array(inverse, np.int32)
    apart = (Runs(of_runs, lists), Runs(of_runs, scalars))
    structures = [(Runs(of_runs, scalars | lists),), apart, apart[::-1]]
    return Frame(count, columns, draw(st.sampled_from(structures)))


@given(frame=frames(), data=st.data())
def test_taking_rows_of_a_frame_with_runs_is_taking_rows_of_its_expansion(
    frame: Frame, data: st.DataObject
) -> None:
    rows = data.draw(
        st.lists(st.integers(0, frame.row_count - 1)) if frame.row_count else st.just([])
    )
    indices = np.array(rows, np.int64)
    whole = rows_of(frame)
    assert rows_of(frame.take(indices)) == [whole[i] for i in rows]
    assert rows_of(frame.expanded().take(indices)) == [whole[i] for i in rows]
    assert sorted(frame.names()) == ["a", "b", "j", "k", "s"]


@given(parts=st.lists(frames(), min_size=1, max_size=3), data=st.data())
def test_frames_laid_end_to_end_hold_the_rows_of_each(
    parts: list[Frame], data: st.DataObject
) -> None:
    features = []
    for part in parts:
        runs = (
            Runs(run.inverse, {n: c for n, c in run.columns.items() if n != "s"})
            for run in part.runs
        )
        frame = Frame(part.row_count, part.columns, tuple(run for run in runs if run.columns))
        features.append(frame.expanded() if data.draw(st.booleans()) else frame)
    whole = concat_frames(features)
    assert rows_of(whole) == [row for part in features for row in rows_of(part)]
    assert frame_bytes(whole) > 0
    # What all keep once per run stays so, and only that.
    kept = {name for runs in whole.runs for name in runs.columns}
    assert kept == ({"b", "k"} if all(frame.runs for frame in features) else set())
    assert all(np.all(np.diff(runs.inverse) >= 0) for runs in whole.runs)


@given(frame=frames(), data=st.data())
def test_rows_that_are_taken_bring_only_runs_of_their_own(
    frame: Frame, data: st.DataObject
) -> None:
    rows = data.draw(
        st.lists(st.integers(0, frame.row_count - 1)) if frame.row_count else st.just([])
    )
    for runs in frame.take(np.array(rows, np.int64)).runs:
        assert np.all(np.diff(runs.inverse) >= 0)
        for column in runs.columns.values():
            assert set(runs.inverse.tolist()) == set(range(len(column)))
            assert len(column) <= len(rows)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        Frame(0, {}).column("absent")


def test_opaque_columns_are_taken_too() -> None:
    column = Opaque(pa.array([Decimal(1), None, Decimal(3)], pa.decimal128(5, 2)))
    taken = Frame(3, {"d": column}).take(np.array([2, 1])).columns["d"]
    assert [None if v is None else int(str(v).split(".")[0]) for v in values_of(taken)] == [3, None]


def test_optional_ids_stay_so_beside_ids_of_each_row() -> None:
    some, each = np.array([3, -1, 0], np.int32), np.array([5, 2**31 - 1], np.int32)
    optional, empty = OptionalIds(some), Flat(np.empty(0, np.int32))
    for parts in ([optional, Flat(each)], [Flat(each), optional], [empty, optional, empty]):
        frames = [Frame(len(part), {"x": part}) for part in parts]
        ids = np.concatenate([part.values for part in parts])
        everything = [(frame, np.arange(frame.row_count)) for frame in frames]
        for whole in (concat_frames(frames), take_rows(everything)):
            column = whole.columns["x"]
            assert isinstance(column, OptionalIds)
            assert column.values.tolist() == ids.tolist()


@pytest.mark.parametrize(
    "other",
    [
        Flat(np.array([7, -5], np.int32)),
        Flat(np.array([7, 2**40])),
        Jagged(np.array([0, 0, 2]), Flat(np.array([7, 8], np.int32))),
    ],
)
def test_optional_ids_become_lists_beside_what_they_cannot_be(other: Flat | Jagged) -> None:
    optional = OptionalIds(np.array([3, -1, 0], np.int32))
    whole = concat_frames([Frame(3, {"x": optional}), Frame(2, {"x": other})]).columns["x"]
    assert isinstance(whole, Jagged)
    assert values_of(whole) == [[3], [], [0], *values_of(as_lists(other))]
