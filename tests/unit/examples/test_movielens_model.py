"""The score is exact, and the model sees lists as they are."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from movielens_model import TABLE_BY_FEATURE, Bag, LikeModel, area_under_roc


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    positives = [score for score, label in rows if label]
    negatives = [score for score, label in rows if not label]
    scores = torch.tensor([float(score) for score, _ in rows])
    labels = torch.tensor([float(label) for _, label in rows])
    if not positives or not negatives:
        with pytest.raises(ValueError, match="both classes"):
            area_under_roc(scores, labels)
        return
    pairs = list(itertools.product(positives, negatives))
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
    assert area_under_roc(scores, labels) == pytest.approx(wins / len(pairs))


def test_a_diverged_model_has_no_auc() -> None:
    with pytest.raises(ValueError, match="diverged"):
        area_under_roc(torch.tensor([0.1, float("nan")]), torch.tensor([0.0, 1.0]))


def one_id_each(rows: int) -> dict[str, Bag]:
    bag = Bag(torch.arange(rows), torch.arange(rows + 1))
    return dict.fromkeys(TABLE_BY_FEATURE, bag)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    torch.manual_seed(0)
    model = LikeModel(dense_features=2).eval()
    dense = torch.randn(3, 2)
    ragged = Bag(torch.tensor([5, 6, 7, 8]), torch.tensor([0, 3, 3, 4]))
    together = model(dense, one_id_each(3) | {"history": ragged})
    alone = [
        model(
            dense[row : row + 1],
            dict.fromkeys(TABLE_BY_FEATURE, Bag(torch.tensor([row]), torch.tensor([0, 1])))
            | {"history": Bag(ids, torch.tensor([0, len(ids)]))},
        )
        for row, ids in enumerate(ragged.values.tensor_split([3, 3]))
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_an_emptied_history_is_that_of_a_new_user() -> None:
    torch.manual_seed(0)
    model = LikeModel(dense_features=1).eval()
    bags, dense = one_id_each(2), torch.zeros(2, 1)
    empty = Bag(torch.empty(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    emptied = model(dense, bags | {"history": bags["history"].emptied()})
    torch.testing.assert_close(emptied, model(dense, bags | {"history": empty}))
    assert not torch.allclose(emptied, model(dense, bags))
