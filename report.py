"""Writes one HTML page about one or several runs, finished or not.

    python report.py ../test
    python report.py RUN OTHER_RUN --out comparison.html --analysis ../analysis
    python report.py RUN OTHER_RUN --out comparison.html --picture comparison.png

The page needs no network and no other file. See README.md.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import os
import sys

import train_cifar
import train_imagenet
from cli.parser import Parser
from cli.program import run_program
from engine.configuration import described
from reports.analyses import DEFAULT, read_analysis
from reports.page import START, page
from reports.picture_file import write_fine_tunings
from reports.reader import read_runs
from utils import UserError, whole_file, writing_to


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, the --train_path of a training"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default: report.html in the first run folder)"
    )
    parser.add_argument(
        "--picture",
        metavar="FILE",
        help="also writes a PNG for a paper or a README: top-1 after each epoch of fine-tuning, one"
        " curve per run",
    )
    parser.add_argument(
        "--analysis",
        metavar="FOLDER",
        help="folder with the curvature and landscapes of these runs' networks, or a study of"
        " potential performance, written by analyze.py (default: RUN, RUN/analysis and"
        f" {DEFAULT}, where they exist)",
    )
    return parser.parse_args(argv)


def defaults_of(options):
    """The default options of the program that made a run, as in config.json."""
    program = train_cifar if options.get("files") is None else train_imagenet
    return described(program.parse([]), "", 1)


def check_out(path):
    """Raises UserError if the page cannot be written to `path`, or would replace another file."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UserError(f"--out {path}: the folder {folder} does not exist; choose another file")
    if not os.path.exists(path):
        return
    start = START.encode()
    try:
        with open(path, "rb") as file:
            own = file.read(len(start)) == start
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; choose another file") from error
    if not own:
        raise UserError(f"--out {path} was not written by report.py; choose another file")


def main():
    args = parse()
    out = args.out or os.path.join(args.runs[0], "report.html")
    runs, analysis = read_runs(args.runs), read_analysis(args.analysis, args.runs)
    check_out(out)
    text = page(runs, analysis, defaults_of)
    if args.picture:
        write_fine_tunings(args.picture, runs)
    with writing_to("--out", out, "file"), whole_file(out) as file:
        file.write(text.encode("utf-8", "replace"))  # names of files may be of no encoding
    print(f"{out} shows {', '.join(run.name for run in runs)}")
    if args.analysis and not any(map(analysis.concerns, runs)):
        print(f"--analysis {args.analysis} holds no results for these runs")


if __name__ == "__main__":
    sys.exit(run_program(main))
