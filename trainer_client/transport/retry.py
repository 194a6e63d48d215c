"""What is tried again, where, when, and for how long: one table, and one count of tries."""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Iterator

import grpc
import tenacity

from trainer_client.errors import (
    CLASS_BY_REASON,
    CorruptBatchError,
    HeadraceError,
    ServerUnavailableError,
    StreamTimeoutError,
)
from trainer_client.transport.fleet import Fleet
from trainer_client.transport.placement import Placement


class Verdict(enum.Enum):
    """What follows a failure."""

    ELSEWHERE = "another server, at once; once each has failed, again after a pause"
    ONCE_MORE = "another server, once: a fault of one machine, unless it comes again"
    UNCLEAR = "another server, a few times: the network's words, or a fault of every server"
    PERMANENT = "nothing: it would fail everywhere"


VERDICT_BY_STATUS: dict[grpc.StatusCode, Verdict] = {
    grpc.StatusCode.UNAVAILABLE: Verdict.ELSEWHERE,
    # The client's own cancellations end before they get here: a server ended the call.
    grpc.StatusCode.CANCELLED: Verdict.ELSEWHERE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Verdict.ELSEWHERE,
    grpc.StatusCode.ABORTED: Verdict.ELSEWHERE,
    # Only with RetryInfo (see verdict): without it, it is a limit that stays.
    grpc.StatusCode.RESOURCE_EXHAUSTED: Verdict.PERMANENT,
    grpc.StatusCode.DATA_LOSS: Verdict.ONCE_MORE,
    # Exceptions in a handler; also what gRPC makes of connections that end in the middle of a
    # message, or of damaged frames.
    grpc.StatusCode.INTERNAL: Verdict.UNCLEAR,
    grpc.StatusCode.UNKNOWN: Verdict.UNCLEAR,
    grpc.StatusCode.INVALID_ARGUMENT: Verdict.PERMANENT,
    grpc.StatusCode.NOT_FOUND: Verdict.PERMANENT,
    grpc.StatusCode.ALREADY_EXISTS: Verdict.PERMANENT,
    grpc.StatusCode.PERMISSION_DENIED: Verdict.PERMANENT,
    grpc.StatusCode.FAILED_PRECONDITION: Verdict.PERMANENT,
    grpc.StatusCode.OUT_OF_RANGE: Verdict.PERMANENT,
    grpc.StatusCode.UNIMPLEMENTED: Verdict.PERMANENT,
    grpc.StatusCode.UNAUTHENTICATED: Verdict.PERMANENT,
}

# What only a server's own code says.
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
}

# As often without progress in between, it is permanent.
MOST = {Verdict.ONCE_MORE: 2, Verdict.UNCLEAR: 4}

# Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
BACK_OFF = tenacity.wait_random_exponential(multiplier=0.1, max=5.0)


def verdict(error: HeadraceError) -> Verdict:
    """What follows an error."""
    if isinstance(error, CorruptBatchError):
        return Verdict.ONCE_MORE
    if error.status is None:
        unavailable = isinstance(error, ServerUnavailableError)
        return Verdict.ELSEWHERE if unavailable else Verdict.PERMANENT
    if error.status is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_delay_s is not None:
        return Verdict.ELSEWHERE
    if error.status in REFUSALS and error.reason not in CLASS_BY_REASON:
        # Servers give a reason for whatever they refuse: these words were damaged on the way, or
        # are those of something between, or of a newer server.
        return Verdict.UNCLEAR
    return VERDICT_BY_STATUS[error.status]


class Attempts:
    """One try after another at one thing, until it makes progress or timeout_s is over.

    what says what is tried; placement chooses the servers for key, those first that did not fail
    since the last progress, and avoid last. One that was mended comes before all.
    """

    def __init__(
        self,
        fleet: Fleet,
        placement: Placement,
        what: str,
        *,
        key: bytes,
        timeout_s: float,
        avoid: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._placement = placement
        self._what = what
        self._key = key
        self._timeout_s = timeout_s
        self._clock = clock
        self._failures = 0
        self._tried = {avoid}
        # Servers that lacked something and were given it since the last progress, and the last of
        # them until it was tried again.
        self._mended: set[str] = set()
        self._returns_to = ""
        self._last_errors: dict[str, HeadraceError] = {}
        self._doubtful: list[HeadraceError] = []
        self._known = 1
        self._progress_s = clock()

    @contextlib.contextmanager
    def server(self) -> Iterator[str]:
        """The address to try now, for one try. Raises ServerUnavailableError if there is none."""
        addresses = self._fleet.addresses()
        self._known = len(addresses)
        if self._returns_to in addresses:
            # What it was asked in vain makes it look slow, and it would be left with its gift.
            addresses = [self._returns_to]
        self._returns_to = ""
        address = self._placement.choose(self._key, addresses, self._tried)
        try:
            yield address
        finally:
            self._placement.release(address)

    def patience_s(self) -> float:
        """How long one server may be silent: half of the time left where there is another."""
        left = max(0.0, self._progress_s + self._timeout_s - self._clock())
        return left / 2 if self._known > 1 else left

    def waiting(self) -> None:
        """Starts the time again: until now it was the consumer that did not ask."""
        self._progress_s = self._clock()

    def progressed(self) -> None:
        """Notes that something good arrived: former failures are history."""
        self._progress_s = self._clock()
        self._failures = 0
        self._tried.clear()
        self._mended.clear()
        self._last_errors.clear()
        self._doubtful.clear()

    def mended(self, address: str) -> None:
        """Notes that a server was given what it lacked, so it is the next to be tried."""
        self._mended.add(address)
        self._returns_to = address

    def was_mended(self, address: str) -> bool:
        """Whether it was, since the last progress."""
        return address in self._mended

    def failed(self, error: HeadraceError) -> float:
        """Notes a failure; the seconds to wait before the next try.

        Raises the error itself if trying again is pointless, StreamTimeoutError if the time is up.
        """
        follows = verdict(error)
        if follows is Verdict.PERMANENT:
            raise error
        if follows in MOST:
            self._doubtful.append(error)
            if sum(verdict(each) is follows for each in self._doubtful) >= MOST[follows]:
                raise _again(self._what, self._doubtful)
        self._failures += 1
        self._tried.add(error.server)
        self._placement.failed(error.server)
        self._last_errors[error.server or "?"] = error
        left = self._progress_s + self._timeout_s - self._clock()
        if self._failures % self._known == 0:
            # Each was tried: the next round begins with the best.
            self._tried.clear()
        pause = 0.0
        if self._failures >= self._known:
            pause = max(self._jittered_pause_s(), error.retry_delay_s or 0.0)
        if pause >= left:
            raise self._timed_out() from error
        return pause

    def _jittered_pause_s(self) -> float:
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = 1 + self._failures - self._known
        return BACK_OFF(state)

    def _timed_out(self) -> StreamTimeoutError:
        tried = "".join(
            f"\n  {address}: {error.message}"
            for address, error in sorted(self._last_errors.items())
        )
        return StreamTimeoutError(
            f"{self._what}: nothing arrived within {self._timeout_s:g} s after "
            f"{self._failures} tries; look at these servers, or raise timeout:"
            f"{tried}"
        )


def _again(what: str, errors: list[HeadraceError]) -> HeadraceError:
    """The last error, saying what the one before was."""
    first, last = errors[-2:]
    times = "twice" if len(errors) == 2 else f"{len(errors)} times"
    message = f"{what}: failed {times}. {first.server}: {first.message} Then {last.server}: "
    twice = type(last)(
        message + last.message,
        reason=last.reason,
        server=last.server,
        violations=last.violations,
        status=last.status,
    )
    twice.__cause__ = first
    return twice
