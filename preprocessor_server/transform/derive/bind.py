"""Derived columns bound to the columns of a schema, in order; or all that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform.column_type import column_type
from preprocessor_server.transform.derive.base import Input, UnfitInputError
from preprocessor_server.transform.derive.kinds import RULES, derived_faults, kind_title
from preprocessor_server.transform.derive.made import DerivedColumn
from preprocessor_server.transform.invalid import invalid, name_fault, shorten


@dataclass(frozen=True, slots=True)
class Derivation:
    """The derived columns of a dataset, and a schema that has them behind all other columns.

    unsound are those at fault, of which the schema has the names only.
    """

    columns: tuple[DerivedColumn, ...]
    schema: pa.Schema
    unsound: frozenset[str]
    faults: tuple[DatasetError, ...]


def bind_derived(spec: dataset_pb2.DatasetSpec, schema: pa.Schema) -> Derivation:
    """Binds a dataset's derived columns to a schema that has all other columns of its rows.

    Faults are DatasetError: DATASET_INVALID for a name that there is already, FEATURE_UNMATCHED for
    an input that there is not, TYPE_UNFIT for one that does not fit the kind. Columns with a fault
    that derived_faults gives, and those made of columns at fault, are unsound without another one.
    """
    columns: list[DerivedColumn] = []
    faults: list[DatasetError] = []
    unsound: set[str] = set()
    origin = dict.fromkeys(schema.names, "the source or a function")
    for index, derived in enumerate(spec.derive):
        path = f"dataset.derive[{index}]"
        if derived.name in origin:
            faults.append(
                invalid(
                    f"{path}.name",
                    f"{origin[derived.name]} has a column {derived.name!r} already; give the "
                    "derived column another name",
                )
            )
            continue
        made: DerivedColumn | None = None
        if next(derived_faults(derived, path), None) is None:
            for found in _bind(derived, path, schema, unsound):
                if isinstance(found, DatasetError):
                    faults.append(found)
                else:
                    made = found
        if not derived.name:
            continue
        if made is None:
            unsound.add(derived.name)
        else:
            columns.append(made)
        schema = schema.append(pa.field(derived.name, pa.null() if made is None else made.type))
        origin[derived.name] = "an earlier derived column"
    return Derivation(tuple(columns), schema, frozenset(unsound), tuple(faults))


def _bind(
    derived: dataset_pb2.Derived, path: str, schema: pa.Schema, unsound: set[str]
) -> Iterator[DerivedColumn | DatasetError]:
    """A derived column, or all that is wrong with its inputs; nothing if those are at fault."""
    kind = derived.WhichOneof("kind")
    assert kind is not None
    message, rule = getattr(derived, kind), RULES[kind]
    title = f"derived column {derived.name!r} ({shorten(path)})"
    inputs: list[Input] = []
    named = rule.inputs(message)
    for name, part in named:
        field = f"{path}.{kind}.{part}"
        fault = name_fault(field, name, schema.names)
        if fault is not None:
            yield fault
        elif name not in unsound:
            arrow = schema.field(name).type
            known = column_type(arrow)
            if known is None:
                yield DatasetError(
                    "TYPE_UNFIT",
                    f"{title}: column {name!r} is {arrow}, of which no column can be derived; "
                    "write the part of it that is wanted as a column of its own",
                    field=field,
                )
            else:
                inputs.append(Input(name, field, known))
    if len(inputs) < len(named):
        return
    try:
        compute, arrow = rule.compile(message, inputs)
    except UnfitInputError as error:
        column = error.column
        yield DatasetError(
            "TYPE_UNFIT",
            f"{title} {kind_title(derived)}: column {column.name!r} is {column.type.name}; {error}",
            field=f"{path}.{kind}.{error.field}" if error.field else column.field,
        )
        return
    names = tuple(column.name for column in inputs)
    yield DerivedColumn(derived.name, title, arrow, names, compute)
