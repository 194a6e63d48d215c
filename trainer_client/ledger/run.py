"""From the sessions of a folder to the one history that a run ended up with.

A session that goes on from a state takes what came before the state from the sessions that the
state names; what those did after it was rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer_client.ledger.lines import Steps
from trainer_client.ledger.reader import Session, read

WHY_UNPROVEN = {
    "early": "could not be written on (a full disk?)",
    "damaged": "is damaged there",
}


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Steps [start, stop) of a session, all of one epoch; begin is the record that starts them."""

    session: Session
    start: int
    stop: int
    begin: Mapping[str, Any]

    @property
    def steps(self) -> Steps:
        """The steps."""
        return self.session.steps[self.start : self.stop]


@dataclass(frozen=True, slots=True, eq=False)
class RankSteps:
    """What a rank was handed in one deal of an epoch, in order."""

    rank: int
    pieces: list[Piece]
    ended: bool

    @property
    def steps(self) -> Steps:
        """All steps."""
        return np.concatenate([piece.steps for piece in self.pieces])

    def at(self, step: int) -> tuple[Session, int]:
        """The session of a step, and its place there."""
        for piece in self.pieces:
            if step < piece.stop - piece.start:
                return piece.session, piece.start + step
            step -= piece.stop - piece.start
        raise IndexError(step)


@dataclass(slots=True, eq=False)
class Epoch:
    """An epoch: its sequences by (deal, rank); deals are the world sizes, one after the other."""

    number: int
    sequences: dict[tuple[int, int], RankSteps]
    begin: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)
    # What the servers alone knew.
    shard_ends: dict[int, int] = field(default_factory=dict)
    dropped: dict[tuple[int, int], int] = field(default_factory=dict)
    left_out: dict[tuple[int, int], int] = field(default_factory=dict)
    left_uncounted: bool = False

    @property
    def setup(self) -> Mapping[str, Any]:
        """What fixes the batches."""
        setup: Mapping[str, Any] = self.begin["setup"]
        return setup

    @property
    def deals(self) -> Sequence[int]:
        """The numbers of ranks that it was dealt to."""
        deals: Sequence[int] = self.begin["deals"]
        return deals

    @property
    def ended(self) -> bool:
        """Whether every rank of the last deal has come to the epoch's end."""
        last = len(self.deals) - 1
        found = [self.sequences.get((last, rank)) for rank in range(self.deals[last])]
        return all(sequence is not None and sequence.ended for sequence in found)

    @property
    def absent(self) -> list[int]:
        """The ranks of the last deal that have written nothing of it."""
        last = len(self.deals) - 1
        return [rank for rank in range(self.deals[last]) if (last, rank) not in self.sequences]


@dataclass(slots=True, eq=False)
class Run:
    """The history of a folder's run. kept says how many steps of each session are part of it.

    problems say where the history has a gap; rolled_back counts the steps that are no part of it.
    """

    directory: Path
    sessions: list[Session]
    kept: dict[str, int]
    final: list[Session]
    problems: list[str]
    epochs: dict[int, Epoch] = field(default_factory=dict)

    @property
    def rolled_back(self) -> int:
        """Steps that were redone, or that nothing went on from."""
        return sum(
            len(s.steps) - min(len(s.steps), self.kept.get(s.name, 0)) for s in self.sessions
        )

    @property
    def steps(self) -> int:
        """Steps of the history."""
        return sum(len(s.steps) for s in self.sessions) - self.rolled_back


def load(directory: Path) -> Run:
    """The run of a folder. Raises RequestError or DataError if it holds no ledger."""
    sessions = read(directory)
    run = _history(directory, sessions)
    _gather(run)
    return run


def _history(directory: Path, sessions: list[Session]) -> Run:
    by_name = {session.name: session for session in sessions}
    latest = sessions[-1]
    origin = _origin(latest, by_name)
    by_rank = {
        session.rank: session
        for session in sessions
        if session.world_size == latest.world_size and _origin(session, by_name) == origin
    }
    final = [by_rank[rank] for rank in sorted(by_rank)]
    run = Run(directory, sessions, {}, final, [])
    for session in final:
        if session.ending == "early":
            run.problems.append(
                f"{session.path.name} (rank {session.rank}) {WHY_UNPROVEN[session.ending]} after "
                f"{len(session.steps)} steps: what came after is not proven"
            )
    waiting = [(session.name, len(session.steps)) for session in final]
    while waiting:
        name, count = waiting.pop()
        if name in run.kept:
            if count != run.kept[name]:
                run.problems.append(
                    f"session {name} was gone on from in two places, after {run.kept[name]} and "
                    f"after {count} steps: the ranks loaded states of different checkpoints"
                )
                run.kept[name] = max(count, run.kept[name])
            continue
        run.kept[name] = count
        if name not in by_name:
            run.problems.append(
                f"the ledger of session {name}, whose first {count} steps belong to this run, is "
                f"not in {directory}: put all ledgers of a run into one folder"
            )
            continue
        session = by_name[name]
        if session.ending == "damaged":
            run.problems.append(
                f"{session.path} is damaged: its bytes are not those that were written"
            )
        if count > len(session.steps):
            why = WHY_UNPROVEN.get(session.ending, "was cut off")
            run.problems.append(
                f"{session.path.name} (rank {session.rank}) {why} after {len(session.steps)} "
                f"steps, and the run went on from a state after {count}: "
                f"{count - len(session.steps)} steps are not proven"
            )
        waiting += session.resumed_from
    return run


def _origin(session: Session, by_name: Mapping[str, Session]) -> tuple[object, ...]:
    """What all ranks that trained together have in common: the merged state, or the start."""
    while (resumed := session.header["resumed"]) is not None:
        marks = session.resumed_from
        parent = by_name.get(marks[0][0]) if len(marks) == 1 else None
        if resumed["merged"]:
            return tuple(marks)
        if parent is None:
            return ("before this ledger",)
        session = parent
    return ("start",)


@dataclass(slots=True)
class _Found:
    """What is kept of sessions: pieces by epoch, (epoch, deal, rank) that ended, and notes."""

    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    ended: set[tuple[int, int, int]] = field(default_factory=set)
    notes: list[tuple[str, Any]] = field(default_factory=list)


def _gather(run: Run) -> None:
    """The epochs of a run's history."""
    found = _Found()
    for session in run.sessions:
        if session.name in run.kept:
            kept = min(run.kept[session.name], len(session.steps))
            _scan(session, kept, found, final=session in run.final)
    for number in sorted(found.pieces):
        epoch = run.epochs[number] = _epoch(number, found.pieces[number], found.ended)
        for piece in found.pieces[number]:
            resumed = piece.session.header["resumed"]
            blind = resumed is not None and resumed["middle"] and not resumed["from"]
            if blind and resumed["epoch"] == number:
                epoch.problems.append(
                    f"{piece.session.path.name} (rank {piece.session.rank}) goes on in the middle "
                    "of the epoch from a stream that kept no ledger: what came before is not proven"
                )
    for kind, value in found.notes:
        _take_note(run.epochs, kind, value)


def _scan(session: Session, kept: int, found: _Found, *, final: bool) -> None:
    """Takes the first steps of a session that are kept, and what was said among them."""
    begun: list[tuple[int, Mapping[str, Any]]] = []
    whole: set[int] = set()
    for at, record in session.records:
        (kind, value), *_ = record.items()
        if at > kept:
            break
        if kind == "begin":
            begun.append((at, value))
        elif kind == "end" and begun:
            deal = len(begun[-1][1]["deals"]) - 1
            whole.add(len(begun) - 1)
            found.ended.add((value["epoch"], deal, session.rank))
        else:
            found.notes.append((kind, value))
    stops = [*(at for at, _ in begun[1:]), kept][: len(begun)]
    for n, ((at, begin), stop) in enumerate(zip(begun, stops, strict=True)):
        # One that was begun after the state that the run went on from was rolled back.
        if at < kept or n in whole or final:
            found.pieces.setdefault(begin["epoch"], []).append(Piece(session, at, stop, begin))


def _epoch(number: int, pieces: list[Piece], ended: set[tuple[int, int, int]]) -> Epoch:
    by_place: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        place = len(piece.begin["deals"]) - 1, piece.session.rank
        by_place.setdefault(place, []).append(piece)
    sequences = {
        place: RankSteps(place[1], by_place[place], (number, *place) in ended)
        for place in sorted(by_place)
    }
    last = max(pieces, key=lambda piece: len(piece.begin["deals"]))
    epoch = Epoch(number, sequences, last.begin)
    for piece in pieces:
        theirs = piece.begin["setup"]
        for name, value in epoch.setup.items():
            if theirs[name] != value:
                epoch.problems.append(
                    f"epoch {number} was read with {name} {theirs[name]!r} and with {value!r}: is "
                    "this folder shared by two runs?"
                )
                break
    return epoch


def _take_note(epochs: Mapping[int, Epoch], kind: str, value: Any) -> None:
    number = value[0] if isinstance(value, list) else value
    epoch = epochs.get(number) if isinstance(number, int) else None
    if epoch is None:
        return
    if kind == "shard_end":
        epoch.shard_ends[value[1]] = value[2]
    elif kind == "dropped":
        epoch.dropped[value[1], value[2]] = value[3]
    elif kind == "left_out":
        epoch.left_out[value[1], value[2]] = value[3]
    elif kind == "left_uncounted":
        epoch.left_uncounted = True
