"""Several machines that run one command together: who they are (TF_CONFIG), and how they agree before devices are touched.

TensorFlow waits for its peers without an end and hears neither Ctrl-C nor SIGTERM meanwhile. So the machines meet here first,
over plain sockets and in bounded time: they tell each other what they were asked to do and what went wrong, and only those
that agree go on to tf.distribute. Nothing here imports TensorFlow.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time

from utils import UserError

PATIENCE = 600  # seconds to wait for the other machines


class PeerLost(OSError):
    """Another machine has stopped, or was never there."""


# ---------------------------------------------------------------------------------------------------- who is in the cluster


@dataclasses.dataclass(frozen=True)
class Cluster:
    """addresses: 'host:port' of every machine, the chief's first; index: which of them this one is."""

    addresses: tuple
    index: int


def cluster_from(environment=os.environ):
    """The Cluster that TF_CONFIG names, None where this machine is alone. Raises UserError for one that cannot be read."""
    text = environment.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
        groups, task = config.get("cluster", {}), config.get("task", {})
        if not groups:
            return None
        chiefs, workers = (tuple(groups.get(kind, ())) for kind in ("chief", "worker"))
        kind, index = task["type"], int(task["index"])
        addresses = chiefs + workers
        own = {"chief": chiefs, "worker": workers}[kind][index]
        for address in addresses:
            _split(address)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise UserError(
            "TF_CONFIG is not what TensorFlow expects, "
            '{"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}: '
            f"{type(error).__name__} {error}"
        ) from error
    stray = sorted(set(groups) - {"chief", "worker"})
    if stray or len(set(addresses)) < len(addresses) or len(chiefs) > 1 or index < 0:
        what = f"it names a {stray[0]}" if stray else "an address or an index is there twice or below 0"
        raise UserError(f"TF_CONFIG: {what}; this program knows at most one chief, and workers with an address each")
    return Cluster(addresses, addresses.index(own)) if len(addresses) > 1 else None


def _split(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


# ----------------------------------------------------------------------------------------------------- how they agree


class Alone:
    """One machine: it is its own chief and always of one mind."""

    index, addresses = 0, ("this machine",)
    chief = True

    def exchange(self, value):
        """What every machine said, in their order. value: anything JSON can hold."""
        return [value]

    @contextlib.contextmanager
    def together(self):
        """A UserError that one machine meets in this block is raised on all of them when it ends."""
        yield

    def close(self):
        pass


class Meeting(Alone):
    """Two machines or more; every one of them calls `exchange` and `together` in the same order.

    The workers connect to the chief at its address in `cluster`, which it leaves to TensorFlow's server afterwards. Raises
    UserError where they do not find each other within `patience` seconds, PeerLost where one has gone later.
    """

    def __init__(self, cluster, patience=PATIENCE, say=print):
        self.index, self.addresses, self.patience = cluster.index, cluster.addresses, patience
        self.chief = cluster.index == 0
        what = "the chief" if self.chief else f"works for the chief, {self.addresses[0]}, which reports"
        say(f"machine {self.index} of {len(self.addresses)}, {what}; waits up to {patience:g} s for the others")
        deadline = time.monotonic() + patience
        # index of a machine -> (socket, its reader): a worker is linked with the chief, the chief with every worker
        self._links = self._gather_workers(deadline) if self.chief else {0: self._find_chief(deadline)}
        for link, _ in self._links.values():
            link.settimeout(patience)
        with self.together():
            pass  # a port taken by someone else would show here

    def _gather_workers(self, deadline):
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            server = socket.create_server(("", _split(self.addresses[0])[1]), family=family, dualstack_ipv6=both)
        except (OSError, OverflowError) as error:
            raise UserError(f"TF_CONFIG: {self.addresses[0]} cannot be opened on this machine: {error}") from error
        links, workers = {}, range(1, len(self.addresses))
        with server:
            while len(links) < len(workers):
                server.settimeout(_left(deadline))
                try:
                    link, _ = server.accept()
                except TimeoutError as error:
                    missing = ", ".join(self.addresses[i] for i in workers if i not in links)
                    raise UserError(f"TF_CONFIG: {missing} did not come within {self.patience:g} s") from error
                link.settimeout(5)
                reader = link.makefile("r", encoding="utf-8")
                try:
                    index = json.loads(reader.readline(1000))["machine"]
                except (OSError, ValueError, TypeError, KeyError):  # a stranger knocked
                    index = None
                if index in workers:
                    links[index] = link, reader
                else:
                    link.close()
        return dict(sorted(links.items()))

    def _find_chief(self, deadline):
        while True:
            try:
                link = socket.create_connection(_split(self.addresses[0]), timeout=_left(deadline))
                link.sendall(json.dumps({"machine": self.index}).encode() + b"\n")
                return link, link.makefile("r", encoding="utf-8")
            except (OSError, OverflowError) as error:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"TF_CONFIG: the chief, {self.addresses[0]}, did not answer within {self.patience:g} s: {error}"
                    ) from error
                time.sleep(0.2)

    def exchange(self, value):
        if self.chief:
            said = [value, *(self._read(index) for index in self._links)]
            for index in self._links:
                self._write(index, said)
            return said
        self._write(0, value)
        return self._read(0)

    def _write(self, index, value):
        try:
            self._links[index][0].sendall(json.dumps(value).encode() + b"\n")
        except OSError as error:
            raise self._lost(index) from error

    def _read(self, index):
        try:
            line = self._links[index][1].readline()
        except OSError as error:
            raise self._lost(index) from error
        if not line.endswith("\n"):
            raise self._lost(index)
        return json.loads(line)

    def _lost(self, index):
        return PeerLost(f"machine {index}, {self.addresses[index]}, has stopped or is out of reach")

    @contextlib.contextmanager
    def together(self):
        error = None
        try:
            yield
        except UserError as own:
            error = own
        for index, other in enumerate(self.exchange(None if error is None else str(error))):
            if other is not None and index != self.index and error is None:
                raise UserError(f"machine {index}, {self.addresses[index]}: {other}")
        if error is not None:
            raise error

    def close(self):
        for link, reader in self._links.values():
            reader.close()
            link.close()


def _left(deadline):
    return max(0.01, deadline - time.monotonic())


def meet(patience=PATIENCE, say=print):
    """The machines that work together: those of TF_CONFIG, or this one alone."""
    cluster = cluster_from()
    return Alone() if cluster is None else Meeting(cluster, patience, say)
