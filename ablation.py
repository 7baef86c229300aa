"""Makes a table of ablations: prunes a network in every variant of the table, with several seeds.

    python ablation.py --table teachers --seeds 0 1 2 --dataset CIFAR10 --arch ResNet-56 \
        --train_path ../ablation
    python ablation.py imagenet --table filters --data_path IMAGENET \
        --trained_param resnet50.safetensors

All other flags are those of train_cifar.py, or of train_imagenet.py after the word imagenet; they
apply to all runs. The tables are TRAIN_PATH/ablation.md and ablation.csv; runs.csv has one line per
run. See README.md.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import os
import shlex
import sys

import train_cifar
import train_imagenet
from ablations.plan import BASELINE, FLAGS, TABLES, Study, baseline_seed, carry_out, clear, plan
from analysis import flags as flags_of
from cli.options import options_from
from cli.parser import Parser, count_or_none
from cli.program import run_program
from distribution.machines import cluster_from
from distribution.startup import import_tensorflow
from utils import UserError

PROGRAMS = {"cifar": train_cifar, "imagenet": train_imagenet}
# Flags that the ablation sets for each run, with what to say to a user who sets them.
PER_RUN = {
    "--seed": "use --seeds instead",
    "--search_seed": "use --seeds instead",
    "--search_from": "runs share their searches anyway; leave it out",
}


def parse(argv=None):
    """The Study of a command line. Raises UserError for flags that contradict each other."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name, flags = (argv[0], argv[1:]) if argv and argv[0] in PROGRAMS else ("cifar", argv)
    parser = _parser(name)
    args = parser.parse_args(flags)
    _check(flags, args)
    if cluster_from():
        raise UserError(
            "TF_CONFIG: an ablation runs on one machine; give it several GPUs, or split its seeds"
            " over machines"
        )

    def options(settings):
        return options_from(
            parser.parse_args([*flags, *(f"--{flag}={value}" for flag, value in settings.items())])
        )

    of_flags = (
        {flag: ask(flag) for flag in FLAGS}
        for ask in (lambda flag: getattr(args, flag), parser.get_default)
    )
    command = shlex.join(["python", os.path.basename(sys.argv[0]), *argv])
    tables, rows = tuple(dict.fromkeys(args.table)), args.rows and _rows(args)
    curvature = None
    if "scores" in tables and not args.no_hessian:
        curvature = flags_of.curvature_options(args)
    seeds = tuple(args.seeds)
    return Study(tables, seeds, args.train_path, options, *of_flags, command, rows, curvature)


def _parser(name):
    other = (
        "train_imagenet.py; without the word imagenet, those of train_cifar.py"
        if name == "imagenet"
        else "train_cifar.py; after the word imagenet, those of train_imagenet.py"
    )
    parser = Parser(
        description=__doc__.splitlines()[0],
        epilog=f"All other flags are those of {other}. See README.md.",
    )
    group = parser.add_argument_group("ablation")
    group.add_argument(
        "--table",
        choices=TABLES,
        nargs="+",
        required=True,
        help="tables to make; runs that they share are done once",
    )
    group.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="rows to make, for example none/none ensemble/ensemble (default: all rows)",
    )
    group.add_argument(
        "--seeds",
        type=count_or_none,
        nargs="+",
        default=[0],
        help="seeds; every row is run once per seed, with it as --seed and --search_seed",
    )
    group = parser.add_argument_group("condition numbers in the table of scores")
    group.add_argument("--no_hessian", action="store_true", help="leave them out")
    flags_of.add_image_flags(group, images=320, split="val")
    flags_of.add_hessian_flags(group)
    PROGRAMS[name].add_flags(parser, machines=False)
    parser.hide([flag.removeprefix("--") for flag in PER_RUN])
    parser.set_defaults(train_path="../ablation")
    return parser


def _rows(args):
    """The names in TABLES of the rows in args.rows.

    Raises UserError for a row that is in no table, and for a table of which no row was asked for.
    """
    written = lambda row: row.replace(" ", "")
    known = {table: {written(row): row for row in TABLES[table]} for table in args.table}
    for table, rows in known.items():
        if not any(written(row) in rows and written(row) != BASELINE for row in args.rows):
            raise UserError(
                f"--rows: no row of --table {table} is among them; its rows are"
                f" {', '.join(row for row in rows if row != BASELINE)}"
            )
    every = {name: row for rows in known.values() for name, row in rows.items()}
    missing = [row for row in args.rows if written(row) not in every]
    if missing:
        raise UserError(
            f"--rows {missing[0]}: --table {' '.join(args.table)} has no such row; its rows are"
            f" {', '.join(every)}"
        )
    return tuple(dict.fromkeys(every[written(row)] for row in args.rows))


def _check(flags, args):
    """Raises UserError for a seed given twice, and for flags that the ablation sets itself."""
    asked = [flag.partition("=")[0] for flag in flags]
    twice = [seed for seed in args.seeds if args.seeds.count(seed) > 1]
    if twice:
        raise UserError(f"--seeds: {twice[0]} is given twice")
    for flag, instead in PER_RUN.items():
        if flag in asked:
            raise UserError(f"{flag}: {instead}")
    for table in args.table:
        varied = {f"--{flag}" for row in TABLES[table].values() for flag in row or ()}
        for flag in varied.intersection(asked):
            raise UserError(f"{flag} is set by --table {table}; leave it out")


def main():
    study = parse()
    asked = study.options({})  # the options that all runs share
    import_tensorflow()
    from ablations import curvature
    from ablations.report import write_tables
    from ekg.paper_networks import pretrained
    from ekg.pipeline import prune, train_baseline
    from ekg.preparation import check
    from engine.console import Console

    if asked.search.needs_times and not asked.layer_times:
        raise UserError(
            "all runs must predict with the same times of layers; write them with test.py --latency"
            " --layer_times FILE and give --layer_times FILE"
        )
    if study.curvature:
        curvature.check(asked, study.curvature)
    planned = plan(study, baseline_seed(study, asked, pretrained(asked)))
    if asked.overwrite:
        # Report mistakes in the command before anything is deleted.
        check(planned.tasks[0].options)
        clear(planned.tasks)
    say = Console().say

    of_scores = {
        row.search for (table, _), rows in planned.rows.items() for row in rows if table == "scores"
    }

    def after(done):
        for task in done if study.curvature else ():
            if task.folder in of_scores and not curvature.is_measured(task.folder, study.curvature):
                curvature.measure_condition_number(task.folder, task.options, study.curvature)
        if done:
            write_tables(study, planned, done, asked)

    works = {"baseline": train_baseline, "search": prune, "row": prune}
    carry_out(planned.tasks, works, say, after)
    say(
        f"\n{study.file('ablation.md')} has the tables; ablation.csv and runs.csv next to it have"
        " all digits"
    )


if __name__ == "__main__":
    sys.exit(run_program(main, resumable=True))
