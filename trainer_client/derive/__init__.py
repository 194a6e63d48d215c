"""Columns made of several columns, row by row, after the filter: builders of headrace.v1.Derived.

What each does to nulls, NaN and lists is said in dataset.proto, which binds the server.
"""

from __future__ import annotations

from headrace.v1 import dataset_pb2
from trainer_client.derive.base import Derived, DerivedDoc
from trainer_client.derive.choose import Mask, TopK
from trainer_client.derive.cross import Cross
from trainer_client.derive.expression import Expression
from trainer_client.derive.times import TimeSince
from trainer_client.errors import InvalidDatasetError

ALL: tuple[type[Derived], ...] = (Cross, TimeSince, Mask, TopK, Expression)
_BY_FIELD = {kind.proto_field: kind for kind in ALL}

__all__ = [
    "ALL",
    "Cross",
    "Derived",
    "DerivedDoc",
    "Expression",
    "Mask",
    "TimeSince",
    "TopK",
    "from_proto",
]


def from_proto(message: dataset_pb2.Derived) -> Derived:
    """The derived column of a message. Raises InvalidDatasetError if its kind is not known here."""
    field = message.WhichOneof("kind")
    if field not in _BY_FIELD:
        raise InvalidDatasetError(f"no kind is given: one of {', '.join(_BY_FIELD)} is expected")
    return _BY_FIELD[field].of_message(message.name, getattr(message, field))
