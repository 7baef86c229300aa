"""A run as its files describe it."""

import dataclasses
import functools
import os

from engine.run_files import STAGES
from nets.catalogue import file_stem
from nets.parameters import read_parameters
from utils import digest

# The stages that write a parameter file, with what to call their networks.
NETWORKS = {
    "baseline": "baseline",
    "warm_up": "after the warm-up",
    "extraction": "after the search",
    "fine_tuning": "after fine-tuning",
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage that the run needs.

    Args:
        name: a key of engine.run_files.STAGES.
        state: "done", "unfinished" or "not begun".
        epochs: (done, all) of a training, else None.
        seconds, mib: duration and peak memory, None where unknown.
    """

    name: str
    state: str
    epochs: tuple[int, int] | None
    seconds: float | None
    mib: float | None


@dataclasses.dataclass(frozen=True)
class Run:
    """A run. See reports.reader.

    Args:
        path: its folder.
        name: what to call it beside other runs.
        options: of config.json, a nested dict.
        versions: dict name -> text, of what it was begun with.
        begun: seconds since 1970, None if unknown.
        finished: whether both networks have been compared.
        sides: dict "baseline", "pruned" -> dict of what was measured; empty if not finished.
        broken: number of images that were skipped, None if it was not counted.
        search, training: the records.
        stages: list of Stage, in order, only those that the run needs.
    """

    path: str
    name: str
    options: dict
    versions: dict[str, str]
    begun: float | None
    finished: bool
    sides: dict[str, dict]
    broken: int | None
    search: list[dict]
    training: list[dict]
    stages: list[Stage]

    @property
    def title(self):
        of_keras = self.options["start"].startswith("model") and self.options["trained_param"]
        arch = os.path.basename(of_keras) if of_keras else self.options["arch"]
        return f"{arch} on {os.path.basename(self.options['dataset'])}"

    @property
    def starts_from(self):
        """The network that the run starts from, in words."""
        options = self.options
        if options.get("trained_param"):
            return options["trained_param"]
        kind, _, found = options["start"].partition(" ")
        if kind != "parameters":
            return options["start"]
        # Parameters that no flag names are those of pretrained/, see ekg.paper_networks.
        width = options.get("width_multiplier")
        return f"pretrained/{file_stem(options['arch'], options['dataset'], width)}, digest {found}"

    @property
    def fine_tunes(self):
        """Whether the run is one with fine-tuning."""
        return self.options["fine_tuning"]["epochs"] > 0

    @property
    def chosen(self):
        """The record of the sub-network that the search has come to; None before the first."""
        # A random search also records draws that are no better than the best so far.
        unpruned = self.search[0] if self.search else None
        return next((r for r in reversed(self.search) if r.get("best", True)), unpruned)

    @property
    def flops_left(self):
        """The share of the baseline's FLOPs that is left, None before the search."""
        return self.chosen and self.chosen["flops_rate"]

    @property
    def seconds(self):
        """Seconds of all stages so far."""
        return sum(stage.seconds or 0 for stage in self.stages)

    def stage(self, name):
        """The Stage of this name, None if the run does not need it."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def epochs_of(self, stage):
        """The training records of a stage."""
        return [record for record in self.training if record["stage"] == stage]

    def parameter_file(self, stage):
        """Path of the parameter file of one of NETWORKS, None if there is none."""
        path = os.path.join(self.path, STAGES[stage])
        return path if os.path.exists(path) else None

    @functools.cached_property
    def filters(self):
        """dict layer -> (filters before or None, filters kept) of the convolutions, in network
        order; empty before the extraction.

        Depthwise convolutions are left out: they have the filters of the convolution before them.
        """
        kept = _filters(self.parameter_file("extraction"))
        before = _filters(self.parameter_file("warm_up")) if kept else {}
        # The kernel of a depthwise convolution is [height, width, channels, 1].
        counts = {layer: (before.get(layer), kept.get(layer, 0)) for layer in before or kept}
        return {
            layer: (whole, count)
            for layer, (whole, count) in counts.items()
            if (count if whole is None else whole) > 1
        }

    @functools.cached_property
    def digests(self):
        """dict name in NETWORKS -> utils.digest of the network; of the start even if it was given.

        Raises UserError for a damaged parameter file.
        """
        found = {}
        kind, _, text = self.options["start"].partition(" ")
        if kind == "parameters":  # written so by ekg.paper_networks
            found["baseline"] = text.partition(",")[0]
        for stage in NETWORKS:
            path = self.parameter_file(stage)
            if path:
                found[stage] = digest(read_parameters(path)[0])
        return found


def called(stage):
    """The name of a stage in a text."""
    return {"warm_up": "warm-up", "fine_tuning": "fine-tuning"}.get(stage, stage.replace("_", " "))


def _filters(path):
    arrays = read_parameters(path)[0] if path else {}
    found = {}
    for name, array in arrays.items():
        layer, _, kernel = name.rpartition("/")
        # The arrays of Keras models have no ":0" at their end.
        if kernel.removesuffix(":0") in ("kernel", "pointwise_kernel") and array.ndim == 4:
            found[layer] = array.shape[3]
    return found


def names_of(paths):
    """A name for each folder: its last part, or as many as distinguish it from the others."""
    split = [os.path.abspath(path).strip(os.sep).split(os.sep) for path in paths]
    names = []
    for parts in split:
        lengths = range(1, len(parts) + 1)
        alone = (n for n in lengths if sum(other[-n:] == parts[-n:] for other in split) == 1)
        names.append(os.sep.join(parts[-next(alone, len(parts)) :]) or os.sep)
    return names
