"""Bits that flip in the answer to a call are noticed, whatever they mean."""

from __future__ import annotations

import pytest

from tests.fakes.fleet import DamageAnswer, FakeFleet, Script
from tests.unit.client.conftest import DATA, MakeStream, drain
from trainer_client import CorruptBatchError

CALLS = ["DescribeDataset", "PlanEpoch", "PutSnapshot", "StreamBatches"]


@pytest.mark.parametrize("call", CALLS)
def test_a_damaged_answer_is_asked_for_again_elsewhere(make_stream: MakeStream, call: str) -> None:
    with FakeFleet(DATA) as calm, FakeFleet(DATA, 2) as fleet:
        expected = drain(make_stream(calm.target))
        fleet.script.calls[call] = [DamageAnswer()]
        stream = make_stream(fleet.target)
        assert drain(stream) == expected
        assert not fleet.script.calls[call]
        assert stream.stats().retries == 1


@pytest.mark.parametrize("call", ["DescribeDataset", "PlanEpoch", "StreamBatches"])
def test_answers_damaged_twice_end_the_run_and_name_both_servers(
    make_stream: MakeStream, call: str
) -> None:
    with FakeFleet(DATA, 3, Script(calls={call: [DamageAnswer()] * 9})) as fleet:
        with pytest.raises(CorruptBatchError, match=r"failed twice.*checksum.*Then") as caught:
            drain(make_stream(fleet.target, interleave=1))
        assert sum(address in str(caught.value) for address in fleet.addresses) == 2
