"""Operations on lists that look at the values in them and give lists."""

from __future__ import annotations

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Column, Flat, Indices, Jagged, Mask, take_column
from preprocessor_server.kernels import first_occurrences, first_state, fold_words
from preprocessor_server.transform.column_type import BYTES, ColumnType, Family
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, nothing_to_check
from preprocessor_server.transform.ops.ids import MAX_BUCKETS
from preprocessor_server.transform.ops.lists import (
    check_count,
    elements_of,
    keep_elements,
    offsets_of,
    positions,
    take_lists_only,
)
from preprocessor_server.transform.ops.words import (
    Words,
    equal_words,
    hash_words,
    lists_of_words_only,
    ordered_words,
)
from preprocessor_server.transform.place import Place

MAX_N = 64

_32 = np.uint64(32)
_33 = np.uint64(33)
_LOW_HALF = np.uint64((1 << 32) - 1)


def _deduplicate(_: dataset_pb2.Deduplicate, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    lists_of_words_only(column, "Deduplicate")

    def run(lists: Column, _: Place) -> Column:
        assert isinstance(lists, Jagged)
        words = equal_words(lists.values)
        if words.valid is None:
            return keep_elements(lists, first_occurrences(lists.offsets, words.values))
        valid = words.valid
        keep = np.zeros(len(valid), np.bool_)
        before = offsets_of(valid.astype(np.int64))
        keep[valid] = first_occurrences(before[lists.offsets], words.values[valid])
        nulls = np.flatnonzero(~valid)
        keep[nulls] = first_occurrences(
            (lists.offsets - before[lists.offsets]), np.zeros(len(nulls), np.uint64)
        )
        return keep_elements(lists, keep)

    return run, column


def _sort(op: dataset_pb2.Sort, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    lists_of_words_only(column, "Sort")
    descending = op.descending

    def run(lists: Column, _: Place) -> Column:
        assert isinstance(lists, Jagged)
        words = ordered_words(lists.values, descending=descending)
        order = order_elements(lists.offsets, words.values, words.valid)
        return Jagged(lists.offsets, elements_of(lists.values, order))

    return run, column


def order_elements(offsets: Indices, words: Words, valid: Mask | None) -> Indices:
    """The elements of each list by their words, nulls last, equal ones in their order."""
    known = words if valid is None else words[valid]
    if len(known) == 0:
        return np.arange(len(words))
    # Numpy's stable sort is fast where lists follow each other: it finds each a run of its own.
    words = words - known.min()
    last = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64) << _33, np.diff(offsets))
    if valid is not None:
        last += (~valid).astype(np.uint64) << _32
        words = np.where(valid, words, 0)
    if words.max() <= _LOW_HALF:
        return np.argsort(last | words, kind="stable")
    # By the low halves first, then by the high ones.
    order = np.argsort(last | (words & _LOW_HALF), kind="stable")
    return order[np.argsort((last | (words >> _32))[order], kind="stable")]


def _n_gram(op: dataset_pb2.NGram, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "NGram")
    if column.family not in {Family.INTEGER, Family.BOOLEAN, *BYTES}:
        raise UnfitError(
            "NGram takes lists of integers, booleans, strings and binary; put a Cast to int64 "
            "before it"
        )
    n, seed, num_buckets = op.n, op.seed, np.uint64(op.num_buckets)

    def run(lists: Column, _: Place) -> Column:
        assert isinstance(lists, Jagged)
        words = hash_words(lists.values, seed)
        lengths = np.diff(lists.offsets)
        offsets = offsets_of(np.maximum(lengths - n + 1, 0))
        if offsets[-1] == 0:
            return Jagged(offsets, Flat(np.zeros(0, np.int64)))
        # Those that reach into the next list are hashed too, and left out then.
        count = len(words) - n + 1
        states = np.full(count, first_state(seed))
        for i in range(n):
            states = fold_words(states, words.values[i : i + count])
        starts = np.arange(offsets[-1]) + np.repeat(
            lists.offsets[:-1] - offsets[:-1], np.diff(offsets)
        )
        buckets = ((states[starts] >> _32) * num_buckets) >> _32
        valid = None
        if words.valid is not None:
            nulls = offsets_of((~words.valid).astype(np.int64))
            valid = nulls[starts + n] == nulls[starts]
        return Jagged(offsets, Flat(buckets.view(np.int64), valid))

    return run, column.of(np.dtype(np.int64))


def _sample(op: dataset_pb2.Sample, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    lists_of_words_only(column, "Sample")
    count, seed = op.count, op.seed

    def run(lists: Column, _: Place) -> Column:
        assert isinstance(lists, Jagged)
        lengths = np.diff(lists.offsets)
        long = lengths > count
        if not long.any():
            return lists
        keep = np.ones(int(lists.offsets[-1]), np.bool_)
        cut = take_column(lists, np.flatnonzero(long))
        assert isinstance(cut, Jagged)
        keep[np.repeat(long, lengths)] = _chosen(cut, count, seed)
        return keep_elements(lists, keep)

    return run, column


def _chosen(lists: Jagged, count: int, seed: int) -> Mask:
    """Which elements of lists, each of more than count ones, are kept."""
    places = positions(lists.offsets)
    at = places.view(np.uint64)
    words = hash_words(lists.values, seed)
    hashes = fold_words(fold_words(np.full(len(at), first_state(seed)), words.values), at)
    if words.valid is not None:
        hashes = np.where(words.valid, hashes, np.uint64(0))
    sums = np.add.reduceat(hashes, lists.offsets[:-1])
    lengths = np.diff(lists.offsets)
    keys = fold_words(np.repeat(sums, lengths), at) >> _32
    numbers = np.repeat(np.arange(len(lists), dtype=np.uint64) << _32, lengths)
    chosen = np.empty(len(at), np.bool_)
    # Sorted, each list is where it was: the places of its elements are their ranks.
    chosen[np.argsort(numbers | keys, kind="stable")] = places < count
    return chosen


def _check_n_gram(op: dataset_pb2.NGram, path: str) -> None:
    if not 1 <= op.n <= MAX_N:
        raise invalid(f"{path}.n", f"n is {op.n:,}; it lies between 1 and {MAX_N}")
    if not 1 <= op.num_buckets <= MAX_BUCKETS:
        raise invalid(
            f"{path}.num_buckets",
            f"num_buckets is {op.num_buckets:,}; it lies between 1 and {MAX_BUCKETS:,} (2^32)",
        )


RULES = {
    "deduplicate": Rule(_deduplicate, nothing_to_check),
    "sort": Rule(_sort, nothing_to_check),
    "n_gram": Rule(_n_gram, _check_n_gram),
    "sample": Rule(_sample, check_count),
}
