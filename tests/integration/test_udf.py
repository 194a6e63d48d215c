"""Functions of a dataset, on real servers: the laws hold, and each failure is one error."""

import itertools
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from preprocessor_server.cli import cli as commands
from preprocessor_server.server import Server
from preprocessor_server.settings import Settings
from tests.fakes.grouped import FORMS, flat_table, make_requests, write_layout
from tests.fakes.notebook import Notebook
from tests.fakes.process import ROOT
from tests.integration.test_stream_laws import fingerprint, target
from trainer_client import (
    BatchStream,
    Dataset,
    Dense,
    DeploymentError,
    Label,
    RequestError,
    Sparse,
    Udf,
    UdfError,
    derive,
    ops,
    parquet,
)

Start = Callable[..., Server]
MODULE = "tests.fakes.udfs"


def one(name: str, kind: str = "float32") -> Udf:
    return Udf(f"{MODULE}:{name}", inputs=["id", "price"], outputs={"made": kind})


def made_dataset(udf: Udf, **changes: object) -> Dataset:
    fields: dict[str, object] = {
        "source": parquet("rows"),
        "features": [Dense("made"), Sparse("id"), Label("label")],
        "udfs": [udf],
        "udf_block_rows": 300,
    }
    return Dataset(**(fields | changes))  # type: ignore[arg-type]


NOISY = Dataset(
    source=parquet("rows", group_by=["request"]),
    where="centred > -0.5",
    udfs=[
        Udf(
            f"{MODULE}:noisy",
            inputs=["price", "city"],
            outputs={"centred": "float32", "block_rows": "int64", "letters": "list<int64>"},
            random=True,
        ),
        Udf(f"{MODULE}:halved", inputs=["centred"], outputs={"half": "float32"}),
    ],
    udf_block_rows=300,
    features=[
        Dense("half", "price"),
        Sparse("letters", ops=[ops.Tail(3)]),
        Sparse("id", "block_rows"),
        Label("label"),
    ],
)


@pytest.fixture(scope="module")
def servers(dataset_root: Path) -> Iterator[list[Server]]:
    started = []
    for _ in range(2):
        server = Server(
            Settings(
                data_root=(dataset_root,),
                listen="127.0.0.1:0",
                drain_timeout_s=2.0,
                cpu_threads=2,
                udf_module=(MODULE,),
                udf_memory_bytes=400 << 20,
            )
        )
        server.start()
        started.append(server)
    yield started
    for server in started:
        server.stop()


def test_an_epoch_is_the_same_on_one_server_and_two_and_from_its_middle(
    servers: list[Server],
) -> None:
    options = {"batch_size": 700, "seed": 3, "num_shards": 3}
    with BatchStream(NOISY, target=target(servers[:1]), **options) as stream:  # type: ignore[arg-type]
        whole, states = [], []
        for batch in stream:
            whole.append(fingerprint(batch))
            states.append(json.dumps(stream.state_dict(batch)))
            assert batch.sparse is not None
            # Blocks are counted from the start of each split, whatever where leaves out of them.
            assert set(batch.sparse["block_rows"].values.tolist()) <= {300, 100, 200}
        following = [fingerprint(batch) for batch in stream]
    assert len(whole) > 4
    assert set(whole).isdisjoint(following)
    middle = len(whole) // 2
    with BatchStream(NOISY, target=target(servers), **options) as stream:  # type: ignore[arg-type]
        assert [fingerprint(batch) for batch in stream] == whole
        stream.load_state_dict(json.loads(states[middle - 1]))
        assert [fingerprint(batch) for batch in stream] == whole[middle:]


def test_what_the_function_makes_reaches_the_trainer(
    servers: list[Server], dataset_root: Path
) -> None:
    dataset = Dataset(
        source=parquet("rows"),
        features=[Dense("mean"), Sparse("id")],
        udfs=[Udf(f"{MODULE}:mean_of_block", inputs=["id"], outputs={"mean": "float64"})],
        udf_block_rows=300,
    )
    found: dict[int, float] = {}
    with BatchStream(dataset, target=target(servers), batch_size=1000, num_shards=1) as stream:
        for batch in stream:
            assert batch.dense is not None
            assert batch.sparse is not None
            ids = batch.sparse["id"].values.tolist()
            found |= dict(zip(ids, batch.dense[:, 0].tolist(), strict=True))
    expected: dict[int, float] = {}
    for path in sorted((dataset_root / "rows").iterdir()):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, ["id"])["id"].to_numpy()
            for block in np.split(ids, range(300, len(ids), 300)):
                expected |= dict.fromkeys(block.tolist(), float(np.float32(block.mean())))
    assert found == expected


def test_columns_are_derived_of_what_functions_make(servers: list[Server]) -> None:
    dataset = Dataset(
        source=parquet("rows"),
        features=[Sparse("id_in_list"), Sparse("id"), Dense("half")],
        udfs=NOISY.udfs,
        derive=[derive.Cross("id_in_list", ["letters", "id"], 1 << 32)],
    )
    plan = dataset.explain(target=target(servers))
    assert set(plan.columns) == {"id", "price", "city"}
    assert plan.other_columns == ()
    assert [(made.name, made.type) for made in plan.derived] == [
        ("id_in_list", "list<item: int64>")
    ]
    assert [feature.type for feature in plan.features] == ["float", "list<item: int64>", "int64"]
    preview = dataset.preview(50, target=target(servers))
    columns = {column.name: column.values for column in preview.source}
    pairs = list(zip(columns["id_in_list"], columns["letters"], strict=True))
    assert any(crossed for crossed, _ in pairs)
    assert all(len(crossed) == len(letters) for crossed, letters in pairs)  # type: ignore[arg-type]


def draw(servers: list[Server], dataset: Dataset) -> int:
    with BatchStream(dataset, target=target(servers), batch_size=500, shuffle=False) as stream:
        return sum(batch.batch_size for batch in stream)


FAILURES = {
    "raises": [
        "ValueError: the ids are bad here",
        'raise ValueError("the ids are bad here")',
        "rows 600-699",
        f"--udf-module {MODULE} --split rows/part-0.parquet,0,0,700",
    ],
    "no_batch": ["builtins.dict", "pyarrow.RecordBatch", "rows 0-299"],
    "wrong_column": ["no 'made'", "it returned mode"],
    "wrong_length": ["299 rows", "block of 300"],
    "wrong_type": ["'made' as float64", "declares float32"],
    "hungry": ["419,430,400 bytes", "--udf-memory-bytes", "np.ones(1 << 30)"],
    "exits": ["status 7", "last words"],
    "crashes": ["SIGSEGV", "in crashes"],
}


def test_each_failure_is_one_error_and_another_stream_goes_on(servers: list[Server]) -> None:
    with BatchStream(
        made_dataset(one("same")), target=target(servers), batch_size=100, prefetch_factor=1
    ) as stream:
        other = iter(stream)
        for name, words in FAILURES.items():
            with pytest.raises(UdfError) as caught:
                draw(servers, made_dataset(one(name)))
            assert caught.value.reason == "UDF_FAILED"
            message = caught.value.message
            for word in (f"{MODULE}:{name}", "rows/part-0.parquet", "row group 0", *words):
                assert word in message, message
            assert next(other).batch_size == 100
        assert sum(batch.batch_size for batch in other) == 10_000 - 100 * len(FAILURES)


def test_a_leak_takes_only_its_process_along(servers: list[Server]) -> None:
    one_file = made_dataset(one("leaks"), source=parquet("rows/part-1.parquet"))
    assert draw(servers[:1], one_file) == 1_000


def test_a_function_that_hangs_is_ended(start_server: Start, dataset_root: Path) -> None:
    server = start_server(data_root=(dataset_root,), udf_module=(MODULE,), udf_timeout_s=4)
    plain = Dataset(source=parquet("rows"), features=[Sparse("id")])
    failed: list[UdfError] = []

    def hang() -> None:
        with pytest.raises(UdfError) as caught:
            draw([server], made_dataset(one("hangs")))
        failed.append(caught.value)

    thread = threading.Thread(target=hang)
    thread.start()
    with BatchStream(plain, target=target([server]), batch_size=500) as stream:
        epochs = itertools.takewhile(lambda _: thread.is_alive(), itertools.count())
        assert all(sum(b.batch_size for b in stream) == 10_000 for _ in epochs)
    thread.join()
    for word in ("a block took longer than 4 s", "--udf-timeout-s", "rows 0-299"):
        assert word in failed[0].message


@pytest.mark.parametrize(
    ("allowed", "words"),
    [((), "it allows none"), (("tests.fakes.udf",), "it allows tests.fakes.udf;")],
)
def test_a_module_that_is_not_allowed(
    start_server: Start, dataset_root: Path, allowed: tuple[str, ...], words: str
) -> None:
    server = start_server(data_root=(dataset_root,), udf_module=allowed)
    with pytest.raises(DeploymentError, match=r"--udf-module tests\.fakes\.udfs") as caught:
        draw([server], made_dataset(one("same")))
    assert caught.value.reason == "UDF_NOT_ALLOWED"
    assert words in caught.value.message


def test_code_that_changes_is_never_mixed(
    start_server: Start, dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "def f(batch):\n    return batch.append_column('made', batch.column('price'))\n"
    (tmp_path / "own_udf.py").write_text(code)
    server = start_server(data_root=(dataset_root,), udf_module=("own_udf",))
    dataset = made_dataset(Udf("own_udf:f", inputs=["price"], outputs={"made": "float32"}))
    with BatchStream(dataset, target=target([server]), batch_size=500) as stream:
        first = [fingerprint_of_dense(batch) for batch in stream]
        (tmp_path / "own_udf.py").write_text(
            "import pyarrow.compute as pc\n"
            + code.replace("batch.column('price'))", "pc.negate(batch.column('price')))")
        )
        stream.set_epoch(1)
        with pytest.raises(DeploymentError, match="own_udf:f on this server") as caught:
            list(stream)
        assert caught.value.reason == "UDF_CHANGED"
    with BatchStream(dataset, target=target([server]), batch_size=500) as stream:
        assert [fingerprint_of_dense(batch) for batch in stream] == [-x for x in first]


def fingerprint_of_dense(batch: object) -> float:
    return float(batch.dense.double().sum())  # type: ignore[attr-defined]


def test_counts_of_a_filter_on_what_functions_make(servers: list[Server]) -> None:
    dataset = made_dataset(
        Udf(f"{MODULE}:mean_of_block", inputs=["id"], outputs={"mean": "float64"}),
        features=[Sparse("id"), Label("label")],
        where="id > mean",
    )
    options = {"target": target(servers), "batch_size": 500}
    with BatchStream(dataset, **options, count="exact") as stream:  # type: ignore[arg-type]
        steps = len(stream)
        assert [batch.batch_size for batch in stream][:3] == [500, 500, 500]
        assert steps == 10
    with (
        pytest.raises(RequestError, match="random numbers"),
        BatchStream(NOISY, **options, count="exact") as stream,  # type: ignore[arg-type]
    ):
        len(stream)


@pytest.mark.parametrize("layout", ["clustered", "lists", "struct"])
def test_rows_in_lists_are_handed_over_as_rows(
    start_server: Start, tmp_path: Path, layout: str
) -> None:
    count = write_layout(tmp_path / layout, layout)
    dataset = Dataset(
        source=parquet(layout, rows=FORMS.get(layout, ["id", "label"])),
        where="total >= 0",
        features=[Dense("total"), Sparse("id"), Label("label")],
        udfs=[
            Udf(f"{MODULE}:spread", inputs=["age", "price"], outputs={"total": "float32"}),
        ],
        udf_block_rows=50,
    )
    requests, impressions = make_requests()
    flat = flat_table(requests, impressions)
    expected = {
        row["id"]: float(np.float32(row["age"] + np.float32(row["price"])))
        for row in flat.select(["id", "age", "price"]).to_pylist()
        if row["age"] is not None
    }
    server = start_server(data_root=(tmp_path,), udf_module=("tests",))
    found: dict[int, float] = {}
    with BatchStream(dataset, target=target([server]), batch_size=64) as stream:
        for batch in stream:
            assert batch.dense is not None
            assert batch.sparse is not None
            ids = batch.sparse["id"].values.tolist()
            found |= dict(zip(ids, batch.dense[:, 0].tolist(), strict=True))
    assert found == expected
    assert 0 < len(found) < count


def test_preview_and_describe_show_what_functions_make(
    servers: list[Server], dataset_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "dataset.yaml"
    path.write_text(made_dataset(one("raises")).to_yaml())
    with pytest.raises(UdfError) as caught:
        draw(servers, made_dataset(one("raises")))
    command = caught.value.message.rpartition("one process: preprocessor-server ")[2]
    words = shlex.split(command.partition(" [UDF_FAILED")[0].replace("DATASET.yaml", str(path)))
    # In this very process: what the function raises comes through, with its frames.
    with pytest.raises(ValueError, match="the ids are bad here"):
        run_cli(words, dataset_root)
    path.write_text(made_dataset(one("same")).to_yaml())
    assert "made = " in run_cli(words, dataset_root)
    assert "made = " in run_cli(["preview", *words[1:4]], dataset_root)
    described = run_cli(["describe", *words[1:4]], dataset_root)
    assert f"udf          {MODULE}:same sha256:" in described
    with pytest.raises(SystemExit, match="1"):
        run_cli([*words[:5], "rows/part-0.parquet,0,600,700"], dataset_root)


def test_the_page_runs(
    start_server: Start, dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "udfs.md").read_text()
    uploaded, module, script = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "price_features.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    server = start_server(data_root=(dataset_root,), udf_module=("price_features",), udf="upload")
    shown: list[object] = []
    for text in (uploaded, script):
        notebook = Notebook()
        notebook.names |= {"target": target([server]), "print": shown.append}
        notebook.run(text)
    assert shown == [(512, 1)] * 2


def run_cli(words: list[str], root: Path) -> str:
    done = CliRunner().invoke(commands, [*words, "--data-root", str(root)])
    if done.exception is not None:
        raise done.exception
    return done.output
