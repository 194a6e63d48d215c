from __future__ import annotations

import pytest

from preprocessor_server.kernels import warm


@pytest.fixture(scope="session", autouse=True)
def warm_kernels() -> None:
    """Compiles ahead, so that no example of a property test pays for it."""
    warm(lambda _: None)
