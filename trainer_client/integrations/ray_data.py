"""Ray Data: a Dataset whose rows come from a fleet.

    rows = read_batch_stream(dataset, target="ray:///homefeed", batch_size=4096, seed=7)
    for batch in rows.map_batches(mine).iter_torch_batches(batch_size=4096): ...

ImportError without ray[data].
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from trainer_client.batch import Batch
from trainer_client.dataset import Dataset
from trainer_client.errors import RequestError
from trainer_client.snapshot_store import SnapshotStore
from trainer_client.sparse import JaggedView
from trainer_client.state import merge_state_dicts
from trainer_client.stream import BatchStream

# Ray looks at every block, and its iterators join and cut them: few large ones cost least, and half
# of Ray Data's own target leaves it room.
BLOCK_BYTES = 64 << 20
# What read tasks decide themselves, or Ray Data does after them.
OWN_OPTIONS = ("rank", "world_size", "uneven", "device", "pin_memory")


def read_batch_stream(
    dataset: Dataset,
    *,
    target: str,
    batch_size: int,
    epoch: int = 0,
    streams: int | None = None,
    num_cpus: float | None = None,
    **options: Any,
) -> ray.data.Dataset:
    """The rows of one epoch as a Ray Dataset, each once: a column a feature.

    Columns have the dtypes of their blocks, float32 for bfloat16, which Arrow lacks; sparse
    features are lists, with weights structs of two lists, values and weights. streams read tasks,
    each of num_cpus CPUs (Ray's default: one), read a part of the epoch each; by default as many as
    the cluster has CPUs. options are those of BatchStream, less OWN_OPTIONS. A task that Ray
    repeats gives the same rows in the same order. Raises what a BatchStream raises.
    """
    if own := sorted(set(options) & set(OWN_OPTIONS)):
        raise RequestError(f"{own[0]} cannot be given: each read task reads its part of the epoch")
    if not ray.is_initialized():
        ray.init()
    if streams is None:
        streams = max(1, int(ray.cluster_resources().get("CPU", 1)))
    if type(streams) is not int or streams < 1:
        raise RequestError(f"streams is {streams!r}: it must be an integer from 1")
    options |= {"target": target, "batch_size": batch_size}
    source = BatchStreamDatasource(_planned(dataset, epoch, options))
    found: ray.data.Dataset = ray.data.read_datasource(
        source, override_num_blocks=streams, num_cpus=num_cpus
    )
    return found


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What every read task is given: the same snapshot, plan and epoch, and its part.

    snapshot are the bytes that a state names, so that a task needs no folder in common with others.
    """

    dataset: Dataset
    options: dict[str, Any]
    state: dict[str, Any]
    snapshot: bytes
    row_count: int | None
    rank: int = 0
    world_size: int = 1


class BatchStreamDatasource(Datasource):
    """One epoch of a dataset, in as many read tasks as Ray asks for."""

    def __init__(self, epoch: _Epoch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
        self._epoch = epoch

    def get_name(self) -> str:
        """The name of the read tasks."""
        return "Headrace"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: what features take up only the servers find out."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """The parts of the epoch, dealt as to so many ranks."""
        del data_context
        tasks = []
        for rank in range(parallelism):
            part = replace(self._epoch, rank=rank, world_size=parallelism)
            rows = part.row_count if parallelism == 1 else None
            metadata = BlockMetadata(rows, None, input_files=None, exec_stats=None)
            read = partial(_read, part)
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


def to_arrow(batch: Batch) -> pa.Table:
    """The rows of a batch: numbers, and lists of sparse features; only bfloat16 is copied.

    A feature with weights is a struct of two lists, values and weights.
    """
    columns: dict[str, pa.Array] = {}
    for name in batch:
        feature = batch[name]
        if isinstance(feature, JaggedView):
            # list<> counts in int32, as Ray Data and most of Arrow expect; more is an ArrowInvalid.
            offsets = pa.array(feature.offsets.numpy(), pa.int32())
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(feature.values.numpy()))
            if feature.weights is not None:
                weights = pa.ListArray.from_arrays(offsets, pa.array(feature.weights.numpy()))
                parts = {"values": columns[name], "weights": weights}
                columns[name] = pa.StructArray.from_arrays(parts.values(), parts.keys())
        else:
            if feature.dtype is torch.bfloat16:
                feature = feature.float()
            columns[name] = pa.array(np.ascontiguousarray(feature.numpy()))
    return pa.table(columns)


def _planned(dataset: Dataset, epoch: int, options: dict[str, Any]) -> _Epoch:
    """Fixes snapshot and plan of an epoch."""
    with tempfile.TemporaryDirectory(prefix="headrace-ray-data-") as folder:
        chosen = {"snapshot_dir": folder} | options
        with BatchStream(dataset, rank=0, world_size=1, **chosen) as stream:
            stream.set_epoch(epoch)
            rows = stream.row_count()
            state = merge_state_dicts([stream.state_dict()])
        snapshot = SnapshotStore(chosen["snapshot_dir"]).get(state["snapshot"])
    if snapshot is None:
        raise RequestError(f"snapshot {state['snapshot']} is gone from {chosen['snapshot_dir']}")
    rest = {name: value for name, value in options.items() if name != "snapshot_dir"}
    return _Epoch(dataset, rest, state, snapshot, rows)


def joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of BLOCK_BYTES or a little more, each column of them in one piece."""
    waiting: list[pa.Table] = []
    size_bytes = 0
    for table in tables:
        waiting.append(table)
        size_bytes += table.nbytes
        if size_bytes >= BLOCK_BYTES:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, size_bytes = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _read(part: _Epoch) -> Iterator[pa.Table]:
    """The rows of a part, in the process of a read task."""
    with tempfile.TemporaryDirectory(prefix="headrace-ray-data-") as folder:
        SnapshotStore(folder).put(part.state["snapshot"], part.snapshot)
        with BatchStream(
            part.dataset,
            rank=part.rank,
            world_size=part.world_size,
            uneven="none",
            snapshot_dir=folder,
            **part.options,
        ) as stream:
            stream.load_state_dict(part.state)
            yield from joined(map(to_arrow, stream))
