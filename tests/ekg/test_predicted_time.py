"""Where the times of layers come from that a search predicts with, and what is refused."""

import json
import os
import types

import pytest
from layer_times_by_hand import times_of

from distribution.machines import Alone
from ekg.predicted_time import measured, times_for
from engine.layer_timing import machine_here, setting_of
from engine.options import SearchOptions
from engine.run_files import STAGES, TIMES, UNFINISHED
from nets import build_network
from utils import UserError

BATCH = 4


@pytest.fixture(scope="module")
def network():
    return build_network("ResNet-8", 10, 32)


@pytest.fixture
def times(network, runtime):
    setting = setting_of(network, runtime, BATCH) | machine_here()
    return times_of(network, setting=setting)


class Place:
    """A run in a folder, and what happened in the search for its times."""

    def __init__(self, folder, network, runtime, times, monkeypatch):
        self.folder, self.network, self.runtime = folder, network, runtime
        self.events, self.said = [], []
        os.makedirs(folder / "checkpoints", exist_ok=True)

        def measured(network, runtime, batch_size, track):
            assert batch_size == BATCH
            self.events.append("measured")
            return times

        monkeypatch.setattr("ekg.predicted_time.measured", measured)

    def write(self, name, text="x"):
        (self.folder / name).write_text(text)

    def find(self, check=True, search_from=None, layer_times=None, overwrite=False, **search):
        settings = dict(target="latency", latency_batch_size=BATCH) | search
        options = types.SimpleNamespace(
            train_path=str(self.folder),
            overwrite=overwrite,
            search_from=search_from,
            layer_times=layer_times and str(layer_times),
            search=SearchOptions(0.5, 0.2, "none", **settings),
        )
        console = types.SimpleNamespace(say=self.said.append, bar=lambda items, label: items)
        check_folder = (lambda: self.events.append("checked")) if check else None
        own = options, self.network, self.runtime, Alone(), console, check_folder
        return times_for(*own)


@pytest.fixture
def place(tmp_path, network, runtime, times, monkeypatch):
    return Place(tmp_path / "run", network, runtime, times, monkeypatch)


def test_a_search_in_flops_needs_none(place):
    assert place.find(target="flops") is None and not place.events
    assert place.find(target="flops", slice_by="time").ms(place.network)


def test_they_are_measured_after_the_folder_was_checked(place, times):
    assert place.find().described() == times.described()
    assert place.events == ["checked", "measured"]
    assert "(-10.0%)" in place.said[-1]
    assert place.find(check=False) is None and place.events == ["checked", "measured"]


def test_a_search_that_is_done_or_taken_over_needs_none(place):
    assert place.find(search_from="other") is None
    place.write(STAGES["search"])
    assert place.find() is None and not place.events
    assert place.find(overwrite=True) is not None


def test_a_run_keeps_the_times_it_began_with(place, network, times, tmp_path):
    own = times_of(network, scale=0.5)
    own.save(str(place.folder / TIMES))
    assert place.find().described() == own.described() and not place.events
    own.save(str(tmp_path / "same.json"))
    assert place.find(layer_times=tmp_path / "same.json").described() == own.described()
    times.save(str(tmp_path / "other.json"))
    with pytest.raises(UserError, match="began with other times"):
        place.find(layer_times=tmp_path / "other.json")
    again = place.find(layer_times=tmp_path / "other.json", overwrite=True)
    assert again.described() == times.described()


def test_a_search_that_has_begun_does_not_go_on_with_others(place):
    place.write(UNFINISHED["search"])
    with pytest.raises(UserError, match=r"layer_times\.json is missing"):
        place.find()
    assert place.find(overwrite=True) is not None


def test_times_from_a_file(place, times, tmp_path):
    path = tmp_path / "times.json"
    times.save(str(path))
    assert place.find(layer_times=path).described() == times.described()
    assert not place.events and not place.said
    other = times.described()
    other["setting"] |= {"hardware": "64 cores of another"}
    path.write_text(json.dumps(other))
    assert place.find(layer_times=path)
    assert "the search is for 64 cores of another" in place.said[-1]
    with pytest.raises(UserError, match="batch_size 4, not 8"):
        place.find(layer_times=path, latency_batch_size=8)
    del other["layers"][next(iter(other["layers"]))]
    path.write_text(json.dumps(other))
    with pytest.raises(UserError, match="holds no times of ResNet-8's layer"):
        place.find(layer_times=path)


def test_times_of_a_pruned_network_are_others(place, times, tmp_path):
    times.setting["FLOPs"] -= 1
    times.save(str(tmp_path / "times.json"))
    with pytest.raises(UserError, match="FLOPs"):
        place.find(layer_times=tmp_path / "times.json")


@pytest.mark.parametrize(
    "sums, used, passes", [((10.9, 10.0), 10.9, 1), ((6.0, 13.0), 13.0, 2), ((13.0, 6.0), 13.0, 2)]
)
def test_a_sum_that_is_off_is_measured_once_more(network, runtime, monkeypatch, sums, used, passes):
    """Measured are 10 ms; the closer of two sums counts."""
    left = list(sums)

    def measure(network, smaller, runtime, batch_size, track):
        filters, half = smaller
        assert [gate.size for gate in half.gates] == list(filters) and batch_size == BATCH
        times = times_of(network)
        times.check = {"predicted_ms": left.pop(0), "measured_ms": 10.0, "dense_ms": 20.0}
        return times

    monkeypatch.setattr("ekg.predicted_time.measure", measure)
    assert measured(network, runtime, BATCH).check["predicted_ms"] == used
    assert len(left) == len(sums) - passes
