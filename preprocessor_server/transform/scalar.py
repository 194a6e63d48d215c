"""Constants of a dataset, as values of a column's type: exactly, or not at all."""

from __future__ import annotations

import numpy as np

from headrace.v1 import dataset_pb2


def exact_number(scalar: dataset_pb2.Scalar, dtype: np.dtype[np.generic]) -> np.generic | None:
    """The constant as a number of a dtype (bool, integer or float), None if it is none exactly.

    0.0 is exactly the integer 0, and 1 exactly the float 1.0; 0.1 is no float32.
    """
    match scalar.WhichOneof("value"):
        case "number":
            number: int | float = scalar.number
        case "integer":
            number = scalar.integer
        case _:
            return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            # An integer may be too long for float64; Python compares the two exactly.
            converted = np.float64(number).astype(dtype)
        same = float(converted) == number or number != number  # noqa: PLR0124
        return converted if same else None
    if isinstance(number, float):
        if not number.is_integer():
            return None
        number = int(number)
    if dtype.kind == "b":
        return np.bool_(number) if number in {0, 1} else None
    limits = np.iinfo(dtype.name)
    return dtype.type(number) if limits.min <= number <= limits.max else None


def exact_bytes(scalar: dataset_pb2.Scalar) -> bytes | None:
    """The constant as the UTF-8 bytes of a string, None if it is a number."""
    return scalar.text.encode() if scalar.HasField("text") else None


def show(scalar: dataset_pb2.Scalar) -> str:
    """The constant as people write it."""
    kind = scalar.WhichOneof("value")
    return repr(getattr(scalar, kind)) if kind else "nothing"
