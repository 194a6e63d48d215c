"""Frames whose columns are kept by rows and by runs of several kinds, and their plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Column, Flat, Frame, Jagged, Runs
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.column_type import column_type
from preprocessor_server.transform.derive import bind_derived, derive
from tests.fakes.one_op import read, value_of
from trainer_client.derive import Derived

_ROWS = "rows"


@dataclass(frozen=True)
class Kind:
    """A column to draw: its Arrow type, and values of it; lists are drawn where it is a list."""

    arrow: pa.DataType
    value: st.SearchStrategy[Any]

    @property
    def is_list(self) -> bool:
        return bool(pa.types.is_list(self.arrow))


@dataclass(frozen=True)
class Drawn:
    """A Frame, the same columns as values a row, and the place in which each is kept."""

    frame: Frame
    rows: dict[str, list[Any]]
    places: dict[str, str]
    schema: pa.Schema


@st.composite
def frames(draw: st.DrawFn, kinds: Mapping[str, Kind]) -> Drawn:
    """Frames of columns, lists of which are aligned; each run structure has a run of no row.

    Lists are kept by rows, by records or by stretches of them; single values also by runs that have
    nothing to do with those. In the run of no row lists are not aligned.
    """
    count = draw(st.integers(0, 9))
    changes = st.lists(st.booleans(), min_size=count, max_size=count)
    records = _numbers(draw(changes))
    starts = {
        "records": records,
        "stretches": _numbers(np.diff(records, prepend=-1) | np.array(draw(changes), np.int64)),
        "others": _numbers(draw(changes)),
    }
    lengths = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    rows: dict[str, list[Any]] = {}
    of_rows: dict[str, Column] = {}
    of_runs: dict[str, dict[str, Column]] = {}
    places: dict[str, str] = {}
    for number, (name, kind) in enumerate(kinds.items()):
        place = draw(st.sampled_from([_ROWS, *starts][: 3 if kind.is_list else 4]))
        inverse = np.arange(count) if place == _ROWS else starts[place]
        runs = int(inverse.max(initial=-1)) + 1
        value = st.none() | kind.value if draw(st.booleans()) else kind.value
        if kind.is_list:
            wanted = [lengths[records[int(np.argmax(inverse == run))]] for run in range(runs)]
            held: list[Any] = [
                draw(st.lists(value, min_size=each, max_size=each)) for each in wanted
            ]
            held = [draw(st.sampled_from([each, each or None])) for each in held]
            unseen: Any = [draw(kind.value)] * number
        else:
            held, unseen = [draw(value) for _ in range(runs)], draw(value)
        kept = pa.array([*held, unseen] if place != _ROWS else held, kind.arrow)
        plain = [[] if each is None and kind.is_list else each for each in value_of(kept)]
        rows[name] = [plain[run] for run in inverse]
        places[name] = place
        target = of_rows if place == _ROWS else of_runs.setdefault(place, {})
        target[name] = arrow_to_column(kept)
    kept_runs = (
        Runs(starts[place].astype(np.int32), columns) for place, columns in of_runs.items()
    )
    schema = pa.schema([pa.field(name, kind.arrow) for name, kind in kinds.items()])
    return Drawn(Frame(count, of_rows, tuple(kept_runs)), rows, places, schema)


def made(drawn: Drawn, *columns: Derived) -> list[Any]:
    """What the last of some derived columns holds, a value a row; the same as from rows alone.

    It has the type that was promised, and is kept where its inputs are if they are kept together.
    """
    spec = dataset_pb2.DatasetSpec(derive=[column.to_proto() for column in columns])
    bound = bind_derived(spec, drawn.schema)
    assert bound.faults == ()
    frame = derive(bound.columns, drawn.frame)
    last = bound.columns[-1]
    column, runs = frame.locate(last.name)
    _check_type(column, last.type)
    used = {drawn.places.get(name) for name in last.inputs}
    if len(used) == 1 and None not in used:
        beside = frame.locate(last.inputs[0])[1]
        assert runs is beside
    elif _ROWS in used:
        assert runs is None
    found = read(frame.expanded().columns[last.name])
    plainly = derive(bound.columns, drawn.frame.expanded())
    assert repr(read(plainly.columns[last.name])) == repr(found)
    return found


def _check_type(column: Column, arrow: pa.DataType) -> None:
    promised = column_type(arrow)
    assert promised is not None
    assert isinstance(column, Jagged) == promised.is_list
    values = column.values if isinstance(column, Jagged) else column
    if isinstance(values, Flat) and promised.dtype is not None:
        assert values.values.dtype == promised.dtype


def _numbers(changes: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of the run of each row, of which some start one."""
    starts = np.array(changes, np.bool_)
    starts[:1] = True
    return np.cumsum(starts) - 1


def by_row(drawn: Drawn, *names: str) -> list[tuple[Any, ...]]:
    """The values of some columns, row by row."""
    return list(zip(*(drawn.rows[name] for name in names), strict=True))
