"""Where the tensors of a batch lie in its decoded arena. Offsets are in bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MatrixLayout:
    """A feature-major float32 matrix [features, rows]."""

    features: tuple[str, ...]
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class PartLayout:
    """Sparse features that lie together: once a run, or once a row where run_count is 0.

    features are places in SparseLayout.features. With N runs or rows: run lengths int32 [N] if
    there are runs, lengths int32 [features, N], values int64 feature by feature, value_counts of
    each; expanded_counts is how many those are once every run is expanded to its rows.
    """

    features: tuple[int, ...]
    run_count: int
    run_lengths_offset_bytes: int
    lengths_offset_bytes: int
    values_offset_bytes: int
    value_counts: tuple[int, ...]
    expanded_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SparseLayout:
    """Every sparse feature, by parts; each feature is in one."""

    features: tuple[str, ...]
    parts: tuple[PartLayout, ...]


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """Which blocks an arena holds, and where."""

    row_count: int
    dense: MatrixLayout | None = None
    sparse: SparseLayout | None = None
    labels: MatrixLayout | None = None
