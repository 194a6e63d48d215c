from __future__ import annotations

import pytest

from trainer_client import RequestError
from trainer_client.ranks import group_of, resolve


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(None, None) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(RequestError, match="RANK and WORLD_SIZE"):
        resolve(None, None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert resolve(None, None) == (2, 4)
    assert resolve(1, 2) == (1, 2)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(RequestError, match="RANK and WORLD_SIZE"):
        resolve(None, None)


def test_no_group_without_torch_distributed() -> None:
    assert group_of(0, 2) is None
