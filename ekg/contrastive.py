"""Fine-tuning with contrastive knowledge: the loss of two views of an image against its row of the
memory bank (Eq. 11-13).
"""

import tensorflow as tf


def temperature(classes):
    """T = 4 under 1,000 classes, else 10."""
    return 4.0 if classes < 1000 else 10.0


def kld(x, y, t):
    """float32 [...]: T * sum softmax(x / T) * (log softmax(x / T) - log softmax(y / T)) over the
    last axis of logits.
    """
    log_x, log_y = tf.nn.log_softmax(x / t), tf.nn.log_softmax(y / t)
    return t * tf.reduce_sum(tf.exp(log_x) * (log_x - log_y), -1)


def choose_knowledge(bank, logits, t):
    """(M_bar, counts, divergence, limit) for one batch: the mean of the teachers that are nearer to
    the top than the student.

    bank: M float32 [B, C, K]; logits: P float32 [B, V, C]. Teacher k counts if sum_B KLD(top, M_k)
    < sum_B KLD(top, mean over views of P), top = teacher 0, which always counts: so as the student
    improves, the worse teachers drop out (Eq. 13). M_bar float32 [B, C]; counts bool [K];
    divergence float32 [K] and limit float32 [] are sums over the batch.
    """
    top = bank[..., 0]
    limit = tf.reduce_sum(kld(top, tf.reduce_mean(logits, 1), t))
    teachers = tf.transpose(bank, [2, 0, 1])
    divergence = tf.reduce_sum(kld(top[None], teachers, t), 1)
    counts = tf.logical_or(divergence < limit, tf.range(bank.shape[2]) == 0)
    weight = tf.cast(counts, bank.dtype)
    return tf.linalg.matvec(bank, weight / tf.reduce_sum(weight)), counts, divergence, limit


def contrastive_loss(batch, logits, t=None, label_smoothing=0.0):
    """float32 [b]: sum over views of CE(labels, P_view) + KLD(M_bar, P_view), image by image.

    batch: labels int [b]; bank float [b, C, K], the rows of these images. logits: P float32 [b, V,
    C]. Which teachers count carries no gradient and is decided for the part of the batch at hand.
    t: temperature, None for what the classes suggest.
    """
    t = t or temperature(logits.shape[-1])
    bank = tf.cast(batch["bank"], tf.float32)
    knowledge, *_ = choose_knowledge(bank, tf.stop_gradient(logits), t)
    return plain_loss(batch, logits, label_smoothing) + tf.reduce_sum(
        kld(knowledge[:, None], logits, t), 1
    )


def taught_loss(batch, logits, t=None, label_smoothing=0.0):
    """float32 [b]: sum over views of CE(labels, P_view) + KLD(A_view, P_view), where a teacher
    answers A to each view itself.

    batch: labels int [b]; answers A float32 [b, V, C]. The rest is that of contrastive_loss.
    """
    t = t or temperature(logits.shape[-1])
    return plain_loss(batch, logits, label_smoothing) + tf.reduce_sum(
        kld(batch["answers"], logits, t), 1
    )


def plain_loss(batch, logits, label_smoothing=0.0):
    """float32 [b]: sum over views of CE(labels, P_view). logits: float32 [b, V, C].

    label_smoothing: share of each label that is spread evenly over the classes.
    """
    labels = tf.repeat(batch["labels"][:, None], logits.shape[1], 1)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * tf.reduce_mean(
            tf.nn.log_softmax(logits), -1
        )
    return tf.reduce_sum(loss, 1)
