"""Prunes a network on CIFAR-10, CIFAR-100 or the built-in DIGITS with ensemble knowledge guidance.

    python train_cifar.py --gpu_id 0 --arch ResNet-56 --dataset CIFAR10 --search_target_rate 0.45 --train_path ../test

Search, memory bank, extraction and fine-tuning; the result is TRAIN_PATH/trained_param.pkl. See README.md.
"""

import sys

from dataloader import CLASSES
from ekg.cli import Parser, add_data_flags, add_device_flags, add_training_flags, options_from, run_program
from nets import BUILDERS


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0], epilog="The run folder and the method are described in README.md.")
    add_training_flags(parser, list(BUILDERS))
    add_data_flags(parser, list(CLASSES), "CIFAR10")
    add_device_flags(parser)
    return options_from(parser.parse_args(argv))


def main():
    options = parse()
    from utils import import_tensorflow  # after the options, so that these are answered at once

    import_tensorflow()
    from ekg.pipeline import prune

    prune(options)


if __name__ == "__main__":
    sys.exit(run_program(main, goes_on=True))
