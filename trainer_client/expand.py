"""From features that were sent once a run to lists a row: by a kernel, or by torch on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from trainer_client.arena_pool import ALIGNMENT, POOL, Bytes
from trainer_client.layout import PartLayout, SparseLayout
from trainer_client.views import Arena, view


def expand(
    arena: Arena, layout: SparseLayout, features: Sequence[int], row_count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [n] and lengths int32 [features * row_count], key-major, on the arena's device.

    Values are of the block's dtype. Raises RuntimeError if the tensors of the batch were changed
    and no longer fit each other.
    """
    if isinstance(arena, np.ndarray):
        return expand_by_kernel(arena, layout, features, row_count)
    if arena.device.type == "cpu":
        return expand_by_kernel(arena.numpy(), layout, features, row_count)
    return expand_by_torch(arena, layout, features, row_count)


def expand_by_kernel(
    arena: Bytes, layout: SparseLayout, features: Sequence[int], row_count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As expand, in one pass over a pooled buffer that holds both."""
    from trainer_client.kernels import expansion

    size = layout.dtype.itemsize
    rows = dict(_table_rows(layout, row_count))
    table = np.array([rows[f] for f in features], np.int64).reshape(-1, expansion.FEATURE_COLUMNS)
    lengths_bytes = 4 * len(features) * row_count
    start = -(-lengths_bytes // ALIGNMENT) * ALIGNMENT
    memory = POOL.take(start + size * int(table[:, expansion.EXPANDED_COUNT].sum()))
    misfit = expansion.expand(arena, table, row_count, size, memory)
    if misfit >= 0:
        raise RuntimeError(
            f"the lengths of sparse feature {layout.features[features[misfit]]!r} were changed in "
            "place and no longer fit its values: change expanded tensors, or clones"
        )
    values = view(memory, start, ((len(memory) - start) // size,), layout.dtype)
    return values, view(memory, 0, (len(features) * row_count,), torch.int32)


def _table_rows(layout: SparseLayout, row_count: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each feature with its row of the kernel's table."""
    size = layout.dtype.itemsize
    for part in layout.parts:
        lists = part.run_count or row_count
        runs_at = part.run_lengths_offset_bytes // 4 if part.run_count else -1
        lengths_at, values_at = part.lengths_offset_bytes // 4, part.values_offset_bytes // size
        counts = zip(part.features, part.value_counts, part.expanded_counts, strict=True)
        for feature, count, expanded in counts:
            yield feature, (runs_at, lengths_at, values_at, lists, count, expanded)
            lengths_at += lists
            values_at += count


def expand_by_torch(
    arena: torch.Tensor, layout: SparseLayout, features: Sequence[int], row_count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As expand, by torch operations on whatever device the arena is; none of them waits for it."""
    elements = arena.view(layout.dtype)
    lists: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    counts: dict[int, int] = {}
    for part in layout.parts:
        if not set(part.features).isdisjoint(features):
            lengths, starts = _lists_by_row(arena, part, row_count, layout.dtype.itemsize)
            lists.update(zip(part.features, zip(lengths, starts, strict=True), strict=True))
            counts.update(zip(part.features, part.expanded_counts, strict=True))
    lengths = torch.cat([lists[f][0] for f in features])
    starts = torch.cat([lists[f][1] for f in features])
    total = sum(counts[f] for f in features)
    # Where each list is in the arena, from where it goes to.
    shifts = starts - (lengths.cumsum(0) - lengths)
    sources = torch.arange(total, device=arena.device)
    sources += shifts.repeat_interleave(lengths, output_size=total)
    return elements[sources], lengths


def _lists_by_row(
    arena: torch.Tensor, part: PartLayout, row_count: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths int32 and starts int64 (in values of so many bytes), both [features, rows]."""
    words = arena.view(torch.int32)
    shape = len(part.features), part.run_count or row_count
    at = part.lengths_offset_bytes // 4
    flat = words[at : at + shape[0] * shape[1]]
    starts = (flat.cumsum(0) - flat + part.values_offset_bytes // size).view(shape)
    lengths = flat.view(shape)
    if not part.run_count:
        return lengths, starts
    at = part.run_lengths_offset_bytes // 4
    run_lengths = words[at : at + part.run_count]
    return (
        lengths.repeat_interleave(run_lengths, dim=1, output_size=row_count),
        starts.repeat_interleave(run_lengths, dim=1, output_size=row_count),
    )
