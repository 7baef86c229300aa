"""The networks to analyse: parameter files, run folders, steps of a search."""

import json
import os

import numpy as np
import pytest
import runs
from bad_inputs import parameters
from networks import randomised
from torch_file_writer import Tensor, write_zip
from torch_networks import state_dict

from analysis.subjects import load, subjects
from dataloader import load_dataset
from dataloader.augment import normalise
from dataloader.sampling import select_subsets
from nets import build_network
from nets.gates import Context
from nets.parameters import read_parameters, write_parameters
from utils import UserError

SLIM = {"arch": "ResNet-8", "dataset": "DIGITS"}


@pytest.fixture(scope="module")
def data():
    return load_dataset("DIGITS")


def prepare_of(data):
    return lambda batch: normalise(batch["images"], data.augmentation)


def written(path, seed=0, meta=SLIM, arrays=None):
    """Writes a parameter file of a ResNet-8."""
    arrays = randomised(parameters("ResNet-8"), seed) if arrays is None else arrays
    write_parameters(str(path), arrays, meta)
    return str(path)


def supernet_file(path):
    written(path)


def found(*paths, step=None, flags=()):
    return subjects(list(paths), runs.asked(*paths, *flags), step)


# ----------------------------------------------------------------------------------------- subjects


def test_a_parameter_file(tmp_path, runtime, data):
    path = written(tmp_path / "mine.pkl")
    (subject,) = found(path)
    assert (subject.name, subject.search) == ("mine", None)
    assert (subject.described.arch, subject.described.dataset) == ("ResNet-8", "DIGITS")
    loaded = load(subject, data, runtime, prepare_of(data))
    assert loaded.supernet is None and loaded.masks is None
    for name, array in read_parameters(path)[0].items():
        np.testing.assert_array_equal(loaded.network.parameters()[name], array)


@pytest.mark.long
def test_a_key_chooses_the_network_of_a_file_and_is_no_word_for_a_run(tmp_path):
    path = str(tmp_path / "checkpoint.pth")
    raw = state_dict("ResNet-18")
    averaged = {name: array + 1 for name, array in raw.items()}
    states = {"state_dict": raw, "state_dict_ema": averaged}
    write_zip(path, {key: {n: Tensor(a) for n, a in x.items()} for key, x in states.items()})
    flags = ["--arch", "ResNet-18", "--dataset", "ImageNet"]
    for key, expected in (("state_dict_ema", averaged), ("state_dict", raw)):
        (subject,) = found(path, flags=[*flags, "--trained_key", key])
        found_bias = subject.file.parameters["fc/biases:0"][0]
        np.testing.assert_array_equal(found_bias, expected["fc.bias"])
        assert f"the network under {key}" in subject.file.note
    folder = runs.make_run(tmp_path)
    with pytest.raises(UserError, match="--trained_key ema: it is for parameter files, not for ru"):
        found(folder, flags=["--trained_key", "ema"])


def test_a_run_folder_is_its_last_sub_network_before_fine_tuning(tmp_path):
    folder = runs.make_run(tmp_path, extraction=lambda path: written(path, seed=1))
    (subject,) = found(folder, flags=["--arch", "ResNet-8"])
    assert subject.name == "run"
    assert subject.file.path == os.path.join(folder, "slimmed_param.pkl")
    assert (subject.search.folder, subject.search.step) == (folder, None)


def test_a_step_is_named_and_has_no_file(tmp_path):
    folder = runs.make_run(tmp_path, extraction=lambda path: written(path, seed=1))
    for step in range(runs.STEPS + 1):
        (subject,) = found(folder, step=step, flags=["--arch", "ResNet-8"])
        assert (subject.name, subject.file) == (f"run-step-{step}", None)
        assert subject.described.path.endswith("warm_param.pkl")


@pytest.mark.parametrize("base", ["slimmed_param.pkl", "trained_param.pkl"])
def test_a_file_beside_a_search_has_the_filters_of_its_last_step(tmp_path, base):
    folder = runs.make_run(tmp_path)
    path = written(os.path.join(folder, base))
    (subject,) = found(path)
    assert subject.name == base.removesuffix(".pkl") and subject.file.path == path
    assert subject.search.step is None
    whole = build_network("ResNet-8", 10, 32)
    masks = subject.search.masks(whole.gate_sizes, 10)
    np.testing.assert_array_equal(masks, runs.history()[-1].masks(whole.gate_sizes))
    assert found(written(os.path.join(folder, "other.pkl")))[0].search is None


@pytest.mark.parametrize(
    "step, said",
    [
        (runs.STEPS + 1, r"^--step 4: the last step of .*run is 3$"),
        (99, "^--step 99: the last step"),
    ],
)
def test_a_step_that_there_is_not(tmp_path, step, said):
    with pytest.raises(UserError, match=said):
        found(runs.make_run(tmp_path), step=step, flags=["--arch", "ResNet-8"])


def test_a_step_of_a_parameter_file(tmp_path):
    with pytest.raises(UserError, match="--step 1: steps are those of run folders; leave it out"):
        found(written(tmp_path / "mine.pkl"), step=1)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not the folder of a run: it has no config\.json"):
        found(str(tmp_path))


def test_a_config_of_another_program(tmp_path):
    for text in ('{"options": {}}', '{"options": {"subsets": {"seed": "x"}}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json does not describe a run of this"):
            found(str(tmp_path))


@pytest.mark.parametrize("missing", ["search_state.npz", "checkpoints/warm_param.pkl"])
def test_a_search_that_is_not_finished(tmp_path, missing):
    folder = runs.make_run(tmp_path)
    os.unlink(os.path.join(folder, "search_state.npz"))
    if "warm" in missing:
        os.unlink(os.path.join(folder, missing))
    for step in (None, 0):
        with pytest.raises(UserError, match="the search of this run is not finished; resume it"):
            found(folder, step=step, flags=["--arch", "ResNet-8"])


def test_a_damaged_search(tmp_path, runtime, data):
    folder = runs.make_run(tmp_path)
    with open(os.path.join(folder, "search_state.npz"), "wb") as file:
        file.write(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"search_state\.npz is damaged"):
        found(folder, step=0, flags=["--arch", "ResNet-8"])
    (subject,) = found(folder, flags=["--arch", "ResNet-8"])
    with pytest.raises(UserError, match=r"search_state\.npz is damaged"):
        load(subject, data, runtime, prepare_of(data))


def test_networks_that_need_other_images_are_not_compared(tmp_path):
    one = written(tmp_path / "one.pkl")
    for meta, classes, said in (
        (
            SLIM | {"dataset": "CIFAR10"},
            10,
            "10 classes of CIFAR10, .*one.pkl for 10 of DIGITS",
        ),
        (SLIM | {"dataset": "CIFAR100"}, 100, "100 classes of CIFAR100"),
    ):
        other = written(tmp_path / "other.pkl", 0, meta, parameters("ResNet-8", classes))
        args = runs.asked(one)
        args.dataset = None
        with pytest.raises(UserError, match=f"{said}.*networks that are compared need the same"):
            subjects([one, other], args)


def test_equal_names_get_their_folders_then_numbers(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    a, b = (written(tmp_path / name / "param.pkl", i) for i, name in enumerate("ab"))
    lone = written(tmp_path / "a" / "lone.pkl")
    names = lambda *paths: [subject.name for subject in found(*paths)]
    assert names(a, lone) == ["param", "lone"]
    assert names(a, b) == ["a-param", "b-param"]
    (tmp_path / "c" / "a").mkdir(parents=True)
    c = written(tmp_path / "c" / "a" / "param.pkl")
    assert names(a, b, c) == ["a-param-1", "b-param", "a-param-2"]
    (tmp_path / "d").mkdir()
    here, there = runs.make_run(tmp_path), runs.make_run(tmp_path / "d")
    made = subjects([here, there], runs.asked(here, "--arch", "ResNet-8"))
    assert [subject.name for subject in made] == ["run-1", "run-2"]


# ------------------------------------------------------------------------------------------ loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose supernet has random arrays everywhere."""
    return runs.make_run(tmp_path_factory.mktemp("runs"), warm_up=supernet_file)


def loaded_step(folder, step, data, runtime):
    (subject,) = found(folder, step=step, flags=["--arch", "ResNet-8"])
    return load(subject, data, runtime, prepare_of(data))


def some_images(data):
    _, subset = select_subsets(data.y_train, 10, 4, 3, 5)  # runs.FLAGS
    return normalise(data.x_train[subset], data.augmentation)


@pytest.mark.long
@pytest.mark.parametrize("step", [0, 1, runs.STEPS, None])
def test_a_step_is_the_masked_network_made_physically_smaller(folder, data, runtime, step):
    """Its moving averages are the statistics of D_subset, which here is one batch (METHOD 6)."""
    loaded = loaded_step(folder, step, data, runtime)
    member = runs.history()[-1 if step is None else step]
    sizes = loaded.supernet.gate_sizes
    np.testing.assert_array_equal(loaded.masks, member.masks(sizes))
    assert loaded.network.gate_sizes.tolist() == member.filters.tolist()
    images = some_images(data)
    whole = build_network("ResNet-8", 10, 32, randomised(parameters("ResNet-8"), 0))
    masked = whole(images, Context("batch", whole.split_masks(loaded.masks))).numpy()
    for statistics in ("batch", "moving"):
        logits = loaded.network(images, Context(statistics)).numpy()
        assert np.abs(logits - masked).max() <= 2e-3 * np.abs(masked).max(), statistics
    # It left the supernet as it was.
    for name, array in randomised(parameters("ResNet-8"), 0).items():
        np.testing.assert_array_equal(loaded.supernet.parameters()[name], array)


@pytest.mark.long
def test_batches_of_the_moving_averages_are_those_of_the_run(tmp_path, folder, data, runtime):
    """Whatever the batches of the analysis: otherwise they would change its results."""
    one = loaded_step(folder, 1, data, runtime)
    assert one.digest == loaded_step(folder, 1, data, runtime).digest
    other = runs.make_run(tmp_path, warm_up=supernet_file)
    config = os.path.join(other, "config.json")
    with open(config) as file:
        content = json.load(file)
    content["options"]["val_batch_size"] = 8
    with open(config, "w") as file:
        json.dump(content, file)
    in_parts = loaded_step(other, 1, data, runtime)
    assert in_parts.digest != one.digest
    for name, array in one.network.parameters().items():
        same = np.array_equal(in_parts.network.parameters()[name], array)
        assert same == ("/moving_" not in name), name
