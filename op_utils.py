"""The steps that run on devices: train, distil, score, predict, statistics; and the optimiser.

Each step is a function of one part of a batch, which distribution.step.Step runs on all replicas.
"""

import numpy as np
import tensorflow as tf

from distribution.step import Step
from nets.gates import Context

MOMENTUM = 0.9


# ---------------------------------------------------------------------------------------- optimiser


def nesterov(variable, velocity, gradient, learning_rate):
    """(v, w) after v <- 0.9 v - lr g; w <- w + 0.9 v - lr g (METHOD 7)."""
    step = learning_rate * gradient
    velocity = MOMENTUM * velocity - step
    return velocity, variable + MOMENTUM * velocity - step


class LossScale:
    """Dynamic loss scaling for float16: gradients are taken of loss * scale, so that small ones do
    not become 0.

    A step whose gradients overflow changes no weight and halves the scale. GROW_AFTER steps in a
    row without overflow double it.
    """

    START, LEAST, MOST, GROW_AFTER = 2.0**15, 1.0, 2.0**30, 2000

    def __init__(self, strategy):
        self.scale, self.good_steps = (_state(value, strategy) for value in (self.START, 0.0))

    def settle(self, gradients):
        """Whether all `gradients` are finite, bool []. Moves the scale accordingly."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        good_steps = tf.where(finite, self.good_steps + 1, 0.0)
        grows = good_steps >= self.GROW_AFTER
        factor = tf.where(finite, tf.where(grows, 2.0, 1.0), 0.5)
        self.scale.assign(tf.minimum(self.scale * factor, self.MOST))
        self.good_steps.assign(tf.where(grows, 0.0, good_steps))
        return finite


def _state(value, strategy):
    """A variable that steps assign. Replicas compute the same value: the first one's is kept."""
    with strategy.scope():
        return tf.Variable(
            value, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )


class Optimizer:
    """SGD with Nesterov momentum. Weight decay is an L2 gradient on every trainable variable.

    loss_scale: LossScale in float16, else None.
    """

    def __init__(self, variables, runtime):
        self.variables = variables
        self.velocities = [_state(tf.zeros_like(v), runtime.strategy) for v in variables]
        self.loss_scale = LossScale(runtime.strategy) if runtime.precision == "float16" else None

    def apply(self, gradients, learning_rate, weight_decay):
        """Updates the variables. gradients: summed over replicas.

        METHOD 7: the L2 gradient is added here, once and not divided by the number of views.
        """
        finite = None if self.loss_scale is None else self.loss_scale.settle(gradients)
        for variable, velocity, gradient in zip(self.variables, self.velocities, gradients):
            old_w, old_v = tf.convert_to_tensor(variable), tf.convert_to_tensor(velocity)
            v, w = nesterov(old_w, old_v, gradient + weight_decay * old_w, learning_rate)
            velocity.assign(v if finite is None else tf.where(finite, v, old_v))
            variable.assign(w if finite is None else tf.where(finite, w, old_w))


# ------------------------------------------------------------------------------------- forward pass


def context(runtime, statistics, masks=None, tape=None):
    """The Context of a forward pass of one part of the batch, as `runtime` computes.

    statistics, masks, tape: see nets.gates.Context.
    """
    return Context(
        statistics,
        masks,
        tape,
        drop=masks is not None and runtime.drops and not runtime.compile,
        multiple=runtime.channel_multiple(masks is not None),
        dtype=runtime.dtype,
        merge=_merged if runtime.synchronises else None,
    )


def _merged(mean, variance):
    """(mean, biased variance), float32 [C], over the batches of all replicas, from this one's.

    The variance is the mean of the variances plus the variance of the means. The mean of squares
    would cancel. Gradients go back through the all-reduce.
    """
    replica = tf.distribute.get_replica_context()
    own = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync)
    both = own[:, None, None] * tf.stack([mean, variance])
    means, variances = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, both), axis=1)
    mean = tf.reduce_mean(means, 0)
    between = tf.reduce_mean(tf.math.squared_difference(means, mean), 0)
    return mean, tf.reduce_mean(variances, 0) + between


def _own_share(statistics, runtime):
    """Batch statistics of one part, divided by the number of parts: their sum is the mean."""
    if runtime.parts == 1:
        return statistics
    return [(mean / runtime.parts, variance / runtime.parts) for mean, variance in statistics]


# -------------------------------------------------------------------------------------------- steps


def right(labels, logits):
    """1 where the largest logit is that of the label, else 0: float32 [b, V].

    labels: int [b]; logits: float32 [b, V, C].
    """
    hits = tf.equal(tf.argmax(logits, -1), tf.cast(labels, tf.int64)[:, None])
    return tf.cast(hits, tf.float32)


def training_step(
    network, optimizer, runtime, prepare, loss, tables=None, teacher=None, accuracy=right
):
    """A step that trains `network` on V views of every image: plain training and distillation.

    The views of an image pass through the network together, view index fastest, so that batch
    statistics span all of them (METHOD 7). The step is called with learning_rate and weight_decay.

    Args:
        network: Network.
        optimizer: Optimizer of its trainable variables.
        runtime: Runtime.
        prepare: function of a batch to its views, float32 [b, V, S, S, 3].
        loss: function of a batch and logits, float32 [b, V, C], to float32 [b], summed over views.
        tables: from distribution.step.on_devices, or None.
        teacher: Network that sees the same views with batch statistics, or None. `loss` finds its
            logits, float32 [b, V, C], as batch["answers"].
        accuracy: function of labels and logits to float32 [b, V], see `right`.

    The sums are `loss` (summed over views, mean over images), `accuracy` (over images and views),
    `sum_of_statistics` and, in float16, the `loss_scale` of the next step. `sum_of_statistics` is
    not finite if an activation is not, even when the loss is finite: a ReLU may turn NaN into 0.
    """
    scaling = optimizer.loss_scale

    def compute(batch, shared):
        views = prepare(batch)
        b, v = views.shape[:2]
        views = tf.reshape(views, [b * v, *views.shape[2:]])
        per_view = lambda logits: tf.reshape(logits, [b, v, -1])
        if teacher is not None:
            batch = batch | {"answers": per_view(teacher(views, context(runtime, "batch")))}
        # Losses are divided by the global batch, because gradients are summed over parts and
        # replicas.
        share = 1.0 / (b * runtime.parts)
        scale = 1.0 if scaling is None else tf.convert_to_tensor(scaling.scale)
        ctx = context(runtime, "batch")
        with tf.GradientTape() as tape:
            logits = per_view(network(views, ctx))
            total = tf.reduce_sum(loss(batch, logits)) * share
            scaled = total * scale
        gradients = tape.gradient(scaled, network.trainable)
        if v > 1 or scaling is not None:
            # The gradient is divided by the number of views, the loss is not (METHOD 7).
            gradients = [g / (v * scale) for g in gradients]
        statistics = [value for pair in ctx.batch_statistics for value in pair]
        return {
            "gradients": gradients,
            "statistics": _own_share(ctx.batch_statistics, runtime),
            "sum_of_statistics": tf.reduce_sum(tf.concat(statistics, 0)) if statistics else total,
            "loss": total,
            "accuracy": tf.reduce_sum(accuracy(batch["labels"], logits)) * share / v,
        }, {}

    def update(sums, shared):
        optimizer.apply(sums["gradients"], shared["learning_rate"], shared["weight_decay"])
        for bn, (mean, variance) in zip(network.batch_norms, sums["statistics"]):
            bn.move(mean, variance)
        figures = {name: sums[name] for name in names[:3]}
        if scaling is not None:
            figures["loss_scale"] = tf.convert_to_tensor(scaling.scale)
        return figures

    names = ("loss", "accuracy", "sum_of_statistics", *(["loss_scale"] if scaling else []))
    return Step(compute, runtime, update, merges=runtime.synchronises, figures=names, tables=tables)


def scoring_step(network, runtime, prepare, loss):
    """A step for the inner sums of Eq. 9, on the masked network with batch statistics.

    loss: function of a batch and logits, float32 [b, C], to float32 [b], each image's share of the
    mean over the whole set. The step is called with masks, float32 [F], and in float16 with scale,
    float32 [], by which the loss is multiplied and the result divided (see Rescaled).

    The sums are `signed`: for every gate a list of float32 [C], one per place where the gate is
    observed, with the sum over B, H, W of dy * y. They are summed over all parts and replicas, so
    that the absolute value can be taken of the whole sum.
    """
    scaled = runtime.precision == "float16"

    def compute(batch, shared):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            ctx = context(runtime, "batch", network.split_masks(shared["masks"]), tape)
            total = tf.reduce_sum(loss(batch, network(prepare(batch), ctx)))
            total = total * shared["scale"] if scaled else total
        signed = [
            [ctx.per_filter(sums, gate) for sums in uses]
            for uses, gate in zip(tape.gradient(total, ctx.probes), network.gates)
        ]
        if scaled:
            signed = tf.nest.map_structure(lambda sums: sums / shared["scale"], signed)
        return {"signed": signed}, {}

    return Step(compute, runtime, merges=runtime.synchronises)


class Rescaled:
    """A scoring step in float16, at the largest scale that has not overflowed so far.

    A batch whose sums overflow is taken again at half the scale. Raises FloatingPointError if they
    overflow at any scale.
    """

    def __init__(self, step):
        self.step, self.scale = step, LossScale.START

    def __call__(self, batch, **shared):
        while True:
            sums, rows = self.step(batch, scale=np.float32(self.scale), **shared)
            if all(np.isfinite(value).all() for value in tf.nest.flatten(sums)):
                return sums, rows
            if self.scale <= LossScale.LEAST:
                flag = self.step.runtime.precision_flag
                raise FloatingPointError(
                    f"the scores are not finite in float16; try {flag} bfloat16"
                )
            self.scale /= 2


def predicting_step(network, runtime, prepare, *, statistics="moving"):
    """A step whose rows are the `logits` of a batch, float32 [B, C]."""

    def compute(batch, shared):
        return {}, {"logits": network(prepare(batch), context(runtime, statistics))}

    return Step(compute, runtime, merges=runtime.synchronises and statistics == "batch")


def statistics_step(network, runtime, prepare):
    """A step whose sums are the `statistics` of a batch: one (mean, biased variance), float32 [C],
    per batch norm.
    """

    def compute(batch, shared):
        ctx = context(runtime, "batch")
        network(prepare(batch), ctx)
        return {"statistics": _own_share(ctx.batch_statistics, runtime)}, {}

    return Step(compute, runtime, merges=runtime.synchronises)
