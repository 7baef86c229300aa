"""What the programs accept and refuse. test_errors.py has the table of bad inputs."""

import json
import subprocess
import sys

import numpy as np
import pytest
from processes import QUIET, ROOT
from safetensors.numpy import save_file
from torch_networks import state_dict

import test as test_py  # the program beside this folder, not Python's own tests
import train_cifar
from cli.program import run_program
from distribution.machines import Alone
from engine.configuration import described, versions
from engine.run_folder import RunFolder
from nets import build_network
from nets.parameters import write_parameters

META = {"arch": "ResNet-20", "dataset": "DIGITS"}


BASELINE = "a baseline trained here"  # what a folder says of its start where no file is given


def opened(path, options):
    return RunFolder(str(path), described(options, BASELINE, parts=1), versions(), Alone())


@pytest.fixture(scope="module")
def parameters():
    return build_network("ResNet-20", 10, 32).parameters()


@pytest.fixture
def program(tmp_path, monkeypatch, capfd):
    """program("train_cifar.py", flag, ...) -> (exit code, stdout, stderr), run in this process from
    an empty folder.
    """
    monkeypatch.chdir(tmp_path)

    def started(self, stage):
        raise AssertionError(f"a run that should have been refused has reached its {stage}")

    monkeypatch.setattr(RunFolder, "stage", started)

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        capfd.readouterr()
        try:
            code = run_program({"train_cifar.py": train_cifar.main, "test.py": test_py.main}[name])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return run


def files_under(folder):
    """Path -> contents of every file, None for folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def mistake(program, folder, name, *flags):
    """The one line on stderr with which a program answers a mistake; nothing else happened."""
    before = files_under(folder)
    code, _, err = program(name, *flags)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2, err
    assert len(lines) == 1 and "Traceback" not in err, err
    assert lines[0].startswith(f"{name}: error: ")
    assert files_under(folder) == before, "a refused run writes nothing"
    return lines[0]


def train(*flags):
    return (
        "train_cifar.py",
        "--train_path",
        "run",
        "--arch",
        "ResNet-20",
        "--dataset",
        "DIGITS",
        *flags,
    )


def saved(folder, arrays, meta, name="param.pkl"):
    path = folder / name
    write_parameters(str(path), arrays, meta)
    return path


# --------------------------------------------------------------------------------- mistakes in data


@pytest.mark.parametrize("dataset", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("path", ["missing", "missing.npz", "missing.tar.gz"])
def test_missing_data_path_is_named(program, tmp_path, parameters, dataset, path):
    assert path in mistake(program, tmp_path, *train("--dataset", dataset, "--data_path", path))
    param = saved(tmp_path, parameters, {})
    test_flags = "--dataset", dataset, "--data_path", path, "--trained_param", param
    assert path in mistake(program, tmp_path, "test.py", *test_flags)


# ----------------------------------------------------------------------------------------- settings


def test_three_replicas_are_served_where_every_batch_divides(program, tmp_path):
    """The first stage is reached: nothing is of a size that no flag changes."""
    sizes = "--batch_size 126 --baseline_batch_size 126 --search_batch_size 39".split()
    sizes += "--val_batch_size 255".split()
    with pytest.raises(AssertionError, match="has reached its baseline"):
        program(*train("--cpu_replicas", "3", *sizes, "--search_warmup_batch_size", "255"))
    assert "--search_warmup_batch_size: a batch of 256" in mistake(
        program, tmp_path / "run", *train("--cpu_replicas", "3", *sizes)
    )


@pytest.mark.parametrize("rate", ["0.0001", "1e-9"])
def test_target_out_of_reach_says_what_is_in_reach(program, tmp_path, rate):
    line = mistake(program, tmp_path, *train("--search_target_rate", rate))
    least = build_network("ResNet-20", 10, 32)
    least = least.cost([1] * len(least.gates))[0] / least.cost()[0]
    assert "--search_target_rate" in line and f"{least:.4f}" in line


def test_what_changes_speed_alone_may_differ_when_a_run_goes_on(tmp_path):
    path = str(tmp_path / "run")
    opened(path, train_cifar.parse(train()[1:]))
    again = train_cifar.parse(
        train("--do_log", "7", "--gpu_id", "0", "--compile", "--train_path", path)[1:]
    )
    assert opened(path, again).result["seconds"] == {}


def test_replicas_and_parts_may_be_exchanged_when_a_run_goes_on(program, tmp_path):
    """Both take the batch in two."""
    path, two = tmp_path / "run", train_cifar.parse(train("--accum", "2")[1:])
    RunFolder(str(path), described(two, BASELINE, parts=2), versions(), Alone())
    again = train_cifar.parse(train("--cpu_replicas", "2")[1:])
    assert RunFolder(str(path), described(again, BASELINE, parts=2), versions(), Alone()).writes


def test_a_machine_that_is_not_the_chief_writes_nothing(tmp_path):
    class Chief(Alone):
        """What the chief says is what its folder holds."""

        chief = False

        def exchange(self, value):
            return [
                [
                    ["search_state.npz"],
                    json.loads((tmp_path / "run" / "config.json").read_text()),
                    None,
                ]
            ]

    options = train_cifar.parse(train()[1:])
    opened(tmp_path / "run", options)
    before = files_under(tmp_path)
    folder = RunFolder(
        str(tmp_path / "run"), described(options, BASELINE, parts=1), versions(), Chief()
    )
    assert folder.done("search") and not folder.done("memory_bank")
    folder.start_lines("search.jsonl")
    folder.add_line("search.jsonl", {"step": 0})
    folder.update_result(flops_rate=0.5)
    with folder.stage("memory_bank"), folder.completes():
        pass
    assert files_under(tmp_path) == before


# ---------------------------------------------------------------------------------------- an answer


@pytest.mark.long
def test_test_prints_one_json_object_about_the_file(program, tmp_path, parameters):
    """Network and data come from what the file says of itself; stderr stays empty."""
    path = saved(tmp_path, parameters, META)
    code, out, err = program("test.py", "--trained_param", path, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["images"] == 355 and figures["flops_rate"] == 1
    assert 0 <= figures["top1"] <= figures["top5"] <= 1 and np.isfinite(figures["loss"])
    assert figures["params"] == sum(array.size for array in parameters.values())


@pytest.mark.long
def test_test_tells_moving_averages_apart_and_keeps_to_the_padding_of_the_file(
    program, tmp_path, parameters
):
    """Papers' count of parameters is params - moving_averages."""
    ones = {
        name: np.ones_like(array) for name, array in parameters.items() if name.endswith("gamma:0")
    }
    parameters = parameters | ones  # or every block were the identity
    flags = ["--trained_param", saved(tmp_path, parameters, META), "--batch_stats"]
    same = json.loads(program("test.py", *flags, "--json")[1])
    assert (same["params"], same["moving_averages"]) == (274_042, 1_568)
    assert (
        "274,042  (100.0% of the unpruned ResNet-20; 1,568 are moving averages)"
        in program("test.py", *flags)[1]
    )
    saved(tmp_path, parameters, META | {"padding": "symmetric"})
    symmetric = json.loads(program("test.py", *flags, "--json")[1])
    assert symmetric["flops"] == same["flops"] and symmetric["loss"] != same["loss"]


@pytest.mark.long
def test_test_takes_the_width_from_the_file(program, tmp_path):
    """Or from the flag where the file says nothing; without either the same arrays are a pruned
    network.
    """
    narrow = build_network("ResNet-20", 10, 32, width_multiplier=0.5).parameters()
    flags = ["--trained_param", saved(tmp_path, narrow, META | {"width_multiplier": 0.5}), "--json"]
    rate = lambda *more: json.loads(program("test.py", *flags, *more)[1])["flops_rate"]
    assert rate() == rate("--width_multiplier", 0.5) == 1
    saved(tmp_path, narrow, META)
    assert rate("--width_multiplier", 0.5) == 1 and 0.2 < rate() < 0.4


@pytest.mark.long
def test_latency_puts_networks_side_by_side(program, tmp_path, parameters):
    dense = saved(tmp_path, parameters, META, "dense.pkl")
    half = build_network("ResNet-20", 10, 32, width_multiplier=0.5).parameters()
    narrow = saved(tmp_path, half, META | {"width_multiplier": 0.5})
    quick = "--latency", "--batch_sizes", 1, 3, "--seconds", 0.01
    code, out, err = program("test.py", "--trained_param", narrow, "--against", dense, *quick)
    assert (code, err) == (0, "")
    for word in ("dense.pkl", "param.pkl", "batch 1 ", "batch 3 ", "median", "p95", "x as fast"):
        assert word in out
    code, out, err = program("test.py", "--trained_param", narrow, *quick, "--json")
    assert (code, err) == (0, "")
    (entry,) = json.loads(out)["networks"]
    assert entry["params"] == sum(array.size for array in half.values())
    assert [times["batch_size"] for times in entry["times"]] == [1, 3]
    for times in entry["times"]:
        assert 0 < times["median_ms"] <= times["p95_ms"] and times["calls"] >= 20
        speed = times["batch_size"] / times["median_ms"] * 1e3
        assert times["images_per_second"] == pytest.approx(speed)


@pytest.mark.long
def test_latency_with_a_number_of_threads(tmp_path, parameters):
    """In a process of its own: TensorFlow takes its threads when it starts."""
    path = saved(tmp_path, parameters, META)
    flags = "--latency --threads 1 --precision bfloat16 --batch_sizes 2 --seconds 0.01 --json"
    command = [sys.executable, "test.py", "--trained_param", str(path), *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=QUIET)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["threads"], found["precision"], found["compile"]) == (1, "bfloat16", False)


@pytest.mark.long
def test_test_evaluates_weights_from_elsewhere(program, tmp_path):
    """The file says which network it is, and by that how it pads."""
    path = tmp_path / "weights.safetensors"
    save_file(state_dict("ResNet-18", 10), path)
    code, out, err = program("test.py", "--trained_param", path, "--dataset", "DIGITS", "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert (
        figures["params"] - figures["moving_averages"] == 11_689_512 - 990 * 513
        and figures["flops_rate"] == 1
    )
    assert np.isfinite(figures["loss"])
