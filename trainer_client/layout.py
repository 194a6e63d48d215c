"""Where the tensors of a batch lie in its decoded arena. Offsets are in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch


class MatrixLayout(NamedTuple):
    """A feature-major matrix [features, rows] of a dense, label or meta block."""

    features: tuple[str, ...]
    offset_bytes: int
    dtype: torch.dtype


class PartLayout(NamedTuple):
    """Sparse features that lie together: once a run, or once a row where run_count is 0.

    features are places in SparseLayout.features. With N runs or rows: run lengths int32 [N] if
    there are runs, lengths int32 [features, N], values feature by feature, value_counts of each;
    expanded_counts is how many those are once every run is expanded to its rows. In a weighted
    block there is a weight for each value, in the same order.
    """

    features: tuple[int, ...]
    run_count: int
    run_lengths_offset_bytes: int
    lengths_offset_bytes: int
    values_offset_bytes: int
    value_counts: tuple[int, ...]
    expanded_counts: tuple[int, ...]
    weights_offset_bytes: int = 0


class SparseLayout(NamedTuple):
    """The features of a sparse block, by parts; each is in one. dtype is that of the values.

    weights_dtype is that of their weights, None where the block is not weighted.
    """

    features: tuple[str, ...]
    parts: tuple[PartLayout, ...]
    dtype: torch.dtype = torch.int64
    weights_dtype: torch.dtype | None = None


BlockLayout: TypeAlias = MatrixLayout | SparseLayout


class ArenaLayout(NamedTuple):
    """Which blocks an arena holds, by name in the order of the schema, and where."""

    row_count: int
    blocks: Mapping[str, BlockLayout]
