from __future__ import annotations

import pytest
import torch

from tests.fakes.encoder import encode_batch, encode_schema
from tests.fakes.epochs import rows_of
from trainer_client import Batch, JaggedView
from trainer_client.decode import Decoder
from trainer_client.device import DeviceMover


def batch_of(ids: list[int]) -> Batch:
    rows = rows_of(ids)
    message = encode_batch(rows, row_count=len(ids))
    return Decoder(encode_schema(rows))(message.SerializeToString())


def test_mapping_access() -> None:
    batch = batch_of([5, 6, 7])
    assert batch.keys() == ["dense_0", "dense_1", "cat", "seq", "label"]
    assert list(batch) == batch.keys()
    assert "seq" in batch
    label, seq = batch["label"], batch["seq"]
    assert isinstance(label, torch.Tensor)
    assert isinstance(seq, JaggedView)
    assert label.tolist() == [1.0, 0.0, 1.0]
    assert seq.to_list() == [[5], [6, 6], [7, 7, 7]]
    assert seq.offsets.tolist() == [0, 1, 3, 6]
    with pytest.raises(KeyError, match=r"dense_9.*dense_0, dense_1, cat"):
        batch["dense_9"]


def test_columns_are_contiguous() -> None:
    batch = batch_of([5, 6, 7])
    column = batch["dense_1"]
    assert isinstance(column, torch.Tensor)
    assert column.is_contiguous()
    assert batch.dense is not None
    assert batch.dense.t().is_contiguous()


def test_moving_returns_a_new_batch_made_by_one_copy() -> None:
    batch = batch_of([1, 2])
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert moved is not batch
    assert moved.device.type == "meta"
    assert moved.dense is not None
    assert moved.dense.shape == (2, 2)
    assert (moved.cursor, moved.next_cursor) == (batch.cursor, batch.next_cursor)
    batch.record_stream(torch.Stream())


def test_nothing_is_ahead_on_a_cpu() -> None:
    source = iter([batch_of([1]), batch_of([2])])
    mover = DeviceMover(source, torch.device("cpu"), lambda: True)
    first = next(mover)
    assert len(list(source)) == 1
    assert first.batch_size == 1


def test_one_batch_is_moved_ahead_when_it_is_at_hand() -> None:
    batches = [batch_of([i]) for i in range(4)]
    source = iter(batches)
    at_hand = True
    mover = DeviceMover(source, torch.device("meta"), lambda: at_hand)
    next(mover)
    next(mover)
    at_hand = False
    # The third is ahead already; with nothing at hand, the fourth is left where it is.
    next(mover)
    assert list(source) == batches[3:]
    assert list(mover) == []
