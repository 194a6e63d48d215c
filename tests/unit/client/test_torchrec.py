"""Embedding tables of a dataset, as TorchRec builds a model from them. Skipped without TorchRec."""

from __future__ import annotations

import pytest
import torch

from trainer_client import EmbeddingTable, InvalidDatasetError, SparsePart

pytest.importorskip("torchrec", reason="torchrec is not installed")

TABLES = (
    EmbeddingTable("item", ("item_id", "history"), 1000, 16),
    EmbeddingTable("user_id", ("user_id",), 50, 0),
)


def test_a_config_for_each_table() -> None:
    from trainer_client.integrations.torchrec import embedding_bag_configs

    configs = embedding_bag_configs(TABLES, embedding_dim=8)
    assert [(c.name, c.feature_names, c.num_embeddings, c.embedding_dim) for c in configs] == [
        ("item", ["item_id", "history"], 1000, 16),
        ("user_id", ["user_id"], 50, 8),
    ]
    with pytest.raises(InvalidDatasetError, match=r"table 'user_id' .* has no embedding_dim"):
        embedding_bag_configs(TABLES)


@pytest.mark.parametrize("name", ["items", "training", "user.id"])
def test_names_that_torch_does_not_take_are_refused(name: str) -> None:
    from trainer_client.integrations.torchrec import embedding_bag_configs

    with pytest.raises(InvalidDatasetError, match=f"table '{name}' of x cannot be in a ModuleDict"):
        embedding_bag_configs([EmbeddingTable(name, ("x",), 10, 4)])


def test_weights_go_with_the_ids() -> None:
    values, lengths, weights = torch.tensor([7, 8, 9]), torch.tensor([2, 1]), torch.rand(3)
    part = SparsePart(("a",), values, lengths, None, 2, (3,), weights)
    assert torch.equal(part.to_kjt().weights(), weights)
    bare = SparsePart(("a",), values, lengths, None, 2, (3,))
    assert bare.to_kjt().weights_or_none() is None
