"""Ranks in processes of their own that ask each other over gloo, where one of them keeps silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATA

LIMIT_S = 60.0
START = """
import json, sys, threading, warnings
import torch.distributed as dist
from tests.unit.client.conftest import DATASET, ids_of
from trainer_client import BatchStream, HeadraceError
from trainer_client.ranks import StepGroup
rank, world_size, meeting, target = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)

def say(value):
    print(json.dumps(value), flush=True)

def wait_for_the_others():
    sys.stdin.read()
"""

SILENT = """
group = StepGroup(timeout_s=0.5, late_s=0.5)
other = StepGroup(timeout_s=600.0)
say([list(each) for each in group.ask(1, 7, 0).wait()])
if rank == 1:
    wait_for_the_others()
    sys.exit()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    try:
        group.ask(1, 7, 1).wait()
    except HeadraceError as error:
        say([type(error).__name__, str(error), [str(each.message) for each in told]])
answers = other.ask(1, 8, 0)
closing = threading.Thread(target=other.close)
closing.start()
try:
    answers.wait()
except HeadraceError as error:
    say(type(error).__name__)
closing.join()
if rank == 0:
    dist.destroy_process_group()
group.close()
group.close()
say("closed")
"""

LEFT = """
stream = BatchStream(DATASET, target=target, batch_size=4, uneven="sync")
for step, batch in enumerate(stream):
    say(step)
    if rank == 1 and step == 1:
        wait_for_the_others()
        sys.exit()
    if rank == 0 and step == 2:
        raise ZeroDivisionError("in the loop")
"""

ENDED = """
group_count = lambda: len(dist.distributed_c10d._world.pg_map)
with BatchStream(DATASET, target=target, batch_size=4, uneven="sync") as stream:
    for _ in range(2):
        assert sum(1 for batch in stream) > 0
    say(group_count())
    for batch in stream:
        break
say(group_count())
dist.destroy_process_group()
"""


@contextmanager
def started(
    script: str, world_size: int, folder: Path, target: str = ""
) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of all ranks; what is left of them at the end is ended."""
    command = [sys.executable, "-c", START + script]
    environment = os.environ | {
        "PYTHONPATH": ":".join(sys.path),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), str(folder / "meeting"), target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(world_size)
    ]
    try:
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def end_of(process: subprocess.Popen[str]) -> tuple[int, list[Any], str]:
    """The exit status of a rank, what it said, and what it wrote on stderr."""
    assert process.stdout is not None
    assert process.stderr is not None
    said, errors = process.stdout.read(), process.stderr.read()
    status = process.wait(LIMIT_S)
    return status, [json.loads(line) for line in said.splitlines()], errors


@pytest.mark.timeout(120)
def test_ranks_that_wait_for_a_silent_one_are_told_and_end(tmp_path: Path) -> None:
    with started(SILENT, 3, tmp_path) as ranks:
        # The silent one lives on: nobody's end waits for it.
        ends = [end_of(ranks[0]), end_of(ranks[2])]
        assert ranks[1].poll() is None
    for status, (first, failure, meanwhile, closed), errors in ends:
        assert first == [[1, 7, 0]] * 3
        assert failure[0] == "StreamTimeoutError", failure
        assert "step 1 of epoch 7: a rank does not say whether it has a batch" in failure[1]
        assert "raise timeout" in failure[1]
        (warning,) = failure[2]
        assert "step 1 of epoch 7: another rank has not said" in warning
        assert (meanwhile, closed) == ("StreamClosedError", "closed")
        assert status == 0, errors
    assert "Ranks 1 failed" in ends[0][1][1][1]


@pytest.mark.timeout(120)
def test_a_failure_in_the_loop_ends_a_rank_though_another_hangs(tmp_path: Path) -> None:
    with (
        FakeFleet(replace(DATA, counts_known=False)) as fleet,
        started(LEFT, 2, tmp_path, fleet.target) as ranks,
    ):
        status, said, errors = end_of(ranks[0])
        assert ranks[1].poll() is None
    assert status == 1
    assert said == [0, 1, 2]
    assert "ZeroDivisionError: in the loop" in errors


@pytest.mark.timeout(120)
def test_a_closed_stream_destroys_its_group(tmp_path: Path) -> None:
    with (
        FakeFleet(replace(DATA, counts_known=False)) as fleet,
        started(ENDED, 2, tmp_path, fleet.target) as ranks,
    ):
        for status, said, errors in map(end_of, ranks):
            assert status == 0, errors
            assert said == [2, 1]
