"""The n-grams and samples that are fixed for good, and shown in docs/ops.md."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from tests.fakes.one_op import apply, value_of

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "sequences.json").read_text())


def test_golden_vectors() -> None:
    for values, n, num_buckets, seed, expected in GOLDEN["n_grams"]:
        op = {"nGram": {"n": n, "numBuckets": str(num_buckets), "seed": str(seed)}}
        assert apply(op, pa.array([values])) == [expected]
    for values, count, seed, expected in GOLDEN["samples"]:
        array = pa.array([values])
        op = {"sample": {"count": count, "seed": str(seed)}}
        assert apply(op, array) == value_of(pa.array([expected], array.type))


def test_the_documentation_shows_them() -> None:
    text = (ROOT / "docs" / "ops.md").read_text()
    for values, n, num_buckets, seed, expected in GOLDEN["n_grams"]:
        buckets = " ".join(map(str, expected))
        assert f"| `{json.dumps(values)}` | {n} | {num_buckets} | {seed} | {buckets} |" in text
    for values, count, seed, expected in GOLDEN["samples"]:
        row = f"| `{json.dumps(values)}` | {count} | {seed} | `{json.dumps(expected)}` |"
        assert row in text
