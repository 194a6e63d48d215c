"""Whether a server understood which batches are meant."""

from __future__ import annotations

from typing import TypeAlias

from headrace.v1.preprocessor_service_pb2 import BatchIdentity

# What a server chooses where it was not asked for.
_CHOSEN = {"num_shards", "shuffle_window_splits", "encoding_version"}

Batches: TypeAlias = tuple[str, BatchIdentity]


def difference(asked: Batches, answered: Batches) -> str:
    """The first difference between two ids of a snapshot with identities, for people; "" if none.

    A field that is not known here cannot be compared: it has its default.
    """
    (wanted_id, wanted), (given_id, given) = asked, answered
    if given_id != wanted_id:
        return f"snapshot {given_id or 'none'} where {wanted_id} was asked for"
    for field in wanted.DESCRIPTOR.fields:
        want, got = getattr(wanted, field.name), getattr(given, field.name)
        if got != want and (want or field.name not in _CHOSEN):
            return f"with {field.name} {got} where {want} was asked for"
    return ""
