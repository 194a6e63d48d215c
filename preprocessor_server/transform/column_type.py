"""What a column's Arrow type means to features and operations. docs/ops.md has the whole table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
import pyarrow as pa


class Family(Enum):
    """Values that the same operations fit; the value names them for people."""

    BOOLEAN = "booleans"
    INTEGER = "integers"
    FLOAT = "floating-point numbers"
    TEXT = "strings"
    BINARY = "binary values"
    DECIMAL = "decimals"
    TIME = "times"
    NULL = "nulls only"


NUMBERS = frozenset({Family.INTEGER, Family.FLOAT})
BYTES = frozenset({Family.TEXT, Family.BINARY})
OPAQUE = frozenset({Family.DECIMAL, Family.TIME})


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of a column: what its values are, and whether a row holds a list of them.

    dtype is that of the values in a Flat, None for what is not kept in one. name is the type as
    Arrow prints it; arrow is that of one value as it is read, None once an operation changed it.
    """

    family: Family
    dtype: np.dtype[np.generic] | None
    is_list: bool
    name: str
    arrow: pa.DataType | None = None

    def of(self, dtype: np.dtype[np.generic]) -> ColumnType:
        """The type of the same column after its values became numbers of another dtype."""
        family = Family.FLOAT if dtype.kind == "f" else Family.INTEGER
        value = str(pa.from_numpy_dtype(dtype))
        return ColumnType(family, dtype, self.is_list, f"list<{value}>" if self.is_list else value)

    def element(self) -> ColumnType:
        """The type of a column of single elements of the lists of this one."""
        name = (
            f"an element of {self.name}"
            if self.dtype is None
            else str(pa.from_numpy_dtype(self.dtype))
        )
        return ColumnType(self.family, self.dtype, False, name)


# Asked of every column of every split.
@lru_cache(maxsize=1024)
def column_type(arrow: pa.DataType) -> ColumnType | None:
    """The type of a column of an Arrow type; None for one that no feature can be made of."""
    is_list = (
        pa.types.is_list(arrow)
        or pa.types.is_large_list(arrow)
        or pa.types.is_fixed_size_list(arrow)
    )
    value = arrow.value_type if is_list else arrow
    if pa.types.is_dictionary(value):
        value = value.value_type
    family = _family(value)
    if family is None:
        return None
    dtype = None
    if family in {Family.BOOLEAN, *NUMBERS}:
        dtype = np.dtype(value.to_pandas_dtype())
    return ColumnType(family, dtype, is_list, str(arrow), value)


def _family(value: pa.DataType) -> Family | None:
    tests = {
        Family.BOOLEAN: (pa.types.is_boolean,),
        Family.INTEGER: (pa.types.is_integer,),
        Family.FLOAT: (pa.types.is_floating,),
        Family.TEXT: (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        Family.BINARY: (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
            pa.types.is_binary_view,
        ),
        Family.DECIMAL: (pa.types.is_decimal,),
        Family.TIME: (
            pa.types.is_timestamp,
            pa.types.is_date,
            pa.types.is_time,
            pa.types.is_duration,
        ),
        Family.NULL: (pa.types.is_null,),
    }
    for family, predicates in tests.items():
        if any(predicate(value) for predicate in predicates):
            return family
    return None
