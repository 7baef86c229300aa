"""The flags of analyze.py. Nothing here imports TensorFlow."""

from analysis.options import (
    OVER,
    SPLITS,
    CurvatureOptions,
    HessianOptions,
    ImageOptions,
    LandscapeOptions,
)
from cli.flags import add_any_data_flags, add_device_flags, add_key_flag, add_width_flag
from cli.parser import count, count_or_none, odd, positive
from nets.catalogue import BUILDERS


def add_network_flags(parser, group):
    """Adds the networks to look at, their data and devices, and where results go."""
    add = group.add_argument
    add(
        "networks",
        nargs="+",
        metavar="FILE",
        help="parameter files, dense or pruned; or folders of runs: the sub-network that the search"
        " found, before fine-tuning",
    )
    add(
        "--step",
        type=count_or_none,
        help="for folders: sub-network after this step (default: last)",
    )
    add_key_flag(group)
    add(
        "--arch", choices=list(BUILDERS), help="network (default: that of the file, else ResNet-56)"
    )
    add_width_flag(group)
    add(
        "--analysis_path",
        metavar="FOLDER",
        default="../analysis",
        help="folder for results; a second start with the same folder resumes",
    )
    add("--overwrite", action="store_true", help="delete earlier results of this kind there first")
    add_image_flags(parser.add_argument_group("images"))
    add_any_data_flags(parser)
    add_device_flags(parser, precision=False, machines=False)


def add_image_flags(group, images=1000, split="train"):
    """Adds the flags of the images. images, split: defaults."""
    add = group.add_argument
    add("--images", type=count, default=images, help="number of images, the same per class")
    add("--split", choices=SPLITS, default=split, help="set that they come from; val: D_val")
    add("--image_seed", type=count_or_none, default=0, help="seed that draws them")
    add("--image_batch_size", type=count, default=128, help="images per batch; changes no result")


def add_hessian_flags(group, tolerance=1e-2, iterations=200):
    """Adds the flags of eigenvalues. tolerance, iterations: defaults."""
    add = group.add_argument
    add(
        "--hessian_over",
        choices=OVER,
        default="kernels",
        help="arrays to differentiate with respect to: kernels of convolutions and the fully"
        " connected layer, or all trainable arrays",
    )
    add(
        "--tolerance",
        type=positive,
        default=tolerance,
        help="end when |H v - lambda v| / |lambda| is at most this",
    )
    add("--iterations", type=count, default=iterations, help="end after this many products")
    add("--start_seed", type=count_or_none, default=0, help="seed of the first vector")


def add_spectrum_flags(group):
    """Adds the flags of further eigenvalues and of the density."""
    add = group.add_argument
    add("--top", type=count, default=1, help="how many of the largest eigenvalues")
    add(
        "--density",
        type=count_or_none,
        nargs="?",
        default=0,
        const=8,
        metavar="VECTORS",
        help="the spectral density too, from this many random vectors",
    )
    add("--density_steps", type=count, default=80, help="products per vector")
    add(
        "--density_sigma",
        type=positive,
        default=0.005,
        help="width of its Gaussians, as a share of lambda_max - lambda_min",
    )


def add_landscape_flags(group):
    """Adds the flags of a landscape."""
    add = group.add_argument
    add("--points", type=odd, default=51, help="points per axis, an odd number")
    add("--range", type=positive, default=1.0, help="both axes go from minus this to this")
    add("--direction_seed", type=count_or_none, default=0, help="seed of the two directions")


def image_options(args):
    """The ImageOptions of parsed flags."""
    return ImageOptions(args.images, args.split, args.image_seed)


def hessian_options(args):
    """The HessianOptions of parsed flags; without those of `add_spectrum_flags`, no density."""
    return HessianOptions(
        args.hessian_over,
        getattr(args, "top", 1),
        args.tolerance,
        args.iterations,
        args.start_seed,
        getattr(args, "density", 0),
        getattr(args, "density_steps", 0),
        getattr(args, "density_sigma", 0.0),
    )


def curvature_options(args):
    """The CurvatureOptions of parsed flags."""
    return CurvatureOptions(image_options(args), hessian_options(args), args.image_batch_size)


def landscape_options(args):
    """The LandscapeOptions of parsed flags."""
    return LandscapeOptions(args.points, args.range, args.direction_seed)
