"""Sparse features as jagged tensors: as they were sent, and expanded to rows when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from trainer_client.arena_pool import Bytes
from trainer_client.expand import Lists, expand, expanded_nbytes, lists_in
from trainer_client.layout import PartLayout, SparseLayout
from trainer_client.views import Arena, view


@dataclass(frozen=True, eq=False)
class JaggedView:
    """Lists of ids of one feature, one a row or one a run: values [n], lengths int32 [N].

    Values are int64, or int32 in a block of int32; so it is with all values here. weights is
    float32 [n], one for each value, and None where the feature has none; so it is with all weights.
    """

    values: torch.Tensor
    lengths: torch.Tensor
    weights: torch.Tensor | None = None

    @cached_property
    def offsets(self) -> torch.Tensor:
        """int64 [N + 1], from 0: list i is values[offsets[i]:offsets[i + 1]]."""
        return _offsets(self.lengths)

    def to_list(self) -> list[list[int]]:
        """The lists, in order; for looking at, not for training."""
        rows: list[list[int]] = [
            part.tolist() for part in torch.split(self.values, self.lengths.tolist())
        ]
        return rows


@dataclass(frozen=True, eq=False)
class SparsePart:
    """Sparse features that repeat together, once for each run of equal adjacent rows.

    An inverse keyed jagged tensor (IKJT; Zhao et al., RecD, MLSys 2023): a jagged block over N
    runs, and which run each row belongs to. values is [n], lengths int32 [F * N], key-major.
    run_lengths is int32 [N], the rows of each run, and None where the features were sent once a
    row: then N is the batch size. value_counts are the values of each key. weights is float32 [n]
    or None.
    """

    keys: tuple[str, ...]
    values: torch.Tensor
    lengths: torch.Tensor
    run_lengths: torch.Tensor | None
    batch_size: int
    value_counts: tuple[int, ...] = field(repr=False)
    weights: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """N: the number of runs, or of rows."""
        return len(self.lengths) // len(self.keys)

    @cached_property
    def offsets(self) -> torch.Tensor:
        """int64 [F * N + 1]; made when first asked for, on the tensors' device."""
        return _offsets(self.lengths)

    @cached_property
    def inverse(self) -> torch.Tensor | None:
        """int64 [batch_size], the run of each row; None where there are no runs.

        What was computed for runs becomes what belongs to rows by indexing: pooled[inverse].
        """
        if self.run_lengths is None:
            return None
        runs = torch.arange(self.size, device=self.lengths.device)
        return runs.repeat_interleave(self.run_lengths, output_size=self.batch_size)

    def __getitem__(self, key: str) -> JaggedView:
        """The lists of one feature, one a run. Raises KeyError if it is not in this part."""
        f = _place(self.keys, key)
        lists = Lists(self.values, self.lengths, self.weights)
        return _view_of(f, lists, self.value_counts, self.size)

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def to_kjt(self) -> Any:
        """The part as a torchrec KeyedJaggedTensor of N lists a key; needs torchrec."""
        return _to_kjt(self.keys, self.values, self.lengths, self.weights)


@dataclass(frozen=True, eq=False)
class DeduplicatedBlock:
    """Every feature of a sparse block as it was sent, each in one of the parts.

    A model that pools sequences once a run, and then indexes by SparsePart.inverse, does a
    fraction of the work; its results are the same.
    """

    parts: tuple[SparsePart, ...]
    batch_size: int


class SparseBlock:
    """The features of a block as one key-major jagged block, in the dataset's order.

    values is int64 [n], or int32 in a block of int32; lengths is int32 [F * B], the B lengths of
    keys[0] first. In a block of features with weights, weights is float32 [n]. Features that were
    sent once a run are expanded when one of these is first asked for, all at once, or when a single
    feature is, that one alone.
    """

    def __init__(self, arena: Arena, layout: SparseLayout, batch_size: int) -> None:
        self._arena = arena
        self._layout = layout
        self.keys = layout.features
        self.batch_size = batch_size

    def __repr__(self) -> str:
        return f"SparseBlock(keys={self.keys!r}, batch_size={self.batch_size})"

    @property
    def values(self) -> torch.Tensor:
        """[n], the values of every list: feature by feature, row by row."""
        return self._expanded.values

    @property
    def lengths(self) -> torch.Tensor:
        """int32 [F * B]."""
        return self._expanded.lengths

    @property
    def weights(self) -> torch.Tensor | None:
        """float32 [n], a weight for each of the values; None in a block without weights."""
        return None if self._layout.weights_dtype is None else self._expanded.weights

    def expand(self) -> None:
        """Expands runs now, so that the first use of values and lengths need not.

        What was sent once a row is left as it is: views are made when asked for.
        """
        if not self._is_plain:
            _ = self._expanded

    @property
    def expanded_nbytes(self) -> int:
        """What values, lengths and weights take up beside the batch as it was sent, in bytes."""
        if "_expanded" not in self.__dict__ or self._is_plain:
            return 0
        return expanded_nbytes(self._layout, *self._counts)

    def take_expanded(self, memory: Bytes) -> None:
        """Takes lists that were expanded elsewhere, in so much memory (expand.lists_in)."""
        self.__dict__["_expanded"] = lists_in(memory, self._layout, *self._counts)

    @cached_property
    def offsets(self) -> torch.Tensor:
        """int64 [F * B + 1]; made when first asked for, on the tensors' device."""
        return _offsets(self.lengths)

    @cached_property
    def deduplicated(self) -> DeduplicatedBlock:
        """The features as they were sent, without expansion."""
        parts = tuple(self._part(part) for part in self._layout.parts)
        return DeduplicatedBlock(parts, self.batch_size)

    def __getitem__(self, key: str) -> JaggedView:
        """The lists of one feature, one a row. Raises KeyError if there is no such feature."""
        f = _place(self.keys, key)
        if "_expanded" in self.__dict__:
            return _view_of(f, self._expanded, self._expanded_counts, self.batch_size)
        if key not in self._single:
            self._single[key] = self._one(f)
        return self._single[key]

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def to_kjt(self) -> Any:
        """The block as a torchrec KeyedJaggedTensor, sharing memory; needs torchrec."""
        return _to_kjt(self.keys, self.values, self.lengths, self.weights)

    @cached_property
    def _expanded(self) -> Lists:
        """The lists of all features; views of the arena if all were sent once a row."""
        if self._is_plain:
            part = self.deduplicated.parts[0]
            return Lists(part.values, part.lengths, part.weights)
        return expand(self._arena, self._layout, range(len(self.keys)), self.batch_size)

    @property
    def _is_plain(self) -> bool:
        """Whether all features were sent once a row."""
        parts = self._layout.parts
        return len(parts) == 1 and not parts[0].run_count

    @property
    def _counts(self) -> tuple[int, int]:
        """The lists of all features once they are expanded, and their values."""
        values = sum(sum(part.expanded_counts) for part in self._layout.parts)
        return len(self.keys) * self.batch_size, values

    @cached_property
    def _expanded_counts(self) -> list[int]:
        counts: dict[int, int] = {}
        for part in self._layout.parts:
            counts.update(zip(part.features, part.expanded_counts, strict=True))
        return [counts[f] for f in range(len(self.keys))]

    @cached_property
    def _single(self) -> dict[str, JaggedView]:
        return {}

    def _one(self, f: int) -> JaggedView:
        parts = self._layout.parts
        number = next(i for i, part in enumerate(parts) if f in part.features)
        if not parts[number].run_count:
            return self.deduplicated.parts[number][self.keys[f]]
        return JaggedView(*expand(self._arena, self._layout, [f], self.batch_size))

    def _part(self, part: PartLayout) -> SparsePart:
        arena, size, runs = self._arena, part.run_count or self.batch_size, None
        if part.run_count:
            runs = view(arena, part.run_lengths_offset_bytes, (size,), torch.int32)
        lists, count = len(part.features) * size, sum(part.value_counts)
        weights, weights_dtype = None, self._layout.weights_dtype
        if weights_dtype is not None:
            weights = view(arena, part.weights_offset_bytes, (count,), weights_dtype)
        return SparsePart(
            keys=tuple(map(self.keys.__getitem__, part.features)),
            values=view(arena, part.values_offset_bytes, (count,), self._layout.dtype),
            lengths=view(arena, part.lengths_offset_bytes, (lists,), torch.int32),
            run_lengths=runs,
            batch_size=self.batch_size,
            value_counts=part.value_counts,
            weights=weights,
        )


def _place(keys: tuple[str, ...], key: str) -> int:
    try:
        return keys.index(key)
    except ValueError:
        raise KeyError(key) from None


def _view_of(f: int, lists: Lists, counts: Sequence[int], size: int) -> JaggedView:
    """Feature f of a key-major block of so many values and lists a feature."""
    start = sum(counts[:f])
    place = slice(start, start + counts[f])
    return JaggedView(
        lists.values[place],
        lists.lengths[f * size : (f + 1) * size],
        None if lists.weights is None else lists.weights[place],
    )


def _offsets(lengths: torch.Tensor) -> torch.Tensor:
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, dim=0, dtype=torch.int64, out=offsets[1:])
    return offsets


def _to_kjt(
    keys: Sequence[str],
    values: torch.Tensor,
    lengths: torch.Tensor,
    weights: torch.Tensor | None,
) -> Any:
    from torchrec import KeyedJaggedTensor  # type: ignore[import-not-found]

    return KeyedJaggedTensor(keys=list(keys), values=values, lengths=lengths, weights=weights)
