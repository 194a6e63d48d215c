from __future__ import annotations

import urllib.request

import pytest

from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATA, MakeStream, drain
from trainer_client import serve_metrics


def test_metrics_say_what_stats_say(make_stream: MakeStream) -> None:
    server = serve_metrics("127.0.0.1:0")
    try:
        with FakeFleet(DATA) as fleet:
            drain(make_stream(fleet.target))
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as r:
                text = r.read().decode()
            address = fleet.addresses[0]
        lines = text.splitlines()
        assert (
            f'headrace_client_server_rows_total{{server="{address}"}} {DATA.row_count}.0' in lines
        )
        assert any(line.startswith("headrace_client_wait_seconds_total ") for line in lines)
        helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
        assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == helped
    finally:
        server.close()


@pytest.mark.parametrize("listen", ["", "9090", ":9090", "localhost:x"])
def test_a_wrong_address_is_named(listen: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        serve_metrics(listen)
