"""Sampling of rows: a share of those for which a condition holds, drawn by the hash of a key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Jagged, Mask
from preprocessor_server.kernels import first_state, fold_words
from preprocessor_server.transform.column_type import BYTES, Family
from preprocessor_server.transform.filter import Filter, bind_filter
from preprocessor_server.transform.filter_syntax import Site
from preprocessor_server.transform.from_arrow import arrow_to_column
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.key import key_faults
from preprocessor_server.transform.ops.words import hash_words

WHEN = Site("sampling.when", "dataset.sampling.when")
_KEYS = {Family.INTEGER, Family.BOOLEAN, *BYTES}
_WANTED = "rows are drawn by one integer, boolean, string or binary value a row"
# As many draws as a float64 tells apart in [0, 1), so that the rate times this is exact.
_DRAWS = 2.0**53
_11 = np.uint64(11)


@dataclass(frozen=True, slots=True)
class Sampler:
    """A dataset's sampling, bound to the columns of its rows; safe from any thread.

    when is None where all rows are drawn from, weight "" where no column of weights is wanted.
    """

    rate: float
    when: Filter | None
    key: str
    seed: int
    weight: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return tuple(dict.fromkeys((*(self.when.columns if self.when else ()), self.key)))

    def draw(self, table: pa.Table) -> tuple[Mask, npt.NDArray[np.float64]]:
        """Of the rows of a table which are kept, bool [rows], and their weights, float64 [rows].

        table holds at least the sampler's columns. Raises DataError (FILTER_FAILED) if a row's
        values make the condition fail.
        """
        drawn = np.ones(table.num_rows, np.bool_) if self.when is None else self.when.mask(table)
        keys = arrow_to_column(table.column(self.key))
        assert not isinstance(keys, Jagged)
        words = hash_words(keys, self.seed)
        if words.valid is not None:
            drawn = drawn & words.valid
        # Taken in twice: a feature may hash the same key with the same seed once.
        hashes = np.full(len(words.values), first_state(self.seed))
        for _ in range(2):
            hashes = fold_words(hashes, words.values)
        kept = ~drawn | ((hashes >> _11) < self.rate * _DRAWS)
        return kept, np.where(drawn, 1 / self.rate, 1.0)


def sampling_faults(spec: dataset_pb2.DatasetSpec) -> Iterator[DatasetError]:
    """What is wrong with a dataset's sampling, whatever the columns of its rows."""
    if not spec.HasField("sampling"):
        return
    sampling = spec.sampling
    if not 0 < sampling.rate <= 1:
        yield invalid(
            "dataset.sampling.rate",
            f"rate is {sampling.rate!r}; it is the share that is kept, above 0 and at most 1 (to "
            "keep none, leave the rows out by where)",
        )
    if not sampling.key:
        yield invalid(
            "dataset.sampling.key",
            "it names no column whose hash decides; give one, such as that of a request's id",
        )


def bind_sampling(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema
) -> Iterator[Sampler | DatasetError]:
    """The sampler of a dataset over columns of a schema, or all that is wrong; nothing for none.

    Errors are DATASET_INVALID for a key that there is not and a weight that there is already,
    TYPE_UNFIT for a key of another type, FILTER_INVALID for what is wrong with the condition.
    """
    if not spec.HasField("sampling") or next(sampling_faults(spec), None) is not None:
        return
    sampling = spec.sampling
    faults = [
        *key_faults("dataset.sampling.key", sampling.key, schema, _KEYS, _WANTED),
        *_weight_faults(sampling.weight, schema),
    ]
    when: Filter | None = None
    for bound in bind_filter(sampling.when, schema, WHEN):
        if isinstance(bound, DatasetError):
            faults.append(bound)
        else:
            when = bound
    yield from faults
    if not faults:
        yield Sampler(sampling.rate, when, sampling.key, sampling.seed, sampling.weight)


def with_weight(spec: dataset_pb2.DatasetSpec, schema: pa.Schema) -> pa.Schema:
    """A schema that also has the column of weights, if the dataset asks for one."""
    name = spec.sampling.weight
    if not name or name in schema.names:
        return schema
    return schema.append(pa.field(name, pa.float64()))


def _weight_faults(weight: str, schema: pa.Schema) -> Iterator[DatasetError]:
    if weight and weight in schema.names:
        yield invalid(
            "dataset.sampling.weight",
            f"there is a column {weight!r} already; give the weights another name",
        )
