"""Code that a dataset carries: who may send it, how it is imported, and what is left of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from preprocessor_server import peers
from preprocessor_server.errors import DeploymentError
from preprocessor_server.settings import Settings
from preprocessor_server.udf import archive, workers
from preprocessor_server.udf.archive import ArchivedModule, Text
from preprocessor_server.udf.declared import (
    DeclaredUdf,
    declaration_errors,
    declare_udfs,
    identity_of,
)
from preprocessor_server.udf.process import UdfFailedError
from preprocessor_server.udf.workers import WorkerProcesses, check_code
from tests.unit.server.test_peers import Caller
from tests.unit.server.test_udf_workers import BATCH, ended, processes

OWN_PYTHON = "{}.{}".format(*sys.version_info)
FUNCTION = """\
def f(batch):
    if batch.num_rows > 2:
        raise ValueError(helper.NAME)
    open("left.txt", "w").close()
    return batch.append_column("made", batch.column("price"))
"""


def spec(**changes: Any) -> dataset_pb2.DatasetSpec:
    """A dataset that carries a function of a script, and a module beside it."""
    uploaded: dict[str, Any] = {
        "python_version": OWN_PYTHON,
        "modules": [
            {
                "name": "__main__",
                "parts": [
                    {"text": "from __future__ import annotations\nimport helper\n"},
                    {"text": FUNCTION, "file": "/there/train.py", "first_line": 41},
                ],
            },
            {
                "name": "helper",
                # As in one file, the first part holds for the second.
                "parts": [
                    {"text": "from __future__ import annotations\n"},
                    {"text": "NAME: Absent = 'the name'\n"},
                ],
            },
        ],
    }
    udf = {
        "function": "__main__:f",
        "inputs": ["price"],
        "outputs": [{"name": "made", "type": "float32"}],
        "archive": uploaded | changes,
    }
    return json_format.ParseDict({"udfs": [udf]}, dataset_pb2.DatasetSpec())


def declared(message: dataset_pb2.DatasetSpec) -> DeclaredUdf:
    return declare_udfs(message, BATCH.schema).udfs[0]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[WorkerProcesses]:
    found = processes(tmp_path, udf="upload")
    yield found
    found.close()


def test_it_runs_in_a_folder_of_its_own_that_goes(
    started: WorkerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    udf = declared(spec())
    code = started.fingerprint(udf)
    assert started.run(udf, code, BATCH, None).to_pydict() == {"made": [1.0, 2.0]}
    (idle,) = started._idle[udf.code]
    assert idle.process._folder is not None
    folder = Path(idle.process._folder.name)
    assert [path.name for path in folder.iterdir()] == ["left.txt"]
    with pytest.raises(UdfFailedError) as caught:
        started.run(udf, code, pa.concat_batches([BATCH, BATCH]), None)
    # The lines of the script, which is not here.
    assert 'File "/there/train.py", line 43, in f' in caught.value.traceback
    assert "    raise ValueError(helper.NAME)\n" in caught.value.traceback
    assert caught.value.traceback.endswith("ValueError: the name")
    assert len(caught.value.traceback.splitlines()) == 4
    assert not folder.exists()
    with pytest.raises(DeploymentError, match="is not what the snapshot recorded"):
        started.run(udf, "sha256:other", BATCH, None)
    # Of code that nobody runs any longer nothing is kept.
    monkeypatch.setattr(workers, "IDLE_S", 0.0)
    with started._taken(udf.code) as process:
        pid = process._process.pid
    assert ended(pid)
    assert not any(udf.code in of for of in (started._idle, started._busy, started._starting))


def test_the_fingerprint_is_that_of_the_text() -> None:
    message = spec()
    moved = spec()
    moved.udfs[0].archive.python_version = "3.99"
    for module in moved.udfs[0].archive.modules:
        for part in module.parts:
            part.file, part.first_line = "elsewhere.py", 7
    changed = spec()
    changed.udfs[0].archive.modules[1].parts[0].text += "\n"
    found = [archive.fingerprint(declared(each).code.archive) for each in (message, moved, changed)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert identity_of(message) == identity_of(moved)
    assert identity_of(message) != identity_of(changed)
    # Whose lines a traceback shows is no matter of identity, yet each is shown his own.
    assert declared(message).code != declared(moved).code


@pytest.mark.parametrize(
    ("changes", "settings", "reason", "words"),
    [
        ({}, {}, "UDF_UPLOAD_FORBIDDEN", "start servers with --udf=upload"),
        (
            {"python_version": "3.8"},
            {"udf": "upload"},
            "UDF_PYTHON_MISMATCH",
            f"comes from Python 3.8, and this server has Python {OWN_PYTHON}",
        ),
    ],
)
def test_what_a_server_does_not_take(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], reason: str, words: str
) -> None:
    udf = declared(spec(**changes))
    with pytest.raises(DeploymentError) as caught:
        check_code(udf, Settings(data_root=(tmp_path,), udf_module=("__main__",), **settings))
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert "__main__:f" in caught.value.message


def test_only_callers_that_are_known_may_send_code() -> None:
    far: Any = Caller("ipv4:10.0.0.7:4711")
    known: Any = Caller("ipv4:10.0.0.7:4711", {"x509_pem_cert": [b"-----BEGIN"]})
    near: Any = Caller("unix:/run/headrace/server-0.sock")
    for caller in (known, near):
        peers.check_uploads(spec(), caller)
    with pytest.raises(DeploymentError, match=r"ipv4:10\.0\.0\.7:4711.*--tls-client-ca") as caught:
        peers.check_uploads(spec(), far)
    assert caught.value.reason == "UDF_UPLOAD_FORBIDDEN"
    installed = spec()
    installed.udfs[0].ClearField("archive")
    peers.check_uploads(installed, far)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"python_version": "3"}, "python_version", "'3' is no version of Python"),
        ({"modules": []}, "modules", "lacks the module of __main__:f"),
        ({"modules": [{"name": "__main__"}] * 2}, "modules[1].name", "'__main__' is there twice"),
        ({"modules": [{"name": "a/b"}, {"name": "__main__"}]}, "modules[0].name", "'a/b' is no"),
    ],
)
def test_what_is_wrong_in_an_archive(changes: dict[str, Any], field: str, words: str) -> None:
    (fault,) = declaration_errors(spec(**changes))
    assert fault.field == f"dataset.udfs[0].archive.{field}"
    assert words in fault.message


def test_too_much_text() -> None:
    parts = [{"text": "#" * (1 << 20)}]
    modules = [{"name": name, "parts": parts} for name in ("__main__", "b")]
    (fault,) = declaration_errors(spec(modules=modules))
    assert "carries 2,097,152 bytes of source code" in fault.message


def test_archives_that_follow_each_other_in_one_process() -> None:
    def modules(number: int, name: str = "own_archived") -> tuple[ArchivedModule, ...]:
        return (
            ArchivedModule("__main__", False, (Text(f"from {name} import NUMBER\n", "", 1),)),
            ArchivedModule(name, False, (Text(f"NUMBER = {number}\n", "", 1),)),
        )

    main = sys.modules["__main__"]
    for number in (1, 2):
        assert number == archive.import_from(modules(number), "__main__").NUMBER
        assert sys.modules["__main__"] is main
    with pytest.raises(ImportError, match="a module 'json', and servers have another"):
        archive.import_from(modules(3, "json"), "__main__")
    archive.import_from((ArchivedModule("__main__", False, ()),), "__main__")
    assert "own_archived" not in sys.modules
