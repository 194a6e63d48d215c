"""Streams of ready training batches from a fleet of preprocessing servers."""

from trainer_client import derive, ops
from trainer_client.batch import Batch
from trainer_client.cursor import Cursor
from trainer_client.dataset import Dataset, parquet
from trainer_client.dataset_plan import DatasetPlan, EmbeddingTable
from trainer_client.dataset_preview import Preview
from trainer_client.errors import (
    CorruptBatchError,
    DataError,
    DeploymentError,
    HeadraceError,
    InvalidDatasetError,
    RequestError,
    ServerUnavailableError,
    SnapshotMismatchError,
    StateMismatchError,
    StreamClosedError,
    StreamTimeoutError,
    UdfError,
)
from trainer_client.explain import Bound, Explanation
from trainer_client.features import Block, Dense, Label, Meta, Sparse
from trainer_client.ray_fleet import RayFleet
from trainer_client.sampling import Sampling
from trainer_client.sparse import DeduplicatedBlock, JaggedView, SparseBlock, SparsePart
from trainer_client.state import merge_state_dicts
from trainer_client.stream import BatchStream
from trainer_client.telemetry import ServerStats, StreamStats, serve_metrics
from trainer_client.tls import Tls
from trainer_client.udfs import Udf, udf

__all__ = [
    "Batch",
    "BatchStream",
    "Block",
    "Bound",
    "CorruptBatchError",
    "Cursor",
    "DataError",
    "Dataset",
    "DatasetPlan",
    "DeduplicatedBlock",
    "Dense",
    "DeploymentError",
    "EmbeddingTable",
    "Explanation",
    "HeadraceError",
    "InvalidDatasetError",
    "JaggedView",
    "Label",
    "Meta",
    "Preview",
    "RayFleet",
    "RequestError",
    "Sampling",
    "ServerStats",
    "ServerUnavailableError",
    "SnapshotMismatchError",
    "Sparse",
    "SparseBlock",
    "SparsePart",
    "StateMismatchError",
    "StreamClosedError",
    "StreamStats",
    "StreamTimeoutError",
    "Tls",
    "Udf",
    "UdfError",
    "derive",
    "merge_state_dicts",
    "ops",
    "parquet",
    "serve_metrics",
    "udf",
]
