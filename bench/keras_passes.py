"""What masks cost in a pass of a Keras model.

    python bench/keras_passes.py
    python bench/keras_passes.py --models VGG16 DenseNet121 --size 64 --batch_size 32

Models of keras.applications with random weights, half of every gate masked, batch statistics. Plain
Keras is the model called with training=True. Scoring is compared with a gradient of all weights.
The passes take turns; numbers are medians.
"""

import statistics
import sys
import time

from harness import add_numbers, machine, print_heading, print_row
from timing import in_turn

from cli.parser import Parser, count
from cli.program import run_program
from distribution.startup import import_tensorflow

NUMBERS = {
    "size": (count, 32, "height and width in pixels"),
    "batch_size": (count, 64, "images per call"),
    "rounds": (count, 15, "calls of each pass"),
}


def passes_of(name, size, batch_size):
    """dict name -> function that runs a pass and returns its seconds."""
    import keras
    import numpy as np
    import tensorflow as tf

    from coupling.prunable import PrunableModel
    from nets.gates import Context

    build = getattr(keras.applications, name)
    shape = size, size, 3
    model = build(weights=None, input_shape=shape, classes=10, classifier_activation=None)
    network = PrunableModel(model)
    images = tf.random.normal([batch_size, *shape])
    halves = [np.arange(n) < max(1, n // 2) for n in network.gate_sizes]
    mask = tf.constant(np.concatenate(halves), tf.float32)

    @tf.function
    def plain(images):
        with keras.StatelessScope():  # moving averages stay
            return model(images, training=True)

    @tf.function
    def masked(images):
        return network(images, Context("batch", network.split_masks(mask)))

    @tf.function
    def gradient(images):
        with tf.GradientTape() as tape, keras.StatelessScope():
            loss = tf.reduce_sum(model(images, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    @tf.function
    def scores(images):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            ctx = Context("batch", network.split_masks(mask), tape)
            loss = tf.reduce_sum(network(images, ctx) ** 2)
        return tape.gradient(loss, ctx.probes)

    def timed(function):
        begin = time.perf_counter()
        tf.nest.map_structure(lambda y: y.numpy(), function(images))
        return time.perf_counter() - begin

    found = {"plain": plain, "masked": masked, "gradient": gradient, "scores": scores}
    for function in found.values():
        timed(function)  # traces it
    return {name: lambda function=function: timed(function) for name, function in found.items()}


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["MobileNetV2", "ResNet50"], metavar="NAME")
    add_numbers(parser, NUMBERS)
    args = parser.parse_args()
    import_tensorflow()
    print(machine())
    title = f"{args.batch_size} images of {args.size} pixels, milliseconds"
    numbers = ["plain", "masked", "ratio", "gradient", "scores", "ratio"]
    print_heading(title, ["model"], numbers)
    for name in args.models:
        times = in_turn(passes_of(name, args.size, args.batch_size), args.rounds)
        ms = {key: 1000 * statistics.median(values) for key, values in times.items()}
        cells = []
        for before, after in (("plain", "masked"), ("gradient", "scores")):
            each = [b / a for a, b in zip(times[before], times[after])]
            cells += [f"{ms[before]:.1f}", f"{ms[after]:.1f}", f"{statistics.median(each):.2f}"]
        print_row([name, *cells])


if __name__ == "__main__":
    sys.exit(run_program(main))
