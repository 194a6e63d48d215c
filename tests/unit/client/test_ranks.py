from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATA
from trainer_client import RequestError
from trainer_client.ranks import group_of, resolve


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(None, None) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(RequestError, match="RANK and WORLD_SIZE"):
        resolve(None, None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert resolve(None, None) == (2, 4)
    assert resolve(1, 2) == (1, 2)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(RequestError, match="RANK and WORLD_SIZE"):
        resolve(None, None)


RANK = """
import json, sys
import torch.distributed as dist
from tests.unit.client.conftest import DATASET, ids_of
from trainer_client import BatchStream
rank, target, meeting = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
with BatchStream(DATASET, target=target, batch_size=4) as stream:
    ids = [i for batch in stream for i in ids_of(batch)]
    stream.refresh_snapshot()
    print(json.dumps([ids, stream.stats().left_out_rows]))
dist.destroy_process_group()
"""


def test_ranks_of_a_process_group_agree_without_being_told(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    with FakeFleet(DATA, 2) as fleet:
        command = [sys.executable, "-W", "error::UserWarning", "-c", RANK]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), fleet.target, str(tmp_path / "meeting")],
                stdout=subprocess.PIPE,
                text=True,
                env=environment | {"XDG_CACHE_HOME": str(tmp_path / str(rank))},
            )
            for rank in range(2)
        ]
        outputs = [json.loads(process.communicate(timeout=50)[0]) for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0]
        # Once at the start and once for the refresh, by rank 0 alone.
        assert fleet.describe_count == 2
    ids = outputs[0][0] + outputs[1][0]
    assert len(set(ids)) == len(ids) == DATA.row_count - outputs[0][1]


def test_no_group_without_torch_distributed() -> None:
    assert group_of(0, 2) is None
