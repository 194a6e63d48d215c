"""Reads the files of a ledger, up to the tear where one was cut short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from trainer_client.errors import DataError, RequestError
from trainer_client.ledger.lines import FORMAT, STEP, Steps, parse, whole_lines
from trainer_client.ledger.writer import ENDED_EARLY, SUFFIX, Mark

CHUNK_BYTES = 1 << 16
PARSED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What one file says: steps in order, and records, each with how many steps came before it.

    ending is "closed", "torn" (nothing says why it ended: it was killed, or still runs), "early"
    (it could not be written on) or "damaged" (its bytes are not those that were written).
    """

    path: Path
    name: str
    rank: int
    world_size: int
    started: datetime
    batch_size: int
    header: Mapping[str, Any]
    steps: Steps
    records: list[tuple[int, dict[str, Any]]]
    ending: str

    @property
    def resumed_from(self) -> list[Mark]:
        """The places in other sessions that it goes on from."""
        resumed = self.header["resumed"]
        return [] if resumed is None else [(name, count) for name, count in resumed["from"]]

    def cursor(self, step: int) -> tuple[int, int, int]:
        """(split, parquet_row, offset) of a step."""
        steps = self.steps
        mine = np.flatnonzero(steps["shard"][: step + 1] == steps["shard"][step])
        stated = np.flatnonzero(steps["split"][mine] >= 0)
        if not len(stated):
            raise DataError(f"{self.path}: no line says where step {step} starts")
        at = mine[stated[-1]]
        rows = steps["rows"][mine[stated[-1] : -1]].astype(np.int64)
        rows[rows == 0] = self.batch_size
        row = int(steps["parquet_row"][at]) + int(rows.sum())
        # One that follows from the line before starts with a Parquet row.
        return int(steps["split"][at]), row, int(steps["offset"][at]) if at == step else 0


def read(directory: Path) -> list[Session]:
    """The sessions of a folder, by the time they started.

    Raises RequestError if there is none, DataError that names a file that is no ledger.
    """
    if not directory.is_dir():
        raise RequestError(f"{directory} is no folder: give one that a stream's ledger= named")
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    sessions = [session for path in paths if (session := read_file(path)) is not None]
    if not sessions:
        raise RequestError(f"{directory} holds no ledger (*{SUFFIX}) with a line in it")
    return sorted(sessions, key=lambda session: (session.started, session.rank, session.name))


def read_file(path: Path) -> Session | None:
    """What a file says; None where nothing was written yet. DataError if it is no ledger."""
    parts: list[Steps] = []
    records: list[tuple[int, dict[str, Any]]] = []
    count, ending = 0, "torn"
    chunks = _Decompressed(path)
    for text in whole_lines(iter(chunks), PARSED_BYTES):
        try:
            parsed = parse(text)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        parts.append(parsed.steps)
        records += [(count + before, record) for before, record in parsed.records]
        count += len(parsed.steps)
    if not records:
        return None
    _, header = records.pop(0)
    if header.get("ledger") != FORMAT:
        raise DataError(
            f"{path} has format {header.get('ledger')!r}, this client reads {FORMAT}: read it with "
            "the headrace that wrote it"
        )
    if chunks.damaged:
        ending = "damaged"
    elif records and "closed" in records[-1][1]:
        ending = "closed"
    elif path.name.endswith(ENDED_EARLY + SUFFIX):
        ending = "early"
    try:
        return Session(
            path=path,
            name=header["session"],
            rank=header["rank"],
            world_size=header["world_size"],
            started=datetime.fromisoformat(header["started"]),
            batch_size=header["batch_size"],
            header=header,
            steps=np.concatenate(parts) if parts else np.zeros(0, STEP),
            records=records,
            ending=ending,
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: its first line lacks {error}") from error


class _Decompressed:
    """The bytes of a file, up to where it was torn; damaged says that they are wrong there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged = False

    def __iter__(self) -> Iterator[bytes]:
        data = self._path.read_bytes()
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        step, at = CHUNK_BYTES, 0
        while at < len(data):
            try:
                text = decompressor.decompress(data[at : at + step])
            except zstandard.ZstdError:
                self.damaged = True
                if step == 1:
                    return
                # What comes before the damage in this chunk is good: on byte by byte.
                decompressor = zstandard.ZstdDecompressor().decompressobj()
                decompressor.decompress(data[:at])
                step = 1
                continue
            at += step
            yield text
            if decompressor.eof:
                # Nothing comes after the frame.
                self.damaged |= bool(decompressor.unused_data or at < len(data))
                return
