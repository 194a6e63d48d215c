"""A small sequence-aware model of whether a user will like a film, and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BUCKETS = 1 << 10
HISTORIES = ("history", "history_liked")

# Which table each sparse feature looks its ids up in: a film means the same as a candidate and as
# part of a history.
TABLE_BY_FEATURE = {
    "user_id": "user",
    "item_id": "item",
    "gender": "gender",
    "occupation": "occupation",
    "zip_prefix": "zip_prefix",
    "genres": "genres",
    "history": "item",
    "history_liked": "item",
}
TABLE_ROWS = {
    "user": 1000,
    "item": 1700,
    "gender": BUCKETS,
    "occupation": BUCKETS,
    "zip_prefix": BUCKETS,
    "genres": BUCKETS,
}


@dataclass(frozen=True, slots=True)
class Bag:
    """One list of ids a row: row i has values[offsets[i]:offsets[i + 1]].

    values is int64 [sum of lengths], offsets int64 [rows + 1].
    """

    values: Tensor
    offsets: Tensor

    def emptied(self) -> Bag:
        """The same rows, each with an empty list."""
        return Bag(self.values[:0], torch.zeros_like(self.offsets))


class LikeModel(nn.Module):
    """Embedding bags over jagged ids, beside dense features, into a small MLP.

    Lists are averaged, an empty one is all zeros. The dot product of each two features is an input
    too, so that the model sees how near a film is to a history (as in DLRM, Naumov et al. 2019).
    """

    _pairs: Tensor

    def __init__(
        self, dense_features: int, *, width: int = 16, hidden: int = 64, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.bags = nn.ModuleDict(
            {
                name: nn.EmbeddingBag(count, width, mode="mean", include_last_offset=True)
                for name, count in TABLE_ROWS.items()
            }
        )
        for weight in self.bags.parameters():
            nn.init.normal_(weight, std=0.05)
        self.normalise = nn.BatchNorm1d(dense_features)
        features = len(TABLE_BY_FEATURE)
        pairs = features * (features - 1) // 2
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.Linear(features * width + pairs + dense_features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )
        row, column = torch.triu_indices(features, features, offset=1)
        self.register_buffer("_pairs", row * features + column)

    def forward(self, dense: Tensor, sparse: dict[str, Bag]) -> Tensor:
        """Logits, float32 [rows], of dense float32 [rows, dense_features] and the bags."""
        looked_up = [
            self.bags[table](sparse[name].values, sparse[name].offsets)
            for name, table in TABLE_BY_FEATURE.items()
        ]
        vectors = self.dropout(torch.stack(looked_up, dim=1))
        dots = (vectors @ vectors.transpose(1, 2)).flatten(1)[:, self._pairs]
        inputs = [vectors.flatten(1), dots, self.normalise(dense)]
        logits: Tensor = self.head(torch.cat(inputs, dim=1))
        return logits.squeeze(1)


def area_under_roc(scores: Tensor, labels: Tensor) -> float:
    """The probability that a random positive scores above a random negative; a tie counts half.

    Exact, by ranks (the Mann-Whitney U statistic). scores is float [n], labels [n] with positives
    above 0.5. Raises ValueError where one class is missing, or a score is NaN.
    """
    if bool(scores.isnan().any()):
        raise ValueError("a score is NaN: the model has diverged")
    positive = labels > 0.5
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise ValueError(f"AUC needs both classes; got {positives} positive of {len(labels)} rows")
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0).double()
    mean_rank = ends - (sizes - 1) / 2
    rank_sum = float(mean_rank[group][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
