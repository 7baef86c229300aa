"""All bad inputs of the tests, by section. tests/data/errors.md is the table of these and their
answers.

Each case is prepared in an empty folder, the working folder of the command. The answer is one line
on stderr.
"""

import collections
import dataclasses
import errno
import functools
import gzip
import os
import pickle
import resource
import signal
import zipfile
from collections.abc import Callable

import numpy as np
from cifar_files import generate, write_archive, write_npz, write_python
from safetensors_writer import write_safetensors
from torch_file_writer import Tensor, write_legacy, write_tar, write_zip
from torch_networks import state_dict

from distribution.machines import Alone
from ekg.history import SearchState, SubNetwork
from engine.configuration import described, versions
from engine.run_files import BANK, STAGES, UNFINISHED
from engine.run_folder import RunFolder
from nets import build_network
from nets.parameters import write_parameters


@dataclasses.dataclass(frozen=True)
class Bad:
    """One bad input.

    Args:
        what: description, for the table.
        flags: of the program, or of a run on DIGITS.
        prepare: prepare(folder, monkeypatch) makes the files.
        programs: names of the programs that get this input.
        code: expected exit code.
        runs: whether the run starts, so that it may write into its folder.
    """

    what: str
    flags: tuple
    prepare: Callable = lambda folder, monkeypatch: None
    programs: tuple = ("train_cifar.py",)
    code: int = 2
    runs: bool = False

    def argv(self, program="train_cifar.py"):
        without = "test.py", "report.py", "analyze.py", "export.py"
        folder = () if program in without else ("--train_path", "run")
        network = (
            ("--arch", "ResNet-20", "--dataset", "DIGITS")
            if "train_cifar.py" in self.programs
            else ()
        )
        return [program, *folder, *network, *self.flags]


def of(flags, what=None):
    """A case with only flags."""
    return Bad(what or f"`{flags}`", tuple(flags.split()))


def test_py(what, flags, prepare=lambda folder, monkeypatch: None):
    return Bad(what, tuple(flags.split()), prepare, ("test.py",))


# ------------------------------------------------------------------------------------------ options

OPTIONS = [
    of("--arch ResNet-21"),
    of("--dataset MNIST"),
    of("--search_target_rate 0"),
    of("--search_target_rate -0.5"),
    of("--search_target_rate 1.5"),
    of("--search_target_rate nan"),
    of("--search_target_rate half"),
    of("--search_target_rate"),
    of("--search_step 0"),
    of("--search_step inf"),
    of("--learning_rate inf"),
    of("--learning_rate 0"),
    of("--weight_decay -1e-4"),
    of("--decay_points 0.3 1.2"),
    of("--num_teacher 0"),
    of("--num_teacher 2.5"),
    of("--batch_size 0"),
    of("--val_batch_size -3"),
    of("--train_epoch -1"),
    of("--baseline_epoch 0"),
    of("--accum 0"),
    of("--steps_per_call 0"),
    of("--resident_mib -1"),
    of("--cpu_replicas 0"),
    of("--cpu_replicas two"),
    of("--cpu_replicas 2 --gpu_id 0"),
    of("--sync_bn --accum 2"),
    of("--precision half"),
    of("--search_precision half"),
    of("--seed -1"),
    of("--gpu_id -1"),
    of("--gpu_id one"),
    of("--do_log -5"),
    of("--width_multiplier 0"),
    of("--width_multiplier 17"),
    of("--candidate_filter otsu"),
    of("--no_such_flag"),
    of("--search_batch 5", "`--search_batch 5`, an abbreviation"),
    of("--search_target 0.5"),
    of("--slice_by time --search uniform"),
    of("--layer_times times.json"),
    of("something"),
    test_py("no `--trained_param`", ""),
    test_py("`--arch VGG`", "--trained_param x.pkl --arch VGG"),
    test_py("`--val_batch_size 0`", "--trained_param x.pkl --val_batch_size 0"),
    test_py("`--train_path x`", "--trained_param x.pkl --train_path x"),
    test_py("`--sync_bn` without `--batch_stats`", "--trained_param x.pkl --sync_bn"),
    test_py("`--threads` without `--latency`", "--trained_param x.pkl --threads 1"),
    test_py("`--latency --data_path`", "--trained_param x.pkl --latency --data_path x"),
    test_py("`--latency --batch_stats`", "--trained_param x.pkl --latency --batch_stats"),
    test_py("`--latency` with two GPUs", "--trained_param x.pkl --latency --gpu_id 0 1"),
    test_py(
        "`--latency` with `TF_CONFIG`",
        "--trained_param x.pkl --latency",
        lambda folder, monkeypatch: monkeypatch.setenv("TF_CONFIG", "{}"),
    ),
    test_py("`--layer_times` without `--latency`", "--trained_param x.pkl --layer_times x.json"),
    test_py(
        "`--layer_times` in a folder that is not there",
        "--trained_param x.pkl --latency --layer_times missing/x.json",
    ),
    test_py("`--batch_sizes 0`", "--trained_param x.pkl --latency --batch_sizes 0"),
    test_py(
        "`--latency`, a file without its last layer",
        "--trained_param param.pkl --arch ResNet-20 --latency",
        lambda folder, monkeypatch: write_parameters(
            str(folder / "param.pkl"), {"conv/kernel:0": np.zeros([3, 3, 3, 16])}, {}
        ),
    ),
    test_py(
        "`--latency --against`, a file that is not there",
        "--trained_param param.pkl --latency --against missing.pkl",
        lambda folder, monkeypatch: network(folder / "param.pkl"),
    ),
]

TWO_MACHINES = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'


def ablations(what, flags, prepare=lambda folder, monkeypatch: None):
    return Bad(
        what,
        ("--arch", "ResNet-20", "--dataset", "DIGITS", *flags.split()),
        prepare,
        ("ablation.py",),
    )


ABLATIONS = [
    ablations("no `--table`", "--seeds 0 1"),
    ablations("`--table learning_rates`", "--table learning_rates"),
    ablations("`--rows none/all`", "--table teachers --rows none/none none/all"),
    ablations("`--rows l1` for `--table scores teachers`", "--table scores teachers --rows l1"),
    ablations("`--seeds 0 1 0`", "--table teachers --seeds 0 1 0"),
    ablations("`--seed 1`", "--table teachers --seed 1"),
    ablations("`--search_from run`", "--table teachers --search_from run"),
    ablations("`--score l1` for `--table filters scores`", "--table filters scores --score=l1"),
    ablations("`--search_target_rate 0.0001`", "--table teachers --search_target_rate 0.0001"),
    ablations(
        "the same, with `--overwrite`", "--table teachers --search_target_rate 0.0001 --overwrite"
    ),
    ablations("`--search_target latency`", "--table teachers --search_target latency"),
    ablations(
        "`TF_CONFIG` of two machines",
        "--table teachers",
        lambda f, m: m.setenv("TF_CONFIG", TWO_MACHINES),
    ),
    ablations(
        "options that differ from those of the runs in the folder",
        "--table filters --baseline_epoch 3",
        lambda folder, monkeypatch: run_of(at="run/baseline")(folder, monkeypatch),
    ),
]

SETTINGS = [
    of("--accum 4 --batch_size 10"),
    of("--accum 4 --baseline_batch_size 10"),
    of("--accum 4 --search_batch_size 30"),
    of("--accum 4 --val_batch_size 30"),
    of("--accum 7"),
    of("--cpu_replicas 3"),
    of("--cpu_replicas 2 --accum 3"),
    of("--search_target_rate 0.0001", "`--search_target_rate 0.0001`, which no network reaches"),
    of(
        "--val_per_class 130 --search_batch_size 130",
        "`--val_per_class 130` of classes with about 144 images",
    ),
    of("--data_path here", "`--data_path` for DIGITS"),
    *(
        Bad(
            f"`TF_CONFIG={text}`",
            (),
            lambda folder, monkeypatch, text=text: monkeypatch.setenv("TF_CONFIG", text),
        )
        for text in ("[]", "nonsense", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    ),
]

# --------------------------------------------------------------------------------------------- data


def file(name, content):
    return lambda folder, monkeypatch: (folder / name).write_bytes(content)


def cifar(change=None, form=write_python):
    """Writes a small CIFAR-10. change(folder of the files) damages it."""

    def prepare(folder, monkeypatch):
        path = form(folder, "CIFAR10", generate("CIFAR10"))
        if change:
            change(path)

    return prepare


def cifar_npz(**other):
    return lambda folder, monkeypatch: write_npz(folder, generate("CIFAR10"), **other)


class Runs:
    """Pickled as a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch made",)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def broken_archive(path):
    half(write_archive(path))


def on_cifar(what, data_path, prepare=lambda folder, monkeypatch: None):
    return Bad(what, ("--dataset", "CIFAR10", "--data_path", data_path), prepare)


DATA = [
    on_cifar("a missing `--data_path`", "missing"),
    on_cifar("a missing `.npz`", "missing.npz"),
    on_cifar("a folder without files of CIFAR", "."),
    on_cifar(
        "an `.npz` cut short", "cifar.npz", lambda f, m: half(write_npz(f, generate("CIFAR10")))
    ),
    on_cifar("an `.npz` without y_test", "cifar.npz", cifar_npz(y_test=None)),
    on_cifar(
        "an `.npz` with images in float64",
        "cifar.npz",
        cifar_npz(x_train=np.zeros((50, 32, 32, 3))),
    ),
    on_cifar(
        "an `.npz` with fewer labels than images",
        "cifar.npz",
        cifar_npz(y_train=np.zeros(3, np.int64)),
    ),
    on_cifar(
        "an `.npz` with label 10 of 10 classes", "cifar.npz", cifar_npz(y_test=np.full(10, 10))
    ),
    on_cifar(
        "an `.npz` with labels in float32",
        "cifar.npz",
        cifar_npz(y_train=np.zeros(50, np.float32)),
    ),
    on_cifar("an `.npz` without class 0", "cifar.npz", cifar_npz(y_train=np.arange(50) % 9 + 1)),
    on_cifar(
        "an `.npz` with an object array",
        "cifar.npz",
        cifar_npz(y_test=np.array([Runs()] * 10, object)),
    ),
    on_cifar(
        "a web page for a `.tar.gz`", "cifar.tar.gz", file("cifar.tar.gz", b"<html>404</html>")
    ),
    on_cifar("a `.tar.gz` cut short", "cifar-10-batches-py.tar.gz", cifar(broken_archive)),
    on_cifar(
        "a folder without data_batch_3", ".", cifar(lambda path: (path / "data_batch_3").unlink())
    ),
    on_cifar("a batch cut short", ".", cifar(lambda path: half(path / "data_batch_2"))),
    on_cifar(
        "a batch that calls os.system",
        ".",
        cifar(lambda path: (path / "test_batch").write_bytes(pickle.dumps(Runs()))),
    ),
    on_cifar(
        "a batch of a list",
        ".",
        cifar(lambda path: (path / "test_batch").write_bytes(pickle.dumps([1]))),
    ),
]

# ---------------------------------------------------------------------------------- parameter files

_parameters = {}


def parameters(arch="ResNet-20", classes=10):
    """The arrays of a new network, cached."""
    if (arch, classes) not in _parameters:
        _parameters[arch, classes] = build_network(arch, classes, 32).parameters()
    return dict(_parameters[arch, classes])


def saved(change=lambda arrays: arrays, meta=None, name="param.pkl", **network):
    """Writes param.pkl of a network. change(arrays) replaces or removes some of them."""

    def prepare(folder, monkeypatch):
        write_parameters(str(folder / name), change(parameters(**network)), meta or {})

    return prepare


def without(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


def with_array(name, array):
    return lambda arrays: {**arrays, name: array}


def archive(folder, monkeypatch):
    with zipfile.ZipFile(folder / "param.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"
        packed.writestr(
            "conv/kernel:0.npy",
            b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100),
        )


def objects(folder, monkeypatch):
    np.savez(folder / "param.npz", **{"conv/kernel:0": np.array([Runs()], object)})


def huge_claim(folder, monkeypatch):
    """An array of 10^12 elements in a pickle of a few bytes."""

    class Claim:
        def __reduce__(self):
            rebuild = np.zeros(0).__reduce__()[0]
            return (
                rebuild,
                (np.ndarray, (0,), b"b"),
                (1, (10**12,), np.dtype("f4"), False, bytes(4)),
            )

    (folder / "param.pkl").write_bytes(pickle.dumps({"conv/kernel:0": Claim()}))


def both(what, prepare=lambda folder, monkeypatch: None, name="param.pkl"):
    """The same file for both programs."""
    return Bad(what, ("--trained_param", name), prepare, ("train_cifar.py", "test.py"))


def pth(content, write=write_zip):
    return lambda folder, monkeypatch: write(folder / "param.pth", content)


STATE_DICT = {
    "conv1.weight": Tensor(np.zeros((16, 3, 3, 3), np.float32)),
    "bn1.weight": Tensor(np.ones(16, np.float32)),
}
RESNET_18 = {name: Tensor(array) for name, array in state_dict("ResNet-18").items()}
RESNET_101 = {
    f"layer{stage}.{block}.conv{n}.weight": Tensor(np.zeros((1, 1, 1, 1), np.float32))
    for stage, count in enumerate((3, 4, 23, 3), 1)
    for block in range(count)
    for n in (1, 2, 3)
}
MOBILENET_110D = {
    f"blocks.{stage}.{block}.conv_dw.weight": Tensor(np.zeros((1, 1, 1, 1), np.float32))
    for stage, count in enumerate((1, 3, 4, 5, 4, 4, 1))
    for block in range(count)
}
# The same number 10^12 times.
WIDE = Tensor(np.zeros(4, np.float32), size=(10**6, 10**6), stride=(0, 0))


def zip_bomb(folder, monkeypatch):
    """128 MiB of zeros in 128 KiB."""
    with zipfile.ZipFile(folder / "param.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (33554432,)}"
        packed.writestr(
            "conv/kernel:0.npy",
            b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(2**27),
        )


def safetensors_of(folder, **changes):
    return write_safetensors(
        folder / "param.safetensors",
        {"conv1.weight": np.zeros((16, 3, 3, 3), np.float32)},
        **changes,
    )


def claiming(**claims):
    """An array whose header does not match its bytes."""
    entry = {"dtype": "F32", "shape": [16, 3, 3, 3], "data_offsets": [0, 1728]} | claims
    return lambda folder, monkeypatch: safetensors_of(folder, **{"conv1.weight": entry})


def longer(folder, monkeypatch):
    safetensors_of(folder, length=10**6)


def resnet_18(folder, monkeypatch):
    write_zip(
        folder / "param.pth",
        {name: Tensor(array) for name, array in state_dict("ResNet-18").items()},
    )


def too_many(folder, monkeypatch):
    write_tar(folder / "param.pth", STATE_DICT, tensors=b"\x80\x02J\x00\x00\x00\x10.")


def squeezed(folder, monkeypatch):
    state = state_dict("ResNet-18") | {
        "layer1.0.se.fc1.weight": np.zeros((4, 64, 1, 1), np.float32)
    }
    write_safetensors(folder / "param.safetensors", state)


NAN = with_array("fc/biases:0", np.full((1, 10), np.nan, np.float32))
FILES = [
    both("a missing file", name="missing.pkl"),
    both("an empty file", file("param.pkl", b"")),
    both("a text file", file("param.pkl", b"garbage\n\nof\nlines")),
    both("zeros", file("param.pkl", bytes(5000))),
    both("a ZIP archive cut short", file("param.pkl", b"PK\x03\x04 an archive cut short")),
    both("a pickle cut short", lambda f, m: (saved()(f, m), half(f / "param.pkl"))),
    both("a pickled list", file("param.pkl", pickle.dumps([1, 2]))),
    both("a pickle without an array", file("param.pkl", pickle.dumps({"epoch": 3}))),
    both("a pickle that promises 10^12 elements", huge_claim),
    both("an `.npz` that promises 10^12 elements", archive, "param.npz"),
    both("an `.npz` with an object array", objects, "param.npz"),
    both(
        "a pickle that calls os.system",
        lambda f, m: (f / "param.pkl").write_bytes(pickle.dumps({"x": Runs()})),
    ),
    both("an `.npz` of 128 MiB of zeros in 128 KiB", zip_bomb, "param.npz"),
    both("a `.pth` that calls os.system", pth({"conv1.weight": Runs()}), "param.pth"),
    both(
        "a `.pth` of the old form that calls os.system",
        pth({"conv1.weight": Runs()}, write_legacy),
        "param.pth",
    ),
    both("a `.pth` that promises 10^12 elements", pth({"conv1.weight": WIDE}), "param.pth"),
    both(
        "a `.pth` cut short", lambda f, m: half(write_zip(f / "param.pth", STATE_DICT)), "param.pth"
    ),
    both("a `.pth` of another network", pth(STATE_DICT), "param.pth"),
    test_py(
        "the same, without `--arch` and data", "--trained_param param.pth", pth({"net": STATE_DICT})
    ),
    both("a `.pth` of the first form with too many tensors", too_many, "param.pth"),
    both(
        "a `.pth` whose weights are a Counter",
        pth({**RESNET_18, "fc.bias": collections.Counter({1: 2})}),
        "param.pth",
    ),
    both(
        "a `.pth` of a whole model",
        pth(b"\x80\x02ctorchvision.models.resnet\nResNet\n)\x81."),
        "param.pth",
    ),
    test_py(
        "`--trained_key ema` of a file with `state_dict` and `state_dict_ema`",
        "--trained_param param.pth --trained_key ema",
        pth({"state_dict": RESNET_18, "state_dict_ema": {**RESNET_18}}),
    ),
    of("--trained_key ema", "`--trained_key` without `--trained_param`"),
    both(
        "a pointer of git-lfs",
        file("param.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "param.pth",
    ),
    both("a web page", file("param.pth", b"<!DOCTYPE html><html>404</html>"), "param.pth"),
    both("an archive", file("param.pth", gzip.compress(b"param.pkl", mtime=0)), "param.pth"),
    both("an HDF5 file", file("param.h5", b"\x89HDF\r\n\x1a\n" + bytes(99)), "param.h5"),
    both(
        "the index of weights in two files",
        file("model.safetensors.index.json", b'{"weight_map": {"a": "1", "b": "2"}}'),
        "model.safetensors.index.json",
    ),
    both("a folder", lambda f, m: (f / "model.safetensors").write_bytes(b""), "."),
    both(
        "a `.pth` of a ResNet-101", pth({"state_dict": {**STATE_DICT, **RESNET_101}}), "param.pth"
    ),
    both("a `.pth` of timm's mobilenetv2_110d", pth({"state_dict": MOBILENET_110D}), "param.pth"),
    both(
        "a `.safetensors` of a ResNet-18 with squeeze and excitation", squeezed, "param.safetensors"
    ),
    both("a `.pth` of a ResNet-18 for a ResNet-20", resnet_18, "param.pth"),
    both(
        "a `.safetensors` of a type that is not read",
        claiming(dtype="C64", shape=[216]),
        "param.safetensors",
    ),
    both(
        "a `.safetensors` that promises 10^12 elements",
        claiming(shape=[10**6, 10**6]),
        "param.safetensors",
    ),
    both("a `.safetensors` with a header longer than the file", longer, "param.safetensors"),
    both("a `.safetensors` cut short", lambda f, m: half(safetensors_of(f)), "param.safetensors"),
    both("NaN in an array", saved(NAN)),
    both("another network's arrays", saved(arch="ResNet-56")),
    both("another number of classes", saved(classes=100)),
    both("a missing array", saved(without("BasicBlock2.1/bn2/gamma:0"))),
    both(
        "an additional array",
        saved(with_array("BasicBlock2.3/conv1/kernel:0", np.zeros((3, 3, 64, 64), np.float32))),
    ),
    both(
        "an array of another shape",
        saved(with_array("BasicBlock1.0/conv1/kernel:0", np.zeros((3, 3, 8, 32), np.float32))),
    ),
    both("a file that says it is of ResNet-56", saved(meta={"arch": "ResNet-56"})),
    both("a file that says it is of CIFAR10", saved(meta={"dataset": "CIFAR10"})),
    both("a file that says it is of another padding", saved(meta={"padding": "VALID"})),
    both("a file that says its width is a word", saved(meta={"width_multiplier": "wide"})),
    both("a file that is wider than it says", saved(meta={"width_multiplier": 0.5})),
    test_py(
        "a file of half the width for `--width_multiplier 1`",
        "--trained_param param.pkl --width_multiplier 1",
        saved(meta={"width_multiplier": 0.5}),
    ),
    test_py(
        "a MobileNet-v2 of CIFAR for ImageNet's",
        "--trained_param param.pkl --arch MobileNet-v2-ImageNet",
        saved(meta={"arch": "MobileNet-v2"}),
    ),
    test_py(
        "a file that says it is of VGG-16",
        "--trained_param param.pkl",
        saved(meta={"arch": "VGG-16"}),
    ),
]

# ----------------------------------------------------------------------------------- the run folder


def run_of(*flags, parts=1, at="run", **files):
    """Makes the folder `at` of a run started with `flags`. files: stage -> function that writes its
    file, given the path.
    """

    def prepare(folder, monkeypatch):
        import train_cifar

        options = train_cifar.parse(Bad("", flags).argv()[1:])
        RunFolder(
            str(folder / at),
            described(options, "a baseline trained here", parts),
            versions(),
            Alone(),
        ).close()
        for name, write in files.items():
            write(
                folder
                / at
                / {**STAGES, "bank": BANK, "result": "result.json", "records": "search.jsonl"}.get(
                    name, name
                )
            )

    return prepare


def unfinished(stage, content=b"no archive"):
    def prepare(folder, monkeypatch):
        earlier = {"search": ("baseline", "warm_up")}.get(stage, ())
        run_of(**{name: network for name in earlier})(folder, monkeypatch)
        (folder / "run" / UNFINISHED[stage]).write_bytes(content)

    return prepare


def network(path, arch="ResNet-20"):
    write_parameters(str(path), parameters(arch), {})


def garbage(path):
    path.write_bytes(b"garbage")


def searched(path, arch="ResNet-20"):
    """A finished search of no steps: only the unpruned network."""
    sizes = build_network(arch, 10, 32).gate_sizes
    order = np.concatenate([np.arange(n, dtype=np.int32) for n in sizes])
    whole = SubNetwork((1.0,) * len(sizes), sizes, order, 0.5, 0.5)
    SearchState([whole], np.zeros((320, 10), np.float32)).save(path)


def strange(name, text):
    def prepare(folder, monkeypatch):
        (folder / "run").mkdir()
        (folder / "run" / name).write_text(text)

    return prepare


def in_use(folder, monkeypatch):
    run_of()(folder, monkeypatch)
    held = open(folder / "run" / ".lock", "r+")
    monkeypatch.setattr("bad_inputs.HELD", held, raising=False)  # keeps the lock during the case

    import fcntl

    fcntl.flock(held, fcntl.LOCK_EX)


DONE = dict(baseline=network, warm_up=network, search=searched)
WHOLE = ("--search_target_rate", "1")
FOLDER = [
    Bad("the folder of a run with another target", ("--search_target_rate", "0.6"), run_of()),
    Bad("the folder of a run with another seed", ("--seed", "5"), run_of()),
    Bad("the folder of a run without `--accum`", ("--accum", "2"), run_of()),
    Bad("the same, with two replicas", ("--cpu_replicas", "2"), run_of()),
    Bad("the folder of a run in another precision", ("--precision", "bfloat16"), run_of()),
    Bad(
        "the folder of a run whose search had another precision",
        ("--search_precision", "bfloat16"),
        run_of(),
    ),
    Bad("the folder of a run with 5 teachers", ("--num_teacher", "3"), run_of()),
    Bad("the folder of a run with another schedule", ("--decay_points", "0.5"), run_of()),
    Bad("the folder of a run of another network", ("--arch", "ResNet-56"), run_of()),
    Bad("a folder in use by another process", (), in_use),
    Bad("the same, with `--overwrite`", ("--overwrite",), in_use),
    Bad(
        "a folder with a `trained_param.pkl` of unknown origin",
        (),
        strange("trained_param.pkl", "mine"),
    ),
    *(
        Bad(f"{what} `config.json`", (), strange("config.json", text))
        for what, text in (
            ("an empty", ""),
            ("a list as", "[]"),
            ("half an object as", "{"),
            ("another object as", '{"options": 3}'),
        )
    ),
    Bad(
        "another object as `config.json`, with `--overwrite`",
        ("--overwrite",),
        strange("config.json", "{}"),
    ),
    Bad("another object as `result.json`", (), strange("result.json", '{"seconds": 1}')),
    Bad("a file in place of a folder", (), file("run", b"mine")),
    Bad("a folder inside a file", ("--train_path", "file/run"), file("file", b"mine")),
    Bad(
        "`--overwrite` of the file that the run starts from",
        ("--overwrite", "--trained_param", "run/trained_param.pkl"),
        lambda f, m: ((f / "run").mkdir(), saved(name="run/trained_param.pkl")(f, m)),
    ),
    Bad("`--search_from` a missing folder", ("--search_from", "other")),
    Bad("`--search_from` the run's own folder", ("--search_from", "run"), run_of(**DONE)),
    Bad(
        "`--search_from` a run with an unfinished search",
        ("--train_path", "new", "--search_from", "run"),
        run_of(),
    ),
    Bad(
        "`--search_from` a run with another seed",
        ("--train_path", "new", "--search_from", "run", "--seed", "5"),
        run_of(**DONE, extraction=network, records=lambda path: path.write_text("")),
    ),
    Bad("a damaged `baseline_param.pkl` in the folder", (), run_of(baseline=garbage), runs=True),
    Bad("a damaged checkpoint of the baseline", (), unfinished("baseline"), runs=True),
    Bad("a damaged state of an unfinished search", (), unfinished("search"), runs=True),
    Bad("a damaged `search_state.npz`", (), run_of(**{**DONE, "search": garbage}), runs=True),
    Bad(
        "a damaged `search.jsonl` of an unfinished search",
        (),
        run_of(
            baseline=network, warm_up=network, records=garbage, **{UNFINISHED["search"]: searched}
        ),
        runs=True,
    ),
    Bad(
        "a damaged `memory_bank.npy`", WHOLE, run_of(*WHOLE, **DONE, memory_bank=garbage), runs=True
    ),
    Bad(
        "a damaged, unfinished memory bank",
        WHOLE,
        run_of(
            *WHOLE,
            **DONE,
            bank=garbage,
            **{UNFINISHED["memory_bank"]: lambda path: path.write_text('{"batches": 1}')},
        ),
        runs=True,
    ),
]

# ------------------------------------------------------------------------------------ during a run

SMALL = ("--arch", "ResNet-8")  # what computes is small
resnet_8 = functools.partial(network, arch="ResNet-8")
DONE_8 = dict(
    baseline=resnet_8, warm_up=resnet_8, search=functools.partial(searched, arch="ResNet-8")
)


def in_the_search(error):
    """The search raises `error`, sends itself a signal, or gets scores of this value."""

    def prepare(folder, monkeypatch):
        run_of(*SMALL, baseline=resnet_8, warm_up=resnet_8)(folder, monkeypatch)

        def score(self, masks, knowledge):
            if isinstance(error, signal.Signals):
                os.kill(os.getpid(), error)
            elif isinstance(error, Exception):
                raise error
            return np.full(len(masks), error, np.float32)

        monkeypatch.setattr("ekg.validation.Validation.importance", score)

    return prepare


def out_of_memory():
    import tensorflow as tf

    return tf.errors.ResourceExhaustedError(
        None, None, "OOM when allocating tensor with shape[128,64,32,32]"
    )


class InternalError(Exception):
    """Named like TensorFlow's error for failures in XLA and in CUDA's libraries."""


def no_room(size):
    """No file may become larger than `size` bytes."""

    def prepare(folder, monkeypatch):
        run_of(*SMALL, baseline=resnet_8, warm_up=resnet_8)(folder, monkeypatch)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        monkeypatch.callback(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))

    return prepare


def full_disk(folder, monkeypatch):
    run_of(*SMALL, baseline=resnet_8, warm_up=resnet_8)(folder, monkeypatch)

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def full_board(folder, monkeypatch):
    import tensorflow as tf

    def scalar(*_, **__):
        raise tf.errors.ResourceExhaustedError(
            None, None, "run/events.out.tfevents.1.host.2; No space left on device"
        )

    run_of(*SMALL, baseline=resnet_8, warm_up=resnet_8)(folder, monkeypatch)
    monkeypatch.setattr("tensorflow.summary.scalar", scalar)


def evaluated_to_nan(folder, monkeypatch):
    import tensorflow as tf

    run_of(*SMALL, *WHOLE, "--train_epoch", "0", **DONE_8, extraction=resnet_8)(folder, monkeypatch)
    nan = lambda batch: ({}, {"logits": tf.fill([len(batch["images"]), 10], float("nan"))})
    monkeypatch.setattr("engine.evaluation.predicting_step", lambda *_, **__: nan)


def not_finite_bank(path):
    bank = np.full((1442, 10, 1), np.nan, np.float16)
    np.save(path, bank)


def running(what, prepare, *flags, code=1):
    return Bad(what, (*SMALL, *flags), prepare, code=code, runs=True)


RUNNING = [
    running(
        "`--baseline_learning_rate 1e30`: the loss",
        lambda f, m: None,
        "--baseline_learning_rate",
        "1e30",
    ),
    running("NaN in the scores", in_the_search(np.nan)),
    running(
        "NaN in the memory bank",
        run_of(*SMALL, *WHOLE, **DONE_8, memory_bank=not_finite_bank, extraction=resnet_8),
        *WHOLE,
    ),
    running(
        "a GPU without free memory (raised by the test)",
        lambda f, m: in_the_search(out_of_memory())(f, m),
    ),
    running(
        "the same, as reported by XLA (raised by the test)",
        in_the_search(
            InternalError(
                "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 68719476736 bytes."
            )
        ),
    ),
    running("a host without free memory (raised by the test)", in_the_search(MemoryError())),
    running("a full disk (raised by the test)", full_disk),
    running("a limit on the size of a file", no_room(3000)),
    running("a full disk, met by TensorBoard (raised by the test)", full_board),
    running(
        "NaN in the last evaluation (raised by the test)",
        evaluated_to_nan,
        *WHOLE,
        "--train_epoch",
        "0",
    ),
    running("SIGTERM", in_the_search(signal.SIGTERM), code=143),
    running("Ctrl-C", in_the_search(signal.SIGINT), code=130),
]

SECTIONS = {
    "Options": OPTIONS,
    "Settings that do not go together": SETTINGS,
    "Ablations": ABLATIONS,
    "Data": DATA,
    "Parameter files": FILES,
    "The run folder": FOLDER,
    "During a run": RUNNING,
}
