"""Constants of a dataset, as values of a column's type."""

from __future__ import annotations

import math

import numpy as np

from headrace.v1 import dataset_pb2


def as_number(scalar: dataset_pb2.Scalar, dtype: np.dtype[np.generic]) -> np.generic | None:
    """The constant as a number of a dtype (bool, integer or float), None if it does not fit.

    Floats are rounded to nearest, as everywhere else, but never to infinity; for other types the
    constant must be exact (0.0 is the integer 0, 0.5 is none).
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
            converted = np.float64(number).astype(dtype)
        overflows = np.isinf(converted) and not math.isinf(number)
        return None if overflows else converted
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
