"""Importance, ranks, filters kept and masks."""

import numpy as np

from ekg.filter_rule import filters_kept
from ekg.importance import importance, masks, ranks


def test_importance_takes_absolute_values_after_the_sum_over_a_batch_and_before_any_other():
    first = [
        [np.array([1.0, -2.0]), np.array([-3.0, 0.5])],
        [np.array([5.0])],
    ]  # two uses of gate 0, one of gate 1
    second = [[np.array([-1.0, 1.0]), np.array([1.0, 1.0])], [np.array([-2.0])]]
    np.testing.assert_allclose(importance([first, second]), [6.0, 4.5, 7.0])


def test_ranks_are_by_gate_and_stable():
    scores = np.array([0.5, 2.0, 2.0, 0.0, 9.0, 0.0, 10.0], np.float32)
    assert list(ranks(scores, [4, 3])) == [2, 0, 1, 3, 1, 2, 0]


def test_masks_keep_the_most_important_and_at_least_one():
    rng = np.random.default_rng(0)
    sizes = [1, 4, 16, 64]
    for _ in range(50):
        order = np.concatenate([rng.permutation(n) for n in sizes])
        rates = rng.random(4) * rng.integers(0, 2, 4)
        flat = masks(sizes, filters_kept(sizes, rates), order)
        for mask, rank, kept in zip(
            np.split(flat, [1, 5, 21]), np.split(order, [1, 5, 21]), filters_kept(sizes, rates)
        ):
            assert mask.sum() == kept >= 1
            assert rank[mask > 0].max() < rank[mask == 0].min(initial=len(rank))
