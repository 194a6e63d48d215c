"""From features that were sent once a run to lists a row: by a kernel, or by torch on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from trainer_client.arena_pool import ALIGNMENT, POOL, Bytes
from trainer_client.layout import PartLayout, SparseLayout
from trainer_client.views import Arena, view


class Lists(NamedTuple):
    """Lists of several features, key-major: values [n] and lengths int32 [features * rows].

    weights is float32 [n], None where the block is not weighted.
    """

    values: torch.Tensor
    lengths: torch.Tensor
    weights: torch.Tensor | None = None


def expand(arena: Arena, layout: SparseLayout, features: Sequence[int], row_count: int) -> Lists:
    """A list a row of some features, on the arena's device; values are of the block's dtype.

    Raises RuntimeError if the tensors of the batch were changed and no longer fit each other.
    """
    if isinstance(arena, np.ndarray):
        return expand_by_kernel(arena, layout, features, row_count)
    if arena.device.type == "cpu":
        return expand_by_kernel(arena.numpy(), layout, features, row_count)
    return expand_by_torch(arena, layout, features, row_count)


def expand_by_kernel(
    arena: Bytes, layout: SparseLayout, features: Sequence[int], row_count: int
) -> Lists:
    """As expand, in one pass over a pooled buffer that holds all of it."""
    from trainer_client.kernels import expansion

    size = layout.dtype.itemsize
    rows = dict(_table_rows(layout, row_count))
    table = np.array([rows[f] for f in features], np.int64).reshape(-1, expansion.FEATURE_COLUMNS)
    lists, count = len(features) * row_count, int(table[:, expansion.EXPANDED_COUNT].sum())
    memory = POOL.take(expanded_nbytes(layout, lists, count))
    misfit = expansion.expand(arena, table, row_count, size, memory)
    if misfit >= 0:
        raise RuntimeError(
            f"the lengths of sparse feature {layout.features[features[misfit]]!r} were changed in "
            "place and no longer fit its values: change expanded tensors, or clones"
        )
    return lists_in(memory, layout, lists, count)


def expanded_nbytes(layout: SparseLayout, lists: int, count: int) -> int:
    """The bytes that so many lists with so many values in all take up, expanded: see lists_in."""
    end = _aligned(4 * lists) + layout.dtype.itemsize * count
    weights_dtype = layout.weights_dtype
    return end if weights_dtype is None else _aligned(end) + weights_dtype.itemsize * count


def lists_in(memory: Bytes, layout: SparseLayout, lists: int, count: int) -> Lists:
    """Expanded lists as they lie in memory: lengths, then values, then weights, each aligned."""
    start = _aligned(4 * lists)
    weights_start = _aligned(start + layout.dtype.itemsize * count)
    weights_dtype = layout.weights_dtype
    return Lists(
        view(memory, start, (count,), layout.dtype),
        view(memory, 0, (lists,), torch.int32),
        None if weights_dtype is None else view(memory, weights_start, (count,), weights_dtype),
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _table_rows(layout: SparseLayout, row_count: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each feature with its row of the kernel's table."""
    size = layout.dtype.itemsize
    for part in layout.parts:
        lists = part.run_count or row_count
        runs_at = part.run_lengths_offset_bytes // 4 if part.run_count else -1
        lengths_at, values_at = part.lengths_offset_bytes // 4, part.values_offset_bytes // size
        weights_at = part.weights_offset_bytes // 4
        counts = zip(part.features, part.value_counts, part.expanded_counts, strict=True)
        for feature, count, expanded in counts:
            places = runs_at, lengths_at, values_at, lists, count, expanded
            yield feature, (*places, -1 if layout.weights_dtype is None else weights_at)
            lengths_at += lists
            values_at += count
            weights_at += count


def expand_by_torch(
    arena: torch.Tensor, layout: SparseLayout, features: Sequence[int], row_count: int
) -> Lists:
    """As expand, by torch operations on whatever device the arena is; none of them waits for it."""
    lists: dict[int, tuple[torch.Tensor, torch.Tensor, PartLayout]] = {}
    counts: dict[int, int] = {}
    for part in layout.parts:
        if not set(part.features).isdisjoint(features):
            lengths, starts = _lists_by_row(arena, part, row_count)
            for f, *each in zip(part.features, lengths, starts, strict=True):
                lists[f] = (*each, part)
            counts.update(zip(part.features, part.expanded_counts, strict=True))
    lengths = torch.cat([lists[f][0] for f in features])
    total = sum(counts[f] for f in features)
    # Where each list goes to.
    targets = lengths.cumsum(0) - lengths
    order = torch.arange(total, device=arena.device)

    def gather(dtype: torch.dtype, offsets_bytes: Sequence[int]) -> torch.Tensor:
        """The elements of a type, which start at an offset for each feature."""
        at = zip(features, offsets_bytes, strict=True)
        starts = torch.cat([lists[f][1] + offset // dtype.itemsize for f, offset in at])
        sources = (starts - targets).repeat_interleave(lengths, output_size=total)
        sources += order
        return arena.view(dtype)[sources]

    values = gather(layout.dtype, [lists[f][2].values_offset_bytes for f in features])
    if layout.weights_dtype is None:
        return Lists(values, lengths)
    offsets = [lists[f][2].weights_offset_bytes for f in features]
    return Lists(values, lengths, gather(layout.weights_dtype, offsets))


def _lists_by_row(
    arena: torch.Tensor, part: PartLayout, row_count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths int32 and starts int64 among the part's values, both [features, rows]."""
    words = arena.view(torch.int32)
    shape = len(part.features), part.run_count or row_count
    at = part.lengths_offset_bytes // 4
    flat = words[at : at + shape[0] * shape[1]]
    starts = (flat.cumsum(0) - flat).view(shape)
    lengths = flat.view(shape)
    if not part.run_count:
        return lengths, starts
    at = part.run_lengths_offset_bytes // 4
    run_lengths = words[at : at + part.run_count]
    return (
        lengths.repeat_interleave(run_lengths, dim=1, output_size=row_count),
        starts.repeat_interleave(run_lengths, dim=1, output_size=row_count),
    )
