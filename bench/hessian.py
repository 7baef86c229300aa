"""Time of a product with the Hessian against that of a gradient on the same images, in Markdown.

    python bench/hessian.py --arch ResNet-56 --trained_param FILE

The product is that of analyze.py: reverse over reverse, through folded batch norm. The gradient is
that of the same loss with respect to the same arrays: once with moving averages in a fused kernel,
as a network computes otherwise, once with folded batch norm, which is faster. Forward over reverse
gives the same product. All take turns, call by call; numbers are medians. Images are random.
"""

import sys

import numpy as np
from harness import add_numbers, machine, print_heading, print_row, say

from cli.parser import Parser, count, positive
from cli.program import run_program
from distribution.startup import import_tensorflow
from engine.latency import medians_ms
from nets import build_network
from nets.catalogue import BUILDERS
from nets.parameters import read_parameters

NUMBERS = {  # flags: type, default, help
    "size": (count, 32, "height and width in pixels"),
    "classes": (count, 10, "classes"),
    "batch_size": (count, [128], "images per call"),
    "seconds": (positive, 3.0, "timed seconds per column"),
}


def calls(network, runtime, batch_size):
    """dict name -> function that computes it once, on one batch."""
    import tensorflow as tf

    from analysis.curvature import arrays_of, product_step
    from distribution.step import Step
    from op_utils import context

    rng, size = np.random.default_rng(0), network.input_size
    batch = {
        "images": rng.standard_normal((batch_size, size, size, 3)).astype(np.float32),
        "labels": rng.integers(0, network.classes, batch_size),
        "weights": np.full(batch_size, 1 / batch_size, np.float32),
    }
    variables = arrays_of(network, "kernels")
    vector = rng.standard_normal(sum(int(np.prod(v.shape)) for v in variables), np.float32)
    prepare = lambda batch: batch["images"]

    def gradients(batch, statistics):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            logits = network(batch["images"], context(runtime, statistics))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
            loss = tf.reduce_sum(losses * batch["weights"])
        return tape.gradient(loss, variables)

    def gradient_step(statistics):
        return Step(lambda batch, shared: ({"gradient": gradients(batch, statistics)}, {}), runtime)

    def forward_over_reverse(batch, shared):
        sizes = [int(np.prod(v.shape)) for v in variables]
        parts = tf.split(shared["vector"], sizes)
        along = [tf.reshape(part, v.shape) for part, v in zip(parts, variables)]
        with tf.autodiff.ForwardAccumulator(variables, along) as accumulator:
            found = gradients(batch, "folded")
        return {"product": accumulator.jvp(found)}, {}

    steps = {
        "gradient, fused": (gradient_step("moving"), {}),
        "gradient, folded": (gradient_step("folded"), {}),
        "product": (product_step(network, variables, runtime, prepare), {"vector": vector}),
        "forward over reverse": (Step(forward_over_reverse, runtime), {"vector": vector}),
    }
    host = lambda step, shared: tf.nest.map_structure(np.asarray, step(batch, **shared)[0])
    return {
        name: lambda step=step, shared=shared: host(step, shared)
        for name, (step, shared) in steps.items()
    }


def report(args):
    import tensorflow as tf

    from distribution.runtime import Runtime

    arrays = read_parameters(args.trained_param)[0] if args.trained_param else None
    network = build_network(args.arch, args.classes, args.size, arrays)
    print(machine())
    for compiled in args.compile:
        runtime = Runtime(tf.distribute.get_strategy(), compile=compiled == "on")
        names = ("gradient, fused", "gradient, folded", "product", "forward over reverse")
        ratios = ("product / fused", "product / folded")
        title = f"{args.arch}, float32, {'XLA' if runtime.compile else 'not compiled'}, ms per call"
        print_heading(title, ["images"], [*names, *ratios])
        for batch_size in args.batch_size:
            say(f"{title}: {batch_size} images")
            times = medians_ms(list(calls(network, runtime, batch_size).values()), args.seconds)
            found = [times[2] / times[0], times[2] / times[1]]
            cells = [f"{t:.1f}" for t in times] + [f"{ratio:.2f}" for ratio in found]
            print_row([str(batch_size), *cells])


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-56", help="network")
    parser.add_argument("--trained_param", metavar="FILE", help="parameter file (default: random)")
    parser.add_argument(
        "--compile", choices=("off", "on"), nargs="+", default=["off"], help="whether to use XLA"
    )
    add_numbers(parser, NUMBERS)
    args = parser.parse_args()
    import_tensorflow()
    report(args)


if __name__ == "__main__":
    sys.exit(run_program(main))
