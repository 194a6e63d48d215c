"""Operations whose constants are still to be found: checked, and refused until they are."""

from __future__ import annotations

from typing import Any, NoReturn

from headrace.v1 import dataset_pb2
from preprocessor_server.transform.column_type import ColumnType
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError
from preprocessor_server.transform.ops.ids import MAX_BUCKETS

MAX_FITTED_BUCKETS = 1 << 16
_FIT = (
    "run `preprocessor-server fit DATASET.yaml -o FOLDER`, and use the dataset.yaml that it writes"
)


def is_unfitted(op: dataset_pb2.Op) -> bool:
    """Whether an operation stands for one whose constants are still to be found."""
    return op.WhichOneof("op") in RULES


def check_bounds(op: dataset_pb2.Op, path: str) -> None:
    """Raises DatasetError (DATASET_INVALID) for what keeps an operation from being fitted."""
    if op.HasField("fit_fill_null") and op.fit_fill_null.by not in {
        dataset_pb2.FILLING_MEAN,
        dataset_pb2.FILLING_MEDIAN,
    }:
        raise invalid(
            f"{path}.fit_fill_null.by",
            f"by is {op.fit_fill_null.by}; give FILLING_MEAN or FILLING_MEDIAN",
        )
    count = op.fit_bucketize.num_buckets
    if op.HasField("fit_bucketize") and not 2 <= count <= MAX_FITTED_BUCKETS:
        raise invalid(
            f"{path}.fit_bucketize.num_buckets",
            f"num_buckets is {count:,}; it lies between 2 and {MAX_FITTED_BUCKETS:,}",
        )
    if op.fit_vocabulary.num_oov_buckets > MAX_BUCKETS:
        raise invalid(
            f"{path}.fit_vocabulary.num_oov_buckets",
            f"num_oov_buckets is {op.fit_vocabulary.num_oov_buckets:,}; it is at most "
            f"{MAX_BUCKETS:,} (2^32)",
        )


def _refuse(message: Any, path: str) -> NoReturn:
    outer, _, name = path.rpartition(".")
    op = dataset_pb2.Op(**{name: message})
    check_bounds(op, outer)
    raise invalid(path, f"{type(message).__name__} has not been fitted; {_FIT}")


def _unfitted(message: Any, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    del column
    raise UnfitError(f"{type(message).__name__} has not been fitted; {_FIT}")


RULES = {
    name: Rule(_unfitted, _refuse)
    for name in (
        "fit_fill_null",
        "fit_normalize",
        "fit_min_max",
        "fit_bucketize",
        "fit_vocabulary",
    )
}
