"""Chunks that are read together, against the file's bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.source import chunk_bytes
from preprocessor_server.source.chunk_bytes import ChunkBytes
from preprocessor_server.source.chunk_form import UNCOMPRESSED, ChunkForm, LeafForm

LEAF = LeafForm(0, "x", pa.int32(), False, None, pa.int32(), np.dtype(np.int32), "INT32")
ROOM = chunk_bytes._TOGETHER_BYTES


def form_of(start: int, size: int) -> ChunkForm:
    return ChunkForm(LEAF, UNCOMPRESSED, start, size, size, 0, 0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chunks") / "file"
    path.write_bytes(np.random.default_rng(1).bytes(4 * ROOM))
    return path


# Sizes of chunks, and of what lies before each; negative where two overlap.
SIZES = st.sampled_from([0, 1, 99, ROOM // 2, ROOM // 2 + 1, ROOM, ROOM + 1])
GAPS = st.sampled_from([0, 0, 0, 1, -1, ROOM])


@given(data=st.lists(st.tuples(GAPS, SIZES), max_size=8))
def test_every_chunk_is_what_the_file_has(file: Path, data: list[Any]) -> None:
    content, forms, at = file.read_bytes(), [], 10
    for gap, size in data:
        at = max(at + gap, 0)
        forms.append(form_of(at, size))
        at += size
    with file.open("rb") as opened:
        chunks = ChunkBytes(opened.fileno(), forms)
        for form in sorted(forms, key=lambda form: form.start):
            found = chunks.read(form)
            if form.size_bytes and form.start + form.size_bytes > len(content):
                assert found is None
            else:
                assert found is not None
                assert found.tobytes() == content[form.start : form.start + form.size_bytes]


def test_chunks_side_by_side_are_read_in_one_go(file: Path) -> None:
    half = ROOM // 2
    starts = [(0, half), (half, half), (2 * half, half), (3 * half + 1, 9), (3 * half + 10, ROOM)]
    forms = [form_of(*each) for each in starts]
    follows, after = [], 0
    with file.open("rb") as opened:
        chunks = ChunkBytes(opened.fileno(), forms)
        for form in forms:
            found = chunks.read(form)
            assert found is not None
            follows.append(found.ctypes.data == after)
            after = found.ctypes.data + form.size_bytes
    # From the last one: no room for both, a gap, two that fit, and no room for a third.
    assert follows == [False, False, True, False, False]
