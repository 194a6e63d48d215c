"""MovieLens-100K as it is shipped: fetching it, checking it, reading its tables.

The data set is GroupLens' (F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and
Context", ACM TiiS 5(4), 2015). Its licence forbids redistribution, so this project holds no copy:
it is read out of the wheel of recbole 1.2.1 on PyPI, which ships it as an example, and is kept in
a folder that git ignores. Use it for research only, and not to identify people.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIREMENT = "recbole==1.2.1"
WHEEL_NAME = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
MEMBER = "recbole/dataset_example/ml-100k/ml-100k"
DOWNLOAD_TIMEOUT_S = 120.0

Table = dict[str, list[str]]


class DataUnavailableError(Exception):
    """The data cannot be had or cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class User:
    """One row of the .user file. age is in years."""

    age: int
    gender: str
    occupation: str
    zip_code: str


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the .item file. release_year is None where the file has no number."""

    release_year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Raw:
    """The three tables. The four arrays are int64 [ratings], in the order of the .inter file.

    rating is 1 to 5, timestamp in seconds since 1970 UTC.
    """

    user_id: npt.NDArray[np.int64]
    item_id: npt.NDArray[np.int64]
    rating: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.int64]
    users: dict[int, User]
    items: dict[int, Item]
    source_sha256: str


def fetch_wheel(cache: Path) -> Path:
    """Returns the wheel in cache, downloading it (2 MB) with pip if it is not there.

    Raises DataUnavailableError when pip fails, or when the file is not the one that PyPI published.
    """
    wheel = cache / WHEEL_NAME
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as staging:
            _download(Path(staging))
            _check(Path(staging) / WHEEL_NAME)
            os.replace(Path(staging) / WHEEL_NAME, wheel)
    _check(wheel)
    return wheel


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    way_out = (
        f"MovieLens-100K is read from the wheel of {REQUIREMENT}. Check the network and pip's "
        f"index settings, or put {WHEEL_NAME} into the cache folder yourself."
    )
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise DataUnavailableError(
            f"pip download took over {DOWNLOAD_TIMEOUT_S:g} s and was stopped. {way_out}"
        ) from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataUnavailableError(f"pip download {REQUIREMENT} failed: {reason}. {way_out}")


def _check(wheel: Path) -> None:
    if not wheel.is_file():
        raise DataUnavailableError(
            f"pip downloaded no {WHEEL_NAME}; does the index offer another file?"
        )
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise DataUnavailableError(
            f"{wheel} has SHA-256 {found}, expected {WHEEL_SHA256}: delete it and run again."
        )


def read_wheel(wheel: Path) -> Raw:
    """Reads the tables out of a wheel that fetch_wheel returned."""
    with zipfile.ZipFile(wheel) as archive:
        return _parse(
            {kind: archive.read(f"{MEMBER}.{kind}") for kind in ("inter", "user", "item")}
        )


def read_folder(folder: Path) -> Raw:
    """Reads ml-100k.inter, .user and .item from a folder."""
    return _parse(
        {kind: (folder / f"ml-100k.{kind}").read_bytes() for kind in ("inter", "user", "item")}
    )


def _parse(files: dict[str, bytes]) -> Raw:
    ratings = _table("ml-100k.inter", files["inter"], ("user_id", "item_id", "rating", "timestamp"))
    people = _table(
        "ml-100k.user", files["user"], ("user_id", "age", "gender", "occupation", "zip_code")
    )
    films = _table("ml-100k.item", files["item"], ("item_id", "release_year", "class"))
    users = {
        int(user): User(int(age), gender, occupation, zip_code)
        for user, age, gender, occupation, zip_code in zip(*people.values(), strict=True)
    }
    items = {
        int(item): Item(int(year) if year.isdecimal() else None, tuple(genres.split()))
        for item, year, genres in zip(*films.values(), strict=True)
    }
    raw = Raw(
        _integers(ratings["user_id"]),
        _integers(ratings["item_id"]),
        _integers(ratings["rating"]),
        _integers(ratings["timestamp"]),
        users,
        items,
        hashlib.sha256(b"".join(files.values())).hexdigest(),
    )
    for name, ids, known in (("user", raw.user_id, users), ("item", raw.item_id, items)):
        strangers = sorted(set(ids.tolist()) - known.keys())
        if strangers:
            raise DataUnavailableError(
                f"ml-100k.inter names {name} {strangers[0]}, which ml-100k.{name} lacks"
            )
    return raw


def _integers(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array(texts, dtype=np.float64).astype(np.int64)


def _table(name: str, content: bytes, wanted: Sequence[str]) -> Table:
    """The wanted columns of an atomic file: tab-separated, header cells are name:type."""
    lines = io.StringIO(content.decode("utf-8")).read().splitlines()
    header = [cell.partition(":")[0] for cell in lines[0].split("\t")] if lines else []
    missing = [column for column in wanted if column not in header]
    if missing:
        raise DataUnavailableError(f"{name} has no column {missing[0]}; its header is {header}")
    rows = [line.split("\t") for line in lines[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataUnavailableError(
                f"{name}, line {number}: {len(row)} cells, expected {len(header)}"
            )
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    return {column: list(columns[header.index(column)]) for column in wanted}
