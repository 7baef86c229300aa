"""Prunes a network in every way that a table of ablations compares, with several seeds, and writes
the table.

    python ablation.py --table teachers --seeds 0 1 2 --dataset CIFAR10 --arch ResNet-56
    --train_path ../ablation python ablation.py imagenet --table filters --data_path IMAGENET
    --trained_param resnet50.safetensors

All other flags are those of train_cifar.py, or behind the word imagenet those of train_imagenet.py,
and hold for all runs. The tables are TRAIN_PATH/ablation.md, ablation.csv and, run by run,
runs.csv. See README.md.
"""

import os
import shlex
import sys

import train_cifar
import train_imagenet
from ablations.plan import BASELINE, FLAGS, TABLES, Study, baseline_seed, carry_out, clear, plan
from cli.flags import Parser, count_or_none, options_from
from cli.program import run_program
from distribution.machines import cluster_from
from distribution.startup import import_tensorflow
from utils import UserError

PROGRAMS = {"cifar": train_cifar, "imagenet": train_imagenet}
PER_RUN = {"--seed": "--seeds is there for it", "--search_seed": "--seeds is there for it"}
PER_RUN["--search_from"] = "runs share their searches anyway"


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
    return Study(tables, tuple(args.seeds), args.train_path, options, *of_flags, command, rows)


def _parser(name):
    other = (
        "train_imagenet.py; without the word imagenet"
        if name == "imagenet"
        else "train_cifar.py; behind the word imagenet"
    )
    parser = Parser(
        description=__doc__.splitlines()[0],
        epilog=(
            f"All flags but those of the ablation are those of {other} they are the other"
            " program's. See README.md."
        ),
    )
    group = parser.add_argument_group("ablation")
    group.add_argument(
        "--table",
        choices=TABLES,
        nargs="+",
        required=True,
        help="tables to make; what they share is run once",
    )
    group.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="rows to make, as none/none ensemble/ensemble (default: all of each table)",
    )
    group.add_argument(
        "--seeds",
        type=count_or_none,
        nargs="+",
        default=[0],
        help="for each every row is run, as --seed and --search_seed",
    )
    PROGRAMS[name].add_flags(parser)
    parser.set_defaults(train_path="../ablation")
    return parser


def _rows(args):
    """The names in TABLES of the rows asked for. Raises UserError for one that no table has, or a
    table without any.
    """
    written = lambda row: row.replace(" ", "")
    known = {table: {written(row): row for row in TABLES[table]} for table in args.table}
    for table, rows in known.items():
        if not any(written(row) in rows and written(row) != BASELINE for row in args.rows):
            raise UserError(
                f"--rows: none of these is a row of --table {table}; it has"
                f" {', '.join(row for row in rows if row != BASELINE)}"
            )
    every = {name: row for rows in known.values() for name, row in rows.items()}
    missing = [row for row in args.rows if written(row) not in every]
    if missing:
        raise UserError(
            f"--rows {missing[0]}: --table {' '.join(args.table)} has no such row; there are"
            f" {', '.join(every)}"
        )
    return tuple(dict.fromkeys(every[written(row)] for row in args.rows))


def _check(flags, args):
    """Raises UserError for a flag that the tables or the seeds set."""
    asked = [flag.partition("=")[0] for flag in flags]
    twice = [seed for seed in args.seeds if args.seeds.count(seed) > 1]
    if twice:
        raise UserError(f"--seeds: {twice[0]} is there twice")
    for flag, instead in PER_RUN.items():
        if flag in asked:
            raise UserError(f"{flag}: {instead}; leave it out")
    for table in args.table:
        varied = {f"--{flag}" for row in TABLES[table].values() for flag in row or ()}
        for flag in varied.intersection(asked):
            raise UserError(f"{flag} is set by --table {table}; leave it out")


def main():
    study = parse()
    asked = study.options({})  # what a run of no row is told
    import_tensorflow()
    from ablations.report import write_tables
    from ekg.pipeline import prune, train_baseline
    from ekg.preparation import check, pretrained
    from engine.console import Console

    planned = plan(study, baseline_seed(study, asked, pretrained(asked)))
    if asked.overwrite:
        check(
            planned.tasks[0].options
        )  # what is wrong with the command is told before anything is deleted
        clear(planned.tasks)
    say = Console().say

    def after(done):
        if done:
            write_tables(study, planned, done, asked)

    carry_out(
        planned.tasks, {"baseline": train_baseline, "search": prune, "row": prune}, say, after
    )
    say(
        f"\n{study.file('ablation.md')} has the tables; ablation.csv and runs.csv beside it have"
        " all digits"
    )


if __name__ == "__main__":
    sys.exit(run_program(main, goes_on=True))
