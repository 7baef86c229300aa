"""A mistake is one line on stderr, exit code 2, and nothing written; an answer is what was asked for."""

import json
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest

import test as test_py  # the program beside this folder, not Python's own tests
import train_cifar
from ekg.cli import run_program
from ekg.configuration import described, versions
from ekg.run_folder import RunFolder
from machines import Alone
from nets import build_network
from utils import write_parameters

ROOT = pathlib.Path(__file__).resolve().parent.parent
META = {"arch": "ResNet-20", "dataset": "DIGITS"}


BASELINE = "a baseline trained here"  # what a folder says of its start where no file is given


def opened(path, options):
    return RunFolder(str(path), described(options, BASELINE, parts=1), versions(), Alone())


@pytest.fixture(scope="module")
def parameters():
    return build_network("ResNet-20", 10, 32).parameters()


@pytest.fixture
def program(tmp_path, monkeypatch, capfd):
    """program("train_cifar.py", flag, ...) -> (exit code, stdout, stderr), run in this process from an empty folder."""
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
    return "train_cifar.py", "--train_path", "run", "--arch", "ResNet-20", "--dataset", "DIGITS", *flags


def saved(folder, arrays, meta, name="param.pkl"):
    path = folder / name
    write_parameters(str(path), arrays, meta)
    return path


# -------------------------------------------------------------------------------------------------------- mistakes in flags


@pytest.mark.parametrize(
    "flags, mentioned",
    [
        (["--arch", "ResNet-21"], ["--arch", "ResNet-21", "ResNet-56"]),
        (["--dataset", "MNIST"], ["--dataset", "MNIST", "DIGITS"]),
        (["--search_target_rate", "0"], ["--search_target_rate", "'0'"]),
        (["--search_target_rate", "-0.5"], ["--search_target_rate", "-0.5"]),
        (["--search_target_rate", "1.5"], ["--search_target_rate", "1.5", "at most 1"]),
        (["--search_target_rate", "nan"], ["--search_target_rate", "nan"]),
        (["--search_target_rate", "half"], ["--search_target_rate", "half"]),
        (["--search_target_rate"], ["--search_target_rate"]),
        (["--search_step", "0"], ["--search_step"]),
        (["--search_step", "inf"], ["--search_step", "inf"]),
        (["--learning_rate", "inf"], ["--learning_rate", "inf"]),
        (["--learning_rate", "0"], ["--learning_rate"]),
        (["--weight_decay", "-1e-4"], ["--weight_decay"]),
        (["--decay_points", "0.3", "1.2"], ["--decay_points", "1.2"]),
        (["--num_teacher", "0"], ["--num_teacher"]),
        (["--num_teacher", "2.5"], ["--num_teacher", "2.5"]),
        (["--batch_size", "0"], ["--batch_size"]),
        (["--val_batch_size", "-3"], ["--val_batch_size"]),
        (["--train_epoch", "-1"], ["--train_epoch"]),
        (["--baseline_epoch", "0"], ["--baseline_epoch"]),
        (["--accum", "0"], ["--accum"]),
        (["--cpu_replicas", "0"], ["--cpu_replicas"]),
        (["--cpu_replicas", "two"], ["--cpu_replicas", "two"]),
        (["--cpu_replicas", "2", "--gpu_id", "0"], ["--cpu_replicas", "--gpu_id"]),
        (["--sync_bn", "--accum", "2"], ["--sync_bn", "--accum 2"]),
        (["--precision", "half"], ["--precision", "half", "bfloat16", "float16"]),
        (["--seed", "-1"], ["--seed"]),
        (["--gpu_id", "-1"], ["--gpu_id"]),
        (["--gpu_id", "one"], ["--gpu_id", "one"]),
        (["--do_log", "-5"], ["--do_log"]),
        (["--candidate_filter", "otsu"], ["--candidate_filter", "otsu", "slice"]),
        (["--no_such_flag"], ["--no_such_flag"]),
        (["--search_target", "0.5"], ["--search_target"]),  # no abbreviations: they change meaning when a flag is added
        (["something"], ["something"]),
    ],
)
def test_wrong_flag_of_train_is_answered_in_one_line(program, tmp_path, flags, mentioned):
    line = mistake(program, tmp_path, *train(*flags))
    for word in mentioned:
        assert word in line


@pytest.mark.parametrize(
    "flags, mentioned",
    [
        ([], "--trained_param"),
        (["--trained_param", "x.pkl", "--arch", "VGG"], "--arch"),
        (["--trained_param", "x.pkl", "--val_batch_size", "0"], "--val_batch_size"),
        (["--trained_param", "x.pkl", "--train_path", "x"], "--train_path"),
    ],
)
def test_wrong_flag_of_test_is_answered_in_one_line(program, tmp_path, flags, mentioned):
    assert mentioned in mistake(program, tmp_path, "test.py", *flags)


# --------------------------------------------------------------------------------------------------------- mistakes in data


@pytest.mark.parametrize("dataset", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("path", ["missing", "missing.npz", "missing.tar.gz"])
def test_missing_data_path_is_named(program, tmp_path, parameters, dataset, path):
    assert path in mistake(program, tmp_path, *train("--dataset", dataset, "--data_path", path))
    param = saved(tmp_path, parameters, {})
    test_flags = "--dataset", dataset, "--data_path", path, "--trained_param", param
    assert path in mistake(program, tmp_path, "test.py", *test_flags)


def test_truncated_npz_is_named(program, tmp_path):
    path = tmp_path / "cifar.npz"
    np.savez(path, x_train=np.zeros((50, 32, 32, 3), np.uint8), y_train=np.zeros(50, np.uint8))
    path.write_bytes(path.read_bytes()[:100_000])
    assert "cifar.npz" in mistake(program, tmp_path, *train("--dataset", "CIFAR10", "--data_path", path))


def test_file_that_is_no_data_set_is_one_line(program, tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(b"<html>404</html>")
    assert "cifar.tar.gz" in mistake(program, tmp_path, *train("--dataset", "CIFAR10", "--data_path", "cifar.tar.gz"))


def test_too_many_images_for_validation_are_refused(program, tmp_path):
    line = mistake(program, tmp_path, *train("--val_per_class", "130", "--search_batch_size", "130"))
    assert "--val_per_class 130" in line and "class " in line


# ---------------------------------------------------------------------------------------------- mistakes in parameter files


def with_param(name, path, *flags):
    """The command line of `name` that starts from the parameter file `path`."""
    return (*train(*flags), "--trained_param", path) if name == "train_cifar.py" else (name, *flags, "--trained_param", path)


PROGRAMS = pytest.mark.parametrize("name", ["train_cifar.py", "test.py"])


@PROGRAMS
def test_parameter_file_of_another_network_names_the_first_array_that_differs(program, tmp_path, parameters, name):
    path = saved(tmp_path, parameters, {})
    line = mistake(program, tmp_path, *with_param(name, path, "--arch", "ResNet-56", "--dataset", "DIGITS"))
    assert str(path) in line and "ResNet-56" in line and "BasicBlock0.3/conv1/kernel:0" in line


@PROGRAMS
def test_array_of_another_shape_is_named_with_both_shapes(program, tmp_path, parameters, name):
    changed = {**parameters, "BasicBlock1.0/conv1/kernel:0": np.zeros((3, 3, 8, 32), np.float32)}
    path = saved(tmp_path, changed, {})
    line = mistake(program, tmp_path, *with_param(name, path, "--arch", "ResNet-20", "--dataset", "DIGITS"))
    assert "BasicBlock1.0/conv1/kernel:0" in line and "[3, 3, 8, 32]" in line and "16" in line


@PROGRAMS
def test_parameter_file_of_other_classes_names_the_last_layer(program, tmp_path, name):
    path = saved(tmp_path, build_network("ResNet-20", 100, 32).parameters(), {})
    line = mistake(program, tmp_path, *with_param(name, path, "--arch", "ResNet-20", "--dataset", "DIGITS"))
    assert "fc/" in line and "100" in line and "10]" in line


@PROGRAMS
def test_array_that_is_missing_or_too_many_is_named(program, tmp_path, parameters, name):
    flags = "--arch", "ResNet-20", "--dataset", "DIGITS"
    fewer = {key: array for key, array in parameters.items() if key != "BasicBlock2.1/bn2/gamma:0"}
    assert "BasicBlock2.1/bn2/gamma:0" in mistake(program, tmp_path, *with_param(name, saved(tmp_path, fewer, {}), *flags))
    more = {**parameters, "BasicBlock2.3/conv1/kernel:0": np.zeros((3, 3, 64, 64), np.float32)}
    assert "BasicBlock2.3/conv1/kernel:0" in mistake(program, tmp_path, *with_param(name, saved(tmp_path, more, {}), *flags))


@PROGRAMS
@pytest.mark.parametrize("key, flags", [("arch", ("--arch", "ResNet-56")), ("dataset", ("--dataset", "CIFAR10"))])
def test_file_that_says_it_is_of_something_else_is_refused(program, tmp_path, parameters, name, key, flags):
    path = saved(tmp_path, parameters, META)
    data = tmp_path / "cifar.npz"
    zeros = lambda count: (np.zeros((count, 32, 32, 3), np.uint8), np.arange(count) % 10)
    np.savez(data, **dict(zip(("x_train", "y_train", "x_test", "y_test"), (*zeros(700), *zeros(20)))))
    own_data = ("--data_path", data) if key == "dataset" else ()
    flags = "--arch", "ResNet-20", "--dataset", "DIGITS", *own_data, *flags
    line = mistake(program, tmp_path, *with_param(name, path, *flags))
    assert str(path) in line and META[key] in line and f"--{key}" in line and flags[-1] in line


def test_file_that_names_an_unknown_network_is_refused(program, tmp_path, parameters):
    path = saved(tmp_path, parameters, {"arch": "VGG-16", "dataset": "DIGITS"})
    assert "VGG-16" in mistake(program, tmp_path, "test.py", "--trained_param", path)


@PROGRAMS
@pytest.mark.parametrize(
    "content",
    [b"", b"garbage\n\nof\nlines", b"PK\x03\x04 an archive cut short", b"PK", bytes(5000), pickle.dumps([1, 2])],
    ids=["empty", "text", "zip", "two letters", "zeros", "a list"],
)
def test_garbage_for_a_parameter_file_is_refused(program, tmp_path, name, content):
    path = tmp_path / "param.pkl"
    path.write_bytes(content)
    assert str(path) in mistake(program, tmp_path, *with_param(name, path))


@PROGRAMS
def test_missing_parameter_file_is_named(program, tmp_path, name):
    assert "missing.pkl" in mistake(program, tmp_path, *with_param(name, "missing.pkl"))


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@PROGRAMS
def test_malicious_parameter_file_is_refused_and_does_nothing(program, tmp_path, parameters, name):
    path = tmp_path / "param.pkl"
    path.write_bytes(pickle.dumps({**parameters, "x": Touch(tmp_path / "made")}))
    assert "refused" in mistake(program, tmp_path, *with_param(name, path))
    assert not (tmp_path / "made").exists()


# ----------------------------------------------------------------------------------------------------- mistakes in settings


@pytest.mark.parametrize(
    "flags, mentioned",
    [
        (["--accum", "4", "--batch_size", "10"], "--batch_size"),
        (["--accum", "4", "--baseline_batch_size", "10"], "--baseline_batch_size"),
        (["--accum", "4", "--search_batch_size", "30"], "--search_batch_size"),
        (["--accum", "4", "--val_batch_size", "30"], "--val_batch_size"),
    ],
)
def test_accum_that_does_not_divide_a_batch_is_refused(program, tmp_path, flags, mentioned):
    line = mistake(program, tmp_path, *train(*flags))
    assert f"error: {mentioned}:" in line and "--accum" in line


def test_replicas_that_do_not_divide_a_batch_are_refused(program, tmp_path):
    line = mistake(program, tmp_path, *train("--cpu_replicas", "3"))
    assert "does not divide into 3 replicas" in line
    line = mistake(program, tmp_path, *train("--cpu_replicas", "2", "--accum", "3"))
    assert "2 replicas x 3 --accum" in line


def test_three_replicas_are_served_where_every_batch_divides(program, tmp_path):
    """The first stage is reached: nothing is of a size that no flag changes."""
    sizes = "--batch_size 126 --baseline_batch_size 126 --search_batch_size 39 --val_batch_size 255".split()
    with pytest.raises(AssertionError, match="has reached its baseline"):
        program(*train("--cpu_replicas", "3", *sizes, "--search_warmup_batch_size", "255"))
    assert "--search_warmup_batch_size: a batch of 256" in mistake(
        program, tmp_path / "run", *train("--cpu_replicas", "3", *sizes)
    )


@pytest.mark.parametrize("content", ["[]", "nonsense", '{"cluster": {"worker": ["a:1", "b:1"]}}'])
def test_a_tf_config_that_makes_no_sense_is_refused(program, tmp_path, monkeypatch, content):
    monkeypatch.setenv("TF_CONFIG", content)
    assert "TF_CONFIG" in mistake(program, tmp_path, *train())


def test_accum_that_divides_none_of_the_batches_is_refused(program, tmp_path):
    assert "--accum" in mistake(program, tmp_path, *train("--accum", "7"))


@pytest.mark.parametrize("rate", ["0.0001", "1e-9"])
def test_target_out_of_reach_says_what_is_in_reach(program, tmp_path, rate):
    line = mistake(program, tmp_path, *train("--search_target_rate", rate))
    least = build_network("ResNet-20", 10, 32)
    least = least.cost([1] * len(least.gates))[0] / least.cost()[0]
    assert "--search_target_rate" in line and f"{least:.4f}" in line


def test_train_path_that_is_a_file_is_refused(program, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert "run" in mistake(program, tmp_path, *train())
    (tmp_path / "run").unlink()
    (tmp_path / "file").write_text("mine")
    assert "file/run" in mistake(program, tmp_path, *train("--train_path", "file/run"))


@pytest.mark.parametrize(
    "flags, differs",
    [
        (["--search_target_rate", "0.6"], "target_rate"),
        (["--seed", "5"], "seed"),
        (["--accum", "2"], "replicas x accum: 1 there, 2 asked for"),
        (["--cpu_replicas", "2"], "replicas x accum: 1 there, 2 asked for"),
        (["--precision", "bfloat16"], "precision"),
        (["--num_teacher", "3"], "num_teacher"),
        (["--decay_points", "0.5"], "decay_points"),
        (["--arch", "ResNet-56"], "arch"),
    ],
)
def test_folder_of_another_run_is_refused_and_kept(program, tmp_path, flags, differs):
    opened(tmp_path / "run", train_cifar.parse(train()[1:]))
    line = mistake(program, tmp_path, *train(*flags))
    assert "--train_path run" in line and differs in line


@pytest.mark.parametrize("content", ["", "[]", "{", "no json"])
def test_folder_with_a_config_of_something_else_is_refused_and_kept(program, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(content)
    assert "config.json" in mistake(program, tmp_path, *train())


def test_what_changes_speed_alone_may_differ_when_a_run_goes_on(tmp_path):
    path = str(tmp_path / "run")
    opened(path, train_cifar.parse(train()[1:]))
    again = train_cifar.parse(train("--do_log", "7", "--gpu_id", "0", "--compile", "--train_path", path)[1:])
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
            return [[["search_state.npz"], json.loads((tmp_path / "run" / "config.json").read_text()), None]]

    options = train_cifar.parse(train()[1:])
    opened(tmp_path / "run", options)
    before = files_under(tmp_path)
    folder = RunFolder(str(tmp_path / "run"), described(options, BASELINE, parts=1), versions(), Chief())
    assert folder.done("search") and not folder.done("memory_bank")
    folder.start_lines("search.jsonl")
    folder.add_line("search.jsonl", {"step": 0})
    folder.update_result(flops_rate=0.5)
    with folder.stage("memory_bank"), folder.completes():
        pass
    assert files_under(tmp_path) == before


# ------------------------------------------------------------------------------------------------------------- an answer


def test_test_prints_one_json_object_about_the_file(program, tmp_path, parameters):
    """Network and data come from what the file says of itself; stderr stays empty."""
    path = saved(tmp_path, parameters, META)
    code, out, err = program("test.py", "--trained_param", path, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["images"] == 355 and figures["flops_rate"] == 1
    assert 0 <= figures["top1"] <= figures["top5"] <= 1 and np.isfinite(figures["loss"])
    assert figures["params"] == sum(array.size for array in parameters.values())


def test_data_path_goes_with_cifar_alone(program, tmp_path):
    line = mistake(program, tmp_path, *train("--data_path", tmp_path))
    assert "DIGITS comes with this program" in line
