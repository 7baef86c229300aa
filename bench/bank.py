"""Memory and speed of the memory bank by number of images, for random batches of rows.

    python bench/bank.py [--images 10000 100000 1000000] [--classes 1000] [--teachers 5] \
        [--batches 300] [--top M] [--folder DIR]

Each number is measured in its own process. The file is sparse: only the written rows take disk
space. The same rows are then read, from the system's cache. Written rows are flushed to the disk
every 16 batches, as in a run. Memory is the growth of the peak of resident memory. "mapped" reads
the same rows through numpy.load(mmap_mode="r").
"""

import argparse
import json
import os
import sys
import tempfile
import time

from harness import add_numbers, in_own_process, machine, parent_or_child, print_heading, print_row

from cli.parser import Parser, count
from cli.program import run_program
from distribution.machines import Alone

NUMBERS = {  # flags: type, default, help
    "images": (count, [10_000, 100_000, 1_000_000], "rows of the bank"),
    "classes": (count, 1000, "logits per teacher"),
    "teachers": (count, 5, "number of teachers"),
    "batch_size": (count, 256, "rows per batch"),
    "batches": (count, 300, "number of batches to write, then to read"),
    "top": (count, None, "largest logits to keep per teacher (default: all)"),
}


def child(job):
    """Prints the measurements of one process as a JSON line."""
    import numpy as np

    from ekg.contrastive import temperature
    from ekg.memory_bank import SAVE_EVERY
    from engine.memory import peak_rss_mib, reset_peak
    from files.bank_file import BankFile, open_bank
    from files.bank_rows import row_codec

    images, classes, teachers, size, batches = (
        job[name] for name in ("images", "classes", "teachers", "batch_size", "batches")
    )
    rng, path, shape = np.random.default_rng(0), job["path"], (images, classes, teachers)
    codec = row_codec(classes, teachers, job["top"], temperature(classes))
    logits = rng.standard_normal((size, teachers, classes), np.float32).astype(np.float16)
    reset_peak()
    resident, begin = peak_rss_mib(), time.perf_counter()
    # Drawing without a permutation of all images, which would add 8 bytes per image.
    drawn = (rng.choice(images, size, replace=False, shuffle=False) for _ in range(batches))
    if job["how"] == "write":
        files = f"{path}.part", f"{path}.json"
        settings = dict(machines=Alone(), codec=codec, reserve=False)
        bank = BankFile(*files, shape, batches, **settings)
        for rows in drawn:
            bank.add(rows, logits)
            if bank.batches % SAVE_EVERY == 0:
                bank.save(0.0)
        bank.complete(path)
    else:
        bank = (
            open_bank(path, shape, codec) if job["how"] == "read" else np.load(path, mmap_mode="r")
        )
        for rows in drawn:
            bank[rows]
    speed = batches * size / (time.perf_counter() - begin)
    memory, size = peak_rss_mib() - resident, os.path.getsize(path)
    print(json.dumps({"memory_mib": memory, "speed": speed, "bytes": size}))


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_numbers(parser, NUMBERS)
    parser.add_argument(
        "--folder",
        help="for the temporary files (default: that of the system)",
    )
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def report(args):
    """Prints the table."""
    rows = f"{args.batches} random batches of {args.batch_size} rows"
    kept = f"the largest {args.top} of {args.classes}" if args.top else f"{args.classes}"
    print(f"{rows}, {kept} logits of {args.teachers} teachers; {machine()}", flush=True)
    title = "Growth of the peak of resident memory, and speed"
    print_heading(title, ["what", "how"], ["images", "file, MiB", "memory, MiB", "rows/s"])
    job = {
        name: getattr(args, name)
        for name in ("classes", "teachers", "batch_size", "batches", "top")
    }
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            for what, how in (("written", "write"), ("read", "read"), ("read", "mapped")):
                path = os.path.join(folder, "bank.npy")
                own = {**job, "images": images, "path": path, "how": how}
                (metrics,) = in_own_process(__file__, own)
                size, memory = metrics["bytes"] / 2**20, metrics["memory_mib"]
                by = "np.memmap" if how == "mapped" else "by place"
                numbers = f"{size:,.0f}", f"{memory:,.1f}", f"{metrics['speed']:,.0f}"
                print_row([what, by, f"{images:,}", *numbers])


if __name__ == "__main__":
    sys.exit(run_program(lambda: parent_or_child(parse(), report, child)))
