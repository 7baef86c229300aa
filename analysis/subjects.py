"""The networks that are analysed: parameter files, or sub-networks of a run's search."""

import contextlib
import dataclasses
import os

import numpy as np

from cli.network_file import NetworkFile, read_network_file
from dataloader.images import whole_batches
from dataloader.sampling import select_subsets
from ekg import extraction
from ekg.history import SearchState
from engine.run_files import CONFIG, STAGES, read_object
from files.npz import load_npz
from nets.network import Network
from op_utils import statistics_step
from utils import UserError, digest

PRUNED = (STAGES["extraction"], STAGES["fine_tuning"])  # files with the arrays of a run's last step


@dataclasses.dataclass(frozen=True)
class Search:
    """The search of a run.

    Args:
        folder: of the run.
        supernet: NetworkFile.
        subsets: dict of val_per_class, subset_per_class and seed.
        batch_size: images per batch when the run re-estimates moving averages.
        step: whose sub-network is meant, None for the last.
    """

    folder: str
    supernet: NetworkFile
    subsets: dict
    batch_size: int
    step: int | None

    def check_step(self):
        """Raises UserError if the search has no such step, or its file is damaged."""
        if self.step is None:
            return
        path = os.path.join(self.folder, STAGES["search"])
        try:
            last = len(load_npz(path, ("loss",))["loss"]) - 1
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to search again") from error
        if self.step > last:
            raise UserError(f"--step {self.step}: the last step of {self.folder} is {last}")

    def masks(self, sizes, classes):
        """float32 [F], the filters of the sub-network. sizes: int [G], of the supernet's gates.

        Raises UserError for a damaged file.
        """
        path = os.path.join(self.folder, STAGES["search"])
        images = self.subsets["val_per_class"] * classes
        history = SearchState.load(path, sizes, images, classes).history
        return history[-1 if self.step is None else self.step].masks(sizes)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to analyse.

    Args:
        name: for tables and files.
        file: NetworkFile with its arrays; None: they are still to be extracted.
        search: Search that found it, None if it is not known.
    """

    name: str
    file: NetworkFile | None
    search: Search | None

    @property
    def described(self):
        """A NetworkFile that says its architecture, data set and classes."""
        if self.file is not None:
            return self.file
        assert self.search is not None, "a sub-network to extract has a search"
        return self.search.supernet


def subjects(paths, args, step=None):
    """The Subjects at `paths`: parameter files, or folders of runs with a finished search.

    Args:
        paths: list of str.
        args: parsed flags, see cli.network_file.
        step: for folders: the step of the search whose sub-network is meant, None for the last.

    Raises UserError for a path that is neither, and for networks of different data sets.
    """
    found = [
        _of_run(path, args, step) if os.path.isdir(path) else _of_file(path, args) for path in paths
    ]
    if step is not None and not any(map(os.path.isdir, paths)):
        raise UserError(f"--step {step}: steps are those of run folders; leave it out")
    if args.trained_key is not None and all(map(os.path.isdir, paths)):
        raise UserError(
            f"--trained_key {args.trained_key}: it is for parameter files, not for run folders;"
            " leave it out"
        )
    first = found[0].described
    for other in (subject.described for subject in found):
        sizes = [file.files and file.files.input_size for file in (other, first)]
        same = (other.dataset, other.classes) == (first.dataset, first.classes)
        if not same or sizes[0] != sizes[1]:
            raise UserError(
                f"{other.path} is for {other.classes} classes of {other.dataset}, {first.path} for"
                f" {first.classes} of {first.dataset}; networks that are compared need the same"
                " images"
            )
    return _with_own_names(found)


def _of_file(path, args):
    """The Subject of a parameter file. Beside a search, its filters are those of the last step."""
    folder, base = os.path.split(path)
    known = base in PRUNED and os.path.exists(os.path.join(folder, STAGES["search"]))
    search = _search(folder, args, None) if known else None
    file = read_network_file(path, args, args.trained_key)
    return Subject(os.path.splitext(base)[0], file, search)


def _of_run(folder, args, step):
    """The Subject of a run folder: a sub-network of its search, before fine-tuning."""
    search = _search(folder, args, step)
    search.check_step()
    name = os.path.basename(os.path.abspath(folder))
    if step is not None:
        return Subject(f"{name}-step-{step}", None, search)
    pruned = os.path.join(folder, STAGES["extraction"])
    file = read_network_file(pruned, args) if os.path.exists(pruned) else None
    return Subject(name, file, search)


def _search(folder, args, step):
    config = read_object(folder, "config.json", CONFIG, "run folder")
    if config is None:
        raise UserError(
            f"{folder} is not the folder of a run: it has no config.json; give a parameter file, or"
            " a run folder"
        )
    options = config["options"]
    subsets, batch_size = options.get("subsets"), options.get("val_batch_size")
    keys = "val_per_class", "subset_per_class", "seed"
    known = isinstance(subsets, dict) and all(type(subsets.get(key)) is int for key in keys)
    if not known or type(batch_size) is not int:
        raise UserError(f"{folder}/config.json does not describe a run of this program")
    if not os.path.exists(os.path.join(folder, STAGES["search"])):
        raise UserError(f"{folder}: the search of this run is not finished; resume it first")
    supernet = read_network_file(os.path.join(folder, STAGES["warm_up"]), args)
    return Search(folder, supernet, {key: subsets[key] for key in keys}, batch_size, step)


def _with_own_names(found):
    """The Subjects, with names that differ: that of the folder, then a number, is added."""
    names = [subject.name for subject in found]
    if len(set(names)) < len(names):
        folder = lambda s: os.path.basename(os.path.dirname(os.path.abspath(s.described.path)))
        names = [f"{folder(s)}-{s.name}" if s.file else s.name for s in found]
    names = [
        f"{name}-{names[:i].count(name) + 1}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
    return [dataclasses.replace(s, name=name) for s, name in zip(found, names)]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A Subject on the devices.

    Args:
        subject: Subject.
        network: Network, physically as small as its sub-network.
        supernet: Network that the search started from, None if it is not known.
        masks: float32 [F], the filters of the supernet that it has; None likewise.
    """

    subject: Subject
    network: Network
    supernet: Network | None = None
    masks: np.ndarray | None = None

    @property
    def digest(self):
        """16 hex digits that identify the network's arrays."""
        return digest(self.network.parameters())


def load(subject, data, runtime, prepare):
    """The Loaded network of a Subject.

    A sub-network that no file has is extracted, and its moving averages are re-estimated on
    D_subset, as in a run (METHOD 6).

    Args:
        subject: Subject.
        data: Dataset.
        runtime: Runtime.
        prepare: function of a batch to float32 [b, S, S, 3].
    """
    search = subject.search
    with runtime.strategy.scope():
        if search is None:
            return Loaded(subject, subject.file.build(data))
        supernet = search.supernet.build(data)
        masks = search.masks(supernet.gate_sizes, data.classes)
        if subject.file is not None:
            return Loaded(subject, subject.file.build(data), supernet, masks)
        arrays = extraction.extract(supernet, masks)
        file = dataclasses.replace(search.supernet, parameters=arrays)
        network = file.build(data)
    _, subset = select_subsets(data.y_train, data.classes, **search.subsets)
    # Batches as in the run, because moving averages are means of the statistics of batches.
    size = min(search.batch_size, len(subset))
    size = max(size - size % runtime.parts, runtime.parts)
    _, batches = whole_batches(data.x_train, subset, size)
    with contextlib.closing(batches):
        extraction.reestimate(network, statistics_step(network, runtime, prepare), batches)
    return Loaded(subject, network, supernet, masks)
