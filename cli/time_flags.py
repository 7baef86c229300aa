"""The flags of a search in time (METHOD 13)."""

from cli.parser import count
from engine.options import SLICES, TARGETS
from utils import UserError


def add_time_flags(group):
    """Adds them to the argument group of the search."""
    add = group.add_argument
    add(
        "--search_target",
        choices=TARGETS,
        default="flops",
        help="what --search_target_rate is a share of: the FLOPs, or the time on this machine that"
        " measured times of layers predict (latency)",
    )
    add(
        "--latency_batch_size",
        type=count,
        default=32,
        help="images per call whose time is predicted, in the type of --precision",
    )
    add(
        "--slice_by",
        choices=SLICES,
        default="share",
        help="slices are equal shares of the filters (share, as in the paper), or all save about"
        " the same time (time)",
    )
    add(
        "--layer_times",
        metavar="FILE",
        help="times of layers for --search_target latency and --slice_by time, from test.py"
        " --latency --layer_times on the machine that the network is for (default: measured here,"
        " before the run begins)",
    )


def check_time_flags(args):
    """Raises UserError for flags that contradict each other."""
    if args.slice_by == "time" and args.search != "greedy":
        raise UserError(
            f"--slice_by time: --search {args.search} takes no slices; leave one of them out"
        )
    if args.layer_times and args.search_target == "flops" and args.slice_by == "share":
        raise UserError("--layer_times goes with --search_target latency or --slice_by time")
