"""Sampling of rows, such as fewer negatives, with the weights that make up for it."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Keeps a share of the rows for which a condition holds, and all others.

    rate is the share, above 0 and at most 1; when an SQL condition as of where ("": all rows). The
    hash of column key with seed decides: which rows are kept is the same in every epoch and layout,
    and equal keys stay or go together (null keys stay). weight names a column that features may
    select: 1 / rate for rows that were drawn, 1 for others. Raises InvalidDatasetError that names
    what is wrong.
    """

    rate: float
    when: str = ""
    key: str = ""
    seed: int = 0
    weight: str = ""

    def __post_init__(self) -> None:
        rate = self.rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise InvalidDatasetError(
                f"Sampling rate is {rate!r}: it is the share that is kept, above 0 and at most 1"
            )
        object.__setattr__(self, "rate", float(rate))
        for what, text in (("when", self.when), ("weight", self.weight)):
            if not isinstance(text, str):
                raise InvalidDatasetError(f"Sampling {what} is {text!r}: it must be a string")
        if not isinstance(self.key, str) or not self.key:
            raise InvalidDatasetError(
                f"Sampling key is {self.key!r}: name the column whose hash decides, as in "
                'key="request_id"'
            )
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 64:
            raise InvalidDatasetError(
                f"Sampling seed is {self.seed!r}: it must be an integer from 0 to 2^64 - 1"
            )

    def to_proto(self) -> dataset_pb2.Sampling:
        """The message of this sampling."""
        return dataset_pb2.Sampling(
            rate=self.rate, when=self.when, key=self.key, seed=self.seed, weight=self.weight
        )

    @classmethod
    def from_proto(cls, message: dataset_pb2.Sampling) -> Sampling:
        """The sampling of a message. Raises InvalidDatasetError if it is none."""
        return cls(message.rate, message.when, message.key, message.seed, message.weight)


def chooses_rows(dataset: dataset_pb2.DatasetSpec) -> bool:
    """Whether only reading a dataset's files, or having counted, tells how many rows it has."""
    return bool(dataset.where or dataset.HasField("sampling") or dataset.distinct_by)
