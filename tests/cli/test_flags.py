"""The command line: exit codes, --help, defaults, and the option that each flag sets."""

import dataclasses

import pytest
from processes import without_tensorflow

import ablation
import test as test_py
import train_cifar
import train_imagenet
from cli.keras_flags import ONLY
from cli.program import run_program
from dataloader import FileOptions
from engine.options import TrainOptions
from utils import UserError

# --------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("no such file"), 2),
        (FloatingPointError("loss is NaN in step 7"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(capfd, error, code):
    def main():
        raise error

    assert run_program(main) == code
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err and str(error) in err
    assert len([line for line in err.splitlines() if line.strip()]) == 1


def test_program_that_ends_well_gives_zero():
    assert run_program(lambda: None) == 0


def test_unforeseen_errors_are_not_hidden():
    def main():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run_program(main)


# ------------------------------------------------------------------------------------ flags, --help

FLAGS = """--train_path --data_path --arch --dataset --trained_param --num_teacher --learning_rate
    --decay_points --decay_rate --weight_decay --batch_size --val_batch_size --train_epoch
    --search_target_rate --search_step --search_batch_size --search_seed --gpu_id --seed
    --accum --do_log --compile --search_warmup_epoch --subset_per_class --val_per_class
    --candidate_filter --baseline_epoch --baseline_learning_rate --baseline_decay_points
    --baseline_decay_rate --baseline_weight_decay --baseline_batch_size --schedule
    --warmup_epoch --label_smoothing --baseline_schedule --baseline_warmup_epoch
    --baseline_label_smoothing --bank_top --temperature --steps_per_call --search_from
    --resident_mib""".split()


@pytest.mark.long
@pytest.mark.parametrize("program", ["train_cifar.py", "train_imagenet.py", "ablation.py"])
def test_help_of_train_names_every_flag_and_needs_no_tensorflow(tmp_path, program):
    done = without_tensorflow(tmp_path, program, "--help")
    assert done.returncode == 0 and done.stderr == ""
    words = done.stdout.replace(",", " ").replace("[", " ").replace("]", " ").split()
    own = {
        "train_imagenet.py": ["--input_size", "--val_labels", "--shuffle_buffer"],
        "ablation.py": ["--table", "--seeds"],
    }
    refused = set(ablation.PER_RUN) if program == "ablation.py" else set()
    expected = [flag for flag in FLAGS + own.get(program, []) if flag not in refused]
    assert [flag for flag in expected if flag not in words] == []
    assert [flag for flag in refused if f"[{flag} " in done.stdout] == []
    assert ("TF_CONFIG" in done.stdout) == (program != "ablation.py")
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.long
def test_help_of_prune_keras_leaves_out_what_it_refuses(tmp_path):
    done = without_tensorflow(tmp_path, "prune_keras.py", "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert [name for name in ONLY if f"--{name} " in done.stdout] == []
    assert "--search_step X" in done.stdout


@pytest.mark.long
def test_help_of_test_needs_no_tensorflow(tmp_path):
    done = without_tensorflow(tmp_path, "test.py", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for flag in (
        "--trained_param",
        "--arch",
        "--dataset",
        "--data_path",
        "--val_batch_size",
        "--gpu_id",
        "--batch_stats",
        "--json",
    ):
        assert flag in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        ("train_cifar.py", "--search_target_rate", "1.5"),
        ("train_cifar.py", "--arch", "VGG"),
        ("train_imagenet.py", "--arch", "ResNet-56"),
        ("train_cifar.py", "--warmup_epoch", "100"),
        ("test.py", "--trained_param", "missing.pkl"),
        ("ablation.py", "--table", "teachers", "--search_teacher", "none"),
        ("ablation.py", "imagenet", "--table", "teachers", "--arch", "ResNet-56"),
        ("report.py", "missing"),
        ("publish.py", "missing"),
    ],
)
def test_wrong_flag_is_answered_before_tensorflow_is_up(tmp_path, command):
    done = without_tensorflow(tmp_path, *command)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"{command[0]}: error: ")


def test_an_ablation_takes_the_flags_of_both_programs():
    small = ablation.parse(["--table", "filters", "--arch", "ResNet-20"]).options({"seed": 3})
    assert (small.arch, small.seed) == ("ResNet-20", 3)
    assert dataclasses.replace(small, train_path="../test") == train_cifar.parse(
        ["--arch", "ResNet-20", "--seed", "3"]
    )
    large = ablation.parse(["imagenet", "--table", "filters", "--input_size", "64"]).options({})
    assert dataclasses.replace(large, train_path="../test") == train_imagenet.parse(
        ["--input_size", "64"]
    )


# ----------------------------------------------------------------------------------------- defaults


def test_published_defaults():
    options = train_cifar.parse([])
    assert (options.arch, options.dataset, options.train_path) == (
        "ResNet-56",
        "CIFAR10",
        "../test",
    )
    assert options.trained_param is None and options.data_path is None
    assert options.num_teacher == 5 and options.seed == 0 and options.val_batch_size == 256
    assert (options.search.target_rate, options.search.step, options.search.candidate_filter) == (
        0.45,
        0.2,
        "published",
    )
    assert dataclasses.astuple(options.subsets) == (32, 256, 0, 256)
    assert options.fine_tuning == TrainOptions(100, 1e-2, (0.3, 0.6, 0.8), 0.2, 5e-4, 128)
    assert options.baseline == TrainOptions(100, 5e-2, (0.3, 0.6, 0.9), 0.1, 1e-4, 128)
    assert options.warm_up.epochs == 1 and options.warm_up.batch_size == 256
    assert (options.warm_up.learning_rate, options.warm_up.weight_decay) == (2e-3, 2.5e-4)
    assert dataclasses.astuple(options.device) == (None, None, None, 1, "float32", False, "float32")


def test_defaults_on_imagenet():
    options = train_imagenet.parse([])
    assert (options.arch, options.dataset, options.temperature, options.bank_top) == (
        "ResNet-50",
        "ImageNet",
        10.0,
        0,
    )
    assert options.files == FileOptions(224, None, 16384)
    assert options.fine_tuning == TrainOptions(100, 0.1, (0.3, 0.6, 0.8), 0.2, 1e-4, 256)
    assert options.baseline == TrainOptions(90, 0.1, (1 / 3, 2 / 3), 0.1, 1e-4, 256)
    assert dataclasses.astuple(options.subsets) == (32, 256, 0, 256) and options.num_teacher == 5


def test_learning_rates_on_imagenet_are_scaled_with_the_batch():
    options = train_imagenet.parse(
        "--batch_size 1024 --baseline_batch_size 64 --baseline_learning_rate 0.2".split()
    )
    assert options.fine_tuning.learning_rate == pytest.approx(0.4)
    assert options.baseline.learning_rate == pytest.approx(0.05)
    assert train_cifar.parse("--batch_size 1024".split()).fine_tuning.learning_rate == 1e-2


def test_a_warm_up_is_shorter_than_its_training():
    for flags in ("--warmup_epoch 100", "--baseline_epoch 5 --baseline_warmup_epoch 5"):
        with pytest.raises(UserError, match=r"warmup_epoch .*: the training has"):
            train_cifar.parse(flags.split())
    assert train_cifar.parse("--train_epoch 0 --warmup_epoch 5".split()).fine_tuning.epochs == 0


@pytest.mark.parametrize(
    "flags, compiled", [([], None), (["--compile"], True), (["--no-compile"], False)]
)
def test_compile(flags, compiled):
    assert train_cifar.parse(flags).device.compile is compiled
    assert test_py.parse(["--trained_param", "x", *flags]).compile is compiled


@pytest.mark.parametrize(
    "flags, every",
    [
        ([], 200),
        (["--do_log"], 200),
        (["--do_log", "50"], 50),
        (["--do_log", "0"], 0),
        (["--no-do_log"], 0),
    ],
)
def test_do_log(flags, every):
    assert train_cifar.parse([*flags, "--seed", "1"]).log_every == every


def test_every_flag_arrives_where_it_belongs():
    """Each with a value of its own, so that no two can be exchanged."""
    options = train_cifar.parse(
        """--train_path a --data_path b --arch ResNet-20 --dataset CIFAR100 --trained_param c
    --num_teacher 3 --learning_rate 0.11 --decay_points 0.12 0.13 --decay_rate 0.14
    --weight_decay 0.15 --batch_size 16 --val_batch_size 17 --train_epoch 18
    --search_target_rate 0.19 --search_step 0.21 --search_batch_size 22 --search_seed 23
    --gpu_id 1 2 --seed 24 --accum 25 --do_log 26 --compile --search_warmup_epoch 27
    --subset_per_class 28 --val_per_class 29 --candidate_filter slice --baseline_epoch 31
    --baseline_learning_rate 0.32 --baseline_decay_points 0.33 --baseline_decay_rate 0.34
    --baseline_weight_decay 0.35 --baseline_batch_size 36 --cpu_replicas 37
    --search_warmup_batch_size 38 --precision float16 --sync_bn --schedule cosine
    --warmup_epoch 3.9 --label_smoothing 0.41 --baseline_schedule cosine
    --baseline_warmup_epoch 4.2 --baseline_label_smoothing 0.43 --bank_top 44 --temperature
    4.5 --score l1 --search_teacher single --search random --search_samples 46
    --finetune_teacher none --search_from d --width_multiplier 0.46 --search_precision
    bfloat16 --least_filters 0 --round_to 47 --search_target latency --latency_batch_size 48
    --layer_times e""".split()
    )
    assert (options.train_path, options.data_path, options.arch, options.dataset) == (
        "a",
        "b",
        "ResNet-20",
        "CIFAR100",
    )
    assert options.width_multiplier == 0.46
    assert (options.trained_param, options.search_from) == ("c", "d")
    assert (options.num_teacher, options.val_batch_size) == (3, 17)
    assert (options.bank_top, options.temperature, options.files) == (44, 4.5, None)
    assert (options.seed, options.log_every) == (24, 26)
    assert dataclasses.astuple(options.device) == (
        [1, 2],
        37,
        True,
        25,
        "float16",
        True,
        "bfloat16",
    )
    assert dataclasses.astuple(options.subsets) == (29, 28, 23, 22)
    assert dataclasses.astuple(options.search) == (
        0.19,
        0.21,
        "slice",
        "l1",
        "single",
        "random",
        46,
        0,
        47,
        "latency",
        "share",
        48,
    )
    assert options.layer_times == "e"
    assert train_cifar.parse(["--slice_by", "time"]).search.slice_by == "time"
    assert options.finetune_teacher == "none"
    assert options.fine_tuning == TrainOptions(
        18, 0.11, (0.12, 0.13), 0.14, 0.15, 16, "cosine", 3.9, 0.41
    )
    assert options.baseline == TrainOptions(31, 0.32, (0.33,), 0.34, 0.35, 36, "cosine", 4.2, 0.43)
    assert options.warm_up.epochs == 27


@pytest.mark.parametrize("value", ["-1e-4", "-1E4", "-.5e-3", "-1", "-0.5", "-inf", "-nan"])
def test_a_negative_number_gets_the_error_about_its_range(capsys, value):
    """Not that the flag lacks an argument, nor that there is no such flag."""
    with pytest.raises(SystemExit) as stop:
        train_cifar.parse(["--weight_decay", value])
    assert stop.value.code == 2
    assert f"--weight_decay: '{value}' is not a number of at least 0" in capsys.readouterr().err


def test_a_flag_is_no_negative_number(capsys):
    with pytest.raises(SystemExit):
        train_cifar.parse(["--weight_decay", "--seed", "1"])
    assert "--weight_decay: expected one argument" in capsys.readouterr().err
