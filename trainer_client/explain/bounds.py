"""What can bound the rate of a training loop, from the trainer to the storage."""

from __future__ import annotations

from enum import Enum


class Bound(Enum):
    """A part of the way, by the name that people see."""

    STEP = "training step"
    COPY = "device copy"
    RANKS = "another rank"
    HANDOVER = "handing over"
    CLIENT = "client decode"
    WIRE = "wire"
    LATENCY = "latency"
    LANES = "too few streams"
    OPENING = "opening streams"
    MEMORY = "server memory"
    ENCODE = "encode"
    ORDER = "order"
    TRANSFORM = "transform"
    DECODE = "decode"
    STORAGE = "storage"
    FAILURES = "failing streams"
    UNKNOWN = "unknown"


# What the servers' worker threads do, by the stage as servers name it.
BOUND_BY_STAGE = {
    "read": Bound.STORAGE,
    "decode": Bound.DECODE,
    "transform": Bound.TRANSFORM,
    "order": Bound.ORDER,
    "encode": Bound.ENCODE,
}
