"""Fine-tuning with contrastive knowledge: two views of an image and its bank row (Eq. 11-13)."""

import tensorflow as tf


def temperature(classes):
    """T of KLD_T (METHOD 7): 4 under 1,000 classes, else 10."""
    return 4.0 if classes < 1000 else 10.0


def kld(x, y, t):
    """KL divergence with temperature of logits x and y, summed over the last axis: float32 [...].

    Eq. 11: KLD_T(x, y) = T * sum softmax(x / T) * (log softmax(x / T) - log softmax(y / T)).
    """
    log_x, log_y = tf.nn.log_softmax(x / t), tf.nn.log_softmax(y / t)
    return t * tf.reduce_sum(tf.exp(log_x) * (log_x - log_y), -1)


def choose_knowledge(bank, logits, t, divergence=kld):
    """M_bar of a batch: the mean of the teachers nearer to the top than the student (Eq. 13).

    As the student improves, the worse teachers drop out. Teacher 0, the top, always counts.

    bank: M, float32 [B, C, K]. logits: P, float32 [B, V, C]. divergence: as kld.

    Returns (M_bar float32 [B, C], counts bool [K], distances float32 [K], limit float32 []). The
    last two are sums over the batch.
    """
    top = bank[..., 0]
    # Eq. 13: limit = sum_B KLD(top, mean over views of P)
    limit = tf.reduce_sum(divergence(top, tf.reduce_mean(logits, 1), t))
    # Eq. 13: teacher k counts if sum_B KLD(top, M_k) < limit
    teachers = tf.transpose(bank, [2, 0, 1])
    distances = tf.reduce_sum(divergence(top[None], teachers, t), 1)
    counts = tf.logical_or(distances < limit, tf.range(bank.shape[2]) == 0)
    # Eq. 13: M_bar = mean of the teachers that count
    weight = tf.cast(counts, bank.dtype)
    return tf.linalg.matvec(bank, weight / tf.reduce_sum(weight)), counts, distances, limit


def plain_loss(batch, logits, label_smoothing=0.0):
    """Loss per image, float32 [b]: sum over views of CE(labels, P_view).

    batch: dict with labels, int [b].
    logits: P, float32 [b, V, C].
    label_smoothing: share of each label that is spread evenly over the classes.
    """
    labels = tf.repeat(batch["labels"][:, None], logits.shape[1], 1)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if label_smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return tf.reduce_sum(loss, 1)


def contrastive_loss(batch, logits, t=None, label_smoothing=0.0, plain=plain_loss, divergence=kld):
    """Loss per image, float32 [b]: sum over views of CE(labels, P_view) + KLD(M_bar, P_view).

    The choice of teachers carries no gradient. Each part of a batch makes its own (METHOD 7).

    Args:
        batch: dict of labels, as `plain` takes them, and bank, float [b, C, K], the rows of these
            images.
        logits: P, float32 [b, V, C].
        t: temperature; None for the default for this number of classes.
        label_smoothing: see plain_loss.
        plain: the loss of the labels, as plain_loss.
        divergence: as kld.
    """
    t = t or temperature(logits.shape[-1])
    bank = tf.cast(batch["bank"], tf.float32)
    knowledge, *_ = choose_knowledge(bank, tf.stop_gradient(logits), t, divergence)
    # Eq. 11-13: CE(labels, P_view) + KLD(M_bar, P_view), summed over views
    distance = tf.reduce_sum(divergence(knowledge[:, None], logits, t), 1)
    return plain(batch, logits, label_smoothing) + distance


def taught_loss(batch, logits, t=None, label_smoothing=0.0, plain=plain_loss, divergence=kld):
    """Loss per image, float32 [b]: sum over views of CE(labels, P_view) + KLD(A_view, P_view).

    The ablation `single` of METHOD 7: A are the logits of one teacher that sees the same views.

    batch: dict of labels, as `plain` takes them, and answers A, float32 [b, V, C].
    The other arguments are those of contrastive_loss.
    """
    t = t or temperature(logits.shape[-1])
    distance = tf.reduce_sum(divergence(batch["answers"], logits, t), 1)
    return plain(batch, logits, label_smoothing) + distance
