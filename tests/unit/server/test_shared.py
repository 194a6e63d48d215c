"""Streams that share the batches of a shard get what each would have got alone."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from preprocessor_server.budget import LeaseClosedError
from preprocessor_server.catalog import Catalog
from preprocessor_server.cutter import Shard, Start
from preprocessor_server.errors import ServerError
from preprocessor_server.maker import Made
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.plan.identity import Cursor, Identity
from preprocessor_server.settings import Settings
from preprocessor_server.shared import SharedReader
from preprocessor_server.telemetry import Metrics
from tests.fakes.parquet import ROW_COUNT, write_dataset
from tests.fakes.wire import spec

BATCH_SIZE = 500
BATCHES = ROW_COUNT // BATCH_SIZE


class World(NamedTuple):
    pipeline: Pipeline
    shard: Shard
    alone: list[Made]

    def __repr__(self) -> str:
        return "World"

    def open(self, start: Start | None = None) -> SharedReader:
        return self.pipeline.batches.open(self.shard, start or Cursor(), batch_pb2.CODEC_ZSTD)

    def counted(self, result: str) -> float:
        labels = {"dataset": self.shard.dataset.fingerprint[:16], "result": result}
        registry = self.pipeline.metrics.registry
        return registry.get_sample_value("headrace_server_shared_batches_total", labels) or 0.0

    def forget(self) -> None:
        """Drops all that is kept, as if others had needed the memory."""
        self.pipeline.budget._reclaim(1 << 40)


def drain(reader: SharedReader) -> list[Made]:
    made = list(iter(lambda: reader.next(None), None))
    reader.close()
    return made


def make_world(root: Path, batch_size: int = BATCH_SIZE) -> World:
    settings = Settings(data_root=(root,), cpu_threads=2, zstd_level=1)
    catalog = Catalog(settings)
    pipeline = Pipeline(settings, catalog, Metrics())
    dataset = catalog.describe(spec())
    identity = Identity(7, 0, 1, batch_size, True, 1, 1)
    shard = Shard(dataset, identity, 0, catalog.plan(dataset, identity).shards[0])
    world = World(pipeline, shard, [])
    world.alone.extend(drain(world.open()))
    assert len(world.alone) == ROW_COUNT // batch_size
    return world


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root / "rows")
    return root


@pytest.fixture(scope="module")
def world(root: Path) -> Iterator[World]:
    world = make_world(root)
    yield world
    world.pipeline.close()
    world.pipeline.catalog.close()


def test_small_batches_count_for_all_that_they_take(root: Path) -> None:
    world = make_world(root, batch_size=25)
    messages = sum(len(made.message) for made in world.alone)
    world.forget()
    world.alone.clear()
    tracemalloc.start()
    try:
        reader = world.open()
        while reader.next(None):
            pass
        reader.close()
        counted = world.pipeline.kept.used
        kept = tracemalloc.get_traced_memory()[0]
        world.forget()
        freed = kept - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert messages < freed <= counted
    world.pipeline.close()
    world.pipeline.catalog.close()


def test_a_stream_that_comes_later_is_served_what_was_made(world: World) -> None:
    misses, hits = world.counted("miss"), world.counted("hit")
    assert drain(world.open()) == world.alone
    # The end of the shard is known as well.
    assert world.counted("hit") - hits == BATCHES + 1
    assert world.counted("miss") == misses


def test_streams_side_by_side_make_every_batch_once(world: World) -> None:
    world.forget()
    misses = world.counted("miss")
    readers = [world.open() for _ in range(3)]
    for expected in [*world.alone, None]:
        assert [reader.next(None) for reader in readers] == [expected] * 3
    assert world.counted("miss") - misses == BATCHES + 1
    for reader in readers:
        reader.close()


def test_a_stream_that_fell_behind_makes_its_own(world: World) -> None:
    world.forget()
    slow, fast = world.open(), world.open()
    assert slow.next(None) == world.alone[0]
    assert drain(fast) == world.alone
    world.forget()
    misses = world.counted("miss")
    assert drain(slow) == world.alone[1:]
    assert world.counted("miss") - misses == BATCHES


def test_a_stream_that_catches_up_shares_again(world: World) -> None:
    world.forget()
    ahead = world.open()
    for expected in world.alone[:4]:
        assert ahead.next(None) == expected
    world.forget()
    behind = world.open()
    for expected in world.alone[:4]:
        assert behind.next(None) == expected
    misses = world.counted("miss")
    for expected in world.alone[4:]:
        assert ahead.next(None) == behind.next(None) == expected
    assert world.counted("miss") - misses == BATCHES - 4
    ahead.close()
    behind.close()


def test_a_position_of_no_batch_has_batches_of_its_own(world: World) -> None:
    """As from a client that counts wrongly: others must never get what it gets."""
    world.forget()
    wrong = world.alone[3].before._replace(batch=1)
    stray = world.open(wrong)
    strange = stray.next(None)
    assert strange is not None
    assert strange.before == wrong
    assert strange.message != world.alone[1].message
    assert drain(world.open()) == world.alone
    assert drain(world.open(1)) == world.alone[1:]
    stray.close()


def test_a_closed_stream_ends_and_its_maker_goes_on_for_others(world: World) -> None:
    world.forget()
    first, second = world.open(), world.open()
    assert first.next(None) == second.next(None) == world.alone[0]
    first.close()
    with pytest.raises(LeaseClosedError):
        first.next(None)
    assert drain(second) == world.alone[1:]


def test_an_error_reaches_every_stream_and_is_not_kept(tmp_path: Path) -> None:
    write_dataset(tmp_path / "rows")
    world = make_world(tmp_path)
    world.forget()
    readers = [world.open(), world.open()]
    for reader in readers:
        assert reader.next(None) == world.alone[0]
    path = sorted((tmp_path / "rows").glob("*.parquet"))
    content = {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in path}
    for each in path:
        each.write_bytes(b"changed")

    def to_the_end(reader: SharedReader) -> None:
        while reader.next(None):
            pass

    for reader in readers:
        with pytest.raises(ServerError, match="has changed since the snapshot"):
            to_the_end(reader)
        reader.close()
    for each, (data, mtime_ns) in content.items():
        each.write_bytes(data)
        os.utime(each, ns=(mtime_ns, mtime_ns))
    assert drain(world.open()) == world.alone
    world.pipeline.close()
    world.pipeline.catalog.close()


ACTIONS = st.one_of(
    st.tuples(st.just("open"), st.integers(0, BATCHES - 1), st.booleans()),
    st.tuples(st.just("read"), st.integers(0, 9), st.integers(1, 12)),
    st.tuples(st.just("close"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("forget"), st.integers(0, 1 << 20), st.just(0)),
)


@given(actions=st.lists(ACTIONS, max_size=40), capacity=st.sampled_from([0, 30_000, 1 << 28]))
@settings(deadline=None)
def test_whatever_streams_do_each_gets_its_own_sequence(
    world: World, actions: list[tuple[str, int, int]], capacity: int
) -> None:
    pipeline, alone = world.pipeline, world.alone
    world.forget()
    pipeline.kept.capacity = capacity
    readers: list[tuple[SharedReader, list[Made]]] = []
    for action, number, more in actions:
        if action == "open":
            start = number if more else (alone[number].before if number else Cursor())
            readers.append((world.open(start), alone[number:]))
        elif action == "forget":
            pipeline.budget._reclaim(number)
        elif readers:
            reader, expected = readers[number % len(readers)]
            if action == "close":
                readers.remove((reader, expected))
                reader.close()
            else:
                found = [reader.next(None) for _ in range(more)]
                wanted = [expected.pop(0) if expected else None for _ in range(more)]
                assert found == wanted
        assert pipeline.kept.used <= capacity
    for reader, expected in readers:
        assert drain(reader) == expected
    assert pipeline.budget.used == pipeline.kept.used
    pipeline.kept.capacity = 1 << 28
