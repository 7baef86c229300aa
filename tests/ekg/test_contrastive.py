"""Contrastive knowledge: divergence, which teachers count, the loss of two views."""

import numpy as np
import pytest
import tensorflow as tf

from ekg.contrastive import (
    choose_knowledge,
    contrastive_loss,
    kld,
    plain_loss,
    taught_loss,
    temperature,
)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def divergence(x, y, t):
    return t * (softmax(x / t) * (np.log(softmax(x / t)) - np.log(softmax(y / t)))).sum(-1)


RNG = np.random.default_rng(0)
P, M = (
    RNG.standard_normal((6, 2, 5)).astype(np.float32),
    RNG.standard_normal((6, 5, 4)).astype(np.float32),
)
M[..., 2] = M[..., 0] + 0.1 * M[..., 2]


def test_kld():
    np.testing.assert_allclose(
        kld(M[..., 0], M[..., 1], 4.0), divergence(M[..., 0], M[..., 1], 4), rtol=1e-4
    )
    np.testing.assert_allclose(kld(M[..., 0], M[..., 0], 4.0), 0, atol=1e-6)


def test_temperature():
    assert [temperature(classes) for classes in (10, 100, 999, 1000)] == [4, 4, 4, 10]


def test_teachers_nearer_to_the_top_than_the_student_count():
    knowledge, counts, found, limit = choose_knowledge(tf.constant(M), tf.constant(P), 4.0)
    expected = [divergence(M[..., 0], M[..., k], 4).sum() for k in range(4)]
    top_student = divergence(M[..., 0], P.mean(1), 4).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert float(limit) == pytest.approx(top_student, rel=1e-4)
    assert list(counts.numpy()) == [k == 0 or expected[k] < top_student for k in range(4)]
    np.testing.assert_allclose(knowledge, M[..., counts.numpy()].mean(-1), rtol=1e-5, atol=1e-6)


def test_a_perfect_student_listens_to_the_top_alone():
    """Its limit is 0, so no divergence is below it; teacher 0 counts always."""
    views = np.repeat(M[:, None, :, 0], 2, 1)
    knowledge, counts, *_ = choose_knowledge(tf.constant(M), tf.constant(views), 4.0)
    assert list(counts.numpy()) == [True, False, False, False]
    np.testing.assert_allclose(knowledge, M[..., 0], rtol=1e-6)


def test_loss_and_its_gradient():
    """Against the sum by hand; M_bar and the decisions carry no gradient, so d / dP is softmax
    differences alone.
    """
    labels = np.arange(6) % 5
    logits = tf.Variable(P)
    with tf.GradientTape() as tape:
        loss = contrastive_loss(
            {"labels": labels, "bank": M.astype(np.float16)}, tf.convert_to_tensor(logits)
        )
        total = tf.reduce_sum(loss)
    bank = M.astype(np.float16).astype(np.float32)
    counts = choose_knowledge(tf.constant(bank), tf.constant(P), 4.0)[1].numpy()
    mean = bank[..., counts].mean(-1)
    expected = sum(
        -np.log(softmax(P[:, v])[np.arange(6), labels]) + divergence(mean, P[:, v], 4)
        for v in range(2)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    gradient = softmax(P) - np.eye(5)[labels][:, None] + softmax(P / 4) - softmax(mean / 4)[:, None]
    np.testing.assert_allclose(tape.gradient(total, logits), gradient, rtol=1e-3, atol=1e-5)


def test_a_live_teacher_answers_to_each_view_of_its_own():
    answers = RNG.standard_normal(P.shape).astype(np.float32)
    labels = np.arange(6) % 5
    for t, used in ((None, 4), (2.5, 2.5)):
        loss = taught_loss({"labels": labels, "answers": answers}, tf.constant(P), t)
        plain = -sum(np.log(softmax(P[:, view]))[np.arange(6), labels] for view in range(2))
        np.testing.assert_allclose(loss, plain + divergence(answers, P, used).sum(1), rtol=1e-4)
    agrees = taught_loss({"labels": labels, "answers": P}, tf.constant(P), label_smoothing=0.1)
    np.testing.assert_allclose(
        agrees, plain_loss({"labels": labels}, tf.constant(P), 0.1), rtol=1e-4
    )
