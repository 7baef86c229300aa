"""Memory and speed of the memory bank over the number of images: rows written and read in random
batches.

    python bench/bank.py [--images 10000 100000 1000000] [--classes 1000] [--teachers 5] [--batches
    300] [--top M] [--folder DIR]

Each figure is of a process of its own. The file is sparse: it takes the disk of the rows that are
written alone, and the same rows are read, from the system's cache. What is written is brought to
the disk every 16 batches, as in a run. Memory is the peak of resident memory less what was resident
before. "mapped" reads the same rows through numpy.load(mmap_mode="r").
"""

import argparse
import json
import os
import sys
import tempfile
import time

from harness import in_own_process, machine, parent_or_child, print_heading, print_row

from cli.flags import Parser, count
from cli.program import run_program
from distribution.machines import Alone


def child(job):
    """Prints what one process measured as a JSON line."""
    import numpy as np

    from ekg.contrastive import temperature
    from ekg.memory_bank import SHARD
    from engine.run_folder import peak_rss_mib, reset_peak
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
    # A sample takes memory by its own size: the permutation of a run, 8 bytes an image, is not the
    # file's.
    drawn = (rng.choice(images, size, replace=False, shuffle=False) for _ in range(batches))
    if job["how"] == "write":
        bank = BankFile(
            f"{path}.part",
            f"{path}.json",
            shape,
            batches,
            machines=Alone(),
            codec=codec,
            reserve=False,
        )
        for rows in drawn:
            bank.add(rows, logits)
            if bank.batches % SHARD == 0:
                bank.save(0.0)
        bank.complete(path)
    else:
        bank = (
            open_bank(path, shape, codec) if job["how"] == "read" else np.load(path, mmap_mode="r")
        )
        for rows in drawn:
            bank[rows]
    speed = batches * size / (time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "memory_mib": peak_rss_mib() - resident,
                "speed": speed,
                "bytes": os.path.getsize(path),
            }
        )
    )


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images",
        type=count,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="rows of the bank",
    )
    parser.add_argument("--classes", type=count, default=1000, help="logits of a teacher")
    parser.add_argument("--teachers", type=count, default=5, help="teachers")
    parser.add_argument("--batch_size", type=count, default=256, help="rows a batch")
    parser.add_argument(
        "--batches", type=count, default=300, help="batches that are written, and read"
    )
    parser.add_argument(
        "--top", type=count, help="keep so many logits of each teacher; all if left out"
    )
    parser.add_argument(
        "--folder",
        help="where the files lie meanwhile; the system's folder for temporary ones if left out",
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
                (figures,) = in_own_process(
                    __file__, {**job, "images": images, "path": path, "how": how}
                )
                size, memory, speed = (
                    figures["bytes"] / 2**20,
                    figures["memory_mib"],
                    figures["speed"],
                )
                by = "np.memmap" if how == "mapped" else "by place"
                print_row(
                    [what, by, f"{images:,}", f"{size:,.0f}", f"{memory:,.1f}", f"{speed:,.0f}"]
                )


if __name__ == "__main__":
    sys.exit(run_program(lambda: parent_or_child(parse(), report, child)))
