"""What a run asks of the kind of networks that it prunes."""

import typing


class Networks(typing.Protocol):
    """One architecture, dense and pruned: its networks on the devices of the run, and their files.

    arch: the name of the architecture.
    trained: whether there is a trained network to start from; if not, the run trains a baseline.
    """

    arch: str
    trained: bool

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

    def read(self, path):
        """The network in a file. Raises UserError if it is damaged or holds another one."""

    def write(self, path, network):
        """Writes a network and what is known of it."""
