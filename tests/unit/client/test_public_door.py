from __future__ import annotations

import subprocess
import sys

import trainer_client

PUBLIC = [
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
HEAVY = "ray pyarrow numba rich click prometheus_client yaml torchrec preprocessor_server duckdb"
LOOK = f"""
import sys
import trainer_client
loaded = [name for name in {HEAVY.split()} if name in sys.modules]
import torch.distributed as dist
assert not dist.is_initialized()
print(" ".join(loaded))
"""


def test_the_door() -> None:
    assert sorted(trainer_client.__all__) == PUBLIC
    assert all(hasattr(trainer_client, name) for name in PUBLIC)


def test_importing_it_loads_nothing_heavy_and_starts_nothing() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}
    loaded = subprocess.run(
        [sys.executable, "-c", LOOK],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        env=environment,
    )
    assert loaded.stdout.strip() == ""
