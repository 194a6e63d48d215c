"""The state of a stream: small, JSON-able, versioned, and checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from trainer_client.errors import StateMismatchError
from trainer_client.schedule import Deal, Position

VERSION = 1
CHOSEN_LATER = ("snapshot", "num_shards", "encoding_version")


@dataclass(frozen=True, slots=True)
class Setup:
    """What fixes the batches of a rank and their order, the epoch aside.

    num_shards and encoding_version are None until a plan chose them, snapshot "" until one was
    chosen.
    """

    dataset: str
    snapshot: str
    seed: int
    num_shards: int | None
    batch_size: int
    shuffle: bool
    shuffle_window_splits: int
    encoding_version: int | None
    drop_last: bool
    rank: int
    world_size: int


# What the states of all ranks have in common.
_SHARED = ("version", *(field.name for field in fields(Setup) if field.name != "rank"))


@dataclass(frozen=True, slots=True)
class Restored:
    """What a state says; position is None at the start of the epoch.

    ledger names the sessions that led to it, and how many of their steps; merged says that it is
    put together from the states of all ranks.
    """

    epoch: int
    position: Position | None
    snapshot: str
    num_shards: int | None
    encoding_version: int | None
    ledger: tuple[tuple[str, int], ...] = ()
    merged: bool = False


def save(setup: Setup, interleave: int, epoch: int, position: Position | None) -> dict[str, Any]:
    """The state after a position; the end of an epoch is the start of the next."""
    if position is not None and position.finished:
        epoch, position = position.epoch + 1, None
    return {
        "version": VERSION,
        **asdict(setup),
        "interleave": interleave,
        "epoch": epoch,
        "position": None if position is None else position.to_json(),
    }


def merge_state_dicts(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state from those of all ranks at the same step, in any order; any world_size loads it.

    What is left of the epoch follows from the states, and is dealt to the ranks anew when the
    merged state is loaded. Raises StateMismatchError (a ValueError) that names the ranks whose
    states are missing, or the field in which they differ.
    """
    by_rank = _by_rank(states)
    first = by_rank[0]
    for rank, state in enumerate(by_rank):
        for name in _SHARED:
            if state[name] != first[name]:
                raise _apart(name, first[name], state[name], rank)
    read = [_read(state) for state in by_rank]
    epoch = min(restored.epoch for restored in read)
    positions = [_position_in(epoch, restored, rank) for rank, restored in enumerate(read)]
    position = None
    if any(positions):
        # How the epoch was dealt is in the state of whoever is in the middle of it.
        begun = [p for p in positions if p and not p.finished]
        histories = {p.deals for p in begun}
        ways = {p.even for p in begun if p.delivered}
        if len(begun) == len(positions):
            # Nobody has taken a step: any way will do.
            ways = ways or {True}
        if len(histories) != 1 or len(ways) != 1:
            raise StateMismatchError(
                f"the states do not tell one history of epoch {epoch}: merge those that were taken "
                "at the same step of one run, after its first"
            )
        (deals,), (even,) = histories, ways
        dealt = Deal(even, tuple(each or Position(epoch) for each in positions))
        position = Position(epoch, deals=(*deals, dealt))
    whole = {**first, "rank": None, "world_size": None, "epoch": epoch}
    marks = [mark for state in by_rank for mark in state.get("ledger", ())]
    if marks:
        whole["ledger"] = marks
    return whole | {"position": None if position is None else position.to_json()}


def load(state: Mapping[str, Any], setup: Setup) -> Restored:
    """What a state says to a stream with this setup.

    Raises StateMismatchError (a ValueError) that names the field, both values and the way out.
    """
    _check_version(state)
    if state.get("world_size") == 1 and setup.world_size != 1:
        # The state of the only rank says all there is.
        state = merge_state_dicts([state])
    merged = state.get("world_size", 0) is None
    for name, mine in asdict(setup).items():
        if merged and name in ("rank", "world_size"):
            continue
        its = _field(state, name)
        chosen_later = name in CHOSEN_LATER and (not mine or not its)
        if its != mine and not chosen_later:
            raise StateMismatchError(_differs(name, its, mine))
    return _read(state)


def _read(state: Mapping[str, Any]) -> Restored:
    try:
        epoch = int(state["epoch"])
        value = state["position"]
        position = None if value is None else Position.from_json(epoch, value)
        ledger = tuple((str(name), int(steps)) for name, steps in state.get("ledger", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise StateMismatchError(
            f"the state is damaged ({type(error).__name__}: {error}): restore another one"
        ) from error
    snapshot, num_shards, version = (_field(state, name) for name in CHOSEN_LATER)
    merged = state.get("world_size", 0) is None
    return Restored(epoch, position, snapshot, num_shards, version, ledger, merged)


def _check_version(state: Mapping[str, Any]) -> None:
    version = state.get("version")
    if version != VERSION:
        raise StateMismatchError(
            f"the state has version {version!r}, this client reads version {VERSION}: restore it "
            "with the headrace that wrote it"
        )


def _field(state: Mapping[str, Any], name: str) -> Any:
    if name not in state:
        raise StateMismatchError(f"the state lacks {name!r}: is it from BatchStream.state_dict?")
    return state[name]


def _by_rank(states: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The states of all ranks of a run, by rank."""
    if not states:
        raise StateMismatchError("there is no state to merge: give those of all ranks")
    found: dict[int, Mapping[str, Any]] = {}
    for state in states:
        _check_version(state)
        for name in (*_SHARED, "rank"):
            _field(state, name)
        if state["world_size"] is None:
            raise StateMismatchError(
                "one of the states is merged already: load it as it is, at any world_size"
            )
        if state["rank"] in found:
            raise StateMismatchError(
                f"two states are of rank {state['rank']}: give one of each rank"
            )
        found[state["rank"]] = state
    world_size = states[0]["world_size"]
    missing = [str(rank) for rank in range(world_size) if rank not in found]
    if missing:
        raise StateMismatchError(
            f"the states of rank {', '.join(missing)} of {world_size} are missing: what these "
            "ranks delivered is known from their own states only"
        )
    return [found[rank] for rank in sorted(found)]


def _position_in(epoch: int, restored: Restored, rank: int) -> Position | None:
    """Where a rank stands in an epoch: None before its first batch."""
    if restored.epoch == epoch:
        return restored.position
    if restored.epoch == epoch + 1 and restored.position is None:
        return Position(epoch, finished=True)
    raise _apart("epoch", epoch, restored.epoch, rank)


def _apart(name: str, lowest: object, its: object, rank: int) -> StateMismatchError:
    return StateMismatchError(
        f"the states do not belong together: {name} is {its!r} on rank {rank} and {lowest!r} on "
        "another; merge those that were taken at the same step of one run"
    )


def _differs(name: str, its: object, mine: object) -> str:
    if name in ("rank", "world_size"):
        way_out = (
            "restore each rank's own state with as many ranks, or those of all ranks, put "
            "together by trainer_client.merge_state_dicts, with any number"
        )
    elif name == "dataset":
        way_out = "build the stream with the dataset of the state (the values are fingerprints)"
    else:
        way_out = f"build the stream with {name}={its!r}"
    return (
        f"the state has {name} {its!r}, this stream has {mine!r}, so its batches are others: "
        f"{way_out}, or start over without the state"
    )


def of_another_plan(epoch: int, error: ValueError) -> StateMismatchError:
    """The error for a state whose segments an epoch does not have."""
    return StateMismatchError(
        f"the state does not fit the plan of epoch {epoch} ({error}): it is of another dataset or "
        "identity"
    )


def of_another_deal(even: bool, uneven: str) -> StateMismatchError:
    """The error for a state whose epoch was dealt in another way than this stream deals it."""
    how = {True: 'evenly (uneven="drop")', False: 'to the last batch (any uneven but "drop")'}
    return StateMismatchError(
        f"the state is of an epoch that was dealt {how[even]}, with uneven={uneven!r} it is dealt "
        f"{how[not even]}: build the stream with the uneven of the state, or merge the states of "
        "all ranks (trainer_client.merge_state_dicts), which load with any"
    )


def with_ranks_ahead(steps: int, epoch: int) -> StateMismatchError:
    """The error for a state that ranks with fewer batches do not have: they are an epoch ahead."""
    return StateMismatchError(
        f"the state is of uneven='none' after {steps} steps of epoch {epoch}, when some ranks had "
        "ended that epoch: with uneven='pad' they would take fewer steps than this one; go on with "
        "uneven='none', or merge the states of all ranks (trainer_client.merge_state_dicts)"
    )
