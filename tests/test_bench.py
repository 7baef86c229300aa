"""The benchmarks run; what they measure is nobody's assertion."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_steps_prints_a_row_for_every_combination():
    flags = "--arch ResNet-20 --steps predict --compile off --precision float32 --replicas 1 2 --accum 1 --memory_accum 2"
    sizes = "--batch_size 4 --search_batch_size 8 --memory_batch_size 4 --seconds 0.01"
    command = [sys.executable, "bench/steps.py", *flags.split(), *sizes.split()]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    rows = [line.split("|")[1:-1] for line in run.stdout.splitlines() if line.startswith("| float32")]
    assert [row[1].strip() for row in rows] == ["1", "2", "2 + sync_bn", "1"]  # three of speed, one of memory
    assert all(float(cell) > 0 for row in rows for cell in row[4:])
