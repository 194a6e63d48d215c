"""Programs that end in every way a training script does: nothing is left, and nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.process import python_environment
from tests.integration.test_demo import processes_that_hold

LIMIT_S = 60.0
START = """
import gc, os, signal, sys, threading
from trainer_client import BatchStream, Dataset, Label, Sparse, parquet

dataset = Dataset(source=parquet(sys.argv[1]), features=[Sparse("id"), Label("label")])

def stream(**options):
    return BatchStream(dataset, target="local://1", batch_size=64, **options)

def left():
    return [each.name for each in threading.enumerate() if each.name.startswith("headrace-")]
"""

HALF_READ = """
kept = stream()
batches = iter(kept)
next(batches), next(batches)
print("held", flush=True)
sys.stdin.readline()
"""

FAILED = """
for batch in stream(device="cpu"):
    print("held", flush=True)
    sys.stdin.readline()
    raise ZeroDivisionError("in the loop")
"""

INTERRUPTED = """
try:
    for batch in stream():
        print("held", flush=True)
        while True:
            # A signal that comes just before a wait is noticed when that is over.
            threading.Event().wait(1)
except KeyboardInterrupt:
    del batch
    gc.collect()
    # The loop held the only reference: its iterator ends with it.
    print(left(), flush=True)
    sys.exit(130)
"""

CYCLE = """
class Trainer:
    def __init__(self):
        self.stream = stream()
        self.batches = iter(self.stream)
        self.me = self

trainer = Trainer()
next(trainer.batches)
print("held", flush=True)
sys.stdin.readline()
del trainer
gc.collect()
print(left(), flush=True)
"""

FORKED = """
import multiprocessing
kept = stream()
batches = iter(kept)
first = next(batches)
print("held", flush=True)
sys.stdin.readline()

def child(results):
    # It has the iterator of its parent, whose threads are not here.
    try:
        next(batches)
    except Exception as error:
        results.put(type(error).__name__)

context = multiprocessing.get_context("fork")
results = context.SimpleQueue()
process = context.Process(target=child, args=(results,))
process.start()
process.join(30)
print(process.exitcode, results.get(), sum(1 for _ in batches) + 1 == len(kept), flush=True)
kept.close()
print(left(), flush=True)
"""


LOADER = """
from torch.utils.data import DataLoader
kept = stream()
next(iter(kept))
print("held", flush=True)
sys.stdin.readline()
try:
    next(iter(DataLoader(kept, None, num_workers=1, multiprocessing_context="fork")))
except Exception as error:
    print(type(error).__name__, "num_workers=0" in str(error), flush=True)
kept.close()
print(left(), flush=True)
"""


@contextmanager
def started(script: str, folder: Path, data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program that holds a stream with a server of its own, and its mark on all its processes."""
    marker = f"ENDS_TEST_MARKER={folder}"
    name, _, value = marker.partition("=")
    (folder / "tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", START + script, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_environment(**{name: value, "XDG_CACHE_HOME": str(folder / "cache")}),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n", process.stderr and process.stderr.read()
            assert len(processes_that_hold(marker)) >= 2
            yield process, marker
        finally:
            process.kill()


def end_of(process: subprocess.Popen[str], marker: str) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a program of which nothing is left."""
    out, errors = process.communicate("go\n", timeout=LIMIT_S)
    assert processes_that_hold(marker) == []
    return process.returncode, out, errors


def test_the_program_ends_with_a_half_read_iterator(tmp_path: Path, dataset_root: Path) -> None:
    with started(HALF_READ, tmp_path, dataset_root / "rows") as (process, marker):
        assert end_of(process, marker) == (0, "", "")


def test_the_training_loop_fails(tmp_path: Path, dataset_root: Path) -> None:
    with started(FAILED, tmp_path, dataset_root / "rows") as (process, marker):
        status, _, errors = end_of(process, marker)
    assert status == 1
    assert errors.rstrip().endswith("ZeroDivisionError: in the loop")
    assert errors.count("Traceback") == 1


def test_ctrl_c_in_the_training_loop(tmp_path: Path, dataset_root: Path) -> None:
    with started(INTERRUPTED, tmp_path, dataset_root / "rows") as (process, marker):
        process.send_signal(signal.SIGINT)
        status, out, errors = end_of(process, marker)
    assert (status, errors) == (130, "")
    assert out == "[]\n"


def test_an_iterator_in_a_reference_cycle_is_collected(tmp_path: Path, dataset_root: Path) -> None:
    with started(CYCLE, tmp_path, dataset_root / "rows") as (process, marker):
        assert end_of(process, marker) == (0, "[]\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_neither_reads_nor_ends_its_parents_stream(
    tmp_path: Path, dataset_root: Path
) -> None:
    with started(FORKED, tmp_path, dataset_root / "rows") as (process, marker):
        status, out, errors = end_of(process, marker)
    assert status == 0, errors
    assert out == "0 StreamClosedError True\n[]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_workers_of_a_loader_are_told_to_do_without(
    tmp_path: Path, dataset_root: Path
) -> None:
    with started(LOADER, tmp_path, dataset_root / "rows") as (process, marker):
        status, out, errors = end_of(process, marker)
    assert status == 0, errors
    assert out == "StreamClosedError True\n[]\n"
