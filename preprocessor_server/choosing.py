"""Which rows of a split are delivered: by the filter, by sampling, and by what they differ in."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa

from preprocessor_server.catalog import BoundDataset
from preprocessor_server.frame import Indices, Mask
from preprocessor_server.source.split_table import SplitTable
from preprocessor_server.transform import find_firsts, number_values

# What leaves rows out, in order.
CHOOSING = ("where", "sampling", "distinct_by")


def choose_rows(
    dataset: BoundDataset,
    table: SplitTable,
    left_out: Callable[[str, int], None] = lambda *_: None,
) -> tuple[SplitTable, Mask]:
    """Which rows are delivered of all rows of a split; the table also gets their weights.

    They pass the filter, are kept by sampling, and of those that are equal in the columns of
    distinct_by are the first. left_out is told how many each of these leaves out of what the one
    before it leaves. Raises DataError if a condition cannot be evaluated.
    """
    passing = _passing(dataset, table)
    table, sampled = _sampled(dataset, table, passing)
    chosen = sampled
    if dataset.distinct_by and chosen.any():
        numbers = [_number_rows(table, name, chosen) for name in dataset.distinct_by]
        chosen = np.zeros_like(sampled)
        chosen[sampled] = find_firsts(numbers)
    counts = [len(passing), *(int(np.count_nonzero(rows)) for rows in (passing, sampled, chosen))]
    for by, (before, after) in zip(CHOOSING, pairwise(counts), strict=True):
        left_out(by, before - after)
    return table, chosen


def _number_rows(table: SplitTable, name: str, chosen: Mask) -> Indices:
    """Numbers of a column's values in the chosen rows; made once for all rows of a Parquet row."""
    if table.inverse is not None and name in table.parquet_rows.column_names:
        return number_values(table.parquet_rows.column(name))[table.inverse[chosen]]
    values = table.rows.column(name)
    return number_values(values if chosen.all() else values.filter(pa.array(chosen)))


def _sampled(dataset: BoundDataset, table: SplitTable, passes: Mask) -> tuple[SplitTable, Mask]:
    """Which of the rows that pass are kept by sampling; the table also gets the weights."""
    sampler = dataset.sampler
    if sampler is None:
        return table, passes
    among = table.at_rows(sampler.columns)
    if not passes.all():
        among = among.filter(pa.array(passes))
    kept, found = sampler.draw(among)
    weights = np.ones(len(passes))
    weights[passes] = found
    if sampler.weight:
        table = table.with_column(sampler.weight, pa.array(weights))
    chosen = passes.copy()
    chosen[passes] = kept
    return table, chosen


def _passing(dataset: BoundDataset, table: SplitTable) -> Mask:
    """Which rows pass the filter."""
    where = dataset.filter
    if where is None:
        return np.ones(table.rows.num_rows, np.bool_)
    if table.lengths is None or not set(where.columns) <= set(table.parquet_rows.column_names):
        return where.mask(table.at_rows(where.columns))
    # Once for all rows of a Parquet row; one that holds none need not have a value.
    held = table.lengths > 0
    masks = where.mask(table.parquet_rows.select(list(where.columns)).filter(pa.array(held)))
    return np.repeat(masks, table.lengths[held])
