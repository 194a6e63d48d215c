"""Random Frames of features, and the same rows kept in other ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from preprocessor_server.encode.batch import Piece
from preprocessor_server.frame import Column, Flat, Frame, Jagged, OptionalIds, Runs, as_lists
from preprocessor_server.kernels import ids_of_lists
from preprocessor_server.runs import find_runs
from tests.fakes.encoder import Rows, encode_schema

DENSE, SPARSE, LABELS = ("d0", "d1", "d2"), ("s0", "s1", "s2", "s3", "s4"), ("l0",)
SPECIAL = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, 1e-40, 0.5, 3e38], np.float32)
# What ids are drawn from: none, one byte, a few wide ones, many wide ones, all of int64.
IDS = {
    "equal": np.array([-3]),
    "small": np.arange(-5, 9),
    "few": np.array([-(2**31), -70_000, 12, 2**20, 2**31 - 1]),
    "many": np.arange(-(2**30), 2**30, 2**20 + 1),
    "extreme": np.array([-(2**63), -1, 0, 2**63 - 1]),
}


@dataclass(frozen=True)
class Group:
    """How adjacent rows repeat: the run of each row [rows]."""

    inverse: npt.NDArray[np.int32]

    @property
    def count(self) -> int:
        return int(self.inverse[-1]) + 1


@st.composite
def groups(draw: st.DrawFn, count: int, rng: np.random.Generator) -> Group:
    """No runs at all, skewed ones, or one giant run."""
    kind = draw(st.sampled_from(["none", "pairs", "skewed", "giant"]))
    lengths = {
        "none": np.ones(count, np.int64),
        "pairs": rng.integers(1, 4, count),
        "skewed": np.minimum(64, rng.zipf(1.4, count)),
        "giant": np.array([count]),
    }[kind]
    return Group(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[:count])


@st.composite
def ids(draw: st.DrawFn, count: int, rng: np.random.Generator) -> Column:
    """A sparse feature: one id a row, at most one, or lists, of int64 or int32."""
    kind = draw(st.sampled_from([*IDS]))
    shape = draw(st.sampled_from(["one", "optional", "lists", "empty", "ones"]))
    if shape == "optional":
        none = rng.random(count) < draw(st.sampled_from([0.0, 0.3, 1.0]))
        values = rng.choice(np.abs(IDS[kind]) & (2**31 - 1), count)
        return OptionalIds(np.where(none, -1, values).astype(np.int32))
    lengths = {
        "lists": rng.choice([0, 1, 1, 2, 7, 40], count),
        "empty": np.zeros(count, np.int64),
    }.get(shape, np.ones(count, np.int64))
    values = rng.choice(IDS[kind], lengths.sum())
    if kind != "extreme" and draw(st.booleans()):
        values = values.astype(np.int32)
    if shape == "one":
        return Flat(values)
    return Jagged(np.append(0, np.cumsum(lengths)), Flat(values))


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Features of rows and of two run structures, user-level and request-level."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.sampled_from([1, 2, 3, 17, 64, 150]))
    requests = draw(groups(count, rng))
    users = draw(groups(requests.count, rng)).inverse[requests.inverse]
    sizes = [count, requests.count, int(users[-1]) + 1]
    columns: list[dict[str, Column]] = [{}, {}, {}]
    for name in (*DENSE, *LABELS):
        level = draw(st.integers(0, 2))
        columns[level][name] = Flat(rng.choice(SPECIAL, sizes[level]))
    for name in SPARSE:
        level = draw(st.integers(0, 2))
        columns[level][name] = draw(ids(sizes[level], rng))
    inverses = (requests.inverse, users)
    runs = tuple(
        Runs(inverse, held) for inverse, held in zip(inverses, columns[1:], strict=True) if held
    )
    return Frame(count, columns[0], runs)


def other_form(frame: Frame, form: str) -> Frame:
    """The same rows, kept in another way."""
    match form:
        case "as it is":
            return frame
        case "expanded":
            return frame.expanded()
        case "found":
            return find_runs(frame.expanded())
        case "lists":
            return _each(frame, as_lists)
        case "ids":
            return _each(frame, _as_ids)
        case "optional":
            return _each(frame, _as_optional)
        case "int64":
            return _each(frame, lambda column: _typed(column, np.dtype(np.int64)))
        case _:
            return _each(frame, _narrow)


FORMS = ["as it is", "expanded", "found", "lists", "ids", "optional", "int64", "int32"]


def _each(frame: Frame, change: Any) -> Frame:
    def changed(columns: Any) -> dict[str, Column]:
        return {name: change(c) if name in SPARSE else c for name, c in columns.items()}

    runs = tuple(Runs(runs.inverse, changed(runs.columns)) for runs in frame.runs)
    return Frame(frame.row_count, changed(frame.columns), runs)


def _as_ids(column: Column) -> Column:
    """Flat where every row has one id."""
    if isinstance(column, Jagged) and np.all(np.diff(column.offsets) == 1):
        return column.values
    return column


def _as_optional(column: Column) -> Column:
    """OptionalIds where no row has several ids or a negative one, and all are narrow."""
    lists = as_lists(_narrow(column))
    values = _values(lists)
    ids = ids_of_lists(lists.offsets, values) if values.dtype == np.int32 else None
    return column if ids is None else OptionalIds(ids)


def _narrow(column: Column) -> Column:
    column = as_lists(column) if isinstance(column, OptionalIds) else column
    values = _values(column)
    narrow = values.astype(np.int32)
    return _typed(column, narrow.dtype) if np.array_equal(values, narrow) else column


def _typed(column: Column, dtype: np.dtype[Any]) -> Column:
    column = as_lists(column) if isinstance(column, OptionalIds) else column
    values = Flat(_values(column).astype(dtype))
    return Jagged(column.offsets, values) if isinstance(column, Jagged) else values


def _values(column: Column) -> npt.NDArray[Any]:
    flat = column.values if isinstance(column, Jagged) else column
    assert isinstance(flat, Flat)
    return flat.values


def rows_of(frame: Frame, wanted: Sequence[int]) -> Rows:
    """The rows of the given numbers, feature by feature."""
    columns = frame.expanded().columns

    def numbers(name: str) -> Any:
        return _values(columns[name])[list(wanted)]

    def lists(name: str) -> list[list[int]]:
        column = as_lists(columns[name])
        values, offsets = _values(column), column.offsets
        return [values[offsets[row] : offsets[row + 1]].tolist() for row in wanted]

    return Rows(
        {name: numbers(name) for name in DENSE},
        {name: lists(name) for name in SPARSE},
        {name: numbers(name) for name in LABELS},
    )


SCHEMA = encode_schema(
    Rows(
        {name: [0.0] for name in DENSE},
        {name: [[0]] for name in SPARSE},
        {name: [0.0] for name in LABELS},
    )
)


@st.composite
def orders(draw: st.DrawFn, count: int) -> list[int]:
    """Rows of a batch: a range of them, stretches as a shuffle leaves them, or any."""
    row = st.integers(0, count - 1)
    stretch = st.tuples(row, row).map(lambda pair: list(range(min(pair), max(pair) + 1)))
    stretches = draw(st.lists(stretch, min_size=1, max_size=4))
    if draw(st.booleans()):
        return draw(st.lists(row, min_size=1, max_size=20))
    return [row for rows in stretches for row in rows]


def whole(frame: Frame) -> Piece:
    return Piece(frame, np.arange(frame.row_count))
