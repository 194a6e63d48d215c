"""Every format gives back the tensors that it was given."""

from __future__ import annotations

import pytest
import torch

from benchmarks.wire_formats import Features, Format, formats, same

FORMATS = formats((1, -1))


def features() -> Features:
    return {
        "dense_0": torch.tensor([0.5, 1.0, float("-inf")]),
        "label": torch.tensor([0.0, 1.0, 0.0]),
        "cat.values": torch.tensor([7, 8, 1 << 40]),
        "cat.lengths": torch.tensor([1, 1, 1], dtype=torch.int32),
        "seq.values": torch.tensor([1, 2, 3]),
        "seq.lengths": torch.tensor([2, 0, 1], dtype=torch.int32),
    }


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_batch_comes_back_as_it_was(form: Format) -> None:
    decoded = form.decode(form.encode(features()))
    assert same(decoded, features())


def test_other_values_or_types_are_not_the_same() -> None:
    changed = features() | {"label": torch.tensor([0.0, 1.0, 1.0])}
    narrowed = features() | {"cat.values": torch.tensor([7, 8, 9], dtype=torch.int32)}
    assert not same(changed, features())
    assert not same(narrowed, features())


def test_the_formats_have_names_of_their_own() -> None:
    assert len({form.name for form in FORMATS}) == len(FORMATS)
