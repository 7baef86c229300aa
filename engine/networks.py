"""What a run asks of what it prunes: of one network, of all networks of an architecture, and of the
place that data and trained network come from.
"""

import typing


@typing.runtime_checkable
class Prunable(typing.Protocol):
    """One network, dense or pruned: what the stages of a run ask of it.

    nets.network.Network and coupling.prunable.PrunableModel meet it. A step (op_utils) masks it by
    the Context that it calls the network with.

    arch: the name of the architecture. classes: C, length of the logits. input_size: height and
    width of an image; image_shape: (H, W, channels).
    gates: list [G] with `name`, `size` and `uses` (METHOD 1a); gate_sizes: int [G]; branches: list
        [G], the name of the residual block that a gate is in and that may go, None for none.
    parts: callables that make up the network one after another; first_parts: list [G] of int, the
        first part that each gate changes. A search of several sub-networks shares what comes
        before it.
    batch_norms: with `move(mean, variance)`, in network order.
    trainable: variables that a training changes, in network order.
    """

    arch: str
    classes: int
    input_size: int
    gates: list
    parts: list

    @property
    def image_shape(self): ...

    @property
    def gate_sizes(self): ...

    @property
    def branches(self): ...

    @property
    def first_parts(self): ...

    @property
    def batch_norms(self): ...

    @property
    def trainable(self): ...

    def __call__(self, images, ctx):
        """Logits, float32 [B, classes], of images [B, H, W, channels]. ctx: nets.gates.Context."""

    def cost(self, filters=None):
        """(MACs, parameters) when gate i keeps filters[i] filters (METHOD 9); None: as it is."""

    def layer_filters(self, filters=None):
        """dict layer name -> filters when gate i keeps filters[i] filters."""

    def parameters(self):
        """dict name -> array, as in a parameter file."""

    def variables_by_name(self):
        """dict name -> variable, in network order."""

    def split_masks(self, flat):
        """The masks of a Context, from a flat float32 [F]."""


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

    def start(self) -> Prunable:
        """The trained network."""

    def new(self) -> Prunable:
        """A network with initial values from the seed of the run."""

    def copy(self, network) -> Prunable:
        """A new network with the arrays of `network`."""

    def sub_network(self, network, masks) -> Prunable:
        """A physically smaller network, with the filters that the masks keep (METHOD 6).

        Its moving averages are those of `network`: re-estimate them. masks: float32 [F].
        """

    def filter_weights(self, network, masks):
        """The weights of filters, for scores: see ekg.extraction.filter_weights."""

    def read(self, path) -> Prunable:
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
