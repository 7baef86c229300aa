"""Several machines that run one command together: who they are (TF_CONFIG), and how they agree
before devices are touched.

TensorFlow waits for its peers without an end and hears neither Ctrl-C nor SIGTERM meanwhile. So the
machines meet here first, over plain sockets and in bounded time: they tell each other what they
were asked to do and what went wrong, and only those that agree go on to tf.distribute. Nothing here
imports TensorFlow.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time

from utils import UserError

PATIENCE = 600  # seconds to wait for the other machines
TALK = 3600  # seconds to wait for what a machine that is there will say; it may be downloading


class PeerLost(OSError):
    """Another machine has stopped, or was never there."""


# ---------------------------------------------------------------------------- who is in the cluster


@dataclasses.dataclass(frozen=True)
class Cluster:
    """addresses: 'host:port' of every machine, the chief's first; index: that of this machine."""

    addresses: tuple
    index: int


def cluster_from(environment=os.environ):
    """The Cluster that TF_CONFIG names, None where this machine is alone. Raises UserError for one
    that cannot be read.
    """
    text = environment.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
        groups, task = config.get("cluster", {}), config.get("task", {})
        if not groups:
            return None
        stray = sorted(set(groups) - {"chief", "worker"})
        if stray:
            raise ValueError(f"this program knows a chief and workers, no {stray[0]}")
        chiefs, workers = (_addresses(groups.get(kind, [])) for kind in ("chief", "worker"))
        addresses = chiefs + workers
        if len(set(addresses)) < len(addresses) or len(chiefs) > 1:
            raise ValueError("an address is there twice, or there is more than one chief")
        own = {"chief": chiefs, "worker": workers}[task["type"]]
        index = task["index"]
        if not str(index).isdigit() or int(index) >= len(own):
            raise ValueError(f"there is no {task['type']} {index}")
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f'TF_CONFIG: {type(error).__name__}: {error}; it should look like {{"cluster":'
            ' {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    return Cluster(addresses, addresses.index(own[int(index)])) if len(addresses) > 1 else None


def _addresses(group):
    """The addresses of a group as a tuple, once they have been looked at."""
    if not isinstance(group, list):
        raise ValueError(f"{group!r} is no list of addresses")
    for address in group:
        host, port = _split(address)
        host.encode("idna")  # UnicodeError, a ValueError, for names that cannot be one
        if not host or port not in range(1, 65536):
            raise ValueError(f"{address!r} is no host:port")
    return tuple(group)


def _split(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


# ----------------------------------------------------------------------------------- how they agree


class Alone:
    """One machine: it is its own chief and always of one mind."""

    index, addresses = 0, ("this machine",)
    chief = True

    def exchange(self, value):
        """What every machine said, in their order. value: anything JSON can hold."""
        return [value]

    @contextlib.contextmanager
    def together(self):
        """A UserError raised on one machine in this block is raised on all of them at its end."""
        yield

    def close(self):
        pass


class Meeting(Alone):
    """Two machines or more; every one of them calls `exchange` and `together` in the same order.

    The workers connect to the chief at its address in `cluster`, which it leaves to TensorFlow's
    server afterwards. Raises UserError where they do not find each other within `patience` seconds,
    PeerLost where one has gone later.
    """

    def __init__(self, cluster, patience=PATIENCE, say=print):
        self.index, self.addresses, self.patience = cluster.index, cluster.addresses, patience
        self.chief = cluster.index == 0
        what = (
            "the chief"
            if self.chief
            else f"works for the chief, {self.addresses[0]}, which reports"
        )
        say(
            f"machine {self.index} of {len(self.addresses)}, {what}; waits up to {patience:g} s for"
            " the others"
        )
        deadline = time.monotonic() + patience
        # index of a machine -> (socket, its reader): a worker is linked with the chief, the chief
        # with every worker
        self._links = (
            self._gather_workers(deadline) if self.chief else {0: self._find_chief(deadline)}
        )
        for link, _ in self._links.values():
            link.settimeout(TALK)
            _notice_death(link)
        with self.together():
            self._check_hellos()

    def _gather_workers(self, deadline):
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            server = socket.create_server(
                ("", _split(self.addresses[0])[1]), family=family, dualstack_ipv6=both
            )
        except OSError as error:
            raise UserError(
                f"TF_CONFIG: {self.addresses[0]} cannot be opened on this machine: {error}"
            ) from error
        links, self._hellos = {}, {}
        with server:
            while len(links) < len(self.addresses) - 1:
                server.settimeout(_left(deadline))
                try:
                    link, _ = server.accept()
                except TimeoutError as error:
                    missing = ", ".join(
                        a for i, a in enumerate(self.addresses) if i and i not in links
                    )
                    said = f"TF_CONFIG: {missing} did not come within {self.patience:g} s"
                    for link, _ in links.values():  # they wait for the first `together`
                        _send(link, [said])
                    raise UserError(said) from error
                link.settimeout(5)
                reader = link.makefile("r", encoding="utf-8")
                hello = _hello(reader)
                if hello is None:
                    reader.close()
                    link.close()
                    continue
                # One that fits nowhere takes a place all the same: it is to hear why this meeting
                # ends.
                index = hello["machine"]
                fits = index in range(1, len(self.addresses)) and index not in links
                place = (
                    index
                    if fits
                    else next(i for i in range(1, len(self.addresses)) if i not in links)
                )
                links[place], self._hellos[place] = (link, reader), hello
        return dict(sorted(links.items()))

    def _check_hellos(self):
        for place, hello in self._hellos.items():
            if hello["cluster"] != list(self.addresses):
                theirs = ", ".join(map(str, hello["cluster"]))
                raise UserError(
                    f"TF_CONFIG: the chief's machines are {', '.join(self.addresses)}, those of"
                    f" another {theirs}"
                )
            if hello["machine"] != place:
                raise UserError(f"TF_CONFIG: two machines say they are machine {hello['machine']}")

    def _find_chief(self, deadline):
        self._hellos = {}
        while True:
            try:
                link = socket.create_connection(_split(self.addresses[0]), timeout=_left(deadline))
                _send(link, {"machine": self.index, "cluster": self.addresses})
                return link, link.makefile("r", encoding="utf-8")
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"TF_CONFIG: the chief, {self.addresses[0]}, did not answer within"
                        f" {self.patience:g} s: {error}"
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
            _send(self._links[index][0], value)
        except OSError as error:
            raise self._lost(index) from error

    def _read(self, index):
        try:
            line = self._links[index][1].readline()
            if line.endswith("\n"):
                return json.loads(line)
        except OSError as error:
            raise self._lost(index) from error
        except ValueError as error:
            raise UserError(
                f"TF_CONFIG: something else than this program answers at {self.addresses[index]}"
            ) from error
        raise self._lost(index)

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


def _send(link, value):
    """One line of JSON, as _read and _hello take it."""
    link.sendall(json.dumps(value).encode() + b"\n")


def _hello(reader):
    """What a machine says of itself; None if it is a stranger that knocks."""
    try:
        hello = json.loads(reader.readline(10_000))
        return (
            hello
            if isinstance(hello["machine"], int) and isinstance(hello["cluster"], list)
            else None
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _notice_death(link):
    """Lets the system check every few seconds that the other machine is still there."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not everywhere
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _left(deadline):
    return max(0.01, deadline - time.monotonic())


def meet(patience=PATIENCE, say=print):
    """The machines that work together: those of TF_CONFIG, or this one alone."""
    cluster = cluster_from()
    return Alone() if cluster is None else Meeting(cluster, patience, say)
