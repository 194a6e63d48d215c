from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from tests.fakes.encoder import Rows, encode_batch, encode_schema
from trainer_client import Batch, SparseBlock, SparsePart
from trainer_client.decode import Decoder
from trainer_client.expand import expand, expand_by_torch
from trainer_client.layout import SparseLayout

COLUMNS = {
    "cat": [[9], [8], [7], [6], [5], [4]],
    "seq": [[1, 2], [1, 2], [1, 2], [1, 2], [3], [3]],
    "user": [[11], [11], [11], [11], [], []],
    "tag": [[5], [5], [5], [5], [5], [5]],
}


def batch_of(columns: dict[str, list[list[int]]]) -> Batch:
    count = len(next(iter(columns.values())))
    rows = Rows({"d": [float(i) for i in range(count)]}, columns, {})
    message = encode_batch(rows, row_count=count, codec=batch_pb2.CODEC_NONE)
    return Decoder(encode_schema(rows))(message.SerializeToString())


def sparse_of(columns: dict[str, list[list[int]]]) -> SparseBlock:
    sparse = batch_of(columns).sparse
    assert sparse is not None
    return sparse


@st.composite
def any_columns(draw: st.DrawFn) -> dict[str, list[list[int]]]:
    """Features with runs of various lengths, some with the same ones, some nearly so."""
    rows = draw(st.integers(1, 60))
    patterns = [draw(st.lists(st.integers(1, 30), min_size=rows, max_size=rows)) for _ in range(2)]
    columns: dict[str, list[list[int]]] = {}
    for f in range(draw(st.integers(1, 5))):
        longest = draw(st.sampled_from([1, 3, 12]))
        column: list[list[int]] = []
        for run in draw(st.sampled_from([*patterns, [1] * rows, [rows]])):
            each = draw(st.lists(st.integers(-2, 1 << 40), max_size=longest))
            column += [each] * run
            if len(column) >= rows:
                break
        columns[f"f{f}"] = column[:rows]
    return columns


@given(any_columns())
def test_expanded_is_what_was_sent_a_row(columns: dict[str, list[list[int]]]) -> None:
    lists = [row for column in columns.values() for row in column]
    values = torch.tensor([value for row in lists for value in row], dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in lists], dtype=torch.int32)
    sparse = sparse_of(columns)
    assert torch.equal(sparse.values, values)
    assert torch.equal(sparse.lengths, lengths)
    assert sparse.offsets.tolist() == [0, *torch.cumsum(lengths, 0).tolist()]
    for key, column in columns.items():
        assert sparse[key].to_list() == column
        # A single feature, expanded alone.
        assert sparse_of(columns)[key].to_list() == column


@settings(max_examples=40)
@given(any_columns())
def test_torch_expands_as_the_kernel_does(columns: dict[str, list[list[int]]]) -> None:
    batch = batch_of(columns)
    layout = batch.layout.blocks["sparse"]
    assert isinstance(layout, SparseLayout)
    for features in (range(len(columns)), [len(columns) - 1], [*range(len(columns))][::-1]):
        ours = expand(batch.arena, layout, features, batch.batch_size)
        theirs = expand_by_torch(batch.arena, layout, features, batch.batch_size)
        assert ours.weights is theirs.weights is None
        for mine, other in zip(ours[:2], theirs[:2], strict=True):
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other)


@given(any_columns())
def test_parts_and_inverse_give_the_rows_back(columns: dict[str, list[list[int]]]) -> None:
    sparse = sparse_of(columns)
    seen = []
    for part in sparse.deduplicated.parts:
        assert part.batch_size == len(next(iter(columns.values())))
        assert part.offsets.tolist() == [0, *part.lengths.cumsum(0).tolist()]
        for key in part.keys:
            seen.append(key)
            lists = part[key].to_list()
            assert len(lists) == part.size
            if part.inverse is not None:
                assert part.inverse.dtype == torch.int64
                lists = [lists[run] for run in part.inverse.tolist()]
            assert lists == columns[key]
    assert sorted(seen) == sorted(columns)


def test_parts_hold_what_repeats_together() -> None:
    by_row, two_runs, one_run = sparse_of(COLUMNS).deduplicated.parts
    assert (by_row.keys, by_row.size, by_row.run_lengths) == (("cat",), 6, None)
    assert by_row.inverse is None
    assert (two_runs.keys, two_runs.size) == (("seq", "user"), 2)
    assert two_runs.run_lengths is not None
    assert two_runs.run_lengths.tolist() == [4, 2]
    assert two_runs.inverse is not None
    assert two_runs.inverse.tolist() == [0, 0, 0, 0, 1, 1]
    assert two_runs.values.tolist() == [1, 2, 3, 11]
    assert two_runs.lengths.tolist() == [2, 1, 1, 0]
    assert two_runs["seq"].to_list() == [[1, 2], [3]]
    assert two_runs["seq"].offsets.tolist() == [0, 2, 3]
    assert "user" in two_runs
    assert "cat" not in two_runs
    with pytest.raises(KeyError, match="cat"):
        two_runs["cat"]
    assert (one_run.keys, one_run.size) == (("tag",), 1)


def test_pooling_once_a_run_gives_what_pooling_once_a_row_does() -> None:
    """What the deduplicated form is for, on an embedding table."""
    sparse = sparse_of(COLUMNS)
    table = torch.rand(20, 3)

    def pooled(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding_bag(
            values, table, offsets, mode="sum", include_last_offset=True
        )

    part: SparsePart = sparse.deduplicated.parts[1]
    by_row, by_run = sparse["seq"], part["seq"]
    expected = pooled(by_row.values, by_row.offsets)
    assert torch.equal(pooled(by_run.values, by_run.offsets)[part.inverse], expected)


def test_nothing_is_copied_where_nothing_is_shared_by_runs() -> None:
    batch = batch_of({"a": [[1], [2, 3], [4]], "b": [[7], [8], [9]]})
    assert batch.sparse is not None
    for tensor in (batch.sparse.values, batch.sparse.lengths, batch.sparse["b"].values):
        at = tensor.data_ptr() - batch.arena.data_ptr()
        assert 0 <= at <= batch.arena.nbytes - tensor.nbytes


def test_expansion_happens_once_and_only_where_asked_for() -> None:
    sparse = sparse_of(COLUMNS)
    assert sparse["seq"] is sparse["seq"]
    assert sparse["seq"].values.data_ptr() != sparse_of(COLUMNS)["seq"].values.data_ptr()
    assert sparse.values is sparse.values
    # Once all are expanded, one is a part of them.
    storage = sparse.values.untyped_storage().data_ptr()
    assert sparse["seq"].values.untyped_storage().data_ptr() == storage


def test_lengths_changed_in_place_are_an_error_and_no_crash() -> None:
    for change in (1, -1, 1 << 30):
        sparse = sparse_of(COLUMNS)
        sparse.deduplicated.parts[1].lengths[1] += change
        with pytest.raises(RuntimeError, match=r"'seq' were changed in place"):
            _ = sparse.values
        sparse = sparse_of(COLUMNS)
        run_lengths = sparse.deduplicated.parts[1].run_lengths
        assert run_lengths is not None
        run_lengths[0] += change
        with pytest.raises(RuntimeError, match=r"'seq' were changed in place"):
            _ = sparse["seq"]


def test_moving_moves_what_was_sent() -> None:
    batch = batch_of(COLUMNS)
    moved = batch.to("meta")
    assert moved.sparse is not None
    assert moved.arena.nbytes == batch.arena.nbytes
    for part in moved.sparse.deduplicated.parts:
        assert part.values.device.type == "meta"
    assert moved.sparse.values.device.type == "meta"
    assert moved.sparse["seq"].lengths.shape == (6,)


def test_a_batch_expanded_ahead_keeps_what_was_expanded() -> None:
    rows = Rows({"d": [0.0] * 6}, COLUMNS, {})
    message = encode_batch(rows, row_count=6, codec=batch_pb2.CODEC_NONE).SerializeToString()
    lazy = Decoder(encode_schema(rows))(message)
    ahead = Decoder(encode_schema(rows), expand=True)(message)
    assert ahead.sparse is not None
    assert ahead.but(position=1).sparse is ahead.sparse
    assert ahead.nbytes == ahead.arena.nbytes + ahead.sparse.expanded_nbytes > lazy.nbytes
    assert lazy.nbytes == lazy.arena.nbytes
