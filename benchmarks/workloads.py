"""The workloads that every speed figure names, seeded, so that others can write the same bytes.

    python benchmarks/workloads.py homefeed --rows 1000000 --layout clustered --out DIR

homefeed has the shape of a home-feed ranking log: a request has one user and several impressions
(rows). Requests come from users who make four on average. Rows are made in chunks of a million,
each from its own seed and with its own users, so memory is bounded whatever the number of rows:

logged     the rows of a chunk shuffled, as a log in time order has them
clustered  sorted by user, then request
grouped    one Parquet row a request, the row-level columns as lists side by side, or (--form
           struct) as one list of structs called impressions

All layouts of one variant and seed hold the same rows. dataset.yaml reads all of them, but for its
path and for the rows that it names (of the struct form others than of the rest).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LAYOUTS = ("logged", "clustered", "grouped")
# The forms of the grouped layout, and what the dataset names as rows.
FORMS = {"lists": ["item_cat_*", "dense_*", "label"], "struct": ["impressions"]}
VARIANTS = ("mean16", "fixed16", "skewed")
CHUNK_ROWS = 1_000_000
ROW_GROUP_ROWS = 50_000
ID_BITS = 40
REQUESTS_PER_USER = 4
# The power of k in P(k rows a request) ~ k^-power, 1 <= k <= 64, at which the mean is 16.
SKEW_POWER = 0.8712854743

Ints = npt.NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some requests, sorted by user and request, and their rows in the same order.

    requests is a table [requests]; rows a table [rows] without what is the same for all rows of a
    request; sizes int64 [requests] the rows of each request, at least 1.
    """

    requests: pa.Table
    rows: pa.Table
    sizes: Ints

    def clustered(self) -> Iterator[pa.Table]:
        """The rows in order, by row groups."""
        return self._take(np.arange(self.rows.num_rows))

    def logged(self, rng: Rng) -> Iterator[pa.Table]:
        """The rows shuffled, by row groups."""
        return self._take(rng.permutation(self.rows.num_rows))

    def _take(self, order: Ints) -> Iterator[pa.Table]:
        request = np.repeat(np.arange(len(self.sizes)), self.sizes)
        for start in range(0, len(order), ROW_GROUP_ROWS):
            chosen = order[start : start + ROW_GROUP_ROWS]
            of_request, of_row = self.requests.take(request[chosen]), self.rows.take(chosen)
            yield pa.table(
                [*of_request.columns, *of_row.columns],
                names=[*of_request.column_names, *of_row.column_names],
            )

    def grouped(self, form: str) -> Iterator[pa.Table]:
        """One row a request, by row groups that hold about as many rows as the others do."""
        ends = np.cumsum(self.sizes)
        cuts = np.searchsorted(ends, np.arange(ROW_GROUP_ROWS, ends[-1], ROW_GROUP_ROWS))
        bounds = [0, *np.unique(cuts + 1).tolist(), len(ends)]
        for first, last in itertools.pairwise(bounds):
            if first == last:
                continue
            base = int(ends[first] - self.sizes[first])
            offsets = pa.array(np.append(0, ends[first:last] - base), pa.int32())
            rows = self.rows.slice(base, int(ends[last - 1]) - base)
            columns = {name: rows.column(name) for name in rows.column_names}
            if form == "struct":
                columns = {"impressions": rows.to_struct_array()}
            requests = self.requests.slice(first, last - first)
            lists = [
                pa.ListArray.from_arrays(offsets, column.combine_chunks())
                for column in columns.values()
            ]
            yield pa.table([*requests.columns, *lists], names=[*requests.column_names, *columns])


def homefeed(rows: int, *, variant: str, seed: int) -> Iterator[Chunk]:
    """The chunks of homefeed with exactly this many rows."""
    for index, start in enumerate(range(0, rows, CHUNK_ROWS)):
        rng = np.random.default_rng([seed, VARIANTS.index(variant), index])
        yield _chunk(rng, min(CHUNK_ROWS, rows - start), variant, first_id=index * CHUNK_ROWS)


def _chunk(rng: Rng, rows: int, variant: str, first_id: int) -> Chunk:
    sizes = _request_sizes(rng, rows, variant)
    count = len(sizes)
    user = first_id + rng.integers(0, -(-count // REQUESTS_PER_USER), count)
    request = scatter(first_id + np.arange(count))
    order = np.lexsort((request, user))
    requests = {"request_id": pa.array(request[order]), "user_id": pa.array(user[order])}
    for name in (f"user_cat_{k}" for k in range(10)):
        requests[name] = pa.array(rng.integers(0, 1 << 20, count))
    pins = functools.partial(_zipf, rng, 1_000_000)
    requests["seq_pin_ids"] = _lists(rng.integers(0, 129, count), pins)
    requests["seq_board_ids"] = _lists(rng.integers(0, 65, count), pins)
    requests["seq_action"] = _lists(
        rng.integers(0, 129, count), functools.partial(rng.integers, 0, 20)
    )
    impressions = {f"item_cat_{k}": pa.array(_zipf(rng, 100_000, rows)) for k in range(16)}
    for name in (f"dense_{k}" for k in range(13)):
        values = np.exp(rng.standard_normal(rows, dtype=np.float32))
        impressions[name] = pa.array(values, mask=rng.random(rows, dtype=np.float32) < 0.05)
    impressions["label"] = pa.array((rng.random(rows) < 0.03).astype(np.int8))
    return Chunk(pa.table(requests), pa.table(impressions), sizes)


def _request_sizes(rng: Rng, rows: int, variant: str) -> Ints:
    """How many rows each request has, in all exactly rows; the last request may be cut short."""
    if variant == "fixed16":
        sizes = np.full(rows // 16 + 1, 16)
    elif variant == "mean16":
        sizes = rng.integers(1, 32, rows // 8 + 64)
    else:
        weights = np.arange(1, 65) ** -SKEW_POWER
        sizes = 1 + rng.choice(64, rows // 8 + 64, p=weights / weights.sum())
    ends = np.cumsum(sizes)
    count = int(np.searchsorted(ends, rows)) + 1
    sizes = sizes[:count].astype(np.int64)
    sizes[-1] -= ends[count - 1] - rows
    return sizes


def _lists(lengths: Ints, draw: functools.partial[Ints]) -> pa.Array:
    offsets = np.append(0, np.cumsum(lengths))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(draw(offsets[-1])))


def _zipf(rng: Rng, support: int, count: int) -> Ints:
    """Ids that follow Zipf's law with exponent 1.2 over a bounded support, scattered to 40 bits."""
    cumulative, ids = _zipf_table(support)
    return ids[np.searchsorted(cumulative, rng.random(count))]


@functools.cache
def _zipf_table(support: int) -> tuple[npt.NDArray[np.float64], Ints]:
    cumulative = np.cumsum(np.arange(1, support + 1, dtype=np.float64) ** -1.2)
    cumulative /= cumulative[-1]
    return cumulative, scatter(np.arange(support))


def scatter(numbers: Ints) -> Ints:
    """Maps 40-bit numbers to 40-bit ids, one to one, so that neighbours lie far apart."""
    mask = np.uint64((1 << ID_BITS) - 1)
    mixed = numbers.astype(np.uint64)
    # Each step (an odd factor modulo 2^40; a shift by half the bits) can be undone.
    for factor in (0x9E3779B97F, 0xC2B2AE3D27):
        mixed = (mixed * np.uint64(factor)) & mask
        mixed ^= mixed >> np.uint64(ID_BITS // 2)
    return mixed.astype(np.int64)


def write_homefeed(
    out: Path,
    rows: int,
    *,
    layout: str,
    variant: str = "mean16",
    seed: int = 0,
    form: str = "lists",
) -> int:
    """Writes out/part-*.parquet, one file a chunk, and dataset.yaml; returns the bytes of Parquet.

    Raises FileExistsError where out holds something, since a folder is read whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: choose another folder, or empty it")
    written = 0
    for index, chunk in enumerate(homefeed(rows, variant=variant, seed=seed)):
        path = out / f"part-{index:05d}.parquet"
        if layout == "grouped":
            tables = chunk.grouped(form)
        elif layout == "clustered":
            tables = chunk.clustered()
        else:
            tables = chunk.logged(np.random.default_rng([seed, index, 1]))
        _write_file(path, tables)
        written += path.stat().st_size
    (out / "dataset.yaml").write_text(homefeed_yaml(out, layout, form))
    return written


def _write_file(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    row_group_rows = []
    with pq.ParquetWriter(
        path, first.schema, compression="zstd", compression_level=3, write_statistics=False
    ) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table, row_group_size=table.num_rows)
            last = table.column(table.num_columns - 1)
            row_group_rows.append(len(pc.list_flatten(last)) if _is_list(last) else 0)
        if any(row_group_rows):
            # So that servers need not count the rows of grouped files.
            counts = json.dumps(row_group_rows)
            writer.add_key_value_metadata({"headrace.row_group_rows": counts})


def _is_list(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_list(column.type))


def homefeed_yaml(folder: Path, layout: str, form: str = "lists") -> str:
    """The dataset of a folder that holds homefeed, with the transformation all figures share."""
    # Only here: it loads torch, which the generator does not need.
    from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet

    buckets = 1 << 20
    dataset = Dataset(
        source=parquet(
            folder.resolve(),
            group_by=[] if layout == "logged" else ["request_id"],
            rows=FORMS[form],
        ),
        features=(
            Dense("dense_*", ops=[ops.FillNull(0.0), ops.Log1p()]),
            Sparse("user_cat_*", "item_cat_*", ops=[ops.HashBucket(buckets)]),
            Sparse("seq_*", ops=[ops.Tail(50), ops.HashBucket(buckets)]),
            Label("label"),
        ),
    )
    return dataset.to_yaml()


def main() -> int:
    """Command line: write a workload."""
    parser = argparse.ArgumentParser(description="Write a reference workload as Parquet")
    command = parser.add_subparsers(dest="workload", required=True).add_parser("homefeed")
    command.add_argument("--rows", type=int, required=True)
    command.add_argument("--layout", choices=LAYOUTS, required=True)
    command.add_argument("--out", type=Path, required=True, help="an empty or new folder")
    command.add_argument("--variant", choices=VARIANTS, default="mean16")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--form", choices=FORMS, default="lists", help="of the grouped layout")
    a = parser.parse_args()
    if a.rows < 1 or a.seed < 0:
        parser.error("--rows must be at least 1, --seed at least 0")
    began_s = time.monotonic()
    try:
        written = write_homefeed(
            a.out, a.rows, layout=a.layout, variant=a.variant, seed=a.seed, form=a.form
        )
    except OSError as error:
        print(f"workloads: {error}", file=sys.stderr)
        return 2
    took_s = time.monotonic() - began_s
    print(f"{a.out}: {a.rows:,} rows, {written:,} bytes, {took_s:.1f} s")
    print(f"trainer-client pull {a.out / 'dataset.yaml'} --target local://2 --batch-size 4096")
    return 0


if __name__ == "__main__":
    sys.exit(main())
