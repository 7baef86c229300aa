"""Prunes a network on ImageNet, or on files in the same layout, with ensemble knowledge guidance.

    python train_imagenet.py --gpu_id 0 1 2 3 --arch ResNet-50 --data_path IMAGENET \
        --trained_param resnet50.safetensors

IMAGENET holds train/CLASS/*.JPEG and val, or TFRecord shards. Learning rates are for a batch of 256
and are scaled with the batch. The result is TRAIN_PATH/trained_param.pkl. docs/scaling.md has the
time and memory that a run needs. See README.md.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import sys

from cli.flags import IMAGENET_PATH, add_data_flags, add_device_flags, add_file_flags
from cli.options import parse_options
from cli.parser import count
from cli.program import prune_from, run_program
from cli.training_flags import add_training_flags
from dataloader import IN_FILES, FileOptions
from engine.options import TrainOptions
from nets.catalogue import IMAGENET

# Settings that the paper does not give are those with which the starting networks were trained (He
# et al. 2016; Goyal et al. 2017): weight decay 1e-4, 90 epochs, a tenth of the learning rate after
# each third, no label smoothing. Fine-tuning keeps the paper's decay points and decay rate.
FINE_TUNING = TrainOptions(100, 0.1, (0.3, 0.6, 0.8), 0.2, weight_decay=1e-4, batch_size=256)
BASELINE = TrainOptions(90, 0.1, (1 / 3, 2 / 3), 0.1, weight_decay=1e-4, batch_size=256)
TEMPERATURE = 10.0


def add_flags(parser, machines=True):
    """Adds the flags of a run on images in files. machines: whether it may use several machines."""
    add_training_flags(parser, list(IMAGENET), "ResNet-50", FINE_TUNING, BASELINE, TEMPERATURE)
    group = add_data_flags(parser, list(IN_FILES), IN_FILES[0], IMAGENET_PATH)
    add_file_flags(group, FileOptions.input_size)
    group.add_argument(
        "--shuffle_buffer",
        type=count,
        default=FileOptions.shuffle_buffer,
        help="images per shuffling buffer for TFRecord shards; separate image files are shuffled"
        " completely",
    )
    add_device_flags(parser, machines=machines)


def parse(argv=None):
    """The Options of a command line."""
    return parse_options(__doc__, add_flags, argv)


def main():
    prune_from(parse)


if __name__ == "__main__":
    sys.exit(run_program(main, resumable=True))
