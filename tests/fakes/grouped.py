"""The same rows as flat and as grouped Parquet: lists side by side, or one list of structs."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMS = {"lists": ["item_*", "id", "price", "label"], "struct": ["impressions"]}
FILE_REQUESTS = (70, 30, 100)
ROW_GROUP_REQUESTS = 40
# What one file's requests have a list of, in the lists form.
ROW_LEVEL = ("id", "item_city", "item_tags", "item_pair", "item_score", "price", "label")


def make_requests(count: int = sum(FILE_REQUESTS), seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Requests, and the rows of each as its "impressions", a list of structs.

    A request has from 1 to 64 rows, most have few; every seventh has an empty list and every
    eleventh a null one. Rows are numbered by id, from 0.
    """
    rng = np.random.default_rng(seed)
    sizes = np.minimum(64, rng.zipf(1.5, count))
    sizes[::7] = 0
    sizes[::11] = 0
    ids = itertools.count()
    requests = pa.table(
        {
            "request": pa.array(rng.permutation(count) + 1000),
            "age": pa.array([None if i % 5 == 0 else i % 90 for i in range(count)], pa.int16()),
            "region": pa.array(
                [None if i % 9 == 0 else f"region {i % 4}" for i in range(count)]
            ).dictionary_encode(),
            "history": pa.array(
                [None if i % 6 == 0 else list(range(i % 8)) for i in range(count)],
                pa.list_(pa.int64()),
            ),
        }
    )
    impressions = [
        None if i % 11 == 0 else [_impression(next(ids), rng) for _ in range(size)]
        for i, size in enumerate(sizes.tolist())
    ]
    return requests, pa.table({"impressions": pa.array(impressions, pa.list_(_STRUCT))})


_STRUCT = pa.struct(
    {
        "id": pa.int64(),
        "item_city": pa.dictionary(pa.int32(), pa.string()),
        "item_tags": pa.list_(pa.string()),
        "item_pair": pa.list_(pa.int32(), 2),
        "item_score": pa.float64(),
        "price": pa.float32(),
        "label": pa.int8(),
    }
)


def _impression(number: int, rng: np.random.Generator) -> dict[str, object]:
    return {
        "id": number,
        "item_city": None if number % 13 == 0 else f"city {number % 50}",
        "item_tags": None if number % 17 == 0 else [f"t{number % 7}", "u"][: number % 3],
        "item_pair": [number, -number],
        "item_score": None if number % 19 == 0 else float(rng.lognormal()),
        "price": float(rng.random()),
        "label": number % 2,
    }


def flat_table(requests: pa.Table, impressions: pa.Table) -> pa.Table:
    """One row a row."""
    lists = impressions["impressions"].combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    rows = pa.Table.from_struct_array(lists.flatten())
    of_requests = requests.take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
    names = [*of_requests.column_names, *rows.column_names]
    return pa.table([*of_requests.columns, *rows.columns], names=names)


def grouped_table(requests: pa.Table, impressions: pa.Table, form: str) -> pa.Table:
    """One Parquet row a request."""
    columns = {name: requests[name] for name in requests.column_names}
    if form == "struct":
        return pa.table(columns | {"impressions": impressions["impressions"]})
    lists = impressions["impressions"].combine_chunks()
    fields = dict(zip(ROW_LEVEL, lists.values.flatten(), strict=True))
    null = lists.is_null()
    return pa.table(
        columns
        | {
            name: pa.ListArray.from_arrays(lists.offsets, values, mask=null)
            for name, values in fields.items()
        }
    )


def write_layout(folder: Path, layout: str, seed: int = 0) -> int:
    """Writes the rows as logged, clustered, lists or struct; returns how many there are.

    Several files of several row groups, with an empty one.
    """
    requests, impressions = make_requests(seed=seed)
    flat = flat_table(requests, impressions)
    folder.mkdir(parents=True)
    if layout == "logged":
        order = np.random.default_rng(seed).permutation(flat.num_rows)
        table, cuts = flat.take(pa.array(order)), [0, 300, 301, flat.num_rows]
    elif layout == "clustered":
        table, cuts = flat, [0, 300, 301, flat.num_rows]
    else:
        table = grouped_table(requests, impressions, layout)
        cuts = [0, *np.cumsum(FILE_REQUESTS).tolist()]
    step = ROW_GROUP_REQUESTS if layout in FORMS else 200
    for number, (first, last) in enumerate(itertools.pairwise(cuts)):
        with pq.ParquetWriter(folder / f"part-{number}.parquet", table.schema) as writer:
            writer.write_table(table.slice(0, 0))
            writer.write_table(table.slice(first, last - first), row_group_size=step)
    return int(flat.num_rows)
