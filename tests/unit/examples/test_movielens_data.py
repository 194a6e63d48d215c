"""No row knows anything of its own second or later; the split and the files are as stated."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from movielens_data import HISTORY, ROW_GROUPS_PER_FILE, write_dataset
from movielens_raw import DataUnavailableError, Raw, fetch_wheel, read_folder

from tests.unit.examples.synthetic_movielens import write_raw_files


@pytest.fixture(scope="module")
def data(raw: Raw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("movielens") / "data"
    assert write_dataset(raw, folder)
    return folder


def rows_of(data: Path, *parts: str) -> list[dict[str, Any]]:
    table = pa.concat_tables([pq.read_table(data / part) for part in parts])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def ratings_by_user(raw: Raw) -> Mapping[int, list[tuple[int, int, int]]]:
    """(timestamp, item, rating) of every user, in time order."""
    found = defaultdict(list)
    for user, item, rating, second in zip(
        raw.user_id.tolist(),
        raw.item_id.tolist(),
        raw.rating.tolist(),
        raw.timestamp.tolist(),
        strict=True,
    ):
        found[user].append((second, item, rating))
    for ratings in found.values():
        ratings.sort()
    return found


def test_every_history_is_what_the_raw_file_says_was_known_before(data: Path, raw: Raw) -> None:
    ratings = ratings_by_user(raw)
    seconds = {(u, item): second for u, rated in ratings.items() for second, item, _ in rated}
    scores = {(u, item): score for u, rated in ratings.items() for _, item, score in rated}
    rows = rows_of(data, "train", "test")
    assert len(rows) == len(seconds) == len({(row["user_id"], row["item_id"]) for row in rows})
    for row in rows:
        user, second = row["user_id"], row["timestamp"]
        assert second == seconds[user, row["item_id"]]
        assert row["label"] == (scores[user, row["item_id"]] >= 4)
        past = [(item, score) for at, item, score in ratings[user] if at < second]
        assert row["history"] == [item for item, _ in past][-HISTORY:]
        assert row["history_liked"] == [item for item, score in past if score >= 4][-HISTORY:]
        assert row["user_rating_count"] == len(past)
        for item in row["history"] + row["history_liked"]:
            assert seconds[user, item] < second


def test_an_items_count_holds_only_earlier_ratings(data: Path, raw: Raw) -> None:
    by_item = defaultdict(list)
    for item, second in zip(raw.item_id.tolist(), raw.timestamp.tolist(), strict=True):
        by_item[item].append(second)
    for row in rows_of(data, "test"):
        earlier = sum(second < row["timestamp"] for second in by_item[row["item_id"]])
        assert row["item_rating_count"] == earlier


def test_the_later_fifth_of_each_users_ratings_is_the_test_part(data: Path, raw: Raw) -> None:
    train, test = rows_of(data, "train"), rows_of(data, "test")
    first_test, last_train = defaultdict(list), defaultdict(list)
    for row in train:
        last_train[row["user_id"]].append(row["timestamp"])
    for row in test:
        first_test[row["user_id"]].append(row["timestamp"])
    for user, ratings in ratings_by_user(raw).items():
        assert len(first_test[user]) == len(ratings) // 5
        if first_test[user]:
            assert max(last_train[user]) <= min(first_test[user])


def test_features_come_from_the_users_and_items_tables(data: Path, raw: Raw) -> None:
    for row in rows_of(data, "train", "test"):
        user, item = raw.users[row["user_id"]], raw.items[row["item_id"]]
        assert (row["age"], row["gender"], row["occupation"]) == (
            user.age,
            user.gender,
            user.occupation,
        )
        assert user.zip_code.startswith(row["zip_prefix"])
        assert (row["release_year"], tuple(row["genres"])) == (item.release_year, item.genres)


def test_rows_are_in_time_order_over_several_files_and_row_groups(data: Path) -> None:
    for part, files in (("train", 4), ("test", 2)):
        paths = sorted((data / part).iterdir())
        assert len(paths) == files
        assert all(pq.ParquetFile(path).num_row_groups > 1 for path in paths)
        assert pq.ParquetFile(paths[0]).num_row_groups <= ROW_GROUPS_PER_FILE
        times = [row["timestamp"] for path in paths for row in pq.read_table(path).to_pylist()]
        assert all(a <= b for a, b in itertools.pairwise(times))


def test_the_same_input_gives_the_same_bytes(data: Path, raw: Raw, tmp_path: Path) -> None:
    assert write_dataset(raw, tmp_path / "again")
    names = sorted(path.relative_to(data) for path in data.rglob("*") if path.is_file())
    assert len(names) == 7
    for name in names:
        assert (data / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_is_there_is_reused_and_what_is_stale_is_replaced(data: Path, tmp_path: Path) -> None:
    write_raw_files(tmp_path, seed=1)
    other = read_folder(tmp_path)
    target = tmp_path / "data"
    assert write_dataset(other, target)
    before = (target / "manifest.json").stat().st_mtime_ns
    assert not write_dataset(other, target)
    assert (target / "manifest.json").stat().st_mtime_ns == before
    write_raw_files(tmp_path, seed=2)
    assert write_dataset(read_folder(tmp_path), target)
    assert (target / "manifest.json").read_bytes() != (data / "manifest.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["data"]


def test_a_folder_of_somebody_elses_is_left_alone(raw: Raw, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(DataUnavailableError, match=r"holds no manifest\.json"):
        write_dataset(raw, tmp_path)
    assert (tmp_path / "keep.txt").read_text() == "mine"


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "recbole-1.2.1-py3-none-any.whl").write_bytes(b"not a wheel")
    with pytest.raises(DataUnavailableError, match="delete it and run again"):
        fetch_wheel(tmp_path)


def test_without_an_index_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataUnavailableError, match="Check the network") as caught:
        fetch_wheel(tmp_path / "cache")
    assert "recbole==1.2.1" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_malformed_table_is_named_with_its_line(tmp_path: Path) -> None:
    write_raw_files(tmp_path)
    path = tmp_path / "ml-100k.user"
    path.write_text(path.read_text().replace("\t", " ", 6))
    with pytest.raises(DataUnavailableError, match=r"ml-100k\.user"):
        read_folder(tmp_path)


def test_a_rating_of_an_unknown_item_is_named(tmp_path: Path) -> None:
    write_raw_files(tmp_path)
    with (tmp_path / "ml-100k.inter").open("a") as file:
        file.write("2\t999\t3\t880000000\n")
    with pytest.raises(DataUnavailableError, match="item 999"):
        read_folder(tmp_path)
