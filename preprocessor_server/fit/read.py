"""A pass over a dataset's rows: parts of every statistic, made in threads, merged in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from preprocessor_server.catalog import BoundDataset
from preprocessor_server.choosing import choose_rows
from preprocessor_server.errors import ServerError
from preprocessor_server.fit.counts import Counts, count_values
from preprocessor_server.fit.inputs import Target
from preprocessor_server.fit.moments import Moments
from preprocessor_server.fit.quantiles import Quantiles
from preprocessor_server.frame import Flat, Frame, Jagged, Scalars, take_column
from preprocessor_server.plan.epoch import cut_row_groups
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.reader import SplitReader, describe_split
from preprocessor_server.udf.run import SplitPlace
from preprocessor_server.window import prepare_bytes, source_frame

VOCABULARY: Literal["fit_vocabulary"] = "fit_vocabulary"


@dataclass(slots=True)
class Found:
    """What was found out for a target; counts and quantiles where it needs them.

    Targets of one embedding table have the same counts.
    """

    target: Target
    nulls: int = 0
    not_finite: int = 0
    moments: Moments = field(default_factory=Moments)
    quantiles: Quantiles | None = None
    counts: Counts | None = None


class Part(NamedTuple):
    """What one split adds to a Found."""

    nulls: int
    not_finite: int
    moments: Moments
    quantiles: Quantiles | None
    counts: pa.Table | None


class Limits(NamedTuple):
    """What a pass may use: threads, and memory for splits and for counts, in bytes."""

    threads: int
    split_bytes: int
    count_bytes: int


def read_rows(
    reader: SplitReader,
    dataset: BoundDataset,
    targets: Sequence[Target],
    folder: Path,
    limits: Limits,
    report: Callable[[int], None],
) -> tuple[list[Found], int]:
    """What the rows that are delivered hold for each target, and how many they are.

    dataset is bound by Inputs. Counts that memory does not hold go to the folder. report is told
    the rows of each split that is done. Parts are merged in the order of the splits: the number of
    threads changes nothing. Raises ServerError as a stream would.
    """
    # Columns of one table share a vocabulary; each of the others has its own.
    keys = [target.table or number for number, target in enumerate(targets)]
    counted = {
        key for key, target in zip(keys, targets, strict=True) if target.op.HasField(VOCABULARY)
    }
    counts = {
        key: Counts(folder / str(number), limits.count_bytes // len(counted))
        for number, key in enumerate(sorted(counted, key=keys.index))
    }
    founds = []
    for key, target in zip(keys, targets, strict=True):
        found = Found(target)
        if target.op.HasField(VOCABULARY):
            found.counts = counts[key]
        elif needs_quantiles(target):
            assert target.type.dtype is not None
            found.quantiles = Quantiles(target.type.dtype)
        founds.append(found)
    rows = 0
    pool = ThreadPoolExecutor(limits.threads, "fit")
    waiting: deque[tuple[Future[tuple[int, list[Part]]], int, Split]] = deque()
    held = 0

    def merge_oldest() -> None:
        nonlocal rows, held
        future, size, split = waiting.popleft()
        passed, parts = future.result()
        held -= size
        rows += passed
        for found, part in zip(founds, parts, strict=True):
            _merge(found, part)
        report(split.row_count)

    try:
        for split in cut_row_groups(dataset.snapshot.row_groups, dataset.max_split_bytes):
            size = prepare_bytes(dataset, [split], 1.0)
            while waiting and (held + size > limits.split_bytes or waiting[0][0].done()):
                merge_oldest()
            waiting.append((pool.submit(_look, reader, dataset, targets, split), size, split))
            held += size
            while len(waiting) > 2 * limits.threads:
                merge_oldest()
        while waiting:
            merge_oldest()
    finally:
        pool.shutdown(cancel_futures=True)
    return founds, rows


def needs_quantiles(target: Target) -> bool:
    """Whether a target is fitted by quantiles."""
    return target.op.HasField("fit_bucketize") or target.op.HasField("fit_fill_null")


def _look(
    reader: SplitReader, dataset: BoundDataset, targets: Sequence[Target], split: Split
) -> tuple[int, list[Part]]:
    table = reader.read(dataset.snapshot, split, dataset.columns)
    if dataset.udfs:
        place = SplitPlace(dataset.snapshot, split)
        table = dataset.udfs.apply(table, place, dataset.used_columns)
    try:
        table, passes = choose_rows(dataset, table)
        frame = source_frame(table, passes, dataset.transform.columns)
        inputs = dataset.transform.apply(frame)
        return frame.row_count, [_part(target, inputs) for target in targets]
    except ServerError as error:
        raise error.at(describe_split(dataset.snapshot, split)) from error


def _part(target: Target, inputs: Frame) -> Part:
    column, inverse = inputs.column(target.column)
    if inverse is not None:
        column = take_column(column, inverse.astype(np.int64))
    values = column.values if isinstance(column, Jagged) else column
    if target.op.HasField(VOCABULARY):
        try:
            counts = count_values(values)
        except ServerError as error:
            raise error.at(target.title) from error
        nulls = len(values) - int(np.sum(counts.column("count").to_numpy()))
        return Part(nulls, 0, Moments(), None, counts)
    return _of_numbers(target, values)


def _of_numbers(target: Target, values: Scalars) -> Part:
    assert isinstance(values, Flat)
    numbers = values.values if values.valid is None else values.values[values.valid]
    nulls = len(values) - len(numbers)
    finite = numbers
    if numbers.dtype.kind == "f":
        finite = numbers[np.isfinite(numbers)]
        # -0.0 is 0.0.
        finite = finite + finite.dtype.type(0)
    quantiles = None
    if needs_quantiles(target):
        quantiles = Quantiles(finite.dtype)
        quantiles.add(finite)
    return Part(nulls, len(numbers) - len(finite), Moments.of(finite), quantiles, None)


def _merge(found: Found, part: Part) -> None:
    found.nulls += part.nulls
    found.not_finite += part.not_finite
    found.moments = found.moments.merge(part.moments)
    if found.quantiles is not None and part.quantiles is not None:
        found.quantiles.merge(part.quantiles)
    if found.counts is not None and part.counts is not None:
        found.counts.add(part.counts)
