"""How a function of a batch runs on devices: over replicas, in parts, compiled, traced once.

Accumulation is in the graph, and XLA compiles a replica's forward and backward pass. The all-reduce
stays outside of it, because it cannot be compiled; then comes the update. What changes from call to
call (images, random draws, learning rate, masks) comes in as tensors, so each step is traced once.
"""

import functools

import tensorflow as tf

from utils import accumulator


def traced(function, **settings):
    """`function` as a tf.function.

    TensorFlow counts traces per code object, so all steps would count as one function that is
    traced again and again, and it would warn. A partial has no code object: each is counted alone.
    """
    return tf.function(functools.partial(function), autograph=False, **settings)


class Step:
    """A function of a batch that runs on all replicas and is traced once.

    Called with a dict of arrays [B, ...], B the global batch, and shared values by keyword. Returns
    (sums, rows) as tensors. `several` runs many batches in one device call.

    traces: how often it was traced.
    """

    def __init__(self, compute, runtime, update=None, *, merges=False, figures=(), tables=None):
        """
        Args:
            compute: function of (batch, shared) to (sums, rows), for one part of the batch. batch:
                dict of tensors [b, ...]; shared: dict of tensors that every part sees whole; sums:
                structure of tensors that are added over parts and replicas; rows: structure of
                tensors [b, ...] that are put together in the order of the batch.
            runtime: Runtime.
            update: function of (sums, shared), called in every replica with the totals. It may
                assign variables, and returns what the caller gets instead of `sums`.
            merges: whether `compute` itself exchanges values between replicas, which XLA cannot
                compile.
            figures: names of the float32 scalars that `update` returns, for `several`.
            tables: from `on_devices`; every part sees them as shared["tables"].
        """
        self.traces = 0
        self.runtime, self.tables, self.update, self.figures = runtime, tables, update, figures
        compiled = runtime.compile and not merges
        xla = lambda f: traced(f, jit_compile=True) if compiled else f
        compute = looked_up(compute, tables)
        if runtime.gpu:
            self._forward = xla(accumulator(compute, runtime.accum))
        else:
            # XLA for CPUs makes gradients of convolutions inside a loop 20 to 35 times slower: the
            # loop over parts goes around what is compiled.
            self._forward = accumulator(xla(compute), runtime.accum)
        self._run = traced(self._once)
        self._run_several = traced(self._many)

    def _replica(self, batch, shared):
        """The step in one replica: its share of the batch in parts, the all-reduce, the update."""
        sums, rows = self._forward(batch, shared)
        if self.runtime.replicas > 1:
            replica = tf.distribute.get_replica_context()
            if tf.nest.flatten(sums):
                sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
            if rows:
                rows = replica.all_gather(rows, axis=0)
        return self.update(sums, shared) if self.update else sums, rows

    def _once(self, batch, shared):
        self.traces += 1  # Python code runs only while tracing
        return self.runtime.strategy.run(self._replica, (batch, shared))

    def _many(self, batches, each, count, shared):
        self.traces += 1
        at = lambda values, i: {name: value[i] for name, value in values.items()}

        # The loop goes around the replicas, because they cannot all-reduce inside a loop.
        def one(i, series):
            one_step = lambda batches, shared: self._replica(at(batches, i), shared)
            sums, _ = self.runtime.strategy.run(one_step, (batches, shared | at(each, i)))
            value = lambda name: self._of_first(sums[name])
            return i + 1, {name: array.write(i, value(name)) for name, array in series.items()}

        array = lambda: tf.TensorArray(tf.float32, count, element_shape=[])
        series = {name: array() for name in self.figures}
        more = lambda i, _: i < count
        _, series = tf.while_loop(more, one, (0, series), parallel_iterations=1)
        return {name: values.stack() for name, values in series.items()}

    def __call__(self, batch, **shared):
        with self.runtime.arithmetic():
            results = self._run(self._split_over_replicas(batch, 0), self._as_tensors(shared))
        # Every replica has the totals and all rows.
        return tf.nest.map_structure(self._of_first, results)

    def several(self, batches, count, each, **shared):
        """One step after another, in one call of the device.

        Args:
            batches: dict of arrays [K, B, ...].
            count: how many of the K batches are used, the first ones.
            each: dict name -> array [K], shared values that differ from step to step.
            shared: shared values of all steps.

        Returns a dict of tensors [count], the figures of every step. Another K is another trace.
        """
        each, count = self._tensors(each), tf.constant(count, tf.int32)
        with self.runtime.arithmetic():
            return self._run_several(
                self._split_over_replicas(batches, 1), each, count, self._as_tensors(shared)
            )

    @staticmethod
    def _tensors(values):
        # Tensors, not Python numbers: a number would be a constant of the trace.
        return {name: tf.convert_to_tensor(value) for name, value in values.items()}

    def _as_tensors(self, values):
        return self._tensors(values) | ({"tables": self.tables} if self.tables else {})

    def _split_over_replicas(self, batch, axis):
        """`batch` as tensors. With several replicas each gets its own slice along `axis`: this is
        where a batch is split over replicas.
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
        """The value on this machine's first replica; all replicas have the same."""
        return self.runtime.strategy.experimental_local_results(value)[0]


def on_devices(arrays, runtime):
    """dict name -> tensor, of each of `arrays` [N, ...]: a copy on the device of each replica."""
    strategy = runtime.strategy
    if runtime.replicas == 1 or not arrays:
        return {name: tf.constant(array) for name, array in arrays.items()}
    # Not variables: several machines would send each other what all of them have.
    devices = iter(strategy.extended.worker_devices)

    def copied(_):
        with tf.device(next(devices)):
            return {name: tf.identity(tf.constant(array)) for name, array in arrays.items()}

    return strategy.experimental_distribute_values_from_function(copied)


def looked_up(compute, tables):
    """`compute`, for batches that have "rows", int32 [b], instead of the arrays in `tables`."""
    if not tables:
        return compute

    def compute_on_rows(batch, shared):
        found = {name: tf.gather(table, batch["rows"]) for name, table in shared["tables"].items()}
        return compute({**batch, **found}, shared)

    return compute_on_rows
