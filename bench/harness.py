"""What the benchmarks share: where they ran, processes that print JSON lines, tables."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # the programs lie beside this folder


def machine():
    """The machine and the versions, in words."""
    from distribution.runtime import cpu_info
    from utils import cores

    info = cpu_info()
    model = info.get("model name", platform.processor() or platform.machine())
    # A model's name need not tell whether there are instructions for the short types.
    flags = "".join(
        f", {flag}"
        for flag in sorted(info.get("flags", "").split())
        if re.search("bf16|fp16", flag)
    )
    package = importlib.metadata.packages_distributions()["tensorflow"][
        0
    ]  # tensorflow, tensorflow-cpu
    versions = (
        f"TensorFlow {importlib.metadata.version(package)}, Python {platform.python_version()}"
    )
    return f"{cores()} cores of {model}{flags}; {versions}"


def brief(text):
    """The first line of a message, without what would break a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].replace("|", "/")[:200] if lines else "no message"


def in_own_process(file, job, python=sys.executable, timeout=None):
    """The JSON lines that `python file --one JOB` prints, a list of dicts.

    Raises RuntimeError, with the last line it said, for a process that fails;
    subprocess.TimeoutExpired after `timeout` s.
    """
    command = [python, os.path.abspath(file), "--one", json.dumps(job)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if ended.returncode:
        raise RuntimeError(brief("\n".join(reversed(ended.stderr.splitlines()))))
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def parent_or_child(args, report, child):
    """report(args); in a process that in_own_process has started, child(job) in its place."""
    return report(args) if args.one is None else child(args.one)


def print_heading(title, names, figures):
    """The head of a Markdown table: columns of words, then columns of figures."""
    print(
        f"\n{title}\n\n| {' | '.join([*names, *figures])}"
        f" |\n|{' --- |' * len(names)}{' ---: |' * len(figures)}",
        flush=True,
    )


def print_row(cells):
    print(f"| {' | '.join(cells)} |", flush=True)
