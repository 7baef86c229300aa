"""What runs on devices: where it runs, and the compiled steps: train, distil, score, predict.

Every step is one function of a batch, made ready to run by `Step`: accumulation in the graph innermost, XLA around a
replica's forward and backward pass, the all-reduce outside of it (a merge of replicas cannot be compiled), then the update.
What changes from call to call - images, random draws, learning rate, masks - comes in as tensors, so each step is traced once.
"""

import dataclasses

import tensorflow as tf

from nets.tcl import Pass
from utils import UserError, accumulator

MOMENTUM = 0.9


# -------------------------------------------------------------------------------------------------------------- devices


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where steps run and how: the strategy, whether XLA compiles them, and in how many parts a replica takes its batch."""

    strategy: tf.distribute.Strategy
    compile: bool = False
    accum: int = 1

    @property
    def replicas(self):
        return self.strategy.num_replicas_in_sync

    @property
    def parts(self):
        """In how many parts a global batch is taken, over all replicas."""
        return self.replicas * self.accum

    def check_batch(self, flag, size):
        """Raises UserError unless a batch of `size` images, which option `flag` asks for, divides into equal parts."""
        if size % self.parts:
            raise UserError(f"{flag}: a batch of {size} does not divide into {self.replicas} replicas x {self.accum} --accum")


def choose_gpus(requested, available):
    """Indices of the GPUs to use. `requested`: list of ids or None; `available`: how many the machine has.

    None asks for the first GPU if there is one. An empty list means the CPU. Raises UserError for ids that are not there.
    """
    if available == 0:
        return []
    if requested is None:
        return [0]
    missing = [i for i in requested if i not in range(available)]
    if missing:
        there = ", ".join(map(str, range(available)))
        raise UserError(f"--gpu_id {missing[0]}: there is no such GPU; this machine has {there}")
    return sorted(set(requested))


def make_runtime(gpu_id, compile, accum):
    """(Runtime, line to say or None). gpu_id: list of ids or None; compile: True, False or None for on with GPUs only."""
    gpus = tf.config.list_physical_devices("GPU")
    chosen = [gpus[i] for i in choose_gpus(gpu_id, len(gpus))]
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:
        tf.config.experimental.set_memory_growth(gpu, True)
    said = None if chosen or gpu_id is None else f"--gpu_id {gpu_id[0]}: this machine has no GPU, the CPU is used"
    if len(chosen) > 1:
        strategy = tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(len(chosen))])
    else:
        strategy = tf.distribute.get_strategy()  # the default strategy adds nothing to a call
    return Runtime(strategy, bool(chosen) if compile is None else compile, accum), said


# ---------------------------------------------------------------------------------------------------------------- steps


class Step:
    """A function of a batch, made ready to run on all replicas and traced once.

    compute(batch, shared) -> (sums, rows) sees one part of the batch: `batch` a dict of tensors [b, ...], `shared` a dict of
    tensors that every part sees whole, `sums` a structure of tensors added over parts and replicas, `rows` one of tensors
    [b, ...] put together in the batch's order. update(sums, shared), if given, runs in every replica with the totals, may
    assign variables, and returns what the caller gets in place of `sums`.

    Called with a dict of arrays [B, ...], B the global batch, and shared values by keyword; gives (sums, rows) as tensors.
    `traces` counts how often it was traced.
    """

    def __init__(self, compute, runtime, update=None):
        self.traces = 0
        self.runtime = runtime
        strategy = runtime.strategy
        forward = accumulator(compute, runtime.accum)
        if runtime.compile:
            forward = tf.function(forward, jit_compile=True, autograph=False)

        def replica(batch, shared):
            sums, rows = forward(batch, shared)
            if runtime.replicas > 1 and tf.nest.flatten(sums):
                sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)
            return update(sums, shared) if update else sums, rows

        def run(batch, shared):
            self.traces += 1  # Python runs while tracing only
            return strategy.run(replica, (batch, shared))

        self._run = tf.function(run, autograph=False)

    def __call__(self, batch, **shared):
        # Tensors, not Python numbers: a number would be a constant of the trace.
        shared = {name: tf.convert_to_tensor(value) for name, value in shared.items()}
        replicas, strategy = self.runtime.replicas, self.runtime.strategy
        if replicas == 1:
            return self._run({name: tf.convert_to_tensor(value) for name, value in batch.items()}, shared)

        def own(context):
            i = context.replica_id_in_sync_group
            return {k: tf.convert_to_tensor(v[i * len(v) // replicas : (i + 1) * len(v) // replicas]) for k, v in batch.items()}

        sums, rows = self._run(strategy.experimental_distribute_values_from_function(own), shared)
        first = lambda value: strategy.experimental_local_results(value)[0]
        return tf.nest.map_structure(first, sums), tf.nest.map_structure(lambda v: strategy.gather(v, axis=0), rows)


def nesterov(variable, velocity, gradient, learning_rate):
    """(v, w) after v <- 0.9 v - lr g; w <- w + 0.9 v - lr g."""
    velocity = MOMENTUM * velocity - learning_rate * gradient
    return velocity, variable + MOMENTUM * velocity - learning_rate * gradient


class Optimizer:
    """SGD with Nesterov momentum; weight decay is an L2 gradient on every trainable variable, added after the reduce."""

    def __init__(self, variables, strategy):
        with strategy.scope():
            once = tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.velocities = [tf.Variable(tf.zeros_like(v), trainable=False, aggregation=once) for v in variables]
        self.variables = variables

    def apply(self, gradients, learning_rate, weight_decay):
        for variable, velocity, gradient in zip(self.variables, self.velocities, gradients):
            v, w = nesterov(variable, velocity, gradient + weight_decay * variable, learning_rate)
            velocity.assign(v)
            variable.assign(w)


def _own_share(statistics, runtime):
    """Batch statistics of one part, weighted so that the sum over parts and replicas is their mean."""
    return [(mean / runtime.parts, variance / runtime.parts) for mean, variance in statistics]


def training_step(network, optimizer, runtime, prepare, loss):
    """A step that trains `network` on one view or several of every image: plain training and distillation in one.

    prepare(batch) -> float32 [b, V, S, S, 3], the views; loss(batch, logits [b, V, C]) -> float32 [b], summed over views.
    The views of an image pass through the network together, view index fastest, so that BN statistics span all of them;
    the gradient is divided by their number. Called with learning_rate and weight_decay; gives `loss` (mean over images) and
    `accuracy` (over images and views).
    """

    def compute(batch, shared):
        views = prepare(batch)
        b, v = views.shape[:2]
        # Losses are divided by the global batch, because gradients are summed over parts and replicas.
        share = 1.0 / (b * runtime.parts)
        run = Pass("batch")
        with tf.GradientTape() as tape:
            logits = tf.reshape(network(tf.reshape(views, [b * v, *views.shape[2:]]), run), [b, v, -1])
            total = tf.reduce_sum(loss(batch, logits)) * share
        gradients = [g / v for g in tape.gradient(total, network.trainable)]
        hits = tf.equal(tf.argmax(logits, -1), tf.cast(batch["labels"], tf.int64)[:, None])
        return {
            "gradients": gradients,
            "statistics": _own_share(run.batch_statistics, runtime),
            "loss": total,
            "accuracy": tf.reduce_sum(tf.cast(hits, tf.float32)) * share / v,
        }, {}

    def update(sums, shared):
        optimizer.apply(sums["gradients"], shared["learning_rate"], shared["weight_decay"])
        for bn, (mean, variance) in zip(network.batch_norms, sums["statistics"]):
            bn.move(mean, variance)
        return {"loss": sums["loss"], "accuracy": sums["accuracy"]}

    return Step(compute, runtime, update)


def scoring_step(network, runtime, prepare, loss):
    """A step for the inner sums of Eq. 9 on the masked network, batch statistics.

    loss(batch, logits [b, C]) -> float32 [b], each image's share of the mean over the whole set. Called with masks=float32
    [sum of gate sizes]. Gives `signed`, for every gate a list of float32 [C], one for every place where it masks: the sum
    over B, H, W of dy * y, over all parts and replicas, so that the absolute value can be taken of the whole sum. The rows
    are the `logits`.
    """

    def compute(batch, shared):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            run = Pass("batch", network.split_masks(shared["masks"]), tape)
            logits = network(prepare(batch), run)
            total = tf.reduce_sum(loss(batch, logits))
        return {"signed": tape.gradient(total, run.probes)}, {"logits": logits}

    return Step(compute, runtime)


def predicting_step(network, runtime, prepare, *, masked=False, statistics="moving"):
    """A step that gives the logits of a batch as rows. A masked network uses batch statistics and takes masks=float32 [F]."""

    def compute(batch, shared):
        masks = network.split_masks(shared["masks"]) if masked else None
        run = Pass("batch" if masked else statistics, masks)
        return {}, {"logits": network(prepare(batch), run)}

    return Step(compute, runtime)


def statistics_step(network, runtime, prepare):
    """A step that gives `statistics`, a list of (mean, biased variance) float32 [C] a batch norm, of one batch."""

    def compute(batch, shared):
        run = Pass("batch")
        network(prepare(batch), run)
        return {"statistics": _own_share(run.batch_statistics, runtime)}, {}

    return Step(compute, runtime)
