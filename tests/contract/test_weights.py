"""Weights of ids: from columns, through server and wire, to a trainer's tensors.

What comes out is compared with plain Python, whatever the columns are kept as.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.encode.batch import BatchEncoder, Piece
from preprocessor_server.encode.compress import Compression
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.frame import Frame, concat_frames
from preprocessor_server.runs import find_runs
from preprocessor_server.transform import (
    Transform,
    arrow_to_column,
    compile_features,
    validate_spec,
)
from preprocessor_server.transform.ops import RULES
from preprocessor_server.transform.weights import CUTTING, KEEPING
from tests.fakes import page
from tests.fakes.encoder import seal
from trainer_client import Batch, CorruptBatchError, DeploymentError, SparseBlock
from trainer_client.decode import Decoder
from trainer_client.expand import expand_by_torch
from trainer_client.layout import SparseLayout

Pair = tuple[int, float]
CURSORS = batch_pb2.Cursor(), batch_pb2.Cursor(split=1, batch=1)
WEIGHT = st.sampled_from([0.0, -0.0, 1.0, 0.1]) | st.floats(allow_nan=False)
PAIRS = st.lists(st.tuples(st.integers(0, 3) | st.integers(-(2**40), 2**40), WEIGHT), max_size=4)


def sparse(*columns: str, **fields: Any) -> dict[str, Any]:
    return {"sparse": {"columns": columns, **fields}}


def dataset(*features: dict[str, Any], **others: Any) -> dataset_pb2.DatasetSpec:
    form = {"source": {"parquet": {"paths": ["x"]}}, "features": features, **others}
    spec = json_format.ParseDict(form, dataset_pb2.DatasetSpec())
    validate_spec(spec)
    return spec


def bind(spec: dataset_pb2.DatasetSpec, columns: dict[str, Any]) -> tuple[Transform, Frame]:
    table = pa.table(columns)
    transform = compile_features(spec, table.schema)
    names = transform.columns
    return transform, Frame(table.num_rows, {n: arrow_to_column(table[n]) for n in names})


def encode(transform: Transform, *pieces: Piece) -> tuple[batch_pb2.BatchSchema, Any]:
    schema = transform.schema(1)
    encoder = BatchEncoder(schema, batch_pb2.CODEC_NONE, Compression(1), 1 << 24)
    message = pb.StreamBatchesResponse.FromString(bytes(encoder.encode(pieces, 0, *CURSORS)))
    return schema, message.batch


def deliver(spec: dataset_pb2.DatasetSpec, columns: dict[str, Any]) -> Batch:
    """All rows in one batch, as a trainer gets it."""
    transform, frame = bind(spec, columns)
    whole = Piece(transform.apply(find_runs(frame)), np.arange(frame.row_count))
    schema, message = encode(transform, whole)
    return Decoder(schema)(message.SerializeToString())


def float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def bits(rows: list[list[Pair]]) -> list[list[tuple[int, str]]]:
    """Pairs that tell -0.0 from 0.0, and compare NaN as equal."""
    return [[(value, weight.hex()) for value, weight in row] for row in rows]


def pairs_of(values: torch.Tensor, lengths: torch.Tensor, weights: Any) -> list[list[Pair]]:
    assert weights.dtype is torch.float32
    assert len(weights) == len(values)
    pairs = iter(zip(values.tolist(), weights.tolist(), strict=True))
    return [[*itertools.islice(pairs, length)] for length in lengths.tolist()]


def check_forms(batch: Batch, expected: dict[str, list[list[Pair]]]) -> None:
    """Every way to look at the block has the expected rows."""
    block = batch.sparse
    assert block is not None
    flat = [row for rows in expected.values() for row in rows]
    for key, rows in expected.items():
        alone = SparseBlock(batch.memory, layout_of(batch), batch.batch_size)[key]
        assert bits(pairs_of(alone.values, alone.lengths, alone.weights)) == bits(rows)
    for part in block.deduplicated.parts:
        for key in part.keys:
            lists = part[key]
            sent = pairs_of(lists.values, lists.lengths, lists.weights)
            inverse = range(part.size) if part.inverse is None else part.inverse.tolist()
            assert bits([sent[run] for run in inverse]) == bits(expected[key])
    assert bits(pairs_of(block.values, block.lengths, block.weights)) == bits(flat)
    for key, rows in expected.items():
        lists = block[key]
        assert bits(pairs_of(lists.values, lists.lengths, lists.weights)) == bits(rows)
    for features in (range(len(expected)), [len(expected) - 1]):
        found = expand_by_torch(batch.arena, layout_of(batch), features, batch.batch_size)
        wanted = [row for f in features for row in expected[block.keys[f]]]
        assert bits(pairs_of(*found)) == bits(wanted)


def layout_of(batch: Batch) -> SparseLayout:
    layout = batch.layout.blocks["sparse"]
    assert isinstance(layout, SparseLayout)
    return layout


@st.composite
def repeated(draw: st.DrawFn, rows: int, each: Any) -> list[Any]:
    """Values that repeat over runs, of which adjacent ones may be equal."""
    found: list[Any] = []
    while len(found) < rows:
        found += [draw(each)] * draw(st.integers(1, 4))
    return found[:rows]


@settings(max_examples=12)
@given(st.data())
def test_every_form_has_the_weights_of_the_columns(data: st.DataObject) -> None:
    """Lists with and without runs, weights that change where ids do not, null lists, and Tail."""
    rows = data.draw(st.integers(1, 24))
    lists = data.draw(repeated(rows, PAIRS | st.none()))
    ids = [row and [value for value, _ in row] for row in lists]
    weights = [row and [weight for _, weight in row] for row in lists]
    # The same ids, and other weights in some rows.
    factors = data.draw(repeated(rows, st.sampled_from([0.5, 1.0])))
    others = [
        row and [weight * factor for weight in row]
        for row, factor in zip(weights, factors, strict=True)
    ]
    single = data.draw(repeated(rows, st.integers(0, 5) | st.none()))
    count = data.draw(st.integers(1, 4))
    spec = dataset(
        sparse("ids", weights="weights"),
        sparse("again", weights="others", ops=[{"tail": {"count": count}}, {"cast": {"to": 2}}]),
        sparse("single", weights="flags"),
    )
    columns = {
        "ids": pa.array(ids, pa.list_(pa.int64())),
        "again": pa.array(ids, pa.large_list(pa.int64())),
        "single": pa.array(single, pa.int32()),
        "weights": pa.array(weights, pa.list_(pa.float64())),
        "others": pa.array(others, pa.large_list(pa.float64())),
        "flags": pa.array([i % 3 > 0 if v is not None else None for i, v in enumerate(single)]),
    }
    expected = {
        "ids": joined(ids, weights),
        "again": [row[-count:] for row in joined(ids, others)],
        "single": [[] if v is None else [(v, float(i % 3 > 0))] for i, v in enumerate(single)],
    }
    transform, frame = bind(spec, columns)
    order = np.array(data.draw(st.permutations(range(rows)) | st.just(range(rows))), np.int64)
    expected = {name: [lists[row] for row in order] for name, lists in expected.items()}
    plain, runs = transform.apply(frame), transform.apply(find_runs(frame))
    schema, message = encode(transform, Piece(runs, order))
    assert schema.blocks[0].weights_dtype == page.FLOAT32
    # Bytes do not say how the server kept its rows, nor where a batch was cut out of them.
    assert encode(transform, Piece(plain, order))[1] == message
    cut = data.draw(st.integers(0, rows))
    taken = transform.apply(find_runs(frame).take(order[cut:]))
    ends = Piece(runs, order[:cut]), Piece(taken, np.arange(rows - cut))
    assert encode(transform, *ends)[1] == message
    both = concat_frames([runs.take(order[:cut]), plain.take(order[cut:])])
    assert encode(transform, Piece(both, np.arange(rows)))[1] == message
    decoded = page.decode(schema, message)
    for name, rows_ in expected.items():
        assert bits(decoded[name]) == bits(rows_)  # type: ignore[arg-type]
    check_forms(Decoder(schema)(message.SerializeToString()), expected)


def joined(ids: list[Any], weights: list[Any]) -> list[list[Pair]]:
    return [
        [*zip(row or [], map(float32, other or []), strict=True)]
        for row, other in zip(ids, weights, strict=True)
    ]


def test_a_run_ends_where_weights_change() -> None:
    spec = dataset(sparse("ids", weights="w"), sparse("user", weights="u"))
    columns = {
        "ids": [[7, 8]] * 6,
        "w": [[1.0, 2.0]] * 4 + [[1.0, 3.0]] * 2,
        "user": [[5]] * 6,
        "u": [[0.5]] * 6,
    }
    batch = deliver(spec, columns)
    assert batch.sparse is not None
    two, one = batch.sparse.deduplicated.parts
    assert (two.keys, two.size, one.keys, one.size) == (("ids",), 2, ("user",), 1)
    assert two.weights is not None
    assert two.weights.tolist() == [1.0, 2.0, 1.0, 3.0]
    assert two["ids"].to_list() == [[7, 8]] * 2
    before = batch.nbytes
    batch.expand()
    assert batch.sparse.weights is not None
    assert batch.sparse.weights.tolist() == [1.0, 2.0] * 4 + [1.0, 3.0] * 2 + [0.5] * 6
    # 18 values of 8 bytes, 18 weights and 12 lengths of 4.
    # Lengths, values and weights, each from a multiple of 64 bytes on.
    assert (12 * 4, 18 * 8, 18 * 4) == (48, 144, 72)
    assert batch.nbytes - before == 64 + 192 + 72


def test_one_block_has_weights_and_another_none() -> None:
    spec = dataset(sparse("a", weights="w"), sparse("b", block="bare"))
    batch = deliver(spec, {"a": [1, 2], "w": [3, 4], "b": [[1], []]})
    assert batch.sparse is not None
    assert batch.sparse.weights is not None
    assert batch.sparse.weights.tolist() == [3.0, 4.0]
    bare = batch.blocks["bare"]
    assert isinstance(bare, SparseBlock)
    assert bare.weights is bare["b"].weights is bare.deduplicated.parts[0].weights is None


def test_weights_may_be_nan_and_infinite_and_beyond_float32() -> None:
    given_ = [math.nan, -math.inf, 1e300, 1.1]
    batch = deliver(dataset(sparse("a", weights="w")), {"a": [1] * 4, "w": given_})
    assert batch.sparse is not None
    assert batch.sparse.weights is not None
    nan, *rest = batch.sparse.weights.tolist()
    assert math.isnan(nan)
    assert rest == [-math.inf, math.inf, float32(1.1)]


def test_weights_may_be_derived() -> None:
    spec = dataset(
        sparse("top", weights="top_w"),
        derive=[
            {"name": "top", "top_k": {"column": "ids", "by": "w", "count": 2}},
            {"name": "top_w", "top_k": {"column": "w", "by": "w", "count": 2}},
        ],
    )
    columns = {"w": [[0.5, 2.0, 1.0]], "ids": [[7, 8, 9]], "other": [1]}
    assert bind(spec, columns)[0].columns == ("w", "ids")
    check_forms(deliver(spec, columns), {"top": [[(8, 2.0), (9, 1.0)]]})


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ({"head": {"count": 2}}, [[(1, 0.1), (2, 0.2)], [(4, 0.4)], []]),
        ({"slice": {"start": -2}}, [[(2, 0.2), (3, 0.3)], [(4, 0.4)], []]),
        ({"slice": {"start": 1, "stop": 2}}, [[(2, 0.2)], [], []]),
        ({"enumerate": {}}, [[(0, 0.1), (1, 0.2), (2, 0.3)], [(0, 0.4)], []]),
        ({"positive_modulus": {"divisor": 2}}, [[(1, 0.1), (0, 0.2), (1, 0.3)], [(0, 0.4)], []]),
    ],
)
def test_operations_keep_ids_and_weights_together(
    op: dict[str, Any], expected: list[list[Pair]]
) -> None:
    columns = {"ids": [[1, 2, 3], [4], []], "w": [[0.1, 0.2, 0.3], [0.4], []]}
    batch = deliver(dataset(sparse("ids", weights="w", ops=[op])), columns)
    check_forms(batch, {"ids": [[(i, float32(w)) for i, w in row] for row in expected]})


LISTS = pa.array([[1, 2], [3], None], pa.list_(pa.int64()))
NUMBERS = pa.array([[0.1, 0.2], [0.3], []])


@pytest.mark.parametrize(
    ("ids", "weights", "reason", "what"),
    [
        (
            LISTS,
            pa.array([[0.1, 0.2], [], []]),
            "LISTS_UNEVEN",
            r"'x' .*columns 'x' and 'w' .*1 rows, first at row 1 .* have 1 and 0 elements",
        ),
        (LISTS, pa.array([[0.1, 0.2], [0.3], [0.4]]), "LISTS_UNEVEN", "row 2 .* have 0 and 1"),
        (LISTS, pa.array([[0.1, 0.2], None, []]), "LISTS_UNEVEN", "row 1 .* have 1 and 0"),
        (
            LISTS,
            pa.array([[0.1, 0.2], [None], []], pa.list_(pa.float32())),
            "NULL_VALUE",
            r"'x' .*1 null elements in .* column 'w', its weights, first at row 1 .*fill them",
        ),
        (pa.array([1, None, 3]), pa.array([0.1, 0.2, None]), "NULL_VALUE", "1 nulls .* row 2 "),
        (pa.array([[None]], pa.list_(pa.int64())), pa.array([[0.5]]), "NULL_VALUE", "elements"),
        (LISTS, pa.array([0.1, 0.2, 0.3]), "TYPE_UNFIT", "a list of numbers a row"),
        (pa.array([1, 2, 3]), NUMBERS, "TYPE_UNFIT", "one number a row"),
        (LISTS, pa.array([["a"], [], []]), "TYPE_UNFIT", r"\.weights\): column 'w' is list<.*numb"),
        (LISTS, pa.array([{"a": 1}] * 3), "TYPE_UNFIT", "column 'w' is struct"),
    ],
)
def test_weights_that_do_not_fit_the_ids(
    ids: pa.Array, weights: pa.Array, reason: str, what: str
) -> None:
    with pytest.raises((DataError, DatasetError), match=what) as caught:
        deliver(dataset(sparse("x", weights="w")), {"x": ids, "w": weights})
    assert caught.value.reason == reason


def test_a_null_id_goes_with_its_weight() -> None:
    batch = deliver(dataset(sparse("x", weights="w")), {"x": [1, None], "w": [0.5, 0.25]})
    check_forms(batch, {"x": [[(1, 0.5)], []]})


@pytest.mark.parametrize(
    ("make", "field", "reason", "what"),
    [
        (
            lambda: dataset(sparse("a", weights="w"), sparse("b")),
            "features[1].weights",
            "DATASET_INVALID",
            r"'sparse' has weights for 'a' \(features\[0\]\) and none for 'b' .*own \(block\)",
        ),
        (
            lambda: dataset(sparse("a"), sparse("c", block="x"), sparse("b", weights="w")),
            "features[2].weights",
            "DATASET_INVALID",
            r"weights for 'b' \(features\[2\]\) and none for 'a' \(features\[0\]\)",
        ),
        (
            lambda: dataset(sparse("a", "b", weights="w")),
            "features[0].weights",
            "DATASET_INVALID",
            r"2 columns \('a', 'b'\), and 'w' has the weights of one; make a feature of each",
        ),
        (
            lambda: bind(dataset(sparse("[ab]", weights="w")), {"a": [1], "b": [1], "w": [1]}),
            "features[0].weights",
            "DATASET_INVALID",
            r"2 columns \('a', 'b'\)",
        ),
        (
            lambda: dataset(sparse("a", weights="w", ops=[{"tail": {"count": 2}}, {"sort": {}}])),
            "features[0].ops[1]",
            "DATASET_INVALID",
            r"Sort orders the ids .*weights of 'w' .*TopK",
        ),
        (
            lambda: bind(
                dataset(sparse("a", weights="wait")), {"a": [1], "w8": [1], "weight": [1]}
            ),
            "features[0].weights",
            "FEATURE_UNMATCHED",
            "'wait' is no column; did you mean 'weight'",
        ),
    ],
)
def test_weights_that_a_dataset_cannot_have(
    make: Callable[[], object], field: str, reason: str, what: str
) -> None:
    with pytest.raises(DatasetError, match=what) as caught:
        make()
    assert (caught.value.field, caught.value.reason) == (f"dataset.{field}", reason)


def test_of_every_operation_it_is_known_what_it_does_to_weights() -> None:
    refused = {"list_length", "list_aggregate", "deduplicate", "sort", "pad", "n_gram", "sample"}
    refused |= {"one_hot"}  # of dense features alone
    assert len(CUTTING) + len(KEEPING) + len(refused) == len(RULES)
    assert CUTTING | KEEPING | refused == set(RULES)


def test_a_client_refuses_weights_that_are_not_the_schemas() -> None:
    transform, frame = bind(dataset(sparse("a", weights="w")), {"a": [[1, 2]], "w": [[1, 2]]})
    schema, message = encode(transform, Piece(transform.apply(frame), np.arange(1)))
    for wrong in (page.FLOAT64, 99):
        schema.blocks[0].weights_dtype = wrong  # type: ignore[assignment]
        with pytest.raises(DeploymentError, match=f"'sparse'.*weights_dtype.*{wrong}"):
            Decoder(schema)
    schema.blocks[0].weights_dtype = page.FLOAT32  # type: ignore[assignment]
    decoder = Decoder(schema)
    *_, weights = message.blocks[0].parts[0].buffers
    weights.element_count, weights.size_bytes = 1, 4
    seal(message)
    with pytest.raises(CorruptBatchError, match="the weights of feature 'a' are 1 elements"):
        decoder(message.SerializeToString())
    del message.blocks[0].parts[0].buffers[-1]
    seal(message)
    with pytest.raises(CorruptBatchError, match="a part of block 'sparse' cannot be"):
        decoder(message.SerializeToString())


def test_arrow_has_values_and_weights() -> None:
    from trainer_client.integrations.ray_data import to_arrow

    batch = deliver(dataset(sparse("a", weights="w")), {"a": [[1, 2], []], "w": [[0.5, 2], []]})
    assert to_arrow(batch).to_pylist() == [
        {"a": {"values": [1, 2], "weights": [0.5, 2.0]}},
        {"a": {"values": [], "weights": []}},
    ]
