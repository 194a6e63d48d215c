"""From what was found out to operations with constants."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.fit.artefacts import Vocabulary
from preprocessor_server.fit.counts import Counted
from preprocessor_server.fit.inputs import Target
from preprocessor_server.fit.read import Found
from preprocessor_server.transform.ops.fit import fill_null


class Result(NamedTuple):
    """A fitted operation, and what it was fitted to, as JSON has it."""

    target: Target
    op: dataset_pb2.Op
    facts: dict[str, Any]

    @property
    def shown(self) -> dict[str, Any]:
        """The operation, as JSON has it."""
        return json_format.MessageToDict(self.op, preserving_proto_field_name=True)


def fitted_numbers(found: Found) -> Result:
    """The operation that a column of numbers is fitted by.

    Raises DatasetError (DATASET_INVALID) that names the column if it has no values, or equal ones
    where that leaves nothing to do.
    """
    moments, target = found.moments, found.target
    if not moments.count:
        raise _unfittable(target, "it has no finite value to fit to")
    facts: dict[str, Any] = {
        "values": moments.count,
        "nulls": found.nulls,
        "not_finite": found.not_finite,
        "mean": moments.mean,
        "std": moments.std,
        "min": moments.min,
        "max": moments.max,
    }
    if found.quantiles is not None:
        facts["rank_error"] = found.quantiles.rank_error
    return Result(target, _operation(found), facts)


def fitted_vocabulary(found: Found, counted: Counted, listed: Vocabulary) -> Result:
    """The operation that looks values up in a vocabulary's file."""
    asked = found.target.op.fit_vocabulary
    op = dataset_pb2.Vocabulary(
        file=listed.file, sha256=listed.sha256, num_oov_buckets=asked.num_oov_buckets
    )
    facts = {
        "values": counted.total,
        "nulls": found.nulls,
        "distinct": counted.distinct,
        "listed": listed.size,
        "share_of_values": listed.occurrences / counted.total,
        "most_frequent": [{"value": value, "count": count} for value, count in listed.top],
    }
    return Result(found.target, dataset_pb2.Op(vocabulary=op), facts)


def _operation(found: Found) -> dataset_pb2.Op:
    moments, target = found.moments, found.target
    name = target.op.WhichOneof("op")
    dtype = target.type.dtype
    assert dtype is not None
    if name == "fit_fill_null":
        if target.op.fit_fill_null.by == dataset_pb2.FILLING_MEAN:
            return fill_null(dtype.type(moments.mean))
        assert found.quantiles is not None
        return fill_null(found.quantiles.at([0.5])[0])
    if moments.min == moments.max:
        raise _unfittable(target, f"all its values are {moments.min:g}")
    if name == "fit_normalize":
        normalize = dataset_pb2.Normalize(mean=moments.mean, std=moments.std)
        return dataset_pb2.Op(normalize=normalize)
    if name == "fit_min_max":
        return dataset_pb2.Op(min_max=dataset_pb2.MinMax(min=moments.min, max=moments.max))
    assert found.quantiles is not None
    count = target.op.fit_bucketize.num_buckets
    quantiles = found.quantiles.at([i / count for i in range(1, count)])
    boundaries = np.unique(quantiles.astype(np.float64))
    # Else no value would be in the first bucket.
    boundaries = boundaries[boundaries > moments.min]
    if not len(boundaries):
        raise _unfittable(target, f"almost all its values are {moments.min:g}")
    return dataset_pb2.Op(bucketize=dataset_pb2.Bucketize(boundaries=boundaries.tolist()))


def _unfittable(target: Target, why: str) -> DatasetError:
    return DatasetError(
        "DATASET_INVALID",
        f"{target.title} cannot be fitted: {why}; leave the operation out, or the column",
        field=f"dataset.features[{target.feature}].ops[{target.op_index}]",
    )
