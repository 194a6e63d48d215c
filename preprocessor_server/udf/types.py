"""The types that a function's output columns may have, by the names that datasets give them."""

from __future__ import annotations

import pyarrow as pa

SCALARS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    **{str(kind): kind for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(kind): kind for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
}
KNOWN = f"{', '.join(SCALARS)}, or list<T> of one of these"

# The same values in another layout: what libraries return where Arrow has several.
_SAME: dict[pa.DataType, tuple[pa.DataType, ...]] = {
    pa.string(): (pa.large_string(), pa.string_view()),
    pa.binary(): (pa.large_binary(), pa.binary_view()),
}
# What a value of no fixed width is taken to need, in bytes.
_LOOSE_BYTES = 64


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a name. Raises ValueError for one that is not known."""
    inner = name.removeprefix("list<").removesuffix(">")
    is_list = name == f"list<{inner}>"
    kind = SCALARS.get(inner if is_list else name)
    if kind is None:
        raise ValueError(f"{name!r} is no type of a column; give {KNOWN}")
    return pa.list_(kind) if is_list else kind


def type_name(kind: pa.DataType) -> str:
    """The name of an Arrow type as a dataset would give it, or else as Arrow prints it."""
    for name, known in SCALARS.items():
        if kind == known:
            return name
        if kind == pa.list_(known):
            return f"list<{name}>"
    return str(kind)


def fits(found: pa.DataType, declared: pa.DataType) -> bool:
    """Whether values of a type are of the declared one, in whatever layout."""
    if pa.types.is_list(declared):
        tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return any(test(found) for test in tests) and fits(found.value_type, declared.value_type)
    return found == declared or found in _SAME.get(declared, ())


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the same values, or lists of them, without dictionaries."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(plain_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    return kind


def row_bytes(kind: pa.DataType) -> int:
    """What a value takes up in memory, in bytes; an estimate where that is not fixed."""
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return _LOOSE_BYTES
