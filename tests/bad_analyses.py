"""The bad inputs for analyze.py, as in bad_inputs.py: flags, networks, images, folders."""

import dataclasses

import numpy as np
from bad_inputs import (
    NAN,
    TWO_MACHINES,
    Bad,
    file,
    garbage,
    network,
    out_of_memory,
    run_of,
    saved,
    searched,
    strange,
    with_array,
)

from analysis import flags
from analysis.folder import AnalysisFolder
from analyze import parse
from dataloader import load_dataset
from engine.folder_lock import FolderLock

RESULTS = ("--analysis_path", "results", "--dataset", "DIGITS")


def analyze(what, line, prepare=lambda folder, monkeypatch: None, **more):
    """A case of any command."""
    return Bad(what or f"`{line}`", tuple(line.split()), prepare, ("analyze.py",), **more)


SAVED = saved()


def hessian(what, line, prepare=SAVED, **more):
    """A case of a Hessian on DIGITS, of param.pkl if the case does not say otherwise."""
    words = (*RESULTS, "--arch", "ResNet-20", *line.split())
    if not any(word.startswith(("param", "run", "missing")) for word in words):
        words = ("param.pkl", *words)
    return Bad(what, ("hessian", *words), prepare, ("analyze.py",), **more)


def potential(what, line, **more):
    words = ("potential", "--dataset", "DIGITS", "--train_path", "run", *line.split())
    return Bad(what, words, programs=("analyze.py",), **more)


def earlier(command, *asked):
    """Results that `command` has written before, with the flags `asked`."""

    def prepare(folder, monkeypatch):
        SAVED(folder, monkeypatch)
        _, args = parse([command, "param.pkl", *asked])
        own = {"hessian": flags.hessian_options, "landscape": flags.landscape_options}[command]
        options = {
            "dataset": "DIGITS",
            "data": load_dataset("DIGITS").digest,
            "image": dataclasses.asdict(flags.image_options(args)),
            **dataclasses.asdict(own(args)),
        }
        AnalysisFolder(str(folder / "results"), command, options, {}).close()

    return prepare


def in_use(folder, monkeypatch):
    SAVED(folder, monkeypatch)
    (folder / "results" / "hessian").mkdir(parents=True)
    lock = FolderLock(str(folder / "results" / "hessian"))
    monkeypatch.setattr("bad_analyses.HELD", lock, raising=False)  # keeps it during the case


def in_results(name, text):
    def prepare(folder, monkeypatch):
        SAVED(folder, monkeypatch)
        (folder / "results" / "hessian").mkdir(parents=True)
        (folder / "results" / "hessian" / name).write_text(text)

    return prepare


def two_sets(folder, monkeypatch):
    saved(meta={"dataset": "DIGITS"})(folder, monkeypatch)
    saved(meta={"dataset": "CIFAR10"}, name="param_2.pkl")(folder, monkeypatch)


def no_memory_in(name, arch):
    """The function of this name raises what a full GPU does."""

    def raises(*_, **__):
        raise out_of_memory()

    def prepare(folder, monkeypatch):
        saved(arch=arch)(folder, monkeypatch)
        monkeypatch.setattr(name, raises)

    return prepare


HUGE = with_array("bn/gamma:0", np.full((1, 1, 1, 16), 1e38, np.float32))
ANALYSES = [
    analyze("no command", ""),
    analyze(None, "hessians param.pkl"),
    analyze("`hessian` without a network", "hessian"),
    analyze(None, "hessian param.pkl --points 5"),
    analyze(None, "hessian param.pkl --tolerance 0"),
    analyze(None, "hessian param.pkl --hessian_over biases"),
    analyze(None, "hessian param.pkl --precision bfloat16"),
    analyze(None, "landscape param.pkl --points 50"),
    analyze(None, "landscape param.pkl --points 1"),
    analyze(None, "landscape param.pkl --range -1"),
    analyze(None, "potential --search greedy"),
    analyze(None, "potential --search_samples=3"),
    analyze(None, "potential --finetune_teacher single"),
    analyze(None, "potential --search_from run"),
    analyze(None, "potential --train_epoch 0"),
    analyze(None, "potential --sub_networks 0"),
    potential("`potential --search_target_rate 0.0001`", "--search_target_rate 0.0001"),
    potential(
        "`potential` with `TF_CONFIG` of two machines",
        "",
        prepare=lambda f, m: m.setenv("TF_CONFIG", TWO_MACHINES),
    ),
    potential("`potential --tuning_images 5000` of DIGITS", "--tuning_images 5000", runs=True),
    potential("`potential --images 5000` of DIGITS", "--images 5000", runs=True),
    hessian("`--images 5000` of DIGITS", "--images 5000"),
    hessian("`--split val --images 321`", "--split val --images 321"),
    hessian("`--image_batch_size 5 --cpu_replicas 2`", "--image_batch_size 5 --cpu_replicas 2"),
    hessian("`--data_path` for DIGITS", "--data_path here"),
    hessian(
        "`TF_CONFIG` of two machines",
        "",
        lambda f, m: (SAVED(f, m), m.setenv("TF_CONFIG", TWO_MACHINES)),
    ),
    hessian("a missing file", "missing.pkl"),
    hessian("a text file", "", file("param.pkl", b"garbage\n\nof\nlines")),
    hessian("NaN in an array", "", saved(NAN)),
    hessian("another network's arrays", "", saved(arch="ResNet-56")),
    hessian("`--step 1` of a file", "--step 1"),
    analyze(
        "networks of two data sets",
        "landscape param.pkl param_2.pkl --arch ResNet-20 --analysis_path results",
        two_sets,
    ),
    hessian("a folder without a run", "run", strange("notes.txt", "mine")),
    hessian("a run folder of another program", "run", strange("config.json", '{"options": {}}')),
    hessian("a run whose search is not finished", "run", run_of(warm_up=network)),
    hessian("a step after the last one", "run --step 1", run_of(warm_up=network, search=searched)),
    hessian(
        "a damaged `search_state.npz`", "run --step 0", run_of(warm_up=network, search=garbage)
    ),
    hessian("a damaged `warm_param.pkl`", "run", run_of(warm_up=garbage, search=searched)),
    hessian("results with other options", "", earlier("hessian", "--images", "500")),
    analyze(
        "a landscape along other directions",
        "landscape param.pkl --arch ResNet-20 --dataset DIGITS --analysis_path results"
        " --direction_seed 4",
        earlier("landscape"),
    ),
    hessian("results in use by another process", "", in_use),
    hessian("the same, with `--overwrite`", "--overwrite", in_use),
    hessian(
        "a file in place of the results",
        "",
        lambda f, m: (SAVED(f, m), file("results", b"mine")(f, m)),
    ),
    hessian("results of unknown options", "", in_results("param-01234567.json", "{}")),
    hessian("half an object as `config.json`", "", in_results("config.json", "{")),
    hessian(
        "another object as `config.json`, with `--overwrite`",
        "--overwrite",
        in_results("config.json", '{"theirs": 1}'),
    ),
    hessian("a product that is not finite", "--images 10", saved(HUGE), code=1, runs=True),
    hessian(
        "a GPU without free memory (raised by the test)",
        "",
        no_memory_in("analysis.curvature.Hessian.product", "ResNet-20"),
        code=1,
        runs=True,
    ),
    potential(
        "`potential` on a GPU without free memory (raised by the test)",
        "--arch ResNet-8 --trained_param param.pkl",
        prepare=no_memory_in("analysis.potential.search", "ResNet-8"),
        code=1,
        runs=True,
    ),
]
