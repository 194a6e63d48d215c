"""Functions that trainers send along, on real servers: the laws hold, and refusals are clear."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.catalog import Catalog
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.server import Server
from preprocessor_server.service import SERVICE, PreprocessorService
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import Metrics
from tests.fakes.notebook import Notebook
from tests.fakes.process import ROOT
from tests.integration.test_stream_laws import fingerprint, target
from tests.integration.test_udf import run_cli
from trainer_client import (
    BatchStream,
    Dataset,
    Dense,
    DeploymentError,
    Label,
    Sparse,
    StateMismatchError,
    Udf,
    UdfError,
    parquet,
)

Start = Callable[..., Server]
IMPORTS = "import numpy as np\nimport pyarrow as pa\nfrom trainer_client import udf\n"
NOISY = """
SCALE = 2

def centred(values):
    return SCALE * (values - values.mean())

@udf(inputs=["price"], outputs={"made": "float32"}, random=True)
def f(batch, rng):
    price = batch.column("price").to_numpy()
    made = centred(price) + rng.standard_normal(len(price))
    return pa.RecordBatch.from_pydict({"made": made.astype(np.float32)})
"""
FAILING = """
import os

@udf(inputs=["id", "price"], outputs={"made": "float32"})
def f(batch):
    if HOW == "raises":
        check(batch.column("id").to_numpy())
    if HOW == "exits":
        os._exit(7)
    return batch.append_column("made", batch.column("price").cast(HOW))

def check(ids):
    if ids.max() > 600:
        raise ValueError(f"the ids are bad here: {ids.max()}")
"""


def made_by(function: Udf) -> Dataset:
    return Dataset(
        source=parquet("rows"),
        features=[Dense("made"), Sparse("id"), Label("label")],
        udfs=[function],
        udf_block_rows=300,
    )


def noisy(*cells: str) -> Dataset:
    """The dataset of a notebook in a process of its own, with other cells in between."""
    notebook = Notebook()
    for cell in (IMPORTS, *cells):
        notebook.run(cell)
    return made_by(notebook.run(NOISY))


@pytest.fixture(scope="module")
def servers(dataset_root: Path) -> Iterator[list[Server]]:
    started = []
    for _ in range(4):
        server = Server(
            Settings(
                data_root=(dataset_root,),
                listen="127.0.0.1:0",
                drain_timeout_s=2.0,
                cpu_threads=1,
                udf="upload",
            )
        )
        server.start()
        started.append(server)
    yield started
    for server in started:
        server.stop()


def test_every_batch_of_every_state_is_the_same_on_one_server_and_on_four(
    servers: list[Server],
) -> None:
    options: dict[str, Any] = {"batch_size": 1700, "seed": 3, "num_shards": 3}
    with BatchStream(noisy(), target=target(servers[:1]), **options) as stream:
        states, whole = [], []
        for batch in stream:
            whole.append(fingerprint(batch))
            states.append(json.dumps(stream.state_dict(batch)))
        following = [fingerprint(batch) for batch in stream]
    assert len(whole) == 6
    assert set(whole).isdisjoint(following)
    for some in (servers[:1], servers):
        # As of a process that was started again, the code elsewhere in its notebook.
        again = noisy("1 + 1", "\n\n# Nothing.")
        with BatchStream(again, target=target(some), **options) as stream:
            for index, state in enumerate(states):
                stream.load_state_dict(json.loads(state))
                rest = whole[index + 1 :] or following
                assert [fingerprint(batch) for batch in stream] == rest
    other = made_by(Notebook().run(IMPORTS + NOISY.replace("SCALE = 2", "SCALE = 3")))
    with BatchStream(other, target=target(servers[:1]), **options) as stream:
        with pytest.raises(StateMismatchError, match="has dataset"):
            stream.load_state_dict(json.loads(states[0]))
        assert set(whole).isdisjoint(fingerprint(batch) for batch in stream)


WHERE = r"rows/part-\d\.parquet', row group \d, rows \d+-\d+: UDF __main__:f: "
FAILURES = {
    "raises": [
        re.escape('-2.py", line 12, in f\n    check(batch.column("id").to_numpy())'),
        r"-2\.py\", line 19, in check\n    raise ValueError\(f\"the ids are bad here: ",
        r"ValueError: the ids are bad here: \d+\nreproduce it in one process",
    ],
    "exits": ["it ended its process with status 7"],
    "float64": ["returned column 'made' as float64, but declares float32; cast it"],
}


def test_a_failure_shows_the_lines_of_the_notebook_and_other_streams_go_on(
    servers: list[Server], dataset_root: Path, tmp_path: Path
) -> None:
    good, path = noisy(), tmp_path / "DATASET.yaml"
    with BatchStream(good, target=target(servers[:1]), batch_size=100, prefetch_factor=1) as other:
        steps = iter(other)
        for how, patterns in FAILURES.items():
            notebook = Notebook()
            notebook.run(IMPORTS + f"HOW = {how!r}\n")
            bad = made_by(notebook.run("\n" * 5 + FAILING))
            with (
                pytest.raises(UdfError) as caught,
                BatchStream(bad, target=target(servers[:1]), batch_size=500) as stream,
            ):
                list(stream)
            message = caught.value.message
            for pattern in (WHERE, *patterns):
                assert re.search(pattern, message), message
            assert next(steps).batch_size == 100
            path.write_text(bad.to_yaml())
            if how == "raises":
                command = message.partition(": preprocessor-server ")[2].partition(" [UDF_")[0]
                words = shlex.split(command.replace("DATASET.yaml", str(path)))
                # In this very process, with the notebook's own frames.
                with pytest.raises(ValueError, match="the ids are bad here"):
                    run_cli(words, dataset_root)
        assert sum(batch.batch_size for batch in steps) == 10_000 - 100 * len(FAILURES)


def test_preview_and_describe_run_what_is_uploaded(
    servers: list[Server], dataset_root: Path, tmp_path: Path
) -> None:
    dataset, path = noisy(), tmp_path / "dataset.yaml"
    shown = dataset.preview(3, target=target(servers[:1]))
    assert [feature.name for feature in shown.features] == ["made", "id", "label"]
    path.write_text(dataset.to_yaml())
    described = run_cli(["describe", str(path), "--udf", "upload"], dataset_root)
    assert dataset.fingerprint in described
    assert "udf          __main__:f sha256:" in described
    with pytest.raises(SystemExit, match="1"):
        run_cli(["preview", str(path)], dataset_root)


def test_a_server_that_takes_no_code_says_so(start_server: Start, dataset_root: Path) -> None:
    server = start_server(data_root=(dataset_root,))
    with (
        pytest.raises(DeploymentError, match="--udf=upload") as caught,
        BatchStream(noisy(), target=target([server]), batch_size=500) as stream,
    ):
        list(stream)
    assert caught.value.reason == "UDF_UPLOAD_FORBIDDEN"
    # Others are served as before.
    plain = Dataset(source=parquet("rows"), features=[Sparse("id")])
    with BatchStream(plain, target=target([server]), batch_size=500) as stream:
        assert sum(batch.batch_size for batch in stream) == 10_000


def test_code_of_another_python_is_refused(servers: list[Server]) -> None:
    text = re.sub(r"python_version: .*", "python_version: '3.8'", noisy().to_yaml())
    with pytest.raises(DeploymentError, match=r"from Python 3\.8, and this server has") as caught:
        Dataset.from_yaml(text).preview(1, target=target(servers[:1]))
    assert caught.value.reason == "UDF_PYTHON_MISMATCH"
    assert caught.value.status is grpc.StatusCode.FAILED_PRECONDITION


@dataclass
class Details:
    """What gRPC says of a call before it has read the request."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class Stranger:
    """A caller from another machine, without a certificate."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:10.0.0.7:4711"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def is_active(self) -> bool:
        return True

    def abort_with_status(self, status: Any) -> None:
        raise PermissionError(f"{status.code}: {status.details}")


REQUESTS: list[tuple[str, Any]] = [
    ("DescribeDataset", pb.DescribeDatasetRequest),
    ("PlanEpoch", pb.PlanEpochRequest),
    ("CountRows", pb.CountRowsRequest),
    ("PreviewBatch", pb.PreviewBatchRequest),
    ("StreamBatches", pb.StreamBatchesRequest),
]


def test_a_stranger_may_upload_by_no_call(dataset_root: Path) -> None:
    settings = Settings(data_root=(dataset_root,), udf="upload")
    catalog = Catalog(settings)
    pipeline = Pipeline(settings, catalog, Metrics())
    handler = PreprocessorService(pipeline).handler()
    # Every request that carries a dataset is one of them.
    file = pb.DESCRIPTOR.message_types_by_name
    carrying = [name for name, kind in file.items() if "dataset" in kind.fields_by_name]
    assert sorted(carrying) == sorted(kind.DESCRIPTOR.name for _, kind in REQUESTS)
    try:
        for method, kind in REQUESTS:
            call: Any = handler.service(Details(f"/{SERVICE}/{method}"))
            request = kind(dataset=noisy().to_proto()).SerializeToString()
            with pytest.raises(PermissionError, match=r"FAILED_PRE.*10\.0\.0\.7.*--tls-client-ca"):
                list((call.unary_unary or call.unary_stream)(request, Stranger()))
    finally:
        pipeline.close()
        catalog.close()


def test_a_script_that_was_changed_has_the_changed_feature(
    servers: list[Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / "examples" / "iterate_udf.py").read_text()
    found: list[dict[str, float]] = []
    for scale in ("/ 2\n", "* 3\n"):
        # A name of its own: that its lines are read again is not the matter here.
        script = tmp_path / f"train{len(found)}.py"
        script.write_text(text.replace("/ 2\n", scale))
        monkeypatch.setattr(
            sys, "argv", [str(script), "rows", "price", "--target", target(servers[:1])]
        )
        runpy.run_path(str(script), run_name="__main__")
        # The server of this process logs there, too.
        (said,) = [line for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
        found.append(json.loads(said))
    assert [each["rows"] for each in found] == [4096, 4096]
    assert found[1]["std"] == pytest.approx(6 * found[0]["std"], rel=1e-5)
