"""Counts the rows that a dataset delivers, from the columns that decide it alone."""

from __future__ import annotations

import time

import numpy as np

from preprocessor_server.catalog import BoundDataset
from preprocessor_server.choosing import choose_rows
from preprocessor_server.errors import RequestError, ServerError
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.plan.epoch import cut_row_groups
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.reader import describe_split
from preprocessor_server.udf.run import SplitPlace
from preprocessor_server.window import decoded_bytes

# An answer comes after about so long: whoever asks sees progress, and notices a server that hangs.
ANSWER_S = 2.0


def count_rows(pipeline: Pipeline, dataset: BoundDataset, first: int, limit: int) -> list[int]:
    """The rows that pass, of each row group from the first on; at least one row group.

    Of limit row groups (0: of all), those that ANSWER_S allows. Raises RequestError if there is no
    such row group, ServerError as a stream would.
    """
    groups = dataset.snapshot.row_groups
    end = len(groups.rows)
    if first >= end:
        raise RequestError(
            "REQUEST_INVALID",
            f"first_row_group is {first}, but the snapshot has row groups 0 to {end - 1}",
            field="first_row_group",
        )
    end = min(end, first + limit) if limit else end
    if not dataset.chooses_rows:
        return [int(rows) for rows in groups.rows[first:end]]
    random = dataset.udfs.random_ones(dataset.deciding_columns)
    if random:
        raise RequestError(
            "REQUEST_INVALID",
            f"which rows pass cannot be counted: they depend on columns of {random[0]}, which "
            "draws random numbers, others in each epoch; leave count='exact' out",
            field="dataset.where",
        )
    counts: list[int] = []
    deadline = time.monotonic() + ANSWER_S
    while first + len(counts) < end and (not counts or time.monotonic() < deadline):
        splits = cut_row_groups(groups, dataset.max_split_bytes, first + len(counts))
        counts.append(sum(_count(pipeline, dataset, split) for split in splits))
    return counts


def _count(pipeline: Pipeline, dataset: BoundDataset, split: Split) -> int:
    """The rows of a split that pass, counted by a worker thread within the memory budget."""

    def work() -> int:
        with pipeline.metrics.stage("read"):
            reader = pipeline.catalog.reader
            table = reader.read(dataset.snapshot, split, dataset.counted_columns)
        if dataset.udfs:
            with pipeline.metrics.stage("transform"):
                place = SplitPlace(dataset.snapshot, split)
                table = dataset.udfs.apply(table, place, dataset.deciding_columns)
        try:
            with pipeline.metrics.stage("transform"):
                return int(np.count_nonzero(choose_rows(dataset, table)[1]))
        except ServerError as error:
            raise error.at(describe_split(dataset.snapshot, split)) from error

    if dataset.skips is not None and not dataset.skips.may_pass(pipeline.catalog.reader, split):
        pipeline.metrics.skipped_row_groups.inc()
        return 0
    lease = pipeline.budget.open(lambda: 0)
    try:
        # What all needed columns take is more than enough, and may be more than there is.
        lease.acquire(min(decoded_bytes(dataset, split), pipeline.budget.capacity))
        return pipeline.pool_of(dataset).submit(work).result()
    finally:
        lease.close()
