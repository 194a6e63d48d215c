"""Row counts of datasets that choose rows: servers count in parallel, the snapshot keeps them."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import zstandard

from headrace.v1 import dataset_pb2, preprocessor_service_pb2
from trainer_client.errors import DeploymentError, RequestError
from trainer_client.snapshot_store import identify
from trainer_client.transport.calls import Connection, Snapshot

# Calls under way at a server: it has 16 places for short ones, and a worker thread a core.
CALLS_A_SERVER = 4
MAX_CALLS = 64
# Row groups that one thread asks for at a time; a server answers with those it had time for.
MAX_ROW_GROUPS = 256

Count = Callable[[int], None]


def check_counted(snapshot: Snapshot, dataset: dataset_pb2.DatasetSpec) -> None:
    """Raises RequestError if a snapshot does not count the rows that a dataset delivers."""
    message = _message(snapshot)
    sampled = message.HasField("counted_sampling"), message.counted_sampling
    same_filter = message.counted_filter == dataset.where
    same_sampling = sampled == (dataset.HasField("sampling"), dataset.sampling)
    same_keys = message.counted_distinct_by == dataset.distinct_by
    if not (same_filter and same_sampling and same_keys):
        problem = "was taken without counting"
        if message.counted_filter and not same_filter:
            problem = f"counts the rows of another filter, {message.counted_filter!r}"
        elif not same_sampling and (message.counted_filter or sampled[0]):
            problem = "counts the rows of another sampling"
        elif not same_keys and message.row_group_passing_rows:
            problem = "counts the rows of another distinct_by"
        elif message.row_group_passing_rows:
            problem = "counts the rows of no filter"
        raise RequestError(
            f'count="exact", but snapshot {snapshot.snapshot_id} (of snapshot= or a state) '
            f"{problem}: leave count= out, or start anew without it"
        )


def count(connection: Connection, dataset: dataset_pb2.DatasetSpec, snapshot: Snapshot) -> Snapshot:
    """A snapshot of the same files that keeps how many rows the dataset delivers.

    Shows a progress bar where standard error is a terminal. Raises the HeadraceError that ended
    the tries at a row group.
    """
    message = _message(snapshot)
    groups = len(message.row_group_rows)
    threads = min(CALLS_A_SERVER * len(connection.fleet.addresses()), MAX_CALLS, groups)
    # Several times as many ranges as threads: the last ones must not be waited for alone.
    size = max(1, min(MAX_ROW_GROUPS, groups // (4 * threads)))
    starts = range(0, groups, size)
    counts = [0] * groups
    stopped = threading.Event()
    with _progress(groups) as advance, ThreadPoolExecutor(threads, "headrace-count") as pool:

        def work(start: int) -> None:
            end = min(start + size, groups)
            while start < end and not stopped.is_set():
                found = _ask(connection, dataset, snapshot, start, end - start)
                counts[start : start + len(found)] = found
                start += len(found)
                advance(len(found))

        try:
            for each in as_completed([pool.submit(work, start) for start in starts]):
                each.result()
        finally:
            # After an error, or Ctrl-C: the others end with what they are at.
            stopped.set()
    message.counted_filter = dataset.where
    message.ClearField("counted_sampling")
    if dataset.HasField("sampling"):
        message.counted_sampling.CopyFrom(dataset.sampling)
    message.counted_distinct_by[:] = dataset.distinct_by
    message.row_group_passing_rows[:] = counts
    content = message.SerializeToString(deterministic=True)
    data = zstandard.ZstdCompressor(level=3).compress(content)
    return Snapshot(identify(data), data, snapshot.encoding_version)


def _ask(
    connection: Connection,
    dataset: dataset_pb2.DatasetSpec,
    snapshot: Snapshot,
    first: int,
    limit: int,
) -> Sequence[int]:
    request = preprocessor_service_pb2.CountRowsRequest(
        dataset=dataset,
        snapshot_id=snapshot.snapshot_id,
        first_row_group=first,
        row_group_count=limit,
    )
    what = f"counting the rows of row groups {first} to {first + limit - 1}"
    answer = connection.call("CountRows", request, what=what, snapshot=snapshot)
    if answer.snapshot_id != snapshot.snapshot_id or not 0 < len(answer.row_counts) <= limit:
        raise DeploymentError(
            f"{what}: a server counted {len(answer.row_counts)} row groups of snapshot "
            f"{answer.snapshot_id}: is it of another version?"
        )
    counts: Sequence[int] = answer.row_counts
    return counts


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Count]:
    """Takes how many row groups were counted; draws a bar for people who watch."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("counting rows, by row group", total=total)
        yield lambda done: progress.advance(task, done)


def _message(snapshot: Snapshot) -> preprocessor_service_pb2.Snapshot:
    content = zstandard.ZstdDecompressor().decompress(snapshot.data)
    return preprocessor_service_pb2.Snapshot.FromString(content)
