"""Operations on columns: builders of headrace.v1.Op.

What each does to nulls, NaN and lists is said in dataset.proto, which binds the server.
"""

from __future__ import annotations

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import Op, OpDoc
from trainer_client.ops.dates import DateParts
from trainer_client.ops.fit import (
    FitBucketize,
    FitFillNull,
    FitMinMax,
    FitNormalize,
    FitVocabulary,
)
from trainer_client.ops.ids import HashBucket, PositiveModulus
from trainer_client.ops.lists import Enumerate, Head, ListLength, Pad, Slice, Tail
from trainer_client.ops.lookup import MapId, Vocabulary
from trainer_client.ops.numbers import Cast, Clip, FillNull, Log1p
from trainer_client.ops.one_hot import OneHot
from trainer_client.ops.scaling import BoxCox, Bucketize, Logit, MinMax, Normalize
from trainer_client.ops.sequences import Deduplicate, ListAggregate, NGram, Sample, Sort

ALL: tuple[type[Op], ...] = (
    *(FillNull, Log1p, Clip, Cast, HashBucket, Tail),
    *(Logit, BoxCox, Normalize, MinMax, Bucketize, DateParts),
    *(Head, Slice, ListLength, PositiveModulus, MapId, Vocabulary, ListAggregate, Deduplicate),
    *(Sort, Pad, Enumerate, NGram, Sample, OneHot),
    *(FitFillNull, FitNormalize, FitMinMax, FitBucketize, FitVocabulary),
)
_BY_FIELD = {op.proto_field: op for op in ALL}

__all__ = [
    "ALL",
    "BoxCox",
    "Bucketize",
    "Cast",
    "Clip",
    "DateParts",
    "Deduplicate",
    "Enumerate",
    "FillNull",
    "FitBucketize",
    "FitFillNull",
    "FitMinMax",
    "FitNormalize",
    "FitVocabulary",
    "HashBucket",
    "Head",
    "ListAggregate",
    "ListLength",
    "Log1p",
    "Logit",
    "MapId",
    "MinMax",
    "NGram",
    "Normalize",
    "OneHot",
    "Op",
    "OpDoc",
    "Pad",
    "PositiveModulus",
    "Sample",
    "Slice",
    "Sort",
    "Tail",
    "Vocabulary",
    "from_proto",
]


def from_proto(message: dataset_pb2.Op) -> Op:
    """The operation of a message. Raises InvalidDatasetError if it is none known here."""
    field = message.WhichOneof("op")
    if field not in _BY_FIELD:
        known = ", ".join(_BY_FIELD)
        raise InvalidDatasetError(f"no operation is given: one of {known} is expected")
    return _BY_FIELD[field].of_message(getattr(message, field))
