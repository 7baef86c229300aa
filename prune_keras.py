"""Looks at a Keras model: which filters can be pruned, which cannot and why, what layers cost.

    python prune_keras.py model.keras --gates
    python prune_keras.py model.h5 --json

A gate is a set of filters that can only be kept or dropped together with others: those that are
added to each other, say. FLOPs are multiply-accumulates for one input.
"""

import json
import sys

from cli.parser import Parser, count
from cli.program import run_program


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="file: .keras, .h5 or .hdf5")
    parser.add_argument(
        "--gates",
        action="store_true",
        default=True,
        help="print gates, filters that must stay and why, FLOPs by layer (default: yes)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.add_argument(
        "--input_size",
        type=count,
        help="height and width of the input where the model leaves them open (default: 224)",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run code that the file brings along: Lambda layers, classes of other modules",
    )
    return parser.parse_args(argv)


def main():
    args = parse()
    # After parsing, so that --help and a wrong flag are answered at once.
    from distribution.startup import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from coupling.loading import load_model
    from coupling.network import KerasNetwork
    from coupling.summary import as_json, as_text

    tf.config.set_visible_devices([], "GPU")  # a look at a model takes no memory from a training
    network = KerasNetwork(load_model(args.model, args.trust), args.input_size)
    print(json.dumps(as_json(network)) if args.json else as_text(network))


if __name__ == "__main__":
    sys.exit(run_program(main))
