"""Layouts that the format does not allow, in messages in which all else fits together."""

from __future__ import annotations

import struct

import pytest
import torch

from headrace.v1 import batch_pb2, dataset_pb2
from tests.fakes.encoder import Rows, edit_arena, encode_batch, encode_schema, set_arena
from trainer_client import Batch, CorruptBatchError
from trainer_client.decode import Decoder

LAID_OUT = 40
ELEMENT_BITS = {"FLOAT32": 32, "FLOAT64": 64, "FLOAT16": 16, "BFLOAT16": 16, "INT64": 64}


def laid_out(scalar: str, layout: str, width: int, dictionary: list[int], base: int = 0) -> Batch:
    """A batch of one buffer in which everything fits together, and every code is 0."""
    is_number = scalar != "INT64"
    kind = batch_pb2.BLOCK_KIND_LABEL if is_number else batch_pb2.BLOCK_KIND_META
    scalar = f"SCALAR_TYPE_{scalar}"
    schema = batch_pb2.BatchSchema(encoding_version=1)
    name = "labels" if is_number else "meta"
    schema.blocks.add(name=name, kind=kind, dtype=scalar, features=["own"])
    message = encode_batch(Rows({}, {}, {}), row_count=LAID_OUT, codec=batch_pb2.CODEC_NONE)
    packed = (width % 8 * LAID_OUT + 7) // 8
    content = struct.pack(f"<{len(dictionary)}q", *dictionary)
    content += bytes(width // 8 * LAID_OUT + packed)
    message.blocks.add().parts.add(features=[0]).buffers.add(
        role="BUFFER_ROLE_VALUES",
        layout=f"BUFFER_LAYOUT_{layout}",
        type=scalar,
        size_bytes=len(content),
        element_count=LAID_OUT,
        width_bits=width,
        base=base,
        dictionary_size=len(dictionary),
    )
    set_arena(message, content + bytes(-len(content) % 64))
    return Decoder(schema)(message.SerializeToString())


@pytest.mark.parametrize("scalar", ["FLOAT32", "FLOAT64", "FLOAT16", "BFLOAT16"])
def test_top_dictionaries_that_fit_are_decoded(scalar: str) -> None:
    bits = ELEMENT_BITS[scalar]
    for size, q in [(2, 1), (3, 2), (16, 4), (2, 4)]:
        batch = laid_out(scalar, "TOP_DICTIONARY", bits - 8 + q, [0x3F, *range(0x40, 0x3F + size)])
        assert batch.labels is not None
        words = batch.labels[:, 0].view({16: torch.int16, 32: torch.int32, 64: torch.int64}[bits])
        assert words.tolist() == [0x3F << (bits - 8)] * LAID_OUT


@pytest.mark.parametrize("scalar", ["FLOAT32", "FLOAT64", "FLOAT16", "BFLOAT16"])
def test_dictionaries_of_numbers_that_fit_are_decoded(scalar: str) -> None:
    bits = ELEMENT_BITS[scalar]
    lowest = -(1 << 63) if bits == 64 else 0
    highest = lowest + (1 << bits) - 1
    for known in ([lowest, highest], [5, 6, highest], [*range(7, 262), highest]):
        width = min(width for width in (1, 2, 4, 8) if len(known) - 1 < 2**width)
        batch = laid_out(scalar, "DICTIONARY", width, known)
        assert batch.labels is not None
        words = batch.labels[:, 0].view({16: torch.int16, 32: torch.int32, 64: torch.int64}[bits])
        assert words.tolist() == [known[0]] * LAID_OUT


@pytest.mark.parametrize("scalar", ["FLOAT32", "FLOAT64", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize(
    ("size", "beyond"), [(0, 1), (1, 1), (17, 4), (256, 4), (257, 4), (4096, 4), (2, 0), (2, -7),
                         (2, -16), (2, 8)]
)  # fmt: skip
def test_top_dictionaries_of_other_sizes_and_widths_are_refused(
    scalar: str, size: int, beyond: int
) -> None:
    """Each in a header whose sizes all agree: no other check stands behind this one."""
    width = max(0, ELEMENT_BITS[scalar] - 8 + beyond)
    with pytest.raises(CorruptBatchError, match=rf"have {width} bits in layout 4"):
        laid_out(scalar, "TOP_DICTIONARY", width, [*range(size)])


@pytest.mark.parametrize("scalar", ["INT64", "FLOAT32", "FLOAT16"])
@pytest.mark.parametrize(("size", "width"), [(0, 8), (1, 8), (257, 8), (4096, 8), (2, 0), (2, 9)])
def test_dictionaries_of_other_sizes_and_widths_are_refused(
    scalar: str, size: int, width: int
) -> None:
    with pytest.raises(CorruptBatchError, match=rf"have {width} bits in layout 3"):
        laid_out(scalar, "DICTIONARY", width, [*range(size)])


OUT_OF_ORDER = "have a dictionary out of order or range"


@pytest.mark.parametrize(
    ("scalar", "layout", "width", "dictionary", "base", "problem"),
    [
        ("FLOAT32", "TOP_DICTIONARY", 26, [1, 2, 256], 0, OUT_OF_ORDER),
        ("FLOAT32", "TOP_DICTIONARY", 26, [1, 2, 0x13F], 0, OUT_OF_ORDER),
        ("FLOAT32", "TOP_DICTIONARY", 26, [-1, 2, 3], 0, OUT_OF_ORDER),
        ("FLOAT16", "TOP_DICTIONARY", 10, [2, 2, 3], 0, OUT_OF_ORDER),
        ("FLOAT64", "TOP_DICTIONARY", 58, [3, 2, 1], 0, OUT_OF_ORDER),
        ("INT64", "DICTIONARY", 2, [7, 7, 8], 0, OUT_OF_ORDER),
        ("INT64", "DICTIONARY", 2, [-1, -2, 8], 0, OUT_OF_ORDER),
        ("FLOAT32", "TOP_DICTIONARY", 26, [1, 2, 3], 5, "have base 5 in layout 4"),
        ("FLOAT32", "BYTE_PLANES", 32, [], 5, "have base 5 in layout 1"),
        ("INT64", "DICTIONARY", 2, [1, 2, 3], 5, "have base 5 in layout 3"),
        ("INT64", "TOP_DICTIONARY", 58, [1, 2, 3], 0, "have layout 4, which is not for type 2"),
        ("FLOAT32", "DICTIONARY", 2, [1, 2, 3], 5, "have base 5 in layout 3"),
        ("FLOAT32", "DICTIONARY", 2, [1, 2, 1 << 32], 0, OUT_OF_ORDER),
        ("FLOAT32", "DICTIONARY", 2, [-1, 2, 3], 0, OUT_OF_ORDER),
        ("FLOAT16", "DICTIONARY", 2, [1, 2, 1 << 16], 0, OUT_OF_ORDER),
        ("BFLOAT16", "DICTIONARY", 2, [-1, 2, 3], 0, OUT_OF_ORDER),
        ("FLOAT64", "DICTIONARY", 2, [1, -2, 3], 0, OUT_OF_ORDER),
        ("FLOAT32", "CONSTANT", 0, [], 0, "have layout 2, which is not for type 3"),
    ],
)
def test_what_a_layout_does_not_allow_is_refused(
    scalar: str, layout: str, width: int, dictionary: list[int], base: int, problem: str
) -> None:
    with pytest.raises(CorruptBatchError, match=problem):
        laid_out(scalar, layout, width, dictionary, base)


def test_a_dictionary_of_int32_has_no_others() -> None:
    rows = Rows({}, {"s": [[1000 * (i % 3) for i in range(40)], []]}, {})
    schema = encode_schema(rows)
    schema.blocks[0].dtype = dataset_pb2.SCALAR_TYPE_INT32
    message = encode_batch(rows, row_count=2, codec=batch_pb2.CODEC_NONE)
    buffer = message.blocks[0].parts[0].buffers[1]
    buffer.type = dataset_pb2.SCALAR_TYPE_INT32
    decoder = Decoder(schema)
    for last in (2000, (1 << 31) - 1, 1 << 31, (1 << 32) + 1):
        edit_arena(message, buffer.offset_bytes, struct.pack("<3q", -(1 << 31), 1000, last))
        if last < 1 << 31:
            block = decoder(message.SerializeToString()).sparse
            assert block is not None
            assert block.values.unique().tolist() == [-(1 << 31), 1000, last]
        else:
            with pytest.raises(CorruptBatchError, match="out of order or range"):
                decoder(message.SerializeToString())
