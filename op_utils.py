"""The steps that run on devices: train, distil, score, predict, and what makes a function of a
batch a step.

Every step is one function of a batch, made ready to run by `Step`: accumulation in the graph and
XLA around a replica's forward and backward pass, the all-reduce outside of it (a merge of replicas
cannot be compiled), then the update. What changes from call to call - images, random draws,
learning rate, masks - comes in as tensors, so each step is traced once.
"""

import numpy as np
import tensorflow as tf

from nets.gates import Pass
from utils import accumulator

MOMENTUM = 0.9


# -------------------------------------------------------------------------------------------- steps


class Step:
    """A function of a batch, made ready to run on all replicas and traced once.

    compute(batch, shared) -> (sums, rows) sees one part of the batch: `batch` a dict of tensors [b,
    ...], `shared` a dict of tensors that every part sees whole, `sums` a structure of tensors added
    over parts and replicas, `rows` one of tensors [b, ...] put together in the batch's order.
    update(sums, shared), if given, runs in every replica with the totals, may assign variables, and
    returns what the caller gets in place of `sums`. merges: whether `compute` itself brings
    replicas together, which cannot be compiled.

    Called with a dict of arrays [B, ...], B the global batch, and shared values by keyword; gives
    (sums, rows) as tensors. `several` takes many such batches in one call of the device; figures:
    what it gives of them, the names of the float32 scalars that `update` returns. tables: see
    `on_devices`; every part sees them in shared["tables"]. `traces` counts how often it was traced.
    """

    def __init__(self, compute, runtime, update=None, *, merges=False, figures=(), tables=None):
        self.traces = 0
        self.runtime, self.tables = runtime, tables
        strategy = runtime.strategy
        xla = lambda f: (
            tf.function(f, jit_compile=True, autograph=False)
            if runtime.compile and not merges
            else f
        )
        # On CPUs XLA makes convolutions' gradients inside a loop 20 to 35 times slower: there the
        # loop goes around it.
        compute = looked_up(compute, tables)
        forward = (
            xla(accumulator(compute, runtime.accum))
            if runtime.gpu
            else accumulator(xla(compute), runtime.accum)
        )

        def replica(batch, shared):
            sums, rows = forward(batch, shared)
            if runtime.replicas > 1:
                context = tf.distribute.get_replica_context()
                sums = (
                    context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
                    if tf.nest.flatten(sums)
                    else sums
                )
                rows = context.all_gather(rows, axis=0) if rows else rows
            return update(sums, shared) if update else sums, rows

        def run(batch, shared):
            self.traces += 1  # Python runs while tracing only
            return strategy.run(replica, (batch, shared))

        def run_several(batches, each, count, shared):
            self.traces += 1

            # The loop goes around the replicas: within one they could not be brought together.
            def one(i, series):
                turn = lambda batches, shared: replica(
                    {name: value[i] for name, value in batches.items()}, shared
                )
                sums, _ = strategy.run(
                    turn, (batches, shared | {name: value[i] for name, value in each.items()})
                )
                return i + 1, {
                    name: series[name].write(i, self._of_first(sums[name])) for name in figures
                }

            series = {name: tf.TensorArray(tf.float32, count, element_shape=[]) for name in figures}
            _, series = tf.while_loop(
                lambda i, _: i < count, one, (0, series), parallel_iterations=1
            )
            return {name: values.stack() for name, values in series.items()}

        self._run = tf.function(run, autograph=False)
        self._run_several = tf.function(run_several, autograph=False)

    def __call__(self, batch, **shared):
        results = self._run(self._shares(batch, 0), self._shared(shared))
        # Every replica has the totals and all rows.
        return tf.nest.map_structure(self._of_first, results)

    def several(self, batches, count, each, **shared):
        """A step for each of the first `count` of `batches`, a dict of arrays [K, B, ...], one
        after another.

        each: dict name -> array [K], a shared value for every step. Gives a dict of tensors
        [count], the figures of every step. Steps of another K are another trace.
        """
        each, count = self._tensors(each), tf.constant(count, tf.int32)
        return self._run_several(self._shares(batches, 1), each, count, self._shared(shared))

    def restart(self):
        """Forgets what earlier calls have taught, if there is such a thing."""

    @staticmethod
    def _tensors(values):
        # Tensors, not Python numbers: a number would be a constant of the trace.
        return {name: tf.convert_to_tensor(value) for name, value in values.items()}

    def _shared(self, values):
        return self._tensors(values) | ({"tables": self.tables} if self.tables else {})

    def _shares(self, batch, axis):
        """`batch` as tensors; with several replicas, what is a replica's own of arrays whose batch
        is along `axis`.
        """
        replicas = self.runtime.replicas
        if replicas == 1:
            return self._tensors(batch)

        def own(context):
            i = context.replica_id_in_sync_group
            part = lambda n: (
                (slice(None),) * axis + (slice(i * n // replicas, (i + 1) * n // replicas),)
            )
            return self._tensors(
                {name: value[part(value.shape[axis])] for name, value in batch.items()}
            )

        return self.runtime.strategy.experimental_distribute_values_from_function(own)

    def _of_first(self, value):
        """The value of this machine's first replica, which speaks for all."""
        return self.runtime.strategy.experimental_local_results(value)[0]


def on_devices(arrays, runtime):
    """dict name -> tensor of each of `arrays` [N, ...]; with several replicas one on the device of
    each.
    """
    strategy = runtime.strategy
    if runtime.replicas == 1 or not arrays:
        return {name: tf.constant(array) for name, array in arrays.items()}
    # No variables: several machines would send each other what all have, and cannot send bytes.
    devices = iter(strategy.extended.worker_devices)

    def copied(_):
        with tf.device(next(devices)):
            return {name: tf.identity(tf.constant(array)) for name, array in arrays.items()}

    return strategy.experimental_distribute_values_from_function(copied)


def looked_up(compute, tables):
    """`compute` on batches that give "rows", int32 [b], in place of what `tables` (see on_devices)
    hold [N, ...].
    """
    if not tables:
        return compute

    def compute_on_rows(batch, shared):
        found = {name: tf.gather(table, batch["rows"]) for name, table in shared["tables"].items()}
        return compute({**batch, **found}, shared)

    return compute_on_rows


def nesterov(variable, velocity, gradient, learning_rate):
    """(v, w) after v <- 0.9 v - lr g; w <- w + 0.9 v - lr g."""
    velocity = MOMENTUM * velocity - learning_rate * gradient
    return velocity, variable + MOMENTUM * velocity - learning_rate * gradient


class LossScale:
    """Dynamic loss scaling: float16 gradients are taken of loss * scale, so that small ones do not
    become 0.

    A step whose gradients overflow changes no weight and halves the scale; GROW_AFTER steps without
    one double it.
    """

    START, LEAST, MOST, GROW_AFTER = 2.0**15, 1.0, 2.0**30, 2000

    def __init__(self, strategy):
        self.scale, self.good_steps = (_state(value, strategy) for value in (self.START, 0.0))

    def settle(self, gradients):
        """Whether all `gradients` are finite (bool []), and the scale moved accordingly."""
        finite = tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
        )
        good_steps = tf.where(finite, self.good_steps + 1, 0.0)
        grows = good_steps >= self.GROW_AFTER
        self.scale.assign(
            tf.minimum(self.scale * tf.where(finite, tf.where(grows, 2.0, 1.0), 0.5), self.MOST)
        )
        self.good_steps.assign(tf.where(grows, 0.0, good_steps))
        return finite


def _state(value, strategy):
    """A variable that steps change with what all replicas have agreed on before: one replica's
    value stands for all.
    """
    with strategy.scope():
        return tf.Variable(
            value, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )


class Optimizer:
    """SGD with Nesterov momentum; weight decay is an L2 gradient on every trainable variable, added
    after the reduce.

    `loss_scale` is a LossScale where `runtime` computes in float16, else None.
    """

    def __init__(self, variables, runtime):
        self.variables = variables
        self.velocities = [_state(tf.zeros_like(v), runtime.strategy) for v in variables]
        self.loss_scale = LossScale(runtime.strategy) if runtime.precision == "float16" else None

    def apply(self, gradients, learning_rate, weight_decay):
        finite = True if self.loss_scale is None else self.loss_scale.settle(gradients)
        for variable, velocity, gradient in zip(self.variables, self.velocities, gradients):
            v, w = nesterov(variable, velocity, gradient + weight_decay * variable, learning_rate)
            velocity.assign(v if finite is True else tf.where(finite, v, velocity))
            variable.assign(w if finite is True else tf.where(finite, w, variable))


def forward_pass(runtime, statistics, masks=None, tape=None):
    """A forward pass of one part of the batch, as `runtime` computes."""
    settings = dict(multiple=runtime.channel_multiple(masks is not None), dtype=runtime.dtype)
    settings |= dict(
        drop=masks is not None and not runtime.compile,
        merge=_merged if runtime.synchronises else None,
    )
    return Pass(statistics, masks, tape, **settings)


def _merged(mean, variance):
    """(mean, biased variance) over the equal batches of all replicas, from those of each: float32
    [C].

    The variances' mean plus the means' variance: the mean of squares would cancel. One all-reduce
    tells every replica what each of them has; gradients go back through it.
    """
    context = tf.distribute.get_replica_context()
    own = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    both = own[:, None, None] * tf.stack([mean, variance])
    means, variances = tf.unstack(context.all_reduce(tf.distribute.ReduceOp.SUM, both), axis=1)
    mean = tf.reduce_mean(means, 0)
    return mean, tf.reduce_mean(variances, 0) + tf.reduce_mean(
        tf.math.squared_difference(means, mean), 0
    )


def _own_share(statistics, runtime):
    """Batch statistics of one part, weighted: summed over parts and replicas they are the mean."""
    return [(mean / runtime.parts, variance / runtime.parts) for mean, variance in statistics]


def training_step(network, optimizer, runtime, prepare, loss, tables=None, teacher=None):
    """A step that trains `network` on one view or several of every image: plain training and
    distillation in one.

    prepare(batch) -> float32 [b, V, S, S, 3], the views; loss(batch, logits [b, V, C]) -> float32
    [b], summed over views. The views of an image pass through the network together, view index
    fastest, so that BN statistics span all of them; the gradient is divided by their number. Called
    with learning_rate and weight_decay; gives `loss` (mean over images), `accuracy` (over images
    and views), `sum_of_statistics` and, in float16, the `loss_scale` of the next step. The sum,
    over all batch statistics, tells activations that are not finite where the loss does not: a ReLU
    may make 0 of NaN. tables: see `on_devices`. teacher: a network that sees the same views, with
    batch statistics; loss finds its logits, float32 [b, V, C], in batch["answers"].
    """

    scaling = optimizer.loss_scale

    def compute(batch, shared):
        views = prepare(batch)
        b, v = views.shape[:2]
        views = tf.reshape(views, [b * v, *views.shape[2:]])
        of_views = lambda logits: tf.reshape(logits, [b, v, -1])
        if teacher is not None:
            batch = batch | {"answers": of_views(teacher(views, forward_pass(runtime, "batch")))}
        # Losses are divided by the global batch, because gradients are summed over parts and
        # replicas.
        share = 1.0 / (b * runtime.parts)
        scale = 1.0 if scaling is None else tf.convert_to_tensor(scaling.scale)
        run = forward_pass(runtime, "batch")
        with tf.GradientTape() as tape:
            logits = of_views(network(views, run))
            total = tf.reduce_sum(loss(batch, logits)) * share
            scaled = total * scale
        gradients = [g / (v * scale) for g in tape.gradient(scaled, network.trainable)]
        hits = tf.equal(tf.argmax(logits, -1), tf.cast(batch["labels"], tf.int64)[:, None])
        return {
            "gradients": gradients,
            "statistics": _own_share(run.batch_statistics, runtime),
            "sum_of_statistics": tf.reduce_sum(
                tf.concat([v for pair in run.batch_statistics for v in pair], 0)
            ),
            "loss": total,
            "accuracy": tf.reduce_sum(tf.cast(hits, tf.float32)) * share / v,
        }, {}

    def update(sums, shared):
        optimizer.apply(sums["gradients"], shared["learning_rate"], shared["weight_decay"])
        for bn, (mean, variance) in zip(network.batch_norms, sums["statistics"]):
            bn.move(mean, variance)
        figures = {name: sums[name] for name in names[:3]}
        return (
            figures
            if scaling is None
            else {**figures, "loss_scale": tf.convert_to_tensor(scaling.scale)}
        )

    names = ("loss", "accuracy", "sum_of_statistics", *(["loss_scale"] if scaling else []))
    return Step(compute, runtime, update, merges=runtime.synchronises, figures=names, tables=tables)


def scoring_step(network, runtime, prepare, loss):
    """A step for the inner sums of Eq. 9 on the masked network, batch statistics.

    loss(batch, logits [b, C]) -> float32 [b], each image's share of the mean over the whole set.
    Called with masks=float32 [sum of gate sizes]. Gives `signed`, for every gate a list of float32
    [C], one for every place where it masks: the sum over B, H, W of dy * y, over all parts and
    replicas, so that the absolute value can be taken of the whole sum. The rows are the `logits`.
    In float16 the loss is scaled, and the batch taken again at half the scale while a sum
    overflows.
    """
    half = runtime.precision == "float16"

    def compute(batch, shared):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            run = forward_pass(runtime, "batch", network.split_masks(shared["masks"]), tape)
            logits = network(prepare(batch), run)
            total = tf.reduce_sum(loss(batch, logits))
            total = total * shared["scale"] if half else total
        signed = tape.gradient(total, run.probes)
        signed = [
            [run.of_filters(sums, gate) for sums in uses]
            for uses, gate in zip(signed, network.gates)
        ]
        return {
            "signed": (
                tf.nest.map_structure(lambda sums: sums / shared["scale"], signed)
                if half
                else signed
            )
        }, {"logits": logits}

    step = Step(compute, runtime, merges=runtime.synchronises)
    return _Scaled(step) if half else step


class _Scaled:
    """A scoring step in float16 at the largest power of two that has not overflowed since the last
    `restart`.
    """

    def __init__(self, step):
        self.step, self.scale = step, LossScale.START

    def restart(self):
        self.scale = LossScale.START

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
    """A step that gives the logits of a batch as rows."""

    def compute(batch, shared):
        return {}, {"logits": network(prepare(batch), forward_pass(runtime, statistics))}

    return Step(compute, runtime, merges=runtime.synchronises and statistics == "batch")


def statistics_step(network, runtime, prepare):
    """A step that gives `statistics`, a list of (mean, biased variance) float32 [C] a batch norm,
    of one batch.
    """

    def compute(batch, shared):
        run = forward_pass(runtime, "batch")
        network(prepare(batch), run)
        return {"statistics": _own_share(run.batch_statistics, runtime)}, {}

    return Step(compute, runtime, merges=runtime.synchronises)
