from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from trainer_client import (
    Block,
    Dataset,
    Dense,
    InvalidDatasetError,
    Label,
    Meta,
    Sparse,
    ops,
    parquet,
)
from trainer_client.features import DTYPES, Feature
from trainer_client.ops import ALL, Op
from trainer_client.ops.dates import PARTS
from trainer_client.ops.fit import FILLINGS
from trainer_client.ops.numbers import TYPE_NAMES
from trainer_client.ops.sequences import AGGREGATIONS

NAMES = st.lists(st.text("abc*_ü:#'\" -", min_size=1), min_size=1, max_size=3)
INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
NUMBERS = st.floats(allow_nan=False)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
OPS = st.one_of(
    st.builds(ops.FillNull, INTEGERS | NUMBERS | st.text("abc\n:' ")),
    st.just(ops.Log1p()),
    st.builds(ops.Clip, st.integers(-9, 0) | st.floats(-9, 0), st.none() | st.integers(0, 9)),
    st.builds(ops.Cast, st.sampled_from(TYPE_NAMES)),
    st.builds(ops.HashBucket, st.integers(1, 1 << 32), st.integers(0, (1 << 64) - 1)),
    st.builds(ops.Tail, st.integers(1, (1 << 31) - 1)),
    st.builds(ops.Logit, st.floats(0, 0.5, exclude_max=True)),
    st.builds(ops.BoxCox, FINITE),
    st.builds(ops.Normalize, FINITE, st.floats(1e-9, 1e9)),
    st.builds(ops.MinMax, st.integers(-9, 0) | st.floats(-9, 0), st.integers(1, 9)),
    st.builds(ops.Bucketize, st.lists(FINITE, min_size=1, unique=True).map(sorted)),
    st.builds(ops.DateParts, st.sampled_from(PARTS), st.sampled_from(["UTC", "Asia/Tokyo"])),
    st.builds(ops.Head, st.integers(1, (1 << 31) - 1)),
    st.builds(ops.Slice, st.integers(-(1 << 31), -2), st.none() | st.just(-1) | st.integers(1, 9)),
    st.builds(ops.PositiveModulus, st.integers(1, (1 << 63) - 1)),
    st.builds(ops.MapId, st.dictionaries(INTEGERS, INTEGERS, min_size=1), st.none() | INTEGERS),
    st.builds(
        ops.Vocabulary,
        st.lists(INTEGERS, min_size=1, unique=True)
        | st.lists(st.text("abc\n:' "), min_size=1, unique=True),
        st.integers(0, 1 << 32),
    ),
    st.builds(ops.ListAggregate, st.sampled_from(AGGREGATIONS)),
    st.builds(ops.Sort, st.booleans()),
    st.builds(ops.Pad, st.integers(1, 1 << 16), INTEGERS | NUMBERS | st.text("abc\n:' ")),
    st.builds(
        ops.NGram, st.integers(1, 64), st.integers(1, 1 << 32), st.integers(0, (1 << 64) - 1)
    ),
    st.builds(ops.Sample, st.integers(1, (1 << 31) - 1), st.integers(0, (1 << 64) - 1)),
    st.builds(ops.OneHot, st.integers(0, 1024)),
    st.builds(
        ops.Vocabulary,
        num_oov_buckets=st.integers(0, 1 << 32),
        file=st.text("abc/: ", min_size=1),
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    ),
    st.builds(ops.FitFillNull, st.sampled_from(FILLINGS)),
    st.builds(ops.FitBucketize, st.integers(2, 1 << 16)),
    st.builds(
        ops.FitVocabulary,
        st.integers(1, (1 << 63) - 1),
        st.integers(0, (1 << 63) - 1),
        st.integers(0, 1 << 32),
    ),
    st.sampled_from([ops.FitNormalize(), ops.FitMinMax()]),
    st.sampled_from([ops.ListLength(), ops.Deduplicate(), ops.Enumerate()]),
)


def build_feature(kind: type[Feature], names: list[str], chain: list[Op], block: str) -> Feature:
    return kind(*names, ops=chain, block=block)


TABLES = st.builds(
    Sparse,
    st.just("x"),
    num_embeddings=st.integers(0, (1 << 63) - 1),
    embedding_dim=st.integers(0, (1 << 31) - 1),
    table=st.text("ab"),
    weights=st.text("ab"),
)
FEATURES = TABLES | st.builds(
    build_feature,
    st.sampled_from([Dense, Sparse, Label, Meta]),
    NAMES,
    st.lists(OPS, max_size=3),
    st.sampled_from(["", "wide"]),
)
DATASETS = st.builds(
    Dataset,
    source=st.builds(
        lambda paths, by, rows: parquet(*paths, group_by=by, rows=rows),
        NAMES,
        NAMES,
        NAMES | st.just([]),
    ),
    features=st.lists(FEATURES, min_size=1, max_size=3),
    where=st.text("ab =1\n'"),
    max_split_bytes=st.just(0) | st.integers(1 << 20, 64 << 30),
    blocks=st.lists(st.builds(Block, st.sampled_from(["wide", "x"]), st.sampled_from(DTYPES))),
    distinct_by=NAMES | st.just([]),
)
# What no builder takes.
WRONG: Any = b"wrong"
EXAMPLE = Dataset(
    source=parquet("logs/*.parquet", group_by=["request_id"]),
    where="label IS NOT NULL",
    features=[Dense("dense_*", ops=[ops.FillNull(0.0), ops.Log1p()]), Label("label")],
)


@given(DATASETS)
def test_round_trips(dataset: Dataset) -> None:
    assert Dataset.from_proto(dataset.to_proto()) == dataset
    assert Dataset.from_yaml(dataset.to_yaml()) == dataset


def test_rows_are_one_name_or_several() -> None:
    assert parquet("x", rows="impressions") == parquet("x", rows=["impressions"])
    assert parquet("x", rows=("item_*", "label")).rows == ("item_*", "label")
    assert parquet("x").rows == ()
    for wrong in ([""], ["label", WRONG]):
        with pytest.raises(InvalidDatasetError, match=r"rows: .* is no name"):
            parquet("x", rows=wrong)


def test_blocks_have_a_name_and_a_dtype() -> None:
    with pytest.raises(InvalidDatasetError, match=r"'wide' has dtype 'bfloat'.*mean 'bfloat16'"):
        Block("wide", "bfloat")
    with pytest.raises(InvalidDatasetError, match="Block name: '' is no name"):
        Block("", "float32")
    with pytest.raises(InvalidDatasetError, match=r"Dense\(a\) block is b'wrong'"):
        Dense("a", block=WRONG)
    with pytest.raises(InvalidDatasetError, match=r"blocks\[0\] is b'wrong': give Block"):
        Dataset(EXAMPLE.source, EXAMPLE.features, blocks=[WRONG])
    message = EXAMPLE.to_proto()
    message.blocks.add(name="dense", dtype=99)  # as a newer one would
    with pytest.raises(InvalidDatasetError, match=r"blocks\[0\]: .*dtype '99'"):
        Dataset.from_proto(message)


def test_hints_of_tables_are_checked() -> None:
    with pytest.raises(InvalidDatasetError, match=r"Sparse\(a\) num_embeddings is -1"):
        Sparse("a", num_embeddings=-1)
    with pytest.raises(InvalidDatasetError, match=r"Sparse\(a\) embedding_dim is b'wrong'"):
        Sparse("a", embedding_dim=WRONG)
    with pytest.raises(InvalidDatasetError, match=r"Sparse\(a\) table is b'wrong'"):
        Sparse("a", table=WRONG)


def test_weights_are_those_of_one_column() -> None:
    feature = Sparse("ids", weights="dwell", ops=[ops.Tail(3)])
    assert feature.to_proto().sparse.weights == "dwell"
    dataset = Dataset(EXAMPLE.source, [feature, Label("label")])
    assert "weights: dwell" in dataset.to_yaml()
    assert Dataset.from_yaml(dataset.to_yaml()) == dataset
    bare = Dataset(EXAMPLE.source, [Sparse("ids", ops=[ops.Tail(3)]), Label("label")])
    assert dataset.fingerprint != bare.fingerprint
    with pytest.raises(
        InvalidDatasetError, match=r"Sparse\(a\) weights is b'wrong': give the name"
    ):
        Sparse("a", weights=WRONG)
    with pytest.raises(InvalidDatasetError, match=r"Sparse\(a, b\) has 2 columns, and weights 'w'"):
        Sparse("a", "b", weights="w")


def test_the_fingerprint_hashes_the_deterministic_bytes() -> None:
    data = EXAMPLE.to_proto().SerializeToString(deterministic=True)
    assert EXAMPLE.fingerprint == "sha256:" + hashlib.sha256(data).hexdigest()


def test_every_operation_of_the_contract_has_a_builder() -> None:
    assert [op.proto_field for op in ALL] == [f.name for f in dataset_pb2.Op.DESCRIPTOR.fields]


def test_the_kind_of_a_constant_is_kept() -> None:
    kinds = [ops.FillNull(v).to_proto().fill_null.value.WhichOneof("value") for v in (1, 1.0, "1")]
    assert kinds == ["integer", "number", "text"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ops.FillNull(True), "0 or 1 for booleans"),
        (lambda: ops.FillNull(1 << 63), "64 bits"),
        (lambda: ops.FillNull(WRONG), "must be an int"),
        (ops.Clip, "no bound"),
        (lambda: ops.Clip(2, 1), "above max"),
        (lambda: ops.Clip(float("nan")), "must be a number"),
        (lambda: ops.Clip(WRONG), "must be an int"),
        (lambda: ops.Cast("int46"), "did you mean 'int64'"),
        (lambda: ops.HashBucket(0), "from 1 to 4,294,967,296"),
        (lambda: ops.HashBucket(8, seed=-1), "seed"),
        (lambda: ops.Tail(0), "Tail count"),
        (lambda: ops.OneHot(1025), "from 0 to 1,024"),
        (lambda: ops.Logit(0.5), "below 0.5"),
        (lambda: ops.Logit(WRONG), "must be a number"),
        (lambda: ops.BoxCox(float("inf")), "finite"),
        (lambda: ops.Normalize(0, 0), "above 0"),
        (lambda: ops.Normalize(float("nan"), 1), "mean is nan"),
        (lambda: ops.Normalize((1 << 53) + 1, 1), "write the float that is meant"),
        (lambda: ops.MinMax(1, 1), "must be below max"),
        (lambda: ops.MinMax(-1e308, 1e308), "no float64"),
        (lambda: ops.Bucketize([]), "at least one"),
        (lambda: ops.Bucketize(WRONG), "list of numbers"),
        (lambda: ops.Bucketize([1, 2, 2]), r"boundaries\[2\] is 2, not above"),
        (lambda: ops.Bucketize([1, True]), r"boundaries\[1\] is True"),
        (lambda: ops.DateParts("weekday"), "the parts are hour"),
        (lambda: ops.DateParts("day_of_weak"), "did you mean 'day_of_week'"),
        (lambda: ops.DateParts("hour", ""), "IANA"),
        (lambda: ops.Head(1 << 31), "Head count"),
        (lambda: ops.Slice(1 << 31), "Slice start"),
        (lambda: ops.Slice(0, WRONG), "Slice stop"),
        (lambda: ops.Slice(2, 2), r"Slice \[2:2\] leaves nothing"),
        (lambda: ops.Slice(-1, 0), "put stop behind start"),
        (lambda: ops.PositiveModulus(0), "PositiveModulus divisor"),
        (lambda: ops.MapId({}), "not empty"),
        (lambda: ops.MapId(WRONG), "must be a mapping"),
        (lambda: ops.MapId({WRONG: 1}), "MapId key is b'wrong'"),
        (lambda: ops.MapId({5: WRONG}), r"MapId mapping\[5\] is b'wrong'"),
        (lambda: ops.MapId({5: 1}, default=1 << 63), "MapId default"),
        (lambda: ops.Vocabulary([]), "Vocabulary values is empty"),
        (lambda: ops.Vocabulary("abc"), "must be a list of integers or of strings"),
        (
            lambda: ops.Vocabulary([1, WRONG]),
            r"values\[1\] is b'wrong': all must be int, or all str",
        ),
        (
            lambda: ops.Vocabulary(["a", WRONG]),
            r"values\[1\] is b'wrong': all must be int, or all str",
        ),
        (lambda: ops.Vocabulary([True]), r"values\[0\] is True"),
        (lambda: ops.Vocabulary(["\ud800"]), "no UTF-8 can be made of it"),
        (lambda: ops.Vocabulary(["a", "b", "a"]), "'a' is given twice"),
        (lambda: ops.Vocabulary(["a"], -1), "num_oov_buckets"),
        (lambda: ops.Vocabulary(sha256="0" * 64), "without file"),
        (lambda: ops.Vocabulary([1], file="v", sha256="0" * 64), "values and a file"),
        (lambda: ops.Vocabulary(file=WRONG, sha256="0" * 64), "must be a path"),
        (lambda: ops.Vocabulary(file="v", sha256="ABC"), "sha256sum v"),
        (lambda: ops.FitFillNull("medain"), "did you mean 'median'"),
        (lambda: ops.FitBucketize(1), "FitBucketize num_buckets is 1"),
        (lambda: ops.FitVocabulary(0), "FitVocabulary min_count"),
        (lambda: ops.FitVocabulary(1, -1), "FitVocabulary max_size"),
        (lambda: ops.FitVocabulary(1, 0, -1), "FitVocabulary num_oov_buckets"),
        (lambda: ops.ListAggregate("maen"), "did you mean 'mean'"),
        (lambda: ops.Sort(WRONG), "Sort descending is b'wrong'"),
        (lambda: ops.Pad(0, 1), "Pad length"),
        (lambda: ops.Pad(1, WRONG), "Pad value"),
        (lambda: ops.NGram(0, 9), "NGram n is 0"),
        (lambda: ops.NGram(2, 0), "NGram num_buckets"),
        (lambda: ops.NGram(2, 9, -1), "NGram seed"),
        (lambda: ops.Sample(0), "Sample count"),
        (lambda: ops.Sample(1, 1 << 64), "Sample seed"),
        (Dense, "at least one"),
        (lambda: Dense("a", ""), "no name"),
        (lambda: Dense("a", ops=[WRONG]), r"Dense\(a\) ops\[0\]"),
        (parquet, "at least one"),
        (lambda: parquet("a", group_by="b"), "list of column names"),
        (lambda: Dataset(parquet("a"), ()), "features is empty"),
        (lambda: Dataset(parquet("a"), (WRONG,)), r"features\[0\]"),
        (lambda: Dataset(WRONG, (Dense("x"),)), "source"),
        (lambda: Dataset(parquet("a"), (Dense("x"),), max_split_bytes=5), "1 MiB"),
        (lambda: Dataset(parquet("a"), (Dense("x"),), where=WRONG), "where"),
        (
            lambda: Dataset(parquet("a"), (Dense("x"),), distinct_by="x"),
            "distinct_by is 'x': it must be a list of column names",
        ),
        (lambda: Dataset(parquet("a"), (Dense("x"),), distinct_by=[""]), "distinct_by: '' is no"),
    ],
)
def test_builders_name_what_is_wrong(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(InvalidDatasetError, match=message):
        build()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "source:\n  parquet: {path: [a]}\n",
            "line 2: source.parquet.path .* did you mean 'paths'",
        ),
        ("a: [\n", "not YAML.*line 2"),
        ("\n", "empty"),
        ("- a\n", "line 1: the dataset must be a mapping of source"),
        ("where: a\nwhere: b\n", "line 2: where is given twice"),
        ("where: 5\nfeatures: []\n", "line 1: where is 5"),
        ("where:\nfeatures: []\n", "line 1: where is empty"),
        ("features: {dense: {}}\n", "line 1: features must be a list"),
        ("features:\n- dense: {columns: [1]}\n", r"line 2: features\[0\].dense.columns\[0\] is 1"),
        (
            "blocks:\n- {name: sparse, dtype: int32}\n",
            r"line 2: blocks\[0\].dtype is 'int32': did you mean SCALAR_TYPE_INT32\?",
        ),
        (
            "features:\n- dense: {ops: [{date_parts: {part: day-of-week}}]}\n",
            r"part is 'day-of-week': did you mean DATE_PART_DAY_OF_WEEK\?",
        ),
        (
            "features:\n- dense: {ops: [{date_parts: {part: date_part_month}}]}\n",
            r"part is 'date_part_month': did you mean DATE_PART_MONTH\?",
        ),
        (
            "features:\n- dense: {ops: [{date_parts: {part: 77x}}]}\n",
            "there is DATE_PART_HOUR, .*DATE_PART_DAY_OF_MONTH.*DATE_PART_MONTH, DATE_PART_YEAR",
        ),
        ("blocks:\n- dtype: wide\n", "line 2: .* is 'wide': there is SCALAR_TYPE_.*, SCALAR_TYPE_"),
        (
            "features:\n- dense:\n    columns: [a]\n    ops:\n    - tail: {count: x}\n",
            r"line 5: features\[0\].dense.ops\[0\].tail.count is 'x'",
        ),
        ("features:\n- dense: {ops: [{log1p: {base: 2}}]}\n", "base is no field of Log1p"),
        ("source: {parquet: {paths: [a]}}\nfeatures: [{}]\n", r"features\[0\]: one of dense"),
        ("where: x\n", "source: no parquet source"),
        (
            "source: {parquet: {paths: [a]}}\nfeatures: [{dense: {columns: [a], ops: [{}]}}]\n",
            r"features\[0\].dense.ops\[0\]: no operation",
        ),
    ],
)
def test_yaml_errors_name_file_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(InvalidDatasetError, match=f"(?s)my.yaml: .*{message}"):
        Dataset.from_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDatasetError, match=r"none\.yaml"):
        Dataset.from_yaml(str(tmp_path / "none.yaml"))


def test_fields_of_a_newer_contract_are_refused() -> None:
    message = dataset_pb2.DatasetSpec()
    # Field 99, varint 1.
    message.ParseFromString(EXAMPLE.to_proto().SerializeToString() + b"\x98\x06\x01")
    with pytest.raises(InvalidDatasetError, match="upgrade headrace"):
        Dataset.from_proto(message)


def test_operations_are_values() -> None:
    chain: list[Op] = [ops.Tail(3), ops.HashBucket(8)]
    assert Sparse("a", ops=chain) == Sparse("a", ops=tuple(chain))
    assert len({Sparse("a"), Dense("a"), Label("a")}) == 3
    assert hash(EXAMPLE) == hash(Dataset.from_proto(EXAMPLE.to_proto()))
