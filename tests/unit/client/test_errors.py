from __future__ import annotations

import grpc
import pytest

import trainer_client
from headrace.v1 import preprocessor_service_pb2
from trainer_client import errors
from trainer_client.errors import CLASS_BY_REASON, CLASS_BY_STATUS, HeadraceError

PREFIX = "ERROR_REASON_"
CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, HeadraceError)]


def test_every_reason_of_the_contract_has_a_class() -> None:
    names = [name for name, number in preprocessor_service_pb2.ErrorReason.items() if number]
    assert set(CLASS_BY_REASON) == {name.removeprefix(PREFIX) for name in names}


def test_every_status_has_a_class() -> None:
    assert set(CLASS_BY_STATUS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("error", CLASSES)
def test_every_class_is_exported_and_drawn_in_the_tree(error: type[HeadraceError]) -> None:
    assert error.__name__ in trainer_client.__all__
    assert error.__doc__
    assert errors.__doc__
    assert error.__name__ in errors.__doc__
