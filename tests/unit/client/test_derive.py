"""Builders of derived columns: what they say of mistakes, and both forms of a dataset."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from trainer_client import Dataset, InvalidDatasetError, Sparse, derive, parquet
from trainer_client.derive.choose import COMPARISONS
from trainer_client.derive.times import UNITS

NAMES = st.text("abc*_ü:#'\" -", min_size=1)
CONSTANTS = (
    st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | st.text("abc\n:' ")
)
UNIT = st.sampled_from(UNITS)
DERIVED = st.one_of(
    st.builds(
        derive.Cross,
        NAMES,
        st.lists(NAMES, min_size=2, max_size=4),
        st.integers(1, 1 << 32),
        st.integers(0, (1 << 64) - 1),
    ),
    st.builds(
        derive.TimeSince,
        NAMES,
        NAMES,
        NAMES,
        UNIT,
        st.booleans(),
        st.none() | UNIT,
        st.none() | UNIT,
    ),
    st.builds(
        derive.Mask,
        NAMES,
        NAMES,
        NAMES,
        st.sampled_from(COMPARISONS),
        st.lists(CONSTANTS, min_size=1, max_size=1),
    ),
    st.builds(derive.Mask, NAMES, NAMES, NAMES, st.just("equal"), st.lists(CONSTANTS, min_size=2)),
    st.builds(derive.TopK, NAMES, NAMES, NAMES, st.integers(1, (1 << 31) - 1)),
)
# What no builder takes.
WRONG: Any = b"wrong"


@given(st.lists(DERIVED, max_size=3))
def test_round_trips(columns: list[derive.Derived]) -> None:
    dataset = Dataset(parquet("x"), [Sparse("*")], derive=columns)
    assert dataset.derive == tuple(columns)
    assert Dataset.from_proto(dataset.to_proto()) == dataset
    assert Dataset.from_yaml(dataset.to_yaml()) == dataset
    assert hash(dataset) == hash(Dataset.from_proto(dataset.to_proto()))


def test_every_kind_of_the_contract_has_a_builder() -> None:
    kinds = dataset_pb2.Derived.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert [kind.proto_field for kind in derive.ALL] == [field.name for field in kinds]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: derive.Cross("", ["a", "b"], 9), "Cross name is ''"),
        (lambda: derive.Cross("x", "ab", 9), "give a list of column names"),
        (lambda: derive.Cross("x", ["a"], 9), "has 1 columns: give from 2 to 64"),
        (lambda: derive.Cross("x", ["a", WRONG], 9), r"columns\[1\] is b'wrong'"),
        (lambda: derive.Cross("x", ["a", "b"], 0), "Cross num_buckets"),
        (lambda: derive.Cross("x", ["a", "b"], 1, -1), "Cross seed"),
        (lambda: derive.TimeSince("x", "", "b", "day"), "TimeSince column is ''"),
        (lambda: derive.TimeSince("x", "a", "b", "hours"), "did you mean 'hour'"),
        (lambda: derive.TimeSince("x", "a", "b", "day", column_unit="ms"), "column_unit is 'ms'"),
        (lambda: derive.TimeSince("x", "a", "b", "day", whole_units=WRONG), "whole_units"),
        (lambda: derive.Mask("x", "a", WRONG, "equal", [1]), "Mask by is b'wrong'"),
        (lambda: derive.Mask("x", "a", "b", "greater_than", [1]), "did you mean 'greater'"),
        (lambda: derive.Mask("x", "a", "b", "equal", "click"), "values is 'click': give a list"),
        (lambda: derive.Mask("x", "a", "b", "equal", []), "give at least one"),
        (lambda: derive.Mask("x", "a", "b", "equal", [True]), r"values\[0\] is True"),
        (lambda: derive.Mask("x", "a", "b", "equal", [float("nan")]), r"values\[0\] is NaN"),
        (lambda: derive.Mask("x", "a", "b", "less", [1, 2]), "'less' takes one"),
        (lambda: derive.TopK("x", "a", "b", 0), "TopK count"),
        (lambda: Dataset(parquet("x"), [Sparse("a")], derive=[WRONG]), r"derive\[0\] is b'wrong'"),
    ],
)
def test_builders_name_what_is_wrong(build: Any, message: str) -> None:
    with pytest.raises(InvalidDatasetError, match=message):
        build()


@pytest.mark.parametrize(
    ("derived", "message"),
    [
        ({"name": "x"}, r"derive\[0\]: no kind is given: one of cross"),
        (
            {"name": "x", "time_since": {"column": "a", "event_time": "b"}},
            r"derive\[0\]: .* unit is ''",
        ),
        (
            {"name": "x", "mask": {"column": "a", "by": "b", "comparison": 1, "values": [{}]}},
            r"derive\[0\]: Mask 'x' values\[0\] is empty",
        ),
    ],
)
def test_messages_that_are_none_are_refused(derived: Any, message: str) -> None:
    spec = Dataset(parquet("x"), [Sparse("a")]).to_proto()
    spec.derive.append(dataset_pb2.Derived(**derived))
    with pytest.raises(InvalidDatasetError, match=message):
        Dataset.from_proto(spec)
