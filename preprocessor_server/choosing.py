"""Which rows of a split are delivered: those that pass the filter and are kept by sampling."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from preprocessor_server.catalog import BoundDataset
from preprocessor_server.frame import Mask
from preprocessor_server.source.split_table import SplitTable


def choose_rows(dataset: BoundDataset, table: SplitTable) -> tuple[SplitTable, Mask]:
    """Which rows pass the filter and are kept by sampling; the table also gets their weights.

    Raises DataError if a condition cannot be evaluated.
    """
    passes, sampler = _passing(dataset, table), dataset.sampler
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
