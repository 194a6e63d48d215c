"""Every reason of the contract has its status, its words, and its place on both sides."""

import re
from pathlib import Path

import grpc
import pytest

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.answers import status_of
from preprocessor_server.errors import STATUS_BY_REASON, ServerError
from preprocessor_server.service import SUPPORTED_CODECS
from tests.fakes.process import ROOT

PROTO = (ROOT / "proto/headrace/v1/preprocessor_service.proto").read_text()


def reasons() -> list[str]:
    names = pb.ErrorReason.keys()
    return [name.removeprefix("ERROR_REASON_") for name in names if "UNSPECIFIED" not in name]


def test_every_reason_has_a_status_and_no_other_has() -> None:
    assert set(STATUS_BY_REASON) == set(reasons())


@pytest.mark.parametrize("reason", reasons())
def test_the_contract_says_the_status_that_the_server_sends(reason: str) -> None:
    comment = re.search(rf"((?:  //[^\n]*\n)+)  ERROR_REASON_{reason} =", PROTO)
    assert comment is not None
    status = STATUS_BY_REASON[reason]
    assert f" {status.name}." in " ".join(comment.group(1).replace("//", "").split()) + " "
    sent = status_of(ServerError(reason, "words", field="somewhere"))
    assert grpc.StatusCode[status.name].value[0] == sent.code


def test_every_reason_is_raised_somewhere() -> None:
    sources = [path.read_text() for path in Path(ROOT / "preprocessor_server").rglob("*.py")]
    code = "\n".join(text for text in sources if "STATUS_BY_REASON: dict" not in text)
    for reason in reasons():
        assert f'"{reason}"' in code, reason


def test_every_codec_has_an_encoder() -> None:
    assert {0, *SUPPORTED_CODECS} == set(batch_pb2.Codec.values())
