"""States inside torch's own checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import MakeStream, drain, ids_of, ranks
from trainer_client import merge_state_dicts

MANY = FakeData(shards=tuple((8, 5 + i) for i in range(13)), batch_size=4)


def test_torch_save_keeps_a_state(make_stream: MakeStream, tmp_path: Path) -> None:
    with FakeFleet(MANY) as fleet:
        stream = make_stream(fleet.target)
        iterator = iter(stream)
        for _ in range(5):
            next(iterator)
        torch.save({"stream": stream.state_dict()}, tmp_path / "checkpoint.pt")
        rest = [ids_of(batch) for batch in iterator]
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["stream"])
        assert drain(resumed) == rest


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_torchdatas_loader_keeps_a_state(make_stream: MakeStream) -> None:
    with FakeFleet(MANY) as fleet:
        whole = drain(make_stream(fleet.target))
        loader = StatefulDataLoader(make_stream(fleet.target), batch_size=None)
        assert len(loader) == len(whole)
        batches = iter(loader)
        taken = [ids_of(next(batches)) for _ in range(7)]
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = StatefulDataLoader(make_stream(fleet.target), batch_size=None)
        resumed.load_state_dict(state)
        assert taken + [ids_of(batch) for batch in resumed] == whole
        # The next epoch, and a state of its middle.
        following = [ids_of(batch) for batch in resumed]
        assert sorted(map(sorted, following)) != sorted(map(sorted, whole))
        assert sum(map(len, following)) == MANY.row_count


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_spawned_workers_of_a_loader_are_told_to_do_without(make_stream: MakeStream) -> None:
    with FakeFleet(MANY) as fleet:
        stream = make_stream(fleet.target)
        with pytest.raises(TypeError, match=r"cannot be pickled.*num_workers=0"):
            iter(DataLoader(stream, None, num_workers=1, multiprocessing_context="spawn"))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_keeps_the_states_of_all_ranks(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(MANY) as fleet:
        ids: list[int] = []
        saved: dict[str, Any] = {}
        for rank, stream in enumerate(ranks(make_stream, fleet.target, 3, tmp_path / "snapshots")):
            iterator = iter(stream)
            for _ in range(4):
                ids += ids_of(next(iterator))
            saved[f"dp_rank_{rank}"] = json.dumps(stream.state_dict())
        save({"loader": saved}, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
        loaded: dict[str, Any] = {"loader": dict.fromkeys(saved, "")}
        load(loaded, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
        merged = merge_state_dicts([json.loads(text) for text in loaded["loader"].values()])
        for stream in ranks(make_stream, fleet.target, 2, tmp_path / "snapshots"):
            stream.load_state_dict(merged)
            for batch in stream:
                ids += ids_of(batch)
        left_out = stream.stats().left_out_rows
        assert len(set(ids)) == len(ids) == MANY.row_count - left_out
