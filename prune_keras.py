"""Prunes a Keras model with ensemble knowledge guidance, or looks at what can be pruned.

    python prune_keras.py model.keras --data_path DATA --search_target_rate 0.5 --train_path RUN
    python prune_keras.py model.h5 --gates

The result is TRAIN_PATH/pruned.keras, a plain Keras model. A gate is a set of filters that can only
be kept or dropped together with others: those that are added to each other, say. FLOPs are
multiply-accumulates for one input. See README.md.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import functools
import json
import sys

from cli.keras_flags import parse
from cli.program import run_program


def look(args):
    """Prints gates, filters that stay and costs."""
    from distribution.startup import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from coupling.loading import load_model
    from coupling.network import KerasNetwork
    from coupling.summary import as_json, as_text

    tf.config.set_visible_devices([], "GPU")  # a look at a model takes no memory from a training
    network = KerasNetwork(load_model(args.model, args.trust), args.input_size)
    print(json.dumps(as_json(network)) if args.json else as_text(network))


def prune_model(args, options):
    """Runs the method on the model."""
    from distribution.startup import import_tensorflow

    import_tensorflow()
    from coupling.sources import ModelFile
    from dataloader.own import load_own
    from ekg.keras_subject import KerasSubject
    from ekg.pipeline import prune

    data = functools.partial(load_own, args.data_path, views=args.views)
    views = " ".join(sorted(args.views))
    source = ModelFile(args.model, args.trust)
    prune(options, KerasSubject(source, data, args.pixels, views, args.input_size))


def main():
    args, options = parse(__doc__)
    # After parsing, so that --help and a wrong flag are answered at once.
    if options is None:
        look(args)
    else:
        prune_model(args, options)


if __name__ == "__main__":
    sys.exit(run_program(main, resumable=True))
