"""The networks of the paper as the subject of a run: ResNets and MobileNets, in parameter files."""

import os

from dataloader import load_dataset
from ekg.extraction import extract, filter_weights
from ekg.task import CLASSES
from engine.configuration import versions
from engine.run_files import own_files
from nets import build_network, unpruned_cost, variant_of
from nets.catalogue import file_stem
from nets.parameters import (
    check_known,
    check_saved_for,
    note_on_others,
    read_parameters,
    write_parameters,
)
from utils import UserError, digest


class PaperNetworks:
    """See engine.networks.Networks."""

    task = CLASSES

    def __init__(self, options, data, strategy, source, given, variant, note=""):
        """
        Args:
            options: Options, for the architecture and the seed.
            data: Dataset.
            strategy: tf.distribute.Strategy of the devices.
            source: path of the trained network, None without one.
            given: dict name -> array, of the trained network; None without one.
            variant: of the network, see nets.variant_of.
            note: about the other networks in `source`, "" without any.
        """
        self.arch, self.data, self.strategy = options.arch, data, strategy
        self.path, self.given, self.trained = source, given, given is not None
        self.source = f"{source}: {note}" if note else source
        self.kept = dict(seed=options.seed, **variant)

    def start(self):
        return self._made(self.given, origin=self.path)

    def new(self):
        return self._made(None)

    def copy(self, network):
        return self._made(network.parameters())

    def sub_network(self, network, masks):
        return self._made(extract(network, masks))

    def filter_weights(self, network, masks):
        return filter_weights(network, masks)

    def read(self, path):
        return self._made(read_parameters(path)[0])

    def write(self, path, network):
        flops, params = network.cost()
        whole = unpruned_cost(
            network.arch, network.classes, network.input_size, network.width_multiplier
        )
        meta = {
            "arch": network.arch,
            "dataset": self.data.name,
            "classes": network.classes,
            "input_size": network.input_size,
            "padding": network.padding,
            "width_multiplier": network.width_multiplier,
        }
        meta |= {
            "flops": flops,
            "params": params,
            "flops_rate": flops / whole[0],
            "versions": versions(),
        }
        write_parameters(path, network.parameters(), meta)

    def deliver(self, folder, name, network):
        return os.path.join(folder, name)

    def _made(self, arrays, origin="the parameter file"):
        with self.strategy.scope():
            shape = self.arch, self.data.classes, self.data.input_size
            return build_network(*shape, arrays, origin, **self.kept)


class PaperSubject:
    """See engine.networks.Subject. options: Options."""

    computes = False

    def __init__(self, options):
        self.options = options
        self.source, self.given, self.meta, self.variant, self.note = None, None, {}, {}, ""

    def data(self, share):
        options = self.options
        if options.trained_param:
            self._read(options.trained_param)  # first: data sets may take long, or be missing
        return load_dataset(options.dataset, options.data_path, options.files, share)

    def find(self, begun):
        options = self.options
        self.source = options.trained_param or (None if begun else pretrained(options))
        if not self.source:
            if options.trained_key is not None:
                raise UserError(
                    f"--trained_key {options.trained_key} chooses a network in --trained_param;"
                    " give that too, or leave it out"
                )
            self.variant = variant_of({}, None, options.width_multiplier)
            return f"a baseline trained here{_unusual(self.variant)}"
        deleted = map(os.path.realpath, own_files(options.train_path))
        if options.overwrite and os.path.realpath(self.source) in deleted:
            raise UserError(
                f"--overwrite would delete {self.source}, which the run starts from; copy it to"
                " another place first"
            )
        meta = self._read(self.source)
        for key, ours in (("arch", options.arch), ("dataset", options.dataset)):
            check_saved_for(self.source, meta, key, ours)
        self.variant = variant_of(meta, self.source, options.width_multiplier)
        return f"parameters {digest(self.given)}{_unusual(self.variant)}"

    def _read(self, path):
        """Reads the network in a file, once; returns its meta."""
        if self.given is None:
            self.given, self.meta = read_parameters(path, self.options.trained_key)
            check_known(path, self.given)
            self.note = note_on_others(self.meta)
        return self.meta

    def runtime(self, runtime):
        return runtime

    def networks(self, data, strategy):
        own = self.source, self.given, self.variant, self.note
        return PaperNetworks(self.options, data, strategy, *own)


def _unusual(variant):
    """The values of a variant that are not the defaults, as text."""
    usual = variant_of({}, None)
    return "".join(
        f", {key.replace('_', ' ')} {value}"
        for key, value in variant.items()
        if value != usual[key]
    )


def pretrained(options):
    """The path of pretrained/ARCH_DATASET.pkl or .npz beside the programs, or None.

    For a width multiplier other than 1 see nets.catalogue.file_stem.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    name = file_stem(options.arch, options.dataset, options.width_multiplier)
    stem = os.path.join(here, "pretrained", name)
    paths = stem + ".pkl", stem + ".npz"
    return next(filter(os.path.exists, paths), None)
