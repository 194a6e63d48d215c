"""Grouped files: columns whose lists hold one element a row, and the columns that rows have."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError, DatasetError, raising

_FIELD = "dataset.source.parquet.rows"
# The operations that take a list a row and give one value.
_NUMBER_OF_LIST = frozenset({"list_length", "list_aggregate"})


@dataclass(frozen=True, slots=True)
class RowColumn:
    """A column of the rows: its name, the type of its value in a row, and where the files have it.

    source is the column of the files. in_lists says that its lists hold one element a row; field
    is then the field of these elements, None if the element is the value.
    """

    name: str
    type: pa.DataType
    source: str
    in_lists: bool = False
    field: str | None = None

    @property
    def measured_name(self) -> str:
        """The column as Snapshot.measured_columns names it."""
        lists = f"{self.source}[]" if self.in_lists else self.source
        return lists if self.field is None else f"{lists}.{self.field}"


@dataclass(frozen=True)
class RowSchema:
    """The columns of the rows, in the order of the files' schema.

    grouped says that a Parquet row holds any number of rows: some columns are in lists.
    """

    columns: tuple[RowColumn, ...]
    grouped: bool

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the rows."""
        return pa.schema([pa.field(column.name, column.type) for column in self.columns])

    def select(self, names: Collection[str]) -> RowSchema:
        """The named columns; in grouped files also a cheap one in lists, if none is named."""
        chosen = tuple(column for column in self.columns if column.name in names)
        if self.grouped and not any(column.in_lists for column in chosen):
            # The lengths of its lists say how many rows there are.
            in_lists = [column for column in self.columns if column.in_lists]
            return self.select({*names, min(in_lists, key=_read_cost).name})
        return RowSchema(chosen, self.grouped)


def resolve_rows(spec: dataset_pb2.DatasetSpec, schema: pa.Schema) -> RowSchema:
    """The columns of a dataset's rows, from the schema of its files.

    Raises DatasetError (DATASET_INVALID) if the source's rows do not fit the schema, or if nothing
    shows whether the files are grouped.
    """
    return next(raising(bind_rows(spec, schema)))


def bind_rows(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema
) -> Iterator[RowSchema | DatasetError]:
    """The columns of a dataset's rows, or all that resolve_rows refuses."""
    patterns = spec.source.parquet.rows
    named = {name for pattern in patterns for name in _matches(pattern, schema.names)}
    try:
        grouped = bool(patterns) and _is_grouped(spec, schema, named)
    except DatasetError as error:
        yield error
        return
    if not grouped:
        flat = (RowColumn(field.name, field.type, field.name) for field in schema)
        yield RowSchema(tuple(flat), grouped=False)
        return
    faults = [*_unfit_patterns(patterns, schema)]
    if faults:
        yield from faults
        return
    columns = tuple(column for field in schema for column in _columns(field, named))
    for name, times in Counter(column.name for column in columns).items():
        clash = [column for column in columns if column.name == name and column.field is not None]
        if times > 1 and clash:
            faults.append(
                _invalid(
                    f"field {name!r} in the lists of {clash[0].source!r} has the name of another "
                    "column of the rows; rename one of them in the files"
                )
            )
    yield from faults
    if not faults:
        yield RowSchema(columns, grouped=True)


def _unfit_patterns(patterns: Sequence[str], schema: pa.Schema) -> Iterator[DatasetError]:
    """What is wrong with the rows of a source whose files are grouped."""
    for index, pattern in enumerate(patterns):
        matched = _matches(pattern, schema.names)
        if not matched:
            yield _invalid(
                f"{pattern!r} names no column of these grouped files; "
                + _suggest(pattern, schema.names),
                index,
            )
        for name in matched:
            if not is_list(schema.field(name).type):
                yield _invalid(
                    f"{pattern!r} names column {name!r}, which is {schema.field(name).type}, among "
                    "others that are lists with one element a row; leave it out (a column with "
                    "one value a Parquet row holds for all its rows)",
                    index,
                )


def check_columns(name: str, schema: pa.Schema, expected: RowSchema, first: str) -> None:
    """Raises DataError unless a file has every expected column, with the very same type.

    first names the file whose types are expected.
    """
    for column in expected.columns:
        title, found = _find(name, schema, column, first)
        if found != column.type:
            raise DataError(
                "COLUMN_TYPE_MISMATCH",
                f"{title} is {found} in file {name!r}, but {column.type} in {first!r}; rewrite "
                "one of them",
            )


def is_list(kind: pa.DataType) -> bool:
    """Whether the values of a type are lists, of whatever length."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_grouped(spec: dataset_pb2.DatasetSpec, schema: pa.Schema, named: set[str]) -> bool:
    """Whether the lists of the named columns hold one element a row.

    A dense feature or a label takes one number a row: where it is a list, that is a list of rows,
    unless an operation makes a number of it.
    """
    numbers = _number_columns(spec, schema.names)
    if not named:
        if any(not is_list(schema.field(name).type) for name in numbers):
            return False
        pattern = spec.source.parquet.rows[0]
        raise _invalid(
            f"{pattern!r} names no column, and no dense feature or label shows that the files hold "
            f"one row a Parquet row; {_suggest(pattern, schema.names)}; leave rows out if no file "
            "is grouped",
            0,
        )
    kinds = {name: schema.field(name).type for name in schema.names if name in named}
    if any(is_list(kind) and pa.types.is_struct(kind.value_type) for kind in kinds.values()):
        return True
    deciding = {name: kinds[name] for name in kinds if name in numbers} or kinds
    lists = [name for name, kind in deciding.items() if is_list(kind)]
    if lists and len(lists) < len(deciding):
        single = next(name for name in deciding if name not in lists)
        raise _invalid(
            f"column {lists[0]!r} is {kinds[lists[0]]}, column {single!r} is {kinds[single]}: of "
            "the columns that rows names either all hold a list with one element a row, or all "
            "one value; leave one of the two out"
        )
    return bool(lists)


def _number_columns(spec: dataset_pb2.DatasetSpec, names: Sequence[str]) -> set[str]:
    """The columns of dense features and labels that take one number a row as it is read."""
    found: set[str] = set()
    for feature in spec.features:
        kind = feature.WhichOneof("kind")
        if kind in {"dense", "label"}:
            part = getattr(feature, kind)
            if any(op.WhichOneof("op") in _NUMBER_OF_LIST for op in part.ops):
                continue
            for pattern in part.columns:
                found.update(_matches(pattern, names))
    return found


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    if pattern in names:
        return [pattern]
    return [name for name in names if fnmatchcase(name, pattern)]


def _columns(field: pa.Field, named: set[str]) -> Iterable[RowColumn]:
    """The columns of the rows that a column of grouped files makes."""
    if field.name not in named:
        return [RowColumn(field.name, field.type, field.name)]
    element = field.type.value_type
    if not pa.types.is_struct(element):
        return [RowColumn(field.name, element, field.name, in_lists=True)]
    return [
        RowColumn(part.name, part.type, field.name, in_lists=True, field=part.name)
        for part in element
    ]


def _find(name: str, schema: pa.Schema, column: RowColumn, first: str) -> tuple[str, pa.DataType]:
    """What to call a column, and its type in a file."""
    title = f"column {column.source!r}"
    kind = _only(name, schema, column.source, title, column, first)
    if column.in_lists:
        if not is_list(kind):
            raise DataError(
                "COLUMN_TYPE_MISMATCH",
                f"{title} is {kind} in file {name!r}, but in {first!r} a list with one element a "
                "row; grouped and flat files make datasets of their own",
            )
        kind = kind.value_type
        title = f"the element of column {column.source!r}"
    if column.field is not None:
        title = f"field {column.field!r} in the lists of column {column.source!r}"
        if not pa.types.is_struct(kind):
            raise DataError(
                "COLUMN_TYPE_MISMATCH",
                f"column {column.source!r} holds lists of {kind} in file {name!r}, but of structs "
                f"in {first!r}; rewrite one of them",
            )
        kind = _only(name, pa.schema(list(kind)), column.field, title, column, first)
    return title, kind


def _only(
    name: str, schema: pa.Schema, wanted: str, title: str, column: RowColumn, first: str
) -> pa.DataType:
    """The type of the one column or field of a name."""
    count = len(schema.get_all_field_indices(wanted))
    if count == 0:
        raise DataError(
            "COLUMN_MISSING",
            f"file {name!r} has no {title} ({first!r} has, as {column.type}); rewrite the file, or "
            "leave it out",
        )
    if count > 1:
        raise DataError(
            "COLUMN_TYPE_MISMATCH",
            f"file {name!r} has {count} times {title}; rewrite it with one",
        )
    return schema.field(wanted).type


def _read_cost(column: RowColumn) -> tuple[bool, int]:
    """Orders columns by what reading their list lengths costs."""
    try:
        return False, column.type.bit_width
    except ValueError:
        return True, 0


def _suggest(pattern: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(pattern.strip("*?"), names, n=3)
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    return f"there is {', '.join(names[:10])}" + (", …" if len(names) > 10 else "")


def _invalid(message: str, index: int | None = None) -> DatasetError:
    field = _FIELD if index is None else f"{_FIELD}[{index}]"
    title = field.removeprefix("dataset.")
    return DatasetError("DATASET_INVALID", f"{title}: {message}", field=field)
