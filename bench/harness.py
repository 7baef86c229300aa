"""What the benchmarks share: the name of the machine, child processes, flags, tables."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # the project is in the parent folder

OF_PRECISION = "types in which layers compute"  # the help of --precision


def machine():
    """Text with the machine and the versions."""
    from distribution.runtime import cpu_info
    from utils import cores

    info = cpu_info()
    model = info.get("model name", platform.processor() or platform.machine())
    # The name of a model does not show whether it has instructions for bfloat16 and float16.
    flags = "".join(
        f", {flag}"
        for flag in sorted(info.get("flags", "").split())
        if re.search("bf16|fp16", flag)
    )
    # The package may be called tensorflow or tensorflow-cpu.
    package = importlib.metadata.packages_distributions()["tensorflow"][0]
    versions = (
        f"TensorFlow {importlib.metadata.version(package)}, Python {platform.python_version()}"
    )
    return f"{cores()} cores of {model}{flags}; {versions}"


def brief(text):
    """The first line of a message, without characters that would break a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].replace("|", "/")[:200] if lines else "no message"


def in_own_process(file, job, python=sys.executable, timeout=None):
    """Runs `python file --one JOB`; returns the JSON lines that it prints, a list of dicts.

    job: dict (JSON); timeout: seconds. Raises RuntimeError with the last line of stderr if the
    process fails, subprocess.TimeoutExpired if it takes too long.
    """
    command = [python, os.path.abspath(file), "--one", json.dumps(job)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if ended.returncode:
        raise RuntimeError(brief("\n".join(reversed(ended.stderr.splitlines()))))
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def run_child(doc, child):
    """Calls child(job) in a program that only in_own_process starts. doc: its docstring."""
    from cli.parser import Parser

    parser = Parser(description=doc.splitlines()[0])
    parser.add_argument("--one", type=json.loads, required=True, metavar="JSON", help="the job")
    child(parser.parse_args().one)


def parent_or_child(args, report, child):
    """Calls report(args), or child(job) in a process that in_own_process has started."""
    return report(args) if args.one is None else child(args.one)


def add_numbers(parser, flags):
    """Adds flags that take numbers.

    flags: dict name -> (type, default, help). A flag takes several numbers if its default is a
    list.
    """
    for name, (kind, default, text) in flags.items():
        several = {"nargs": "+"} if isinstance(default, list) else {}
        parser.add_argument(f"--{name}", type=kind, default=default, help=text, **several)


def add_choices(parser, name, choices, default, text):
    """Adds a flag that takes one or more of `choices`."""
    parser.add_argument(f"--{name}", choices=choices, nargs="+", default=default, help=text)


def print_heading(title, names, numbers):
    """Prints the head of a Markdown table. names, numbers: headings of text and number columns."""
    print(
        f"\n{title}\n\n| {' | '.join([*names, *numbers])}"
        f" |\n|{' --- |' * len(names)}{' ---: |' * len(numbers)}",
        flush=True,
    )


def print_row(cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def say(text):
    print(text, file=sys.stderr, flush=True)
