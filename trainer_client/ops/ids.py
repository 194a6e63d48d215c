"""Operations that make ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.ops.base import Op, OpDoc, check_range


@dataclass(frozen=True, slots=True)
class HashBucket(Op):
    """Hashes integers, booleans, strings and binary to [0, num_buckets); null stays null."""

    proto_field: ClassVar[str] = "hash_bucket"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`HashBucket(n, seed)`",
        takes="integers, booleans, strings, binary",
        gives="int64 from 0 to n - 1",
        null="stays",
        nan="-",
        inf="-",
        negative_zero="-",
        empty_list="stays empty",
        out_of_range="every value hashes",
    )
    num_buckets: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("HashBucket num_buckets", self.num_buckets, 1, 1 << 32)
        check_range("HashBucket seed", self.seed, 0, (1 << 64) - 1)

    def _message(self) -> dataset_pb2.HashBucket:
        return dataset_pb2.HashBucket(num_buckets=self.num_buckets, seed=self.seed)

    @classmethod
    def of_message(cls, message: dataset_pb2.HashBucket) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a number out of range."""
        return cls(message.num_buckets, message.seed)


@dataclass(frozen=True, slots=True)
class PositiveModulus(Op):
    """Takes the remainder of integers divided by divisor, never below 0; null stays null."""

    proto_field: ClassVar[str] = "positive_modulus"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`PositiveModulus(divisor)`",
        takes="integers",
        gives="int64 from 0 to divisor - 1",
        null="stays",
        nan="-",
        inf="-",
        negative_zero="-",
        empty_list="stays empty",
        out_of_range="-1 gives divisor - 1",
    )
    divisor: int

    def __post_init__(self) -> None:
        check_range("PositiveModulus divisor", self.divisor, 1, (1 << 63) - 1)

    def _message(self) -> dataset_pb2.PositiveModulus:
        return dataset_pb2.PositiveModulus(divisor=self.divisor)

    @classmethod
    def of_message(cls, message: dataset_pb2.PositiveModulus) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a divisor out of range."""
        return cls(message.divisor)
