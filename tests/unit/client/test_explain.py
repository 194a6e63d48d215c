"""The judgement, from figures alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.v1 import preprocessor_service_pb2 as pb
from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATA, MakeStream
from trainer_client.explain import (
    Bound,
    ServerTimes,
    Situation,
    StageTimes,
    explain,
    judge,
    server_times,
)
from trainer_client.loop_clock import LoopTimes


def server(
    *, idle: bool = False, round_trip_s: float = 0.0002, batches: int = 100, **stages: float
) -> ServerTimes:
    """Ten seconds of a server with four threads, whose streams wait for workers unless told."""
    times = {"wait": 0.0 if idle else 40.0} | stages
    return ServerTimes(
        elapsed_s=10.0,
        cpu_threads=4,
        cores=4.0,
        cpu_s=1.0,
        stages={name: StageTimes(wall_s=seconds) for name, seconds in times.items()},
        batches=batches,
        round_trip_s=round_trip_s,
    )


def situation(
    servers: Mapping[str, ServerTimes | str],
    *,
    waits: Mapping[str, float] | None = None,
    messages: Mapping[str, float] | None = None,
    step_s: float = 1.0,
    cores: float = 4.0,
    retries: int = 0,
    **times: float,
) -> Situation:
    """Ten seconds of a loop that waits nine for its servers, in equal parts unless told."""
    given: dict[str, Any] = {"batches": 100.0, "next_s": 9.0, "cpu_s": 1.0} | times
    waits = waits if waits is not None else dict.fromkeys(servers, 9.0 / max(1, len(servers)))
    loop = LoopTimes(
        at_s=10.0,
        step_s=step_s,
        received_for_s=waits,
        receiving_s={name: 4 * seconds for name, seconds in waits.items()},
        messages=messages or dict.fromkeys(waits, 100.0),
        **given,
    )
    return Situation(loop, cores, interleave=4, retries=retries, servers=servers)


@pytest.mark.parametrize(
    ("times", "bound"),
    [
        (server(read=30.0, decode=5.0), Bound.STORAGE),
        # Storage that is waited for needs no busy pool.
        (server(read=10.0, decode=5.0), Bound.STORAGE),
        (server(read=5.0, decode=30.0), Bound.DECODE),
        (server(decode=10.0, transform=25.0), Bound.TRANSFORM),
        (server(decode=5.0, transform=5.0, order=20.0), Bound.ORDER),
        (server(decode=5.0, encode=30.0), Bound.ENCODE),
        # As many streams wait as there are threads: handing work over takes its time.
        (server(encode=15.0), Bound.ENCODE),
        (server(encode=15.0, wait=25.0), Bound.LANES),
        (server(encode=15.0, wait=10.0, memory=20.0), Bound.MEMORY),
        (server(encode=1.0, wait=1.0, open=20.0), Bound.OPENING),
        (server(idle=True, send=36.0), Bound.WIRE),
        (server(idle=True, send=36.0, round_trip_s=0.2), Bound.LATENCY),
        # Small messages wait for round trips, and nobody is blocked in sending.
        (server(idle=True, round_trip_s=0.2), Bound.LATENCY),
        (server(idle=True), Bound.UNKNOWN),
        ("it is older", Bound.UNKNOWN),
    ],
)
def test_what_a_wait_for_messages_comes_from(times: ServerTimes | str, bound: Bound) -> None:
    explanation = explain(situation({"a:1": times}))
    assert explanation.bound is bound
    assert explanation.verdict.share == pytest.approx(0.9)
    assert explanation.advice
    if bound is Bound.UNKNOWN:
        assert "a:1" in " ".join(explanation.advice)


@pytest.mark.parametrize(
    ("times", "bound"),
    [
        ({"next_s": 0.1, "step_s": 9.9}, Bound.STEP),
        ({"next_s": 0.1, "step_s": 9.9, "device_copy_s": 9.0}, Bound.COPY),
        ({"copied_s": 9.0}, Bound.COPY),
        ({"ranks_s": 9.0}, Bound.RANKS),
        ({"decoded_for_s": 9.0}, Bound.CLIENT),
        ({}, Bound.HANDOVER),
        ({"retries": 3}, Bound.FAILURES),
        ({"batches": 3.0, "next_s": 0.9, "step_s": 0.5}, Bound.UNKNOWN),
        ({"batches": 0.0, "next_s": 0.0, "step_s": 0.0}, Bound.UNKNOWN),
    ],
)
def test_what_the_loop_itself_says(times: dict[str, Any], bound: Bound) -> None:
    assert explain(situation({}, waits={}, **times)).bound is bound


def test_a_loop_that_was_over_for_long_says_nothing() -> None:
    explanation = explain(situation({"a:1": server(decode=30.0)}, next_s=5.0, step_s=1.0))
    assert explanation.bound is Bound.UNKNOWN
    assert "for 6.0 of 10.0 s only" in explanation.advice[0]


def test_messages_that_a_busy_client_does_not_take_are_its_own() -> None:
    assert judge(situation({"a:1": server(idle=True, send=36.0)}, cpu_s=38.0)).bound is Bound.CLIENT


def test_work_for_other_trainers_does_not_explain_the_wait_of_this_one() -> None:
    shared = server(decode=10.0, wait=40.0, send=400.0, batches=1000)
    assert judge(situation({"a:1": shared})).bound is Bound.WIRE


def test_time_without_a_core_is_not_the_stage_that_bounds() -> None:
    stages = {
        "read": StageTimes(wall_s=25.0, cpu_s=1.0, queued_s=23.0),
        "decode": StageTimes(wall_s=12.0, cpu_s=8.0, queued_s=2.0),
        "wait": StageTimes(wall_s=40.0),
    }
    times = ServerTimes(10.0, 4, 4.0, 9.0, stages, 100)
    explanation = explain(situation({"a:1": times}))
    assert explanation.bound is Bound.DECODE
    assert "wait for a core for 68% of their time" in str(explanation).replace("\n ", "")


@pytest.mark.parametrize(
    ("threads", "cpu_s", "queued_s", "said"),
    [(4, 12.0, 5.0, True), (4, 19.0, 5.0, False), (1, 12.0, 5.0, False), (4, 12.0, 0.0, False)],
)
def test_threads_that_wait_for_one_another_are_told_from_work(
    threads: int, cpu_s: float, queued_s: float, said: bool
) -> None:
    stages = {
        # Who transforms may wait for the process of a UDF.
        "transform": StageTimes(wall_s=10.0, cpu_s=1.0),
        "encode": StageTimes(wall_s=25.0, cpu_s=cpu_s, queued_s=queued_s),
        "wait": StageTimes(wall_s=40.0),
    }
    times = ServerTimes(35.0 / threads, threads, 4.0, 9.0, stages, 100)
    words = str(explain(situation({"a:1": times}))).replace("\n ", "")
    told = "Worker threads wait for one another (the GIL) for 40% of the time in which they encode"
    assert (told in words) is said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoding_cpu_s": 0.2}, True),
        # Where decoding takes its time by itself, or waits for a core, or has a GIL of its own.
        ({"decoding_cpu_s": 1.5}, False),
        ({"decoding_cpu_s": 0.2, "cpu_s": 36.0}, False),
        ({"decoding_cpu_s": 0.2, "beside": True}, False),
    ],
)
def test_a_step_that_holds_up_reading_threads_is_told(changes: dict[str, Any], said: bool) -> None:
    beside = changes.pop("beside", False)
    times = {"next_s": 0.1, "step_s": 9.9, "cpu_s": 11.0, "decoding_s": 2.0} | changes
    given = replace(situation({}, waits={}, **times), beside=beside)
    explanation = explain(given)
    assert explanation.bound is Bound.STEP
    found = [line for line in explanation.advice if "reader_process=True" in line]
    assert bool(found) == said
    if said:
        assert "wait for 90% of the time" in found[0]


def test_a_slow_server_is_named() -> None:
    servers = {
        "fast:1": server(encode=2.0),
        "slow:1": server(read=30.0),
        "fast:2": server(encode=2.0),
    }
    waits = {"fast:1": 0.5, "slow:1": 8.0, "fast:2": 0.5}
    explanation = explain(situation(servers, waits=waits))
    assert (explanation.bound, explanation.verdict.server) == (Bound.STORAGE, "slow:1")
    assert explanation.headline.startswith("One server's storage bounds")
    assert "slow:1 is far slower" in explanation.advice[0]
    even = explain(situation(dict.fromkeys(servers, servers["slow:1"])))
    assert (even.bound, even.verdict.server) == (Bound.STORAGE, "")


def test_a_server_without_counters_is_said_beside_the_others() -> None:
    servers: dict[str, ServerTimes | str] = {"a:1": server(decode=30.0), "b:1": "UNAVAILABLE: gone"}
    explanation = explain(situation(servers, waits={"a:1": 8.0, "b:1": 1.0}))
    assert explanation.bound is Bound.DECODE
    assert "Not known of b:1: UNAVAILABLE: gone." in explanation.advice


def test_the_columns_that_take_most_are_named() -> None:
    parts = {"seq": 12.0, "city": 6.0, "id": 0.1}
    stages = {"decode": StageTimes(30.0, parts=parts), "wait": StageTimes(40.0)}
    explanation = explain(situation({"a:1": ServerTimes(10.0, 4, 4.0, 9.0, stages, 100)}))
    assert "seq 66%, city 33%." in str(explanation)


def test_while_no_batch_came_lanes_say_what_is_waited_for() -> None:
    hung = server(read=40.0)
    assert judge(situation({"a:1": hung}, batches=0.0)).bound is Bound.STORAGE


seconds = st.floats(0.0, 50.0)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    names = draw(st.lists(st.sampled_from(["a:1", "b:2", "c:3"]), unique=True))
    servers = {
        name: draw(
            st.one_of(
                st.just("UNAVAILABLE: gone"),
                st.builds(
                    server,
                    round_trip_s=st.floats(0.0, 1.0),
                    batches=st.integers(0, 1000),
                    **dict.fromkeys(pb_stages(), seconds),
                ),
            )
        )
        for name in names
    }
    waits = {name: draw(seconds) for name in names}
    fields = ("batches", "ranks_s", "copied_s", "decoded_for_s", "cpu_s", "device_copy_s")
    lanes = {name: draw(seconds) for name in ("decoding_s", "decoding_cpu_s")}
    times = {name: draw(seconds) for name in fields}
    return situation(
        servers,
        waits=waits,
        messages={name: draw(st.integers(0, 100)) for name in names},
        step_s=draw(seconds),
        retries=draw(st.integers(0, 2)),
        next_s=sum(waits.values()) + sum(times.values()) + draw(seconds),
        **times,
        **lanes,
    )


def pb_stages() -> list[str]:
    return [name.removeprefix("STAGE_").lower() for name in pb.Stage.keys()[1:]]


@given(situations())
@example(
    # So little that a product of it is rounded to few bits.
    Situation(
        LoopTimes(at_s=10.0, next_s=7.875, device_copy_s=1.875, receiving_s={"a:1": 2e-323}),
        4.0,
        4,
        servers={"a:1": "UNAVAILABLE: gone"},
    )
)
def test_every_situation_has_a_verdict_that_can_be_read(given: Situation) -> None:
    explanation = explain(given)
    verdict = explanation.verdict
    assert 0.0 <= verdict.share <= 1.0 + 1e-9
    assert max(map(len, str(explanation).splitlines())) <= 79
    assert json.loads(json.dumps(explanation.to_dict()))["bound"] == verdict.bound.value
    if verdict.seconds:
        assert sum(verdict.seconds.values()) == pytest.approx(given.total_s)
        if verdict.bound is not Bound.STEP:
            others = [s for bound, s in verdict.seconds.items() if bound is not Bound.STEP]
            assert verdict.bound is Bound.COPY or verdict.seconds[verdict.bound] == max(others)


def counters(instance: int, seconds: int, **stages: int) -> pb.GetCountersResponse:
    """An answer after so many seconds."""
    return pb.GetCountersResponse(
        instance_id=instance,
        uptime=Duration(seconds=seconds),
        cpu=Duration(seconds=seconds),
        cpu_threads=2,
        cores=2.0,
        batch_count=seconds,
        stages=[
            pb.StageCounters(
                stage=f"STAGE_{name.upper()}",
                wall=Duration(seconds=wall),
                size_bytes=wall,
                parts=[pb.PartCounters(name="x", wall=Duration(seconds=wall))],
            )
            for name, wall in stages.items()
        ],
    )


def test_two_answers_differ_by_what_was_done_in_between() -> None:
    times = server_times(counters(1, 10, read=4), counters(1, 14, read=7, send=1), 0.0)
    assert (times.elapsed_s, times.cpu_s, times.batches) == (4.0, 4.0, 4)
    assert (times.stage("read").wall_s, times.stage("send").wall_s) == (3.0, 1.0)
    assert times.stage("read").parts == {"x": 3.0}
    assert times.busy_share == 3 / 8
    assert times.stage("memory") == StageTimes()


def test_a_server_that_was_restarted_counts_anew() -> None:
    times = server_times(counters(1, 100, read=90), counters(2, 4, read=3), 0.0)
    assert (times.elapsed_s, times.stage("read").wall_s) == (4.0, 3.0)


def test_parts_without_a_beginning_are_left_out() -> None:
    before = counters(1, 10, read=4)
    del before.stages[0].parts[:]
    assert server_times(before, counters(1, 14, read=7), 0.0).stage("read").parts == {}


def test_stages_of_newer_servers_are_passed_by() -> None:
    now = counters(1, 4, read=3)
    newer: Any = 99
    now.stages.add(stage=newer, wall=Duration(seconds=1))
    assert set(server_times(counters(1, 0), now, 0.0).stages) == {"read"}


def test_older_servers_are_told_apart(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        assert "too few" in str(stream.explain())
        for _ in stream:
            pass
        (why,) = stream.explain().situation.servers.values()
    assert "older than this client" in str(why)
