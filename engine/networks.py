"""What a run asks of what it prunes: its data, its trained network, and how networks are made."""

import typing


class Networks(typing.Protocol):
    """One architecture, dense and pruned: its networks on the devices of the run, and their files.

    arch: the name of the architecture.
    trained: whether there is a trained network to start from; if not, the run trains a baseline.
    source: what to call that network in messages, None without one.
    task: what its outputs mean, see ekg.task.Task; the engine uses `right`, `measure` and
        `accuracy_name`.
    """

    arch: str
    trained: bool
    source: str | None
    task: typing.Any

    def start(self):
        """The trained network."""

    def new(self):
        """A network with initial values from the seed of the run."""

    def copy(self, network):
        """A new network with the arrays of `network`."""

    def sub_network(self, network, masks):
        """A physically smaller network, with the filters that the masks keep (METHOD 6).

        Its moving averages are those of `network`: re-estimate them. masks: float32 [F].
        """

    def filter_weights(self, network, masks):
        """The weights of filters, for scores: see ekg.extraction.filter_weights."""

    def read(self, path):
        """The network in a file. Raises UserError if it is damaged or holds another one."""

    def write(self, path, network):
        """Writes a network and what is known of it."""

    def deliver(self, folder, name, network):
        """Writes the result of a run for users into its folder, where there is more to it than the
        parameter file `name`; returns its path, None if the run folder does not stay.
        """


class Subject(typing.Protocol):
    """What a run prunes, before anything is written.

    computes: whether `data` and `find` compute with TensorFlow: then devices are chosen before.
    """

    computes: bool

    def data(self, share):
        """The dataloader.Dataset. share: (w, W), this is machine w of W."""

    def find(self, begun):
        """Finds the network to start from; returns text that identifies it, for config.json.

        begun: whether an earlier start of the run has begun to train a baseline. Raises UserError
        for a network that the run cannot start from.
        """

    def runtime(self, runtime):
        """The Runtime that the networks need, given one for the devices."""

    def networks(self, data, strategy):
        """The Networks of the run. data: Dataset; strategy: tf.distribute.Strategy."""
