"""TorchRec: importing this module makes Batch one of its Pipelineables.

A BatchStream does the same by itself when its program has imported torchrec before iterating.

    plan = dataset.explain(target=target)
    model = EmbeddingBagCollection(tables=embedding_bag_configs(plan.tables))
    ... model(batch.sparse.to_kjt())

ImportError without torchrec.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch.nn import ModuleDict
from torchrec.modules.embedding_configs import (  # type: ignore[import-not-found]
    EmbeddingBagConfig,
)

from trainer_client.batch import register_pipelineable
from trainer_client.dataset_plan import EmbeddingTable
from trainer_client.errors import InvalidDatasetError

register_pipelineable()


def embedding_bag_configs(
    tables: Iterable[EmbeddingTable], *, embedding_dim: int = 0
) -> list[EmbeddingBagConfig]:
    """A config for each table of a DatasetPlan, in its order.

    embedding_dim is that of tables for which the dataset gives none. Raises InvalidDatasetError if
    one has neither, or a name that no torch module can have: TorchRec keeps tables in a ModuleDict.
    """
    configs = []
    for table in tables:
        if "." in table.name or hasattr(ModuleDict(), table.name):
            raise InvalidDatasetError(
                f"table {table.name!r} of {', '.join(table.features)} cannot be in a ModuleDict, "
                "as TorchRec keeps it: give Sparse a table without a dot, and not named as a "
                "method of ModuleDict (items, keys, type, ...)"
            )
        if not (table.embedding_dim or embedding_dim):
            raise InvalidDatasetError(
                f"table {table.name!r} of {', '.join(table.features)} has no embedding_dim: give "
                "it to Sparse, or to embedding_bag_configs for all that have none"
            )
        config = EmbeddingBagConfig(
            name=table.name,
            num_embeddings=table.num_embeddings,
            embedding_dim=table.embedding_dim or embedding_dim,
            feature_names=list(table.features),
        )
        configs.append(config)
    return configs
