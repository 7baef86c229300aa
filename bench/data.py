"""Images per second and core from files to the training step, compared with decoding alone.

    python bench/data.py --data_path IMAGENET [--input_size 224] [--batch_size 64] \
        [--seconds 5] [--rounds 5]

IMAGENET is a folder in the layout of train_imagenet.py. "decode" is only tf.io.decode_jpeg, on
bytes in memory: the ceiling. "decode, resize" adds a plain tf.image.resize to the input size, as
the simplest pipeline does: the floor. "one view" and "two views" are this project's batches, from
the file to random resized crops in one array; two views of an image count as one image. "centre" is
the input of evaluation and memory bank. Every row uses all cores. Rows take turns; the table has
the medians over the rounds.
"""

import contextlib
import functools
import itertools
import statistics
import sys
import time

from harness import add_numbers, machine, print_heading, print_row
from timing import in_turn

from cli.parser import Parser, count, positive, side
from cli.program import run_program
from distribution.startup import import_tensorflow
from utils import cores

IN_MEMORY = 512  # encoded images that ceiling and floor repeat
NUMBERS = {  # flags: type, default, help
    "input_size": (side, 224, "height and width in pixels"),
    "batch_size": (count, 64, "images per batch"),
    "seconds": (positive, 5.0, "seconds per measurement"),
    "rounds": (count, 5, "measurements per row"),
}


def rates_of(stream, seconds):
    """Images per second, from the second batch on. stream: iterator over the sizes of batches."""
    next(stream)
    begin, images = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        images += next(stream)
    return images / (time.perf_counter() - begin)


def plain(encoded, decode, batch_size):
    """Yields the sizes of batches decoded with `decode` from `encoded`, a list of bytes.

    One pixel of each image is kept.
    """
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(encoded).repeat()
    dataset = dataset.map(
        lambda data: tf.reshape(decode(data), [-1])[0], num_parallel_calls=cores()
    )
    for batch in dataset.batch(batch_size).prefetch(2):
        yield len(batch)


def ours(images, views, batch_size):
    """Yields the sizes of batches of `views` views, or of centre crops if `views` is 0."""
    import numpy as np

    rng = np.random.default_rng(0)
    groups = (rng.integers(0, len(images), batch_size) for _ in itertools.count())
    draws = (
        (rng.random((batch_size, views, images.draws), np.float32) for _ in itertools.count())
        if views
        else None
    )
    with contextlib.closing(images.batches(groups, draws)) as batches:
        for used, _ in batches:
            yield len(used)


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data_path",
        required=True,
        metavar="PATH",
        help="folder in the layout of train_imagenet.py",
    )
    add_numbers(parser, NUMBERS)
    return parser.parse_args(argv)


def report(args):
    """Prints the table."""
    import_tensorflow()
    import tensorflow as tf

    from dataloader.imagenet import find_imagenet
    from dataloader.images import EncodedImages

    found = find_imagenet(args.data_path, ("train",))["train"]
    images = EncodedImages(found.files, args.input_size)
    encoded = [images.files.read(i) for i in range(min(len(images), IN_MEMORY))]
    plainly = lambda data: tf.io.decode_jpeg(data, channels=3)
    resized = lambda data: tf.image.resize(plainly(data), [args.input_size] * 2)
    streams = {
        "decode (ceiling)": lambda: plain(encoded, plainly, args.batch_size),
        "decode, resize (floor)": lambda: plain(encoded, resized, args.batch_size),
        "one view": lambda: ours(images, 1, args.batch_size),
        "two views": lambda: ours(images, 2, args.batch_size),
        "centre": lambda: ours(images, 0, args.batch_size),
    }
    size = sum(map(len, encoded)) / len(encoded) / 1024
    print(
        f"{len(images):,} images of {size:.0f} KiB on average; batches of {args.batch_size};"
        f" {machine()}",
        flush=True,
    )

    def measured(stream):
        with contextlib.closing(stream()) as running:
            return rates_of(running, args.seconds) / cores()

    calls = {name: functools.partial(measured, stream) for name, stream in streams.items()}
    rates = in_turn(calls, args.rounds)
    title = f"{args.input_size} pixels, medians of {args.rounds}"
    print_heading(title, ["what"], ["images/s/core", "of the ceiling", "from", "to"])
    ceiling = statistics.median(rates["decode (ceiling)"])
    for name, values in rates.items():
        median = statistics.median(values)
        print_row(
            [
                name,
                f"{median:.0f}",
                f"{median / ceiling:.0%}",
                f"{min(values):.0f}",
                f"{max(values):.0f}",
            ]
        )


if __name__ == "__main__":
    sys.exit(run_program(lambda: report(parse())))
