"""Columns as Python values, for people: a value a row, None for null."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa

from preprocessor_server.frame import Bytes, Column, Flat, Jagged, Opaque
from preprocessor_server.transform.column_type import Family, column_type
from preprocessor_server.transform.from_arrow import bytes_to_arrow


def column_to_python(column: Column, arrow: pa.DataType) -> list[Any]:
    """The values [n] of a column of an Arrow type, lists of them where it is a list."""
    match column:
        case Jagged(offsets, values):
            elements = column_to_python(values, arrow.value_type)
            return [elements[a:b] for a, b in itertools.pairwise(offsets.tolist())]
        case Flat(values, valid):
            found = values.tolist()
            if valid is None:
                return list(found)
            return [each if known else None for each, known in zip(found, valid, strict=True)]
        case Bytes():
            kind, array = column_type(arrow), bytes_to_arrow(column)
            assert kind is not None
            is_text = kind.family is Family.TEXT
            return list((array.view(pa.large_string()) if is_text else array).to_pylist())
        case Opaque(array):
            return list(array.to_pylist())
