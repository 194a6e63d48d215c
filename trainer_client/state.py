"""The state of a stream: small, JSON-able, versioned, and checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer_client.errors import StateMismatchError
from trainer_client.schedule import Position

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


@dataclass(frozen=True, slots=True)
class Restored:
    """What a state says; position is None at the start of the epoch."""

    epoch: int
    position: Position | None
    snapshot: str
    num_shards: int | None
    encoding_version: int | None


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


def load(state: Mapping[str, Any], setup: Setup) -> Restored:
    """What a state says to a stream with this setup.

    Raises StateMismatchError (a ValueError) that names the field, both values and the way out.
    """
    version = state.get("version")
    if version != VERSION:
        raise StateMismatchError(
            f"the state has version {version!r}, this client reads version {VERSION}: restore it "
            "with the headrace that wrote it"
        )
    for name, mine in asdict(setup).items():
        if name not in state:
            raise StateMismatchError(
                f"the state lacks {name!r}: is it from BatchStream.state_dict?"
            )
        its = state[name]
        chosen_later = name in CHOSEN_LATER and (not mine or not its)
        if its != mine and not chosen_later:
            raise StateMismatchError(_differs(name, its, mine))
    try:
        epoch = int(state["epoch"])
        value = state["position"]
        position = None if value is None else Position.from_json(epoch, value)
    except (KeyError, TypeError, ValueError) as error:
        raise StateMismatchError(
            f"the state is damaged ({type(error).__name__}: {error}): restore another one"
        ) from error
    chosen = (state[name] for name in CHOSEN_LATER)
    return Restored(epoch, position, *chosen)


def _differs(name: str, its: object, mine: object) -> str:
    if name in ("rank", "world_size"):
        way_out = "restore each rank's own state, with as many ranks"
    elif name == "dataset":
        way_out = "build the stream with the dataset of the state (the values are fingerprints)"
    else:
        way_out = f"build the stream with {name}={its!r}"
    return (
        f"the state has {name} {its!r}, this stream has {mine!r}, so its batches are others: "
        f"{way_out}, or start over without the state"
    )
