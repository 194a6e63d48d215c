"""The code of docs/sparse_features.md runs, on a batch with runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fakes.encoder import Rows, encode_batch, encode_schema
from trainer_client.decode import Decoder

PAGE = Path(__file__).resolve().parents[3] / "docs" / "sparse_features.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block: str) -> None:
    rows = Rows(
        {}, {"item": [[i] for i in range(8)], "history": [[1, 2, i // 4] for i in range(8)]}, {}
    )
    message = encode_batch(rows, row_count=8)
    batch = Decoder(encode_schema(rows))(message.SerializeToString())
    exec(block, {"batch": batch})  # noqa: S102 - what the page shows
