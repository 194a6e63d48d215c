"""The text of a ledger: a line a step, and JSON records between them. docs/ledger.md specifies it.

A step's line is "SHARD INDEX HASH", with " SPLIT PARQUET_ROW OFFSET" where the cursor is not the
one that follows from the line before it of the same shard, and then, where they apply, " rows=N"
(not a full batch), " pad" and " skip".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FORMAT = 1
HASH_MASK = (1 << 32) - 1
TRAINED, PADDED, SKIPPED = 0, 1, 2
KINDS = ("trained on", "repeated as padding", "left out by skip()")
# Shards whose cursor is predicted at a time: a rank with more of them only writes longer lines.
MAX_PREDICTED = 4096

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

STEP = np.dtype(
    [
        ("shard", np.int32),
        ("index", np.int64),
        ("hash", np.uint32),
        # 0 stands for a full batch.
        ("rows", np.int32),
        ("kind", np.uint8),
        # -1 in all three where the line has none.
        ("split", np.int64),
        ("parquet_row", np.int64),
        ("offset", np.int64),
    ]
)
Steps = npt.NDArray[np.void]


class Place(Protocol):
    """A cursor."""

    @property
    def split(self) -> int:
        """Where its first split stands in the shard."""

    @property
    def parquet_row(self) -> int:
        """Parquet rows of the window before it."""

    @property
    def offset(self) -> int:
        """Rows of the next Parquet row before it."""


class Delivered(Protocol):
    """A batch, as far as a ledger is concerned."""

    @property
    def shard(self) -> int:
        """The shard that its rows belong to."""

    @property
    def index(self) -> int:
        """The batches before it in its shard."""

    @property
    def batch_size(self) -> int:
        """Its rows."""

    @property
    def content_checksum(self) -> int:
        """What fixes its values."""

    @property
    def cursor(self) -> Place:
        """Where it starts."""


def record(value: Mapping[str, Any]) -> str:
    """The line of a record."""
    return json.dumps(value, separators=(",", ":")) + "\n"


class Formatter:
    """Makes the lines of a file's steps; batch_size is that of a full batch."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        # By shard: the next index, and the split and Parquet row that it is to start at.
        self._due: dict[int, tuple[int, int, int]] = {}

    def step(self, batch: Delivered, kind: int) -> str:
        """The line of a batch."""
        shard, index, rows, cursor = batch.shard, batch.index, batch.batch_size, batch.cursor
        line = f"{shard} {index} {batch.content_checksum & HASH_MASK:08x}"
        due, at = self._due, (index, cursor.split, cursor.parquet_row)
        if due.get(shard) != at or cursor.offset:
            line += f" {cursor.split} {cursor.parquet_row} {cursor.offset}"
        if len(due) >= MAX_PREDICTED and shard not in due:
            due.clear()
        due[shard] = (index + 1, cursor.split, cursor.parquet_row + rows)
        if rows != self._batch_size:
            line += f" rows={rows}"
        if kind:
            line += " pad" if kind == PADDED else " skip"
        return line + "\n"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a part of a ledger says; records are (steps of the part before them, record)."""

    steps: Steps
    records: list[tuple[int, dict[str, Any]]]


def parse(text: bytes) -> Parsed:
    """Whole lines to steps. Raises ValueError that quotes the line that is none."""
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    spaces = np.flatnonzero(data == ord(" "))
    first_space = np.searchsorted(spaces, starts)
    space_count = np.searchsorted(spaces, ends) - first_space
    is_record = data[starts] == ord("{") if len(starts) else np.zeros(0, bool)
    # What ends in a word ("pad"), or has a "=", is rare, and read one by one.
    by_word = np.unique(np.searchsorted(ends, np.flatnonzero(_IS_WORD[data])))
    unusual = np.zeros(len(starts), bool)
    unusual[by_word] = True
    unusual |= (space_count != 2) & (space_count != 5)
    unusual &= ~is_record
    steps = np.zeros(len(starts), STEP)
    for name in ("split", "parquet_row", "offset"):
        steps[name] = -1
    for fields, names in ((3, _SHORT), (6, _LONG)):
        rows = np.flatnonzero((space_count == fields - 1) & ~unusual & ~is_record)
        bounds = spaces[first_space[rows][:, None] + np.arange(fields - 1)]
        edges = np.concatenate([starts[rows, None] - 1, bounds, ends[rows, None]], axis=1)
        for field, name in enumerate(names):
            numbers = _numbers(data, edges[:, field] + 1, edges[:, field + 1], name == "hash")
            bad = np.flatnonzero(numbers < 0)
            if len(bad):
                raise _no_line(text[starts[rows[bad[0]]] : ends[rows[bad[0]]]])
            steps[name][rows] = numbers
    for row in np.flatnonzero(unusual):
        steps[row] = _unusual(text[starts[row] : ends[row]])
    record_rows = np.flatnonzero(is_record)
    before = record_rows - np.arange(len(record_rows))
    records = []
    for row, count in zip(record_rows, before.tolist(), strict=True):
        line = text[starts[row] : ends[row]]
        try:
            records.append((count, json.loads(line)))
        except ValueError as error:
            raise _no_line(line) from error
    return Parsed(steps[~is_record], records)


_SHORT = ("shard", "index", "hash")
_LONG = (*_SHORT, "split", "parquet_row", "offset")
_DIGIT = np.full(256, -1, np.int64)
for _place, _digit in enumerate(b"0123456789abcdef"):
    _DIGIT[_digit] = _place
_IS_WORD = np.zeros(256, bool)
_IS_WORD[list(b"=pks")] = True


def _numbers(data: Bytes, starts: Ints, ends: Ints, hexadecimal: bool) -> Ints:
    """The numbers between pairs of places, below 0 for what is none."""
    base = 16 if hexadecimal else 10
    lengths = ends - starts
    wrong = (lengths < 1) | (lengths > (8 if hexadecimal else 18))
    values = np.zeros(len(starts), np.int64)
    for place in range(int(lengths.max(initial=0)) if not wrong.any() else 0):
        inside = lengths > place
        digits = _DIGIT[data[np.minimum(starts + place, len(data) - 1)]]
        wrong |= inside & ((digits < 0) | (digits >= base))
        values = np.where(inside, values * base + digits, values)
    return np.where(wrong, -1, values)


def _unusual(line: bytes) -> tuple[int, ...]:
    words = line.decode("ascii", "replace").split(" ")
    numbers = [word for word in words if word not in {"pad", "skip"} and "=" not in word]
    rest = words[len(numbers) :]
    try:
        shard, index, digest, *cursor = numbers
        split, parquet_row, offset = map(int, cursor) if cursor else (-1, -1, -1)
        rows, kind = 0, TRAINED
        for word in rest:
            if word.startswith("rows="):
                rows = int(word.removeprefix("rows="))
            else:
                kind = {"pad": PADDED, "skip": SKIPPED}[word]
        return int(shard), int(index), int(digest, 16), rows, kind, split, parquet_row, offset
    except (KeyError, ValueError) as error:
        raise _no_line(line) from error


def _no_line(line: bytes) -> ValueError:
    return ValueError(f"{line[:80]!r} is no line of a ledger")


def whole_lines(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The text of chunks in parts of about so many bytes that end with a line.

    What comes after the last line's end is left out: it was torn.
    """
    held: list[bytes] = []
    length = 0
    for chunk in chunks:
        held.append(chunk)
        length += len(chunk)
        if length >= size:
            text = b"".join(held)
            end = text.rfind(b"\n") + 1
            yield text[:end]
            held = [text[end:]]
            length = len(text) - end
    text = b"".join(held)
    yield text[: text.rfind(b"\n") + 1]
