"""The benchmarks run. Their measurements are not asserted."""

import importlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from imagenet_files import pictures, write_folders

from ekg.extraction import extract
from nets import build_network
from nets.parameters import write_parameters

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).resolve().parent.parent


def printed(command):
    """What a benchmark prints."""
    run = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def printed_here(monkeypatch, capsys):
    """printed_here(name, flags) -> what bench/name.py prints, in this process."""
    monkeypatch.syspath_prepend(ROOT / "bench")

    def printed(name, flags):
        program = importlib.import_module(name)
        program.report(program.parse(flags.split()))
        return capsys.readouterr().out

    return printed


def rows_of(command, first):
    """The cells of the table rows that begin with `first`, as `command` prints them."""
    return rows_in(printed(command), first)


def rows_in(out, first):
    """The cells of the table rows that begin with `first`, in what was printed: at least one."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in out.splitlines()
        if line.startswith(f"| {first}")
    ]
    assert rows, f"no row begins with '{first}' in\n{out}"
    return rows


@pytest.mark.slow
def test_steps_prints_a_row_for_every_combination():
    flags = (
        "--arch ResNet-20 --steps predict --compile off --precision float32 --replicas 1 2 --accum"
        " 1 --memory_accum 2"
    )
    sizes = "--batch_size 4 --search_batch_size 8 --memory_batch_size 4 --seconds 0.01"
    rows = rows_of(f"bench/steps.py {flags} {sizes}", "float32")
    assert [row[1] for row in rows] == [
        "1",
        "2",
        "2 + sync_bn",
        "1",
    ]  # three of speed, one of memory
    assert all(float(cell) > 0 for row in rows for cell in row[4:])


@pytest.mark.slow
def test_search_compares_every_step_with_a_plain_one():
    command = (
        "bench/search.py --arch ResNet-20 --images 24 --search_batch_size 16 --steps 3 --reference"
        " 2 --candidate_filter none"
    )
    assert "same widths at every step: yes (2 compared)" in printed(command)


@pytest.mark.slow
def test_train_measures_step_data_and_bound():
    flags = (
        "--arch ResNet-20 --precision float32 --compile off --rounds 1 --seconds 0.01 --batch_size"
        " 4 --images 16 --torch none"
    )
    project, bound = rows_of(f"bench/train.py {flags}", "float32")
    assert len(project) == 6 and all(float(cell) > 0 for cell in project[2:] + bound[1:])


@pytest.mark.slow
def test_pruned_times_dense_and_pruned_in_turn():
    flags = (
        "--arch ResNet-20 --batch_sizes 1 4 --seconds 0.01 --precision float32 --compile off"
        " --layers"
    )
    pruned, *others = rows_of(f"bench/pruned.py {flags}", "uniform")
    assert (
        len(others) > 1
        and float(pruned[1].rstrip("%")) <= 45
        and all(float(cell) > 0 for cell in pruned[3:])
    )


@pytest.mark.slow
def test_startup_measures_whole_processes():
    rows = rows_of("bench/startup.py --arch ResNet-8 --batch_size 4 --rounds 1", "")
    seconds = {name: cell for name, cell in rows if name not in ("until", "---")}
    assert list(seconds) == ["train_cifar.py --help", "a wrong flag", "first training step"]
    assert all(float(cell) > 0 for cell in seconds.values())


def test_data_measures_views_between_floor_and_ceiling(tmp_path, printed_here):
    write_folders(tmp_path / "train", pictures(3))
    flags = "--input_size 32 --batch_size 4 --seconds 0.01 --rounds 1"
    rows = rows_in(printed_here("data", f"--data_path {tmp_path} {flags}"), "")
    rows = [row for row in rows if row[0] not in ("what", "---")]
    assert [row[0] for row in rows] == [
        "decode (ceiling)",
        "decode, resize (floor)",
        "one view",
        "two views",
        "centre",
    ]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_bank_measures_memory_by_place_and_mapped():
    rows = rows_of(
        "bench/bank.py --images 100 1000 --classes 10 --teachers 2 --batch_size 4 --batches 3", ""
    )
    assert [row[0] for row in rows if row[0] in ("written", "read")] == [
        "written",
        "read",
        "read",
    ] * 2


@pytest.mark.slow
def test_channels_times_a_pruned_network_filled_up(tmp_path):
    dense = build_network("ResNet-20", 10, 32)
    pruned = extract(
        dense,
        np.concatenate([np.arange(size) < size // 3 for size in dense.gate_sizes]).astype(
            np.float32
        ),
    )
    files = [str(tmp_path / name) for name in ("dense.pkl", "pruned.pkl")]
    for path, arrays in zip(files, (dense.parameters(), pruned)):
        write_parameters(path, arrays, {"arch": "ResNet-20"})
    flags = (
        f"--arch ResNet-20 --trained_param {files[0]} --pruned_param {files[1]} --multiples 8"
        " --precision float32"
    )
    rows = rows_of(
        f"bench/channels.py {flags} --batch_size 4 --val_batch_size 4 --seconds 0.01", ""
    )
    figures = [
        float(cell.split()[0])
        for row in rows
        if row[0] != ""
        for cell in row[1:]
        if cell[:1].isdigit()
    ]
    assert len(figures) >= 3 * 3 and all(figure > 0 for figure in figures)


def test_scaling_prints_what_a_hand_computes(printed_here):
    lines = printed_here("scaling", "--gpus 1 64 --rate 500").splitlines()
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in lines)
        if cells[2:]
    }
    assert rows["bank, all logits"] == ["12.8 GB"]  # 1,281,167 x 1,000 x 5 x 2 bytes
    assert rows["bank, --bank_top 64"] == ["1.7 GB"]  # 1,281,167 x 5 x (4 x 64 + 2) bytes
    # 100 x (2 views x 3 x 1,281,167 + 50,000) forward passes, at 1,500 a second
    assert rows["fine-tuning, two views"] == ["143.28", "2.24"]
    assert rows["a training step: all-reduce"] == [
        "0.0 B",
        "201.7 MB",
    ]  # 2 x 63 / 64 x 4 x 25,610,152 bytes


@pytest.mark.slow
def test_candidates_compares_rules_on_the_steps_of_a_search(tmp_path):
    flags = (
        "--arch ResNet-20 --dataset DIGITS --baseline_epoch 1 --train_epoch 0 --search_target_rate"
        " 0.9 --val_per_class 4"
    )
    command = [
        sys.executable,
        "train_cifar.py",
        *flags.split(),
        "--subset_per_class",
        "32",
        "--train_path",
        str(tmp_path / "run"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    rows = rows_of(f"bench/candidates.py {tmp_path / 'run'} --rates 0.95 --every 3", "")
    found = {
        row[0]: row[1:]
        for row in rows[1:]
        if len(row) == 5 and row[0] in ("published", "slice", "per_mac", "none")
    }
    assert float(found["none"][0]) == 12 and found["none"][1:3] == ["100%", "0.00000"]
    assert 1 <= float(found["published"][0]) <= 12 and float(found["published"][2]) >= 0


@pytest.mark.slow
def test_hessian_compares_a_product_with_gradients():
    flags = "--arch ResNet-8 --batch_size 4 --seconds 0.01"
    (row,) = rows_of(f"bench/hessian.py {flags}", "4")
    assert all(float(cell) > 0 for cell in row[1:]) and len(row) == 7


@pytest.mark.slow
def test_keras_passes_are_compared():
    flags = "--models MobileNet --batch_size 2 --rounds 1"
    (row,) = rows_of(f"bench/keras_passes.py {flags}", "MobileNet")
    assert all(float(cell) > 0 for cell in row[1:]) and len(row) == 7
