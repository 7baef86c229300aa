"""The commands of analyze.py, from the command line to the files."""

import json
import re

import numpy as np
import pytest
from processes import without_tensorflow
from scipy.integrate import trapezoid

import analyze
import train_cifar
from dataloader import digits
from ekg.pipeline import prune
from files.npz import load_npz
from nets.parameters import read_parameters
from reports.analyses import read_analysis
from utils import UserError, digest

# -------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    "flags, said",
    [
        ("potential --search greedy", "--search: the sub-networks are random; leave it out"),
        ("potential --search=random", "--search: the sub-networks are random; leave it out"),
        ("potential --search_samples 3", "--search_samples: use --sub_networks instead"),
        (
            "potential --finetune_teacher none",
            "--finetune_teacher: all sub-networks are fine-tuned on the labels alone",
        ),
        ("potential imagenet --search_from x", "--search_from: the search is part of the study"),
        ("potential --search_target latency", "--search_target: all sub-networks have the same"),
        ("potential --slice_by time", "--slice_by: the sub-networks are random"),
        ("potential --train_epoch 0", "--train_epoch 0: potential performance needs a fine-tuning"),
    ],
)
def test_flags_that_a_study_of_potential_performance_sets_itself(flags, said):
    with pytest.raises(UserError, match=re.escape(said)):
        analyze.parse(flags.split())


@pytest.mark.parametrize(
    "flags, said",
    [
        ("", "the following arguments are required: COMMAND"),
        ("hessians x.pkl", "invalid choice: 'hessians'"),
        ("hessian", "the following arguments are required: FILE"),
        ("landscape", "the following arguments are required: FILE"),
        ("hessian x.pkl --points 5", "unrecognized arguments: --points 5"),
        ("landscape x.pkl --points 50", "--points: '50' is not an odd number"),
        ("landscape x.pkl --points 1", "--points: '1' is not a whole number of at least 3"),
        ("landscape x.pkl --range 0", "--range: '0' is not a number above 0"),
        ("landscape x.pkl --iterations 5", "unrecognized arguments: --iterations 5"),
        ("hessian x.pkl --hessian_over biases", "--hessian_over: invalid choice: 'biases'"),
        ("hessian x.pkl --top 0", "--top: '0' is not a whole number of at least 1"),
        ("hessian x.pkl --tolerance 0", "--tolerance: '0' is not a number above 0"),
        ("hessian x.pkl --images 0", "--images: '0' is not a whole number of at least 1"),
        ("hessian x.pkl --split validation", "--split: invalid choice: 'validation'"),
        ("hessian x.pkl --step -1", "--step: '-1' is not a whole number of at least 0"),
        ("hessian x.pkl --precision bfloat16", "unrecognized arguments: --precision bfloat16"),
        ("potential --sub_networks 0", "--sub_networks: '0' is not a whole number of at least 1"),
        ("potential x.pkl", "unrecognized arguments: x.pkl"),
        ("potential --top 3", "unrecognized arguments: --top 3"),
    ],
)
def test_wrong_flags(capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        analyze.parse(flags.split())
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_every_flag_arrives_where_it_belongs():
    """Each with a value of its own, so that no two can be exchanged."""
    from analysis.flags import hessian_options, image_options, landscape_options
    from analysis.options import HessianOptions, ImageOptions, LandscapeOptions

    images = "--images 11 --split val --image_seed 12".split()
    _, args = analyze.parse(
        [
            *"hessian a b --top 2 --tolerance 0.3 --iterations 4 --start_seed 5".split(),
            *"--density 6 --density_steps 7 --density_sigma 0.8".split(),
            *"--hessian_over all --step 9".split(),
            *images,
        ]
    )
    assert args.networks == ["a", "b"] and args.step == 9
    assert hessian_options(args) == HessianOptions("all", 2, 0.3, 4, 5, 6, 7, 0.8)
    assert image_options(args) == ImageOptions(11, "val", 12)
    _, args = analyze.parse("landscape a --points 13 --range 0.4 --direction_seed 15".split())
    assert landscape_options(args) == LandscapeOptions(13, 0.4, 15)


def test_defaults():
    from analysis.flags import hessian_options, image_options, landscape_options
    from analysis.options import HessianOptions, ImageOptions, LandscapeOptions

    command, args = analyze.parse(["hessian", "a"])
    assert command == "hessian" and args.analysis_path == "../analysis" and not args.overwrite
    published = HessianOptions("kernels", 1, 1e-2, 200, 0, 0, 80, 0.005)
    assert hessian_options(args) == published
    assert image_options(args) == ImageOptions(1000, "train", 0)
    assert analyze.parse(["hessian", "a", "--density"])[1].density == 8
    assert landscape_options(analyze.parse(["landscape", "a"])[1]) == LandscapeOptions(51, 1.0, 0)
    command, args = analyze.parse(["potential"])
    assert (command, args.sub_networks, args.tuning_images) == ("potential", 50, 0)
    assert (args.search, args.search_samples, args.finetune_teacher) == ("random", 50, "none")
    assert (args.train_epoch, args.train_path) == (1, "../potential")
    assert analyze.parse(["potential", "--sub_networks", "7"])[1].search_samples == 7
    assert analyze.parse(["potential", "imagenet"])[1].arch == "ResNet-50"
    assert analyze.parse(["potential", "cifar"])[1].arch == "ResNet-56"


NAMED = {
    (): ["hessian", "landscape", "potential"],
    ("hessian",): ["FILE", "--step", "--images", "--tolerance", "--top", "--density", "--compile"],
    ("landscape",): ["FILE", "--points", "--range", "--direction_seed", "--overwrite"],
    ("potential",): ["--sub_networks", "--tuning_images", "--iterations", "--search_target_rate"],
    ("potential", "imagenet"): ["--sub_networks", "--input_size"],
}


@pytest.mark.parametrize("command", [*NAMED, ("potential", "cifar")], ids=" ".join)
def test_the_usage_is_that_of_the_command(command, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["analyze.py"])
    with pytest.raises(SystemExit):
        analyze.parse([*command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {' '.join(['analyze.py', *command])} [-h] ")


@pytest.mark.long
@pytest.mark.parametrize("command", NAMED, ids=" ".join)
def test_help_needs_no_tensorflow(tmp_path, command):
    done = without_tensorflow(tmp_path, "analyze.py", *command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert [name for name in NAMED[command] if name not in done.stdout] == []
    # The usage, before the first empty line, is as wide as the list of architectures.
    assert max(map(len, done.stdout.partition("\n\n")[2].splitlines())) <= 120


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    ["hessian x.pkl --top 0", "landscape x.pkl --points 4", "potential --search greedy", "x"],
)
def test_a_wrong_flag_is_answered_before_tensorflow_is_up(tmp_path, command):
    done = without_tensorflow(tmp_path, "analyze.py", *command.split())
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("analyze.py")


# ----------------------------------------------------------------------------------- whole commands

RUN = (
    "--arch ResNet-8 --dataset DIGITS --baseline_epoch 1 --baseline_batch_size 50 --batch_size 50"
    " --train_epoch 1 --finetune_teacher none --search_target_rate 0.93 --val_per_class 4"
    " --subset_per_class 6 --search_batch_size 40 --val_batch_size 30 --search_warmup_epoch 0"
).split()
STUDY = [flag for flag in RUN if flag not in ("--finetune_teacher", "none")]
STUDY += "--sub_networks 4 --tuning_images 60 --images 40 --iterations 4".split()


@pytest.fixture(scope="module")
def patches():
    """300 images of DIGITS for training, 60 for testing; no waiting for the disk."""
    with pytest.MonkeyPatch.context() as patches:
        x_train, y_train, x_test, y_test = digits.load_digits()
        few = x_train[:300], y_train[:300], x_test[:60], y_test[:60]
        patches.setattr(digits, "load_digits", lambda: few)
        yield patches


@pytest.fixture(scope="module")
def run(patches, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("analyses") / "run"
    prune(train_cifar.parse([*RUN, "--train_path", str(folder)]))
    return folder


def start(*words):
    """Runs a command line in this process."""
    words = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("sys.argv", ["analyze.py", *words])
        analyze.main()


def results(folder):
    """dict name -> object of the JSON files, config.json left out."""
    paths = [path for path in folder.glob("*.json") if path.name != "config.json"]
    return {path.name: json.loads(path.read_text()) for path in paths}


def is_picture(path):
    from matplotlib import image

    picture = image.imread(path)
    return min(picture.shape[:2]) > 150 and picture[..., :3].std() > 0.02


HESSIAN = ("--images", 40, "--iterations", 5, "--image_batch_size", 16)


@pytest.mark.long
def test_hessians_are_measured_once(run, tmp_path, capsys, monkeypatch):
    command = ("hessian", run, run / "baseline_param.pkl", *HESSIAN, "--analysis_path", tmp_path)
    start(*command)
    out = capsys.readouterr().out
    found = results(tmp_path / "hessian")
    assert len(found) == 2
    for name, file in (("run", "slimmed_param.pkl"), ("baseline_param", "baseline_param.pkl")):
        path = run / file
        own = digest(read_parameters(str(path))[0])
        figures = found[f"{name}-{own[:8]}.json"]
        assert figures["digest"] == own and figures["file"] == str(path)
        assert (figures["arch"], figures["dataset"]) == ("ResNet-8", "DIGITS")
        assert (figures["images"], figures["split"], figures["arrays"]) == (40, "train", "kernels")
        assert figures["lambda_max"] > 0 and figures["lambda_min"] < figures["lambda_max"]
        ratio = abs(figures["lambda_min"] / figures["lambda_max"])
        assert figures["condition_number"] == pytest.approx(ratio)
        assert figures["iterations"] == 5 and not figures["converged"]
        kernels = [
            array.size for key, array in read_parameters(str(path))[0].items() if "kernel" in key
        ]
        assert figures["parameters"] == sum(kernels)
        assert f"{figures['condition_number']:.4f}" in out
    assert out.count("stopped before residuals were within 0.01") == 2

    def computed(*_):
        raise AssertionError("it was measured before")

    monkeypatch.setattr("analysis.curvature.Hessian.product", computed)
    start(*command)
    assert results(tmp_path / "hessian") == found
    assert capsys.readouterr().out.count("condition number") == 2


@pytest.mark.long
def test_a_density_has_a_picture(run, tmp_path):
    start(
        *("hessian", run, "--step", 0, *HESSIAN, "--analysis_path", tmp_path),
        *("--density", 2, "--density_steps", 3),
    )
    ((name, figures),) = results(tmp_path / "hessian").items()
    assert name.startswith("run-step-0-") and figures["step"] == 0
    density = figures["density"]
    assert (density["vectors"], density["steps"]) == (2, 3)
    assert is_picture(tmp_path / "hessian" / name.replace(".json", ".png"))
    mass = trapezoid(density["density"], density["grid"])
    assert 0.5 < mass < 1.01, "a start vector may see more than the extremes of a short process"


@pytest.mark.long
def test_a_hessian_of_zeros_has_no_density(run, tmp_path, monkeypatch, capsys):
    zeros = lambda self, vector: np.zeros(self.size)
    monkeypatch.setattr("analysis.curvature.Hessian.product", zeros)
    start("hessian", run, *HESSIAN, "--analysis_path", tmp_path, "--density", 2)
    (figures,) = results(tmp_path / "hessian").values()
    assert figures["density"] is None and figures["lambda_max"] == figures["lambda_min"] == 0
    assert "no density: lambda_max and lambda_min are equal" in capsys.readouterr().out
    assert not list((tmp_path / "hessian").glob("*.png"))


@pytest.mark.long
def test_the_last_step_is_the_network_that_the_run_has_extracted(run, tmp_path):
    last = len((run / "search.jsonl").read_text().splitlines()) - 1
    start("hessian", run, "--step", last, *HESSIAN, "--analysis_path", tmp_path)
    (figures,) = results(tmp_path / "hessian").values()
    assert figures["digest"] == digest(read_parameters(str(run / "slimmed_param.pkl"))[0])


@pytest.mark.long
def test_a_landscape_of_a_run_and_a_dense_network(run, tmp_path, capsys):
    dense = run / "baseline_param.pkl"
    start("landscape", run, dense, "--points", 3, "--images", 40, "--analysis_path", tmp_path)
    folder, out = tmp_path / "landscape", capsys.readouterr().out
    grid, result = load_npz(folder / "grid.npz"), results(folder)["result.json"]
    np.testing.assert_array_equal(grid["alpha"], [-1, 0, 1])
    assert grid["loss"].shape == (2, 3, 3) and grid["complete"]
    assert [entry["name"] for entry in result["networks"]] == ["run", "baseline_param"]
    for entry, loss in zip(result["networks"], grid["loss"]):
        assert entry["loss"] == loss[1, 1] < loss[0, 0]
        assert f"{entry['name']}: loss {entry['loss']:.6f} at the origin" in out
    assert is_picture(folder / "surfaces.png") and is_picture(folder / "contours.png")
    start("hessian", dense, *HESSIAN, "--analysis_path", tmp_path)
    (figures,) = results(tmp_path / "hessian").values()
    assert figures["loss"] == pytest.approx(result["networks"][1]["loss"], rel=1e-5)


@pytest.mark.long
def test_other_options_in_the_same_folder_are_refused_and_overwritten_on_request(run, tmp_path):
    command = ["hessian", run, "--analysis_path", tmp_path, "--iterations", 2]
    start(*command, "--images", 20)
    with pytest.raises(UserError, match=r"other options \(image.images: 20 there, 30 asked for\)"):
        start(*command, "--images", 30)
    (tmp_path / "hessian" / "mine.json").write_text("{}")
    start(*command, "--images", 30, "--overwrite")
    found = results(tmp_path / "hessian")
    assert found.pop("mine.json") == {}
    assert [figures["images"] for figures in found.values()] == [30]


# ---------------------------------------------------------------------------------------- potential


@pytest.fixture(scope="module")
def study(run, tmp_path_factory):
    """The folder of a study of potential performance."""
    folder = tmp_path_factory.mktemp("study") / "potential"
    start("potential", *STUDY, *start_of(run, folder))
    return folder


def start_of(run, folder):
    return "--trained_param", run / "baseline_param.pkl", "--train_path", folder


@pytest.mark.long
def test_potential_performance(study):
    found = results(study / "potential")
    assert found.keys() == {f"sub-network-{i:03d}.json" for i in range(4)} | {"correlations.json"}
    correlations = found.pop("correlations.json")
    entries = [found[name] for name in sorted(found)]
    assert len({entry["digest"] for entry in entries}) == 4
    assert [entry["number"] for entry in entries] == [0, 1, 2, 3]
    for entry in entries:
        assert 0.85 < entry["flops_rate"] <= 0.93 and 0 <= entry["test_top1"] <= 1
        ratio = abs(entry["curvature"]["lambda_min"] / entry["curvature"]["lambda_max"])
        assert entry["condition_number"] == pytest.approx(ratio)
    searched = [json.loads(line) for line in (study / "search.jsonl").read_text().splitlines()]
    losses = [entry["val_loss"] for entry in entries]
    assert sorted(losses) == sorted(line["loss"] for line in searched[1:])
    assert correlations["n"] == 4
    for key in ("val_loss", "condition_number"):
        pairs = [[entry[name] for entry in entries] for name in (key, "test_loss")]
        value = correlations[key]["pearson"]["value"]
        assert value == pytest.approx(np.corrcoef(*pairs)[0, 1])
    assert is_picture(study / "potential" / "potential.png")


@pytest.mark.long
def test_a_page_can_read_a_study(study, run):
    (read,) = read_analysis(str(study)).potentials
    found = results(study / "potential")
    losses = [found[f"sub-network-{i:03d}.json"]["test_loss"] for i in range(4)]
    assert read.points["test_loss"].tolist() == losses
    assert all(low <= value <= high for value, low, high in read.correlations.values())
    assert read.start == digest(read_parameters(str(run / "baseline_param.pkl"))[0])


# Where a start is interrupted, at which call, and how many sub-networks are done by then: before
# the second is fine-tuned; before the third is measured; between its file and the correlations.
INTERRUPTIONS = [("_fine_tune", 2, 1), ("measure", 2, 2), ("write_json", 2, 3)]


@pytest.mark.slow
def test_an_interrupted_study_ends_as_if_it_had_not_been(study, run, tmp_path):
    from analysis import potential

    ours, theirs = tmp_path / "potential" / "potential", study / "potential"
    for where, stops, finished in INTERRUPTIONS:
        calls, function = [], getattr(potential, where)

        def stopped(*arguments, calls=calls, function=function, stops=stops):
            calls.append(1)
            if len(calls) == stops:
                raise KeyboardInterrupt
            return function(*arguments)

        with pytest.MonkeyPatch.context() as patches, pytest.raises(KeyboardInterrupt):
            patches.setattr(potential, where, stopped)
            start("potential", *STUDY, *start_of(run, tmp_path / "potential"))
        assert len(list(ours.glob("sub-network-???.json"))) == finished
    start("potential", *STUDY, *start_of(run, tmp_path / "potential"))
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    assert results(ours) == results(theirs)


@pytest.mark.long
def test_a_finished_study_is_read(study, run, capsys, monkeypatch):
    before = results(study / "potential")

    def computed(*_):
        raise AssertionError("it was measured before")

    monkeypatch.setattr("analysis.potential._fine_tune", computed)
    monkeypatch.setattr("analysis.curvature.Hessian.product", computed)
    start("potential", *STUDY, *start_of(run, study))
    assert results(study / "potential") == before
    assert capsys.readouterr().out.count("n = 4") == 4


@pytest.mark.long
def test_other_images_of_a_study_are_refused(study, run):
    with pytest.raises(UserError, match=r"--train_path .* holds a potential analysis with oth"):
        start("potential", *STUDY, "--image_seed", 1, *start_of(run, study))
    with pytest.raises(UserError, match="--tuning_images 301: there are only 300 training images"):
        start("potential", *STUDY, "--tuning_images", 301, *start_of(run, study))
