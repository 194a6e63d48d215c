"""Contract tests use the servers of the integration tests."""

from tests.integration.conftest import connect, start_server

__all__ = ["connect", "start_server"]
