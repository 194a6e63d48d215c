"""The descriptors of a batch, against Protobuf's own bytes and the words of the specification."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from preprocessor_server.kernels import Descriptors, Layouts
from tests.fakes.page import header_words

# The words of a checksum before those of blocks.
HEAD_WORDS = 15
UINT32 = st.sampled_from([0, 1, 127, 128, 2**14, 2**32 - 1])
UINT64 = UINT32 | st.integers(0, 2**63 - 1)
BUFFERS = st.builds(
    batch_pb2.Buffer,
    role=st.integers(0, 4),
    layout=st.integers(0, 3),
    type=st.integers(0, 200),
    offset_bytes=UINT64,
    size_bytes=UINT64,
    element_count=UINT64,
    width_bits=st.integers(0, 64),
    base=st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1),
    dictionary_size=st.integers(0, 256),
)
PARTS = st.builds(
    batch_pb2.Part,
    features=st.lists(UINT32, max_size=3),
    run_count=UINT32,
    buffers=st.lists(BUFFERS, max_size=3),
)
BLOCKS = st.lists(st.builds(batch_pb2.Block, parts=st.lists(PARTS, max_size=3)), max_size=3)


def layout(buffer: batch_pb2.Buffer) -> list[int]:
    places = [buffer.layout, buffer.offset_bytes, buffer.size_bytes, buffer.element_count]
    return [*places, buffer.width_bits, buffer.base, buffer.dictionary_size]


def layouts_of(buffers: list[batch_pb2.Buffer]) -> Layouts:
    table = np.array([layout(buffer) for buffer in buffers], np.int64).reshape(-1, 7)
    unused = np.zeros((len(buffers), 256), np.int64), np.zeros((len(buffers), 11), np.int64)
    return Layouts(table, *unused, 0)


@given(BLOCKS)
@example([])
@example([batch_pb2.Block(), batch_pb2.Block(parts=[batch_pb2.Part()]), batch_pb2.Block()])
@example([batch_pb2.Block(parts=[batch_pb2.Part(features=range(2000), buffers=[{}] * 300)] * 9)])
def test_fields_and_words_are_those_of_the_message(blocks: list[Any]) -> None:
    descriptors = Descriptors()
    buffers = []
    for block in blocks:
        descriptors.add_block()
        for part in block.parts:
            titles = [(buffer.role, buffer.type) for buffer in part.buffers]
            descriptors.add_part(part.features, titles, part.run_count)
            buffers += part.buffers
    expected = batch_pb2.CompactBatch(blocks=blocks)
    fields, words = descriptors.describe(layouts_of(buffers))
    assert fields == expected.SerializeToString()
    due = header_words(expected)[HEAD_WORDS:]
    assert words == struct.pack(f"<{len(due)}Q", *due)


def test_other_buffers_are_refused() -> None:
    descriptors = Descriptors()
    descriptors.add_block()
    descriptors.add_part([0], [(1, 1)])
    for count in (0, 2):
        with pytest.raises(ValueError, match=f"{count} layouts of 1 buffers"):
            descriptors.describe(layouts_of([batch_pb2.Buffer()] * count))
