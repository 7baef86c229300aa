"""One pass through the operations of a Keras model, with batch statistics and probes."""

import collections
import functools

import keras
import numpy as np
import tensorflow as tf

from coupling.graph import inference_flags, inlined, is_training_norm, run_nested
from nets.gates import Context


class Pass:
    """One pass through the operations of a model.

    model: PrunableModel; ctx: nets.gates.Context.
    """

    def __init__(self, model, ctx):
        self.model, self.ctx = model, ctx
        self._calls: collections.Counter = collections.Counter()

    def function(self, operation):
        """The function that is called for an operation of the graph."""
        return functools.partial(self._call, operation)

    def _call(self, operation, *args, **kwargs):
        nested = inlined(operation)
        if nested is not None:
            return run_nested(nested, self.function, *args, **kwargs)
        if self.ctx.statistics == "batch" and is_training_norm(operation):
            y = self.normalised(operation, args[0])
        elif _skips_pixels(operation):
            y = _of_every_second(operation, args[0])
        else:
            y = operation(*args, **{**kwargs, **inference_flags(operation)})
        call = id(operation), self._calls[id(operation)]
        self._calls[id(operation)] += 1
        return self.called(call, operation, args, y)

    def called(self, call, operation, args, y):
        """What the next operations read of y, the output of a call, (operation, number)."""
        return self.model.observe(call, y, self.ctx)

    def normalised(self, layer, x):
        """Batch norm with the statistics of the batch, which it adds to the Context."""
        rank = len(x.shape)
        axis = layer.axis % rank
        wide = tf.cast(x, tf.float32)
        mean, variance = tf.nn.moments(wide, [i for i in range(rank) if i != axis])
        if self.ctx.merge is not None:
            mean, variance = self.ctx.merge(mean, variance)
        self.ctx.batch_statistics.append((mean, variance))
        shape = [-1 if i == axis else 1 for i in range(rank)]
        vector = lambda value: None if value is None else tf.reshape(value, shape)
        beta = vector(layer.beta.value if layer.center else None)
        gamma = vector(layer.gamma.value if layer.scale else None)
        y = tf.nn.batch_normalization(
            wide, vector(mean), vector(variance), beta, gamma, layer.epsilon
        )
        return tf.cast(y, x.dtype)


class FirstPass(Pass):
    """Notes the batch norms in their order, and the outputs that are to be observed."""

    def __init__(self, model):
        super().__init__(model, Context("batch"))
        self.norms: list = []
        self.observed: dict[tuple, np.ndarray] = {}
        self._made: dict[int, tuple] = {}  # id of a tensor -> (the call that made it, the tensor)

    def called(self, call, operation, args, y):
        places = self.model.reads.get(id(operation))
        if places is not None and id(args[0]) in self._made:
            self.observed[self._made[id(args[0])][0]] = places
        if tf.is_tensor(y):
            # An operation may hand on what another one made. All are kept, so no id comes twice.
            self._made.setdefault(id(y), (call, y))
        return y

    def normalised(self, layer, x):
        self.norms.append(layer)
        return super().normalised(layer, x)


def probed(y, probes, index):
    """y. The gradient of the probes is the inner sum of Eq. 9, as in nets.gates.probed.

    probes: float32 [n]; index: int [channels], the probe of each channel of y, -1 for none.
    """

    @tf.custom_gradient
    def with_probes(y, probes):
        def gradient(dy):
            products = tf.cast(dy, tf.float32) * tf.cast(y, tf.float32)
            sums = tf.reduce_sum(products, list(range(len(y.shape) - 1)))
            return dy, tf.math.unsorted_segment_sum(sums, index, probes.shape[0])

        return tf.identity(y), gradient

    return with_probes(y, probes)


def _skips_pixels(operation):
    """Whether this is a 1x1 convolution with strides, channels last."""
    return (
        type(operation) is keras.layers.Conv2D
        and tuple(operation.kernel_size) == (1, 1)
        and tuple(operation.strides) != (1, 1)
        and operation.data_format == "channels_last"
    )


def _of_every_second(layer, x):
    """The output of such a convolution, with strides of 1 on the pixels that it reads.

    The same numbers. With strides, oneDNN's gradient of a 1x1 kernel writes outside its memory if
    there are few input channels (uxlfoundation/oneDNN#6035).
    """
    rows, columns = layer.strides
    x = tf.cast(x, layer.compute_dtype)
    y = keras.ops.conv(x[:, ::rows, ::columns], layer.kernel, 1, "valid", "channels_last")
    y = y + layer.bias if layer.use_bias else y
    return layer.activation(y)
