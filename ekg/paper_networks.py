"""The networks of the paper in a run: ResNets and MobileNets of nets/, in parameter files."""

from ekg.extraction import extract
from engine.configuration import versions
from nets import build_network, unpruned_cost
from nets.parameters import read_parameters, write_parameters


class PaperNetworks:
    """See engine.networks.Networks."""

    def __init__(self, options, data, strategy, given, variant):
        """
        Args:
            options: Options, for the architecture and the seed.
            data: Dataset.
            strategy: tf.distribute.Strategy of the devices.
            given: dict name -> array, of the trained network; None: there is none.
            variant: of the network, see nets.variant_of.
        """
        self.arch, self.data, self.strategy = options.arch, data, strategy
        self.given, self.trained = given, given is not None
        self.kept = dict(seed=options.seed, **variant)

    def start(self):
        return self._made(self.given)

    def new(self):
        return self._made(None)

    def copy(self, network):
        return self._made(network.parameters())

    def sub_network(self, network, masks):
        return self._made(extract(network, masks))

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

    def _made(self, arrays):
        with self.strategy.scope():
            shape = self.arch, self.data.classes, self.data.input_size
            return build_network(*shape, arrays, **self.kept)
