"""Sampling: a golden draw, nulls, weights, the same rows in every layout, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xxhash import xxh64_intdigest

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.catalog import Catalog
from preprocessor_server.counting import count_rows
from preprocessor_server.cutter import Shard
from preprocessor_server.errors import DatasetError
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.plan.identity import Cursor, Identity
from preprocessor_server.preview import preview
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import Metrics
from preprocessor_server.transform import bind_sampling
from preprocessor_server.transform.sampling import Sampler, sampling_faults
from trainer_client import Dataset, Dense, InvalidDatasetError, Label, Sampling, Sparse, parquet

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def fold(state: int, word: int) -> int:
    return mix(((state ^ word) + GAMMA) & MASK)


def sampler_of(schema: pa.Schema, **sampling: Any) -> Sampler:
    spec = dataset_pb2.DatasetSpec(sampling=dataset_pb2.Sampling(**sampling))
    assert list(sampling_faults(spec)) == []
    (sampler,) = bind_sampling(spec, schema)
    assert isinstance(sampler, Sampler)
    return sampler


# As docs/ops.md has them: keys, rate, seed, and which are kept.
GOLDEN: list[tuple[list[Any], float, int, str]] = [
    ([0, 1, 2, 3, 4, 5, 6, 7, -1, 2**63 - 1], 0.5, 0, "XXXX.XX.X."),
    ([0, 1, 2, 3, 4, 5, 6, 7, -1, 2**63 - 1], 0.5, 7, "...XX.XXXX"),
    (["", "a", "b", "c", "d", "e", "\u00fc", "68fd1e64"], 0.25, 0, ".XXX...."),
]


@pytest.mark.parametrize(("keys", "rate", "seed", "kept"), GOLDEN)
def test_a_draw_is_pinned(keys: list[Any], rate: float, seed: int, kept: str) -> None:
    table = pa.table({"k": keys})
    sampler = sampler_of(table.schema, rate=rate, key="k", seed=seed)
    found, weights = sampler.draw(table)
    assert "".join("X" if keep else "." for keep in found) == kept
    assert weights.tolist() == [1 / rate] * len(keys)
    words = [
        k & MASK if isinstance(k, int) else xxh64_intdigest(k.encode(), seed) >> 32 for k in keys
    ]
    start = mix(seed + GAMMA)
    hashes = [fold(fold(start, word), word) for word in words]
    assert found.tolist() == [(h >> 11) < rate * 2**53 for h in hashes]
    coded = pa.table({"k": table["k"].combine_chunks().dictionary_encode()})
    assert sampler.draw(coded)[0].tolist() == found.tolist()


def test_only_rows_of_the_condition_are_drawn_from_and_null_keys_stay() -> None:
    labels = [0, 1, 0, None] * 1000
    keys = [None if k % 10 == 0 else k for k in range(4000)]
    table = pa.table({"label": labels, "k": keys})
    sampler = sampler_of(table.schema, rate=0.1, when="label = 0", key="k", weight="w")
    kept, weights = sampler.draw(table)
    drawn = np.array(
        [label == 0 and key is not None for label, key in zip(labels, keys, strict=True)]
    )
    assert kept[~drawn].all()
    assert weights.tolist() == np.where(drawn, 10.0, 1.0).tolist()
    # Unbiased: the weights of what is kept add up to about all.
    assert abs(weights[kept].sum() / 4000 - 1) < 0.1


def test_a_rate_of_one_keeps_all() -> None:
    table = pa.table({"k": range(1000)})
    assert sampler_of(table.schema, rate=1.0, key="k").draw(table)[0].all()


SCHEMA = pa.schema({"k": pa.int64(), "x": pa.float32(), "l": pa.list_(pa.int64())})
SHARE = "it is the share that is kept, above 0 and at most 1 (to keep none, leave the rows out "
SHARE += "by where)"
ONE_VALUE = "rows are drawn by one integer, boolean, string or binary value a row"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rate": 0.0}, f"rate: rate is 0.0; {SHARE}"),
    ({"rate": 1.5}, f"rate: rate is 1.5; {SHARE}"),
    ({"rate": float("nan")}, f"rate: rate is nan; {SHARE}"),
    (
        {"key": ""},
        "key: it names no column whose hash decides; give one, such as that of a request's id",
    ),
    ({"key": "kk"}, "key: there is no column 'kk'; did you mean 'k'?"),
    ({"key": "x"}, f"key: column 'x' is float; {ONE_VALUE}"),
    ({"key": "l"}, f"key: column 'l' is list<item: int64>; {ONE_VALUE}"),
    ({"weight": "x"}, "weight: there is a column 'x' already; give the weights another name"),
    (
        {"when": "lab = 0"},
        "when: column 'lab' is not in the source; the source has k, x, l (at character 1)",
    ),
    ({"when": "k"}, "when: column 'k' is int64, not boolean; compare it with something"),
]


@pytest.mark.parametrize(("sampling", "message"), REFUSED)
def test_what_is_wrong_is_named(sampling: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"rate": 0.5, "key": "k"} | sampling
    spec = dataset_pb2.DatasetSpec(sampling=dataset_pb2.Sampling(**given))
    found = [*sampling_faults(spec), *bind_sampling(spec, SCHEMA)]
    assert [str(each) for each in found if isinstance(each, DatasetError)] == [
        f"sampling.{message}"
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rate": 0, "key": "k"}, "Sampling rate is 0"),
        ({"rate": True, "key": "k"}, "Sampling rate is True"),
        ({"rate": 0.5}, "Sampling key is ''"),
        ({"rate": 0.5, "key": "k", "seed": -1}, "Sampling seed is -1"),
        ({"rate": 0.5, "key": "k", "when": None}, "Sampling when is None"),
    ],
)
def test_the_builder_names_what_is_wrong(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDatasetError) as caught:
        Sampling(**given)
    assert words in caught.value.message


def dataset(path: str, rows: tuple[str, ...] = (), where: str = "") -> Dataset:
    return Dataset(
        source=parquet(path, rows=rows),
        where=where,
        features=[Dense("sample_weight"), Sparse("id"), Label("label")],
        sample=Sampling(0.2, when="label = 0", key="request", seed=3, weight="sample_weight"),
    )


def test_it_comes_back_from_yaml() -> None:
    given = dataset("x")
    assert Dataset.from_yaml(given.to_yaml()) == given
    assert given.fingerprint != Dataset(given.source, given.features).fingerprint


COUNT = 2000


def write(root: Path) -> None:
    ids = np.arange(COUNT)
    requests, labels = ids // 4, (ids % 5 == 0).astype(np.int8)
    flat = pa.table({"request": requests, "id": ids, "label": labels})
    (root / "flat").mkdir()
    pq.write_table(flat, root / "flat" / "0.parquet", row_group_size=300)
    (root / "shuffled").mkdir()
    order = np.random.default_rng(0).permutation(COUNT)
    pq.write_table(flat.take(order), root / "shuffled" / "0.parquet", row_group_size=170)
    lists = {name: np.split(flat[name].to_numpy(), COUNT // 4) for name in ("id", "label")}
    grouped = pa.table(
        {
            "request": range(COUNT // 4),
            "id": [each.tolist() for each in lists["id"]],
            "label": [each.tolist() for each in lists["label"]],
        }
    )
    (root / "grouped").mkdir()
    pq.write_table(grouped, root / "grouped" / "0.parquet", row_group_size=60)


@pytest.mark.parametrize("where", ["", "id < 900"])
def test_the_same_rows_whatever_the_layout_and_they_can_be_counted(
    tmp_path: Path, where: str
) -> None:
    write(tmp_path)
    settings = Settings(data_root=(tmp_path,), cpu_threads=1)
    pipeline = Pipeline(settings, Catalog(settings), Metrics())
    identity = Identity(7, 1, 2, 64, True, 1, 1)
    delivered, previews = [], []
    for path, rows in (("flat", ()), ("shuffled", ()), ("grouped", ("id", "label"))):
        bound = pipeline.catalog.describe(dataset(path, rows, where).to_proto())
        assert not bound.counts_known
        total = 0
        for number, splits in enumerate(pipeline.catalog.plan(bound, identity).shards):
            reader = pipeline.batches.open(
                Shard(bound, identity, number, splits), Cursor(), batch_pb2.CODEC_NONE
            )
            while (made := reader.next(None)) is not None:
                total += made.rows
            reader.close()
        assert sum(count_rows(pipeline, bound, 0, 0)) == total
        delivered.append(total)
        shown = preview(pipeline.catalog.reader, bound, 100).rows
        previews.append({(out["sample_weight"], source["label"]) for source, out in shown})
    pipeline.close()
    pipeline.catalog.close()
    ids = np.arange(COUNT if not where else 900)
    sampler = sampler_of(pa.schema({"k": pa.int64()}), rate=0.2, key="k", seed=3)
    kept = sampler.draw(pa.table({"k": ids // 4}))[0] | (ids % 5 == 0)
    assert delivered == [np.count_nonzero(kept)] * 3
    assert previews == [{(1.0, 1.0), (5.0, 0.0)}] * 3
