"""Losses and ensemble knowledge on the host, and the scoring step's loss on the device."""

import numpy as np
import pytest

from ekg.knowledge import cross_entropy, knowledge_loss, reward_loss, update_knowledge
from engine.logits import log_softmax

RNG = np.random.default_rng(0)
LOGITS, KNOWLEDGE, LABELS = (
    RNG.standard_normal((6, 4)),
    RNG.standard_normal((6, 4)),
    np.arange(6) % 4,
)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_losses():
    assert cross_entropy(LABELS, LOGITS) == pytest.approx(
        -np.log(softmax(LOGITS)[np.arange(6), LABELS]).mean()
    )
    assert knowledge_loss(KNOWLEDGE, LOGITS) == pytest.approx(
        -(softmax(KNOWLEDGE) * np.log(softmax(LOGITS))).sum(1).mean()
    )


def test_losses_of_blocks_are_those_of_the_whole_to_the_bit(monkeypatch):
    labels, knowledge, logits = (
        RNG.integers(0, 4, 1001),
        *RNG.standard_normal((2, 1001, 4)).astype(np.float32),
    )
    whole = cross_entropy(labels, logits), knowledge_loss(knowledge, logits)
    monkeypatch.setattr("ekg.knowledge.BLOCK", 4 * 17)
    assert (cross_entropy(labels, logits), knowledge_loss(knowledge, logits)) == whole


def test_large_logits_do_not_overflow():
    np.testing.assert_allclose(
        log_softmax(np.float32([[1e5, 0], [-1e5, 0]])), [[0, -1e5], [-1e5, 0]]
    )


def test_the_running_mean_is_the_mean():
    members = RNG.standard_normal((7, 6, 4)).astype(np.float32)
    knowledge = members[0]
    for count, member in enumerate(members[1:], 1):
        knowledge = update_knowledge(knowledge, member, count)
    np.testing.assert_allclose(knowledge, members.mean(0), rtol=1e-5, atol=1e-6)


def test_reward_loss_sums_to_both_terms_and_ignores_fillers():
    weights = np.float32([0.25, 0.25, 0.25, 0.25, 0, 0])
    batch = {"labels": LABELS, "knowledge": KNOWLEDGE.astype(np.float32), "weights": weights}
    total = reward_loss(batch, LOGITS.astype(np.float32)).numpy().sum()
    expected = cross_entropy(LABELS[:4], LOGITS[:4]) + knowledge_loss(KNOWLEDGE[:4], LOGITS[:4])
    assert total == pytest.approx(expected, rel=1e-5)
