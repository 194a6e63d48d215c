"""Ledgers: written, cut off anywhere, and read back."""

from __future__ import annotations

import os
import re
import resource
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.ledgers import ABOUT, BATCH_SIZE, LoggedBatch, begin, flat_batches
from trainer_client import DataError, RequestError
from trainer_client.cursor import Cursor
from trainer_client.ledger import writer
from trainer_client.ledger.lines import HASH_MASK, Formatter, parse, whole_lines
from trainer_client.ledger.reader import Session, read
from trainer_client.ledger.writer import Ledger

NUMBER = st.integers(0, 3) | st.integers(0, 10**12)
CURSORS = st.builds(Cursor, NUMBER, NUMBER, st.integers(0, 2) | NUMBER, NUMBER)
BATCHES = st.builds(
    LoggedBatch,
    shard=st.integers(0, 3) | st.integers(0, (1 << 20) - 1),
    index=NUMBER,
    content_checksum=st.integers(0, (1 << 64) - 1),
    cursor=CURSORS,
    batch_size=st.just(BATCH_SIZE) | st.integers(1, 1 << 20),
    kind=st.integers(0, 2),
)


@st.composite
def runs(draw: st.DrawFn) -> list[LoggedBatch]:
    """Batches of which many follow from the one before in their shard."""
    batches: list[LoggedBatch] = []
    for batch in draw(st.lists(BATCHES, max_size=30)):
        batches.append(batch)
        for _ in range(draw(st.integers(0, 3))):
            last, at = batches[-1], batches[-1].cursor
            row = at.parquet_row + last.batch_size
            cursor = Cursor(at.split, row, 0, last.index + 1)
            batches.append(replace(last, index=last.index + 1, cursor=cursor))
    return batches


def start(folder: Path, **about: object) -> Ledger:
    return Ledger(folder, batch_size=BATCH_SIZE, about=ABOUT | about)


def only(folder: Path) -> Session:
    (session,) = read(folder)
    return session


def file_of(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def steps_of(session: Session) -> list[tuple[int, int, int]]:
    return list(zip(*(session.steps[n].tolist() for n in ("shard", "index", "hash")), strict=True))


def expected(batches: list[LoggedBatch]) -> list[tuple[int, int, int]]:
    return [(b.shard, b.index, b.content_checksum & HASH_MASK) for b in batches]


@given(runs())
def test_lines_say_what_was_handed_over(batches: list[LoggedBatch]) -> None:
    formatter = Formatter(BATCH_SIZE)
    text = "".join(formatter.step(batch, batch.kind) for batch in batches).encode()
    steps = parse(text).steps
    for name, value in (
        ("shard", [b.shard for b in batches]),
        ("index", [b.index for b in batches]),
        ("hash", [b.content_checksum & HASH_MASK for b in batches]),
        ("rows", [0 if b.batch_size == BATCH_SIZE else b.batch_size for b in batches]),
        ("kind", [b.kind for b in batches]),
    ):
        assert steps[name].tolist() == value


@settings(max_examples=12)
@given(batches=runs(), states=st.sets(st.integers(0, 60)))
def test_a_file_says_it_all_and_every_cursor(
    tmp_path_factory: pytest.TempPathFactory, batches: list[LoggedBatch], states: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = start(folder)
    begin(ledger, 3)
    for n, batch in enumerate(batches):
        assert ledger.step(batch, batch.kind)[1] == n + 1
        if n in states:
            ledger.flush()
    ledger.end(3)
    ledger.close()
    session = only(folder)
    assert session.ending == "closed"
    assert steps_of(session) == expected(batches)
    found = [session.cursor(n) for n in range(len(batches))]
    assert found == [(b.cursor.split, b.cursor.parquet_row, b.cursor.offset) for b in batches]
    kinds = [(at, next(iter(record))) for at, record in session.records]
    assert kinds == [(0, "begin"), (len(batches), "end"), (len(batches), "closed")]


@given(st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"x", b"\n")), max_size=9))
def test_parts_end_with_a_line(chunks: list[bytes]) -> None:
    text = b"".join(chunks)
    parts = list(whole_lines(iter(chunks), 5))
    assert b"".join(parts) == text[: text.rfind(b"\n") + 1]
    assert all(part.endswith(b"\n") for part in parts if part)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"1 2", b"1 2 0g", b"1 x 00", b"1  00", b"-1 2 00", b"1 2 123456789"),
        *(b"1 2 00 3 4", b"1 2 00 3 4 5x", b"1 2 ff 1 2 ff", b"1 2 00 paddle", b"1 2 00 rows="),
    ],
)
def test_what_is_no_line_is_quoted(line: bytes) -> None:
    with pytest.raises(ValueError, match="is no line of a ledger") as caught:
        parse(b"1 2 00\n" + line + b"\n3 4 00\n")
    assert repr(line) in str(caught.value)


def test_a_file_cut_off_anywhere_is_read_up_to_the_tear(tmp_path: Path) -> None:
    batches = flat_batches(3, 100)
    ledger = start(tmp_path / "whole")
    begin(ledger, 0)
    flushed: dict[int, int] = {}
    for n, batch in enumerate(batches):
        ledger.step(batch)
        if n % 20 == 19:
            ledger.flush()
            flushed[file_of(tmp_path / "whole").stat().st_size] = n + 1
    ledger.close()
    data = file_of(tmp_path / "whole").read_bytes()
    torn = tmp_path / "torn"
    torn.mkdir()
    for size in range(0, len(data), 7):
        (torn / f"x{writer.SUFFIX}").write_bytes(data[:size])
        due = max((steps for at, steps in flushed.items() if at <= size), default=0)
        if not due:
            continue
        session = only(torn)
        assert len(session.steps) >= due
        assert steps_of(session) == expected(batches)[: len(session.steps)]
        whole = len(session.steps) == len(batches)
        assert session.ending == "torn" or (whole and session.ending == "closed")


def test_a_file_whose_bytes_changed_is_read_up_to_there(tmp_path: Path) -> None:
    batches = flat_batches(3, 2000)
    ledger = start(tmp_path)
    begin(ledger, 0)
    for batch in batches:
        ledger.step(batch)
    ledger.close()
    path = file_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[-3:] = b"\xff\xff\xff"
    path.write_bytes(data)
    session = only(tmp_path)
    assert session.ending == "damaged"
    assert steps_of(session) == expected(batches)


def test_a_flush_puts_all_steps_before_it_into_the_file(tmp_path: Path) -> None:
    ledger = start(tmp_path)
    begin(ledger, 0)
    for n, batch in enumerate(flat_batches(2, 50)):
        mark = ledger.step(batch)
        ledger.flush()
        session = only(tmp_path)
        assert (session.name, len(session.steps)) == mark == (ledger.mark()[0], n + 1)
        assert session.ending == "torn"
    ledger.close()


def test_steps_wait_for_no_disk(tmp_path: Path) -> None:
    ledger = start(tmp_path)
    begin(ledger, 0)
    for batch in flat_batches(1, writer.BUFFERED_LINES // 2):
        ledger.step(batch)
    assert file_of(tmp_path).stat().st_size == 0
    ledger.close()
    assert file_of(tmp_path).stat().st_size > 0


def test_a_million_steps_take_a_few_megabytes(tmp_path: Path) -> None:
    steps = 40_000
    rng = np.random.default_rng(1)
    for name, jump, most in (("flat", 0, 8.5), ("grouped", 30, 13.5)):
        ledger = start(tmp_path / name)
        begin(ledger, 0)
        rows = [0, 0, 0, 0]
        for n in range(steps):
            lane = n % 4
            rows[lane] += BATCH_SIZE + int(rng.integers(0, jump + 1))
            offset = int(rng.integers(0, 16)) if jump else 0
            cursor = Cursor(n // 20_000, rows[lane], offset, n // 4)
            content = int(rng.integers(0, 1 << 63))
            ledger.step(LoggedBatch(lane + 4 * (n // 1000), n // 4, content, cursor))
            if n % 1000 == 0:
                ledger.flush()
        ledger.close()
        assert file_of(tmp_path / name).stat().st_size / steps < most


def test_a_state_loaded_starts_a_session_of_its_own(tmp_path: Path) -> None:
    ledger = start(tmp_path)
    ledger.resumed([("before", 7)], 2, middle=True, merged=False)
    assert len(list(tmp_path.iterdir())) == 1
    begin(ledger, 2)
    first = ledger.step(flat_batches(1, 1)[0])
    ledger.resumed([first], 2, middle=True, merged=True)
    second = ledger.step(flat_batches(1, 2)[1])
    ledger.close()
    one, two = read(tmp_path)
    assert (one.resumed_from, one.ending) == ([("before", 7)], "closed")
    assert (two.name, 1) == second
    assert two.resumed_from == [(one.name, 1)] == [first]
    assert two.header["resumed"]["merged"]


def test_a_stream_that_hands_out_nothing_leaves_no_file(tmp_path: Path) -> None:
    ledger = start(tmp_path)
    ledger.close()
    ledger.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"ledger '.*/x' cannot be written: .*leave ledger="):
        start(tmp_path / "file" / "x")


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: not even what pytest writes to."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_that_fills_up_ends_the_ledger_once_and_loudly(tmp_path: Path) -> None:
    ledger = start(tmp_path)
    begin(ledger, 0)
    batches = flat_batches(3, 300)
    flushed = 0
    limit = 2000
    with warnings.catch_warnings(record=True) as said, small_files(limit):
        warnings.simplefilter("always")
        for n, batch in enumerate(batches):
            mark = ledger.step(batch)
            if n % 100 == 99:
                ledger.flush()
                flushed = n + 1 if not said else flushed
    ledger.resumed([mark], 0, middle=True, merged=False)
    ledger.flush()
    ledger.close()
    (told,) = said
    assert re.search("ends early.*File too large.*Training goes on", str(told.message))
    # States go on to say how far the run has come, so that the gap shows.
    assert mark[1] == len(batches)
    path = file_of(tmp_path)
    assert path.name.endswith(writer.ENDED_EARLY + writer.SUFFIX)
    assert path.stat().st_size < limit
    session = only(tmp_path)
    assert session.ending == "early"
    assert steps_of(session) == expected(batches)[:flushed]


def test_a_child_of_a_fork_writes_nothing(tmp_path: Path) -> None:
    ledger = start(tmp_path)
    begin(ledger, 0)
    ledger.step(flat_batches(1, 1)[0])
    child = os.fork()
    if child == 0:
        ledger.flush()
        os._exit(file_of(tmp_path).stat().st_size)
    assert os.waitpid(child, 0)[1] == 0
    ledger.close()
    assert len(only(tmp_path).steps) == 1


def test_what_is_no_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"x is no folder"):
        read(tmp_path / "x")
    with pytest.raises(RequestError, match=r"holds no ledger \(\*\.ledger\.zst\)"):
        read(tmp_path)
    ledger = start(tmp_path)
    ledger.begin(0, 0)
    ledger.close()
    path = file_of(tmp_path)
    text = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(text.replace(b'"ledger":1', b'"ledger":2')))
    with pytest.raises(DataError, match="has format 2, this client reads 1"):
        read(tmp_path)
    path.write_bytes(compress(b"what?\n"))
    with pytest.raises(DataError, match="'what\\?' is no line of a ledger"):
        read(tmp_path)
