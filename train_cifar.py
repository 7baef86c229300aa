"""Prunes a network on CIFAR-10, CIFAR-100 or the built-in DIGITS with ensemble knowledge guidance.

    python train_cifar.py --gpu_id 0 --arch ResNet-56 --dataset CIFAR10 \
        --search_target_rate 0.45 --train_path ../test

Stages: search, memory bank, extraction, fine-tuning. The result is TRAIN_PATH/trained_param.pkl.
See README.md.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import sys

from cli.flags import add_data_flags, add_device_flags
from cli.options import parse_options
from cli.program import prune_from, run_program
from cli.training_flags import add_training_flags
from dataloader import CLASSES
from engine.options import TrainOptions
from nets.catalogue import CIFAR

# METHOD 7: the schedules of fine-tuning and of a baseline trained from scratch.
FINE_TUNING = TrainOptions(100, 1e-2, (0.3, 0.6, 0.8), 0.2, weight_decay=5e-4, batch_size=128)
BASELINE = TrainOptions(100, 5e-2, (0.3, 0.6, 0.9), 0.1, weight_decay=1e-4, batch_size=128)


def add_flags(parser, machines=True):
    """Adds the flags of a run on small images. machines: whether it may use several machines."""
    add_training_flags(parser, list(CIFAR), "ResNet-56", FINE_TUNING, BASELINE)
    add_data_flags(parser, list(CLASSES), "CIFAR10")
    add_device_flags(parser, machines=machines)


def parse(argv=None):
    """The Options of a command line."""
    return parse_options(__doc__, add_flags, argv)


def main():
    prune_from(parse)


if __name__ == "__main__":
    sys.exit(run_program(main, resumable=True))
