"""What a trainer takes of a batch: every tensor, expanded to rows or as it was sent."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainer_client import Batch

Take = Callable[[Batch], list[torch.Tensor]]


def expanded(batch: Batch) -> list[torch.Tensor]:
    """Per-row tensors: dense [B, D], labels [B, L], key-major sparse values and lengths [F * B]."""
    tensors = [each for each in (batch.dense, batch.labels) if each is not None]
    if batch.sparse is not None:
        tensors += [batch.sparse.values, batch.sparse.lengths]
    return tensors


def as_sent(batch: Batch) -> list[torch.Tensor]:
    """The same, sparse features as they travelled: once a run, with the rows of each run."""
    tensors = [each for each in (batch.dense, batch.labels) if each is not None]
    if batch.sparse is not None:
        for part in batch.sparse.deduplicated.parts:
            tensors += [part.values, part.lengths]
            if part.run_lengths is not None:
                tensors.append(part.run_lengths)
    return tensors


MODES: dict[str, Take] = {"expanded": expanded, "as sent": as_sent}
