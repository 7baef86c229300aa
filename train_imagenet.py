"""Prunes a network on ImageNet, or on images that are laid out like it, with ensemble knowledge
guidance.

    python train_imagenet.py --gpu_id 0 1 2 3 --arch ResNet-50 --data_path IMAGENET --trained_param
    resnet50.safetensors

IMAGENET holds train/CLASS/*.JPEG and val, or TFRecord shards. Learning rates are for a batch of 256
and scaled with the batch. The result is TRAIN_PATH/trained_param.pkl; docs/scaling.md says what it
takes. See README.md.
"""

import sys

from cli import flags
from cli.program import prune_as_told, run_program
from dataloader import IN_FILES, FileOptions
from engine.options import TrainOptions
from nets.catalogue import IMAGENET

# What the method leaves open is as the networks it starts from were trained (He et al. 2016; Goyal
# et al. 2017): weight decay 1e-4, 90 epochs with a tenth after each third, no label smoothing.
# Fine-tuning keeps the method's own points and rate.
FINE_TUNING = TrainOptions(100, 0.1, (0.3, 0.6, 0.8), 0.2, weight_decay=1e-4, batch_size=256)
BASELINE = TrainOptions(90, 0.1, (1 / 3, 2 / 3), 0.1, weight_decay=1e-4, batch_size=256)
TEMPERATURE = 10.0


def add_flags(parser):
    """The flags of a run on images in files."""
    flags.add_training_flags(
        parser, list(IMAGENET), "ResNet-50", FINE_TUNING, BASELINE, TEMPERATURE
    )
    group = flags.add_data_flags(parser, list(IN_FILES), IN_FILES[0], flags.IMAGENET_PATH)
    flags.add_file_flags(group, FileOptions.input_size)
    buffer = (
        "images of shards that are shuffled among each other; those in files of their own all are"
    )
    group.add_argument(
        "--shuffle_buffer", type=flags.count, default=FileOptions.shuffle_buffer, help=buffer
    )
    flags.add_device_flags(parser)


def parse(argv=None):
    parser = flags.Parser(
        description=__doc__.splitlines()[0],
        epilog="The run folder and the method are described in README.md.",
    )
    add_flags(parser)
    return flags.options_from(parser.parse_args(argv))


def main():
    prune_as_told(parse)


if __name__ == "__main__":
    sys.exit(run_program(main, goes_on=True))
