from __future__ import annotations

import time

import grpc
import pytest

from tests.fakes.fleet import (
    Cut,
    DamageHeader,
    DamagePayload,
    Drain,
    FakeFleet,
    Fault,
    Misplace,
    Script,
    Stall,
    Status,
)
from tests.unit.client.conftest import DATA, MakeStream, drain, ids_of
from trainer_client import (
    CorruptBatchError,
    DataError,
    DeploymentError,
    InvalidDatasetError,
    RayFleet,
    RequestError,
    ServerUnavailableError,
    StreamTimeoutError,
)
from trainer_client.errors import HeadraceError
from trainer_client.transport.channels import ChannelPool
from trainer_client.transport.fleet import DnsFleet, StaticFleet
from trainer_client.transport.placement import Placement
from trainer_client.transport.retry import VERDICT_BY_STATUS, Attempts, Verdict, verdict
from trainer_client.transport.targets import (
    DnsTarget,
    LocalTarget,
    RayTarget,
    StaticTarget,
    parse_target,
)

UNAVAILABLE = Status(grpc.StatusCode.UNAVAILABLE, "going down", "DRAINING", retry_delay_s=0.01)
FULL = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "no slot", "SERVER_BUSY", retry_delay_s=0.01)


class TestTargets:
    @pytest.mark.parametrize(
        ("text", "target"),
        [
            ("local://4", LocalTarget(4)),
            ("static:///b:2,a:1", StaticTarget(("a:1", "b:2"))),
            ("static:///unix:/tmp/x", StaticTarget(("unix:/tmp/x",))),
            ("dns:///preprocessor:50051", DnsTarget("preprocessor", 50051)),
            ("ray:///homefeed", RayTarget("homefeed")),
            ("static:///[::1]:5", StaticTarget(("[::1]:5",))),
        ],
    )
    def test_forms(self, text: str, target: object) -> None:
        assert parse_target(text) == target

    @pytest.mark.parametrize(
        "text",
        [
            "", "localhost:50051", "local://", "local://0", "local://x", "local://9999",
            "static://a:1", "static:///a", "static:///a:0", "static:///a:1,", "static:///a:99999",
            "dns:///a:1,b:2", "dns:///:5", "ray://x", "ray:///", "ray:///a/b", "static:///a/b:1",
        ],
    )  # fmt: skip
    def test_errors_show_the_accepted_forms(self, text: str) -> None:
        with pytest.raises(RequestError, match=r"local://4.*static:///host:port.*dns:///name:port"):
            parse_target(text)

    def test_a_recipe_goes_with_ray_alone(self) -> None:
        recipe = RayFleet(replicas=1)
        assert parse_target("ray:///a", recipe) == RayTarget("a", recipe)
        with pytest.raises(RequestError, match="fleet= goes with ray:///name"):
            parse_target("local://4", recipe)

    def test_a_name_gives_all_its_addresses(self) -> None:
        fleet = DnsFleet(DnsTarget("localhost", 7), 3.0)
        assert "127.0.0.1:7" in fleet.addresses()
        fleet.close()

    def test_a_name_that_does_not_resolve(self, make_stream: MakeStream) -> None:
        stream = make_stream("dns:///no-such-host.invalid:50051", timeout=0.3)
        with pytest.raises(StreamTimeoutError, match=r"no-such-host.invalid.*headless Service"):
            next(iter(stream))


@pytest.mark.parametrize(
    "fault", [Cut(), Drain(), UNAVAILABLE, FULL, DamagePayload(), DamageHeader(), Misplace()]
)
@pytest.mark.parametrize("index", [0, 2])
def test_a_stream_goes_on_elsewhere_without_a_change(
    make_stream: MakeStream, fault: Fault, index: int
) -> None:
    with FakeFleet(DATA) as calm, FakeFleet(DATA, 2) as fleet:
        expected = drain(make_stream(calm.target))
        fleet.script.batches[2, index] = [fault]
        stream = make_stream(fleet.target)
        assert drain(stream) == expected
        opened = [o for o in fleet.opened if o.shard == 2]
        # No batch is asked for again, and the other server goes on.
        assert {o.first_batch for o in opened} == {0, index}
        assert {o.server for o in opened} == {0, 1}
        assert stream.stats().retries == 1
        damaged = isinstance(fault, DamagePayload | DamageHeader | Misplace)
        assert stream.stats().refetches == damaged


def test_one_server_alone_is_tried_again(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        expected = drain(make_stream(fleet.target))
        fleet.script.batches |= {(0, 0): [Cut(), Cut()], (2, 3): [UNAVAILABLE, Drain(), Cut()]}
        assert drain(make_stream(fleet.target)) == expected


def test_a_server_that_dies_is_left(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as calm, FakeFleet(DATA, 2) as fleet:
        expected = drain(make_stream(calm.target))
        stream = make_stream(fleet.target, prefetch_bytes=1)
        iterator = iter(stream)
        got = [ids_of(next(iterator))]
        fleet.stop(0)
        got += [ids_of(batch) for batch in iterator]
        assert got == expected


def test_a_stalled_server_is_left_after_half_of_the_time(make_stream: MakeStream) -> None:
    with FakeFleet(DATA, 2, Script(batches={(0, 1): [Stall()]})) as fleet:
        began = time.monotonic()
        stream = make_stream(fleet.target, timeout=1.0)
        assert sum(map(len, drain(stream))) == DATA.row_count
        assert 0.5 <= time.monotonic() - began < 5
        assert stream.stats().retries == 1


def test_a_fleet_that_stalls_ends_in_a_timeout_that_says_what_was_tried(
    make_stream: MakeStream,
) -> None:
    with FakeFleet(DATA, 2, Script(batches={(0, 0): [Stall()] * 99})) as fleet:
        with pytest.raises(StreamTimeoutError) as caught:
            drain(make_stream(fleet.target, timeout=0.6))
        for address in fleet.addresses:
            assert f"{address} sent nothing" in str(caught.value)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value.__cause__, ServerUnavailableError)


def test_nobody_listens(make_stream: MakeStream) -> None:
    began = time.monotonic()
    with pytest.raises(StreamTimeoutError, match=r"(?s)describing.*127.0.0.1:1: .*127.0.0.1:2: "):
        next(iter(make_stream("static:///127.0.0.1:1,127.0.0.1:2", timeout=0.7)))
    assert time.monotonic() - began < 5


def test_a_slow_trainer_is_no_stall(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, timeout=0.3, prefetch_bytes=1, interleave=1)
        iterator = iter(stream)
        next(iterator)
        # Nobody asks for a batch for longer than the timeout.
        assert not fleet.wait_for(lambda: False, 0.5)
        assert sum(len(batch) for batch in iterator) == DATA.row_count - 4
        assert stream.stats().retries == 0


@pytest.mark.parametrize("fault", [DamagePayload(), DamageHeader(), Misplace()])
def test_damage_on_two_servers_is_permanent_and_names_both(
    make_stream: MakeStream, fault: Fault
) -> None:
    with FakeFleet(DATA, 3, Script(batches={(0, 1): [fault] * 9})) as fleet:
        iterator = iter(make_stream(fleet.target, interleave=1))
        next(iterator)
        with pytest.raises(CorruptBatchError) as caught:
            next(iterator)
        servers = {opened.server for opened in fleet.opened if opened.shard == 0}
        assert len(servers) == 2
        for server in servers:
            assert fleet.addresses[server] in str(caught.value)
        assert len(fleet.script.batches[0, 1]) == 7


def test_a_corrupt_file_is_tried_on_one_other_server(make_stream: MakeStream) -> None:
    lost = Status(grpc.StatusCode.DATA_LOSS, "page 3 of a.parquet", "FILE_CORRUPT")
    with FakeFleet(DATA, 3, Script(batches={(0, 0): [lost] * 9})) as fleet:
        with pytest.raises(DataError, match="page 3 of a") as caught:
            drain(make_stream(fleet.target, interleave=1))
        assert caught.value.reason == "FILE_CORRUPT"
        assert len(fleet.script.batches[0, 0]) == 7


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status(grpc.StatusCode.INVALID_ARGUMENT, "x", "FILTER_INVALID"), InvalidDatasetError),
        (Status(grpc.StatusCode.NOT_FOUND, "x", "PATH_NOT_FOUND"), InvalidDatasetError),
        (Status(grpc.StatusCode.FAILED_PRECONDITION, "x", "NULL_VALUE"), DataError),
        (Status(grpc.StatusCode.FAILED_PRECONDITION, "x", "CODEC_UNSUPPORTED"), DeploymentError),
        (Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large"), DeploymentError),
        (Status(grpc.StatusCode.UNIMPLEMENTED, "x"), DeploymentError),
    ],
)
@pytest.mark.parametrize("call", ["DescribeDataset", "PlanEpoch", "StreamBatches"])
def test_permanent_errors_are_not_tried_again(
    make_stream: MakeStream, call: str, status: Status, error: type[HeadraceError]
) -> None:
    with FakeFleet(DATA, 2, Script(calls={call: [status] * 9})) as fleet:
        stream = make_stream(fleet.target, interleave=1)
        with pytest.raises(error, match=status.message) as caught:
            drain(stream)
        assert len(fleet.script.calls[call]) == 8
        assert isinstance(caught.value.__cause__, grpc.RpcError)
        assert caught.value.server in fleet.addresses


@pytest.mark.parametrize(
    "status",
    [
        Status(grpc.StatusCode.UNKNOWN, "a bug"),
        Status(grpc.StatusCode.INTERNAL, "a frame"),
        Status(grpc.StatusCode.NOT_FOUND, "damaged"),
    ],
)
@pytest.mark.parametrize("call", ["PlanEpoch", "StreamBatches"])
def test_unclear_errors_are_tried_a_few_times(
    make_stream: MakeStream, call: str, status: Status
) -> None:
    with FakeFleet(DATA, 2, Script(calls={call: [status] * 3})) as fleet:
        stream = make_stream(fleet.target, interleave=1)
        assert sum(map(len, drain(stream))) == DATA.row_count
        fleet.script.calls[call] = [status] * 9
        with pytest.raises(HeadraceError, match=f"failed 4 times.*{status.message}"):
            drain(make_stream(fleet.target, interleave=1))
        assert len(fleet.script.calls[call]) == 5


def test_an_error_keeps_what_the_server_said(make_stream: MakeStream) -> None:
    status = Status(
        grpc.StatusCode.INVALID_ARGUMENT, "no column x", "FEATURE_UNMATCHED", field="features[0]"
    )
    with FakeFleet(DATA, script=Script(calls={"DescribeDataset": [status]})) as fleet:
        with pytest.raises(InvalidDatasetError) as caught:
            next(iter(make_stream(fleet.target)))
        error = caught.value
        assert (error.reason, error.server) == ("FEATURE_UNMATCHED", fleet.addresses[0])
        assert [(v.field, v.description) for v in error.violations] == [
            ("features[0]", "no column x")
        ]
        assert error.status is grpc.StatusCode.INVALID_ARGUMENT
        assert "features[0]" in str(error)


def test_errors_of_later_segments_wait_for_their_turn(make_stream: MakeStream) -> None:
    bad = Status(grpc.StatusCode.FAILED_PRECONDITION, "null in a.parquet", "NULL_VALUE")
    with FakeFleet(DATA, script=Script(batches={(1, 1): [bad]})) as fleet:
        iterator = iter(make_stream(fleet.target))
        # Round-robin over shards 0 to 3: the second batch of shard 1 is the sixth of all.
        for _ in range(5):
            ids_of(next(iterator))
        with pytest.raises(DataError, match="null in a"):
            next(iterator)


@pytest.mark.parametrize("call", ["DescribeDataset", "PlanEpoch"])
def test_calls_go_elsewhere_too(make_stream: MakeStream, call: str) -> None:
    with FakeFleet(DATA, 2, Script(calls={call: [UNAVAILABLE, FULL]})) as fleet:
        stream = make_stream(fleet.target)
        assert sum(map(len, drain(stream))) == DATA.row_count
        assert stream.stats().retries == 2


def test_every_status_has_a_verdict() -> None:
    assert set(VERDICT_BY_STATUS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


def test_exhaustion_is_temporary_only_if_the_server_says_so() -> None:
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert verdict(HeadraceError("x", status=status)) is Verdict.PERMANENT
    assert verdict(HeadraceError("x", status=status, retry_delay_s=1)) is Verdict.ELSEWHERE


class TestAttempts:
    def setup_method(self) -> None:
        self.now = 0.0
        fleet = StaticFleet(StaticTarget(("b:1", "a:1", "c:1")))
        self.placement = Placement(lambda: self.now)
        self.attempts = Attempts(
            fleet, self.placement, "it", key=b"", timeout_s=10, clock=lambda: self.now
        )

    def address(self) -> str:
        with self.attempts.server() as address:
            return address

    def fail(self, delay: float | None = None) -> float:
        address = self.address()
        error = ServerUnavailableError("gone", server=address, retry_delay_s=delay)
        return self.attempts.failed(error)

    def test_every_server_is_tried_at_once_before_any_pause(self) -> None:
        tried = []
        for _ in range(2):
            tried.append(self.address())
            assert self.fail() == 0.0
        tried.append(self.address())
        assert sorted(tried) == ["a:1", "b:1", "c:1"]
        assert 0 <= self.fail() <= 0.1
        assert self.fail(delay=3.0) == 3.0

    def test_progress_forgives(self) -> None:
        for _ in range(3):
            self.fail()
        self.now = 9.0
        self.attempts.progressed()
        self.now = 18.0
        assert self.fail() == 0.0

    def test_time_that_nobody_waited_does_not_count(self) -> None:
        self.now = 100.0
        self.attempts.waiting()
        assert self.fail() == 0.0

    def test_the_time_is_bounded_and_the_servers_are_named(self) -> None:
        self.fail()
        self.now = 10.0
        with pytest.raises(
            StreamTimeoutError, match=r"(?s)it: nothing.*10 s after 2 tries.*:1: gone\n.*:1: gone"
        ):
            self.fail()

    def test_a_server_that_was_given_what_it_lacked_is_the_next_to_be_tried(self) -> None:
        first = self.address()
        with self.placement.waiting(first):
            self.now = 1.0
        for other in {"a:1", "b:1", "c:1"} - {first}:
            self.placement.took(other)
        assert self.address() != first
        self.attempts.mended(first)
        assert self.attempts.was_mended(first)
        assert self.address() == first
        # Once: then it is one of all again.
        assert self.address() != first
        self.attempts.progressed()
        assert not self.attempts.was_mended(first)

    def test_a_mended_server_is_tried_although_it_failed_unless_it_is_gone(self) -> None:
        failed = self.address()
        self.fail()
        assert self.address() != failed
        self.attempts.mended(failed)
        assert self.address() == failed
        self.attempts.mended("gone:1")
        assert self.address() in {"a:1", "b:1", "c:1"} - {failed}

    def test_patience_with_one_server_leaves_time_for_another(self) -> None:
        self.address()
        assert self.attempts.patience_s() == 5.0
        self.now = 8.0
        assert self.attempts.patience_s() == 1.0


def test_a_closed_pool_opens_nothing() -> None:
    pool = ChannelPool()
    pool.close()
    with pytest.raises(HeadraceError, match="closed"):
        pool.channel("127.0.0.1:1")
