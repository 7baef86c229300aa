"""Several machines that run one command: reads TF_CONFIG and connects them before TensorFlow is
used.

TensorFlow waits for its peers forever and ignores Ctrl-C and SIGTERM meanwhile. So the machines
connect here first, over plain sockets and with a timeout. They compare their options and share
their errors; tf.distribute starts only if all of them agree. This module does not import
TensorFlow.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time

from utils import UserError

MEET_SECONDS = 600  # how long to wait for the other machines
# How long to wait for a message of a connected machine. It may be downloading a data set.
MESSAGE_SECONDS = 3600


class PeerLost(OSError):
    """Another machine has stopped or cannot be reached."""


# ---------------------------------------------------------------------------- who is in the cluster


@dataclasses.dataclass(frozen=True)
class Cluster:
    """addresses: 'host:port' of every machine, the chief first. index: of this machine."""

    addresses: tuple
    index: int


def cluster_from(environment=os.environ):
    """The Cluster in TF_CONFIG, or None if this machine works alone.

    Raises UserError if TF_CONFIG is invalid.
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
            raise ValueError(f"{stray[0]!r} is not supported, only 'chief' and 'worker' are")
        chiefs, workers = (_addresses(groups.get(kind, [])) for kind in ("chief", "worker"))
        addresses = chiefs + workers
        if len(set(addresses)) < len(addresses) or len(chiefs) > 1:
            raise ValueError("an address occurs twice, or there is more than one chief")
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
    """The addresses of a group as a tuple. Raises ValueError if one is invalid."""
    if not isinstance(group, list):
        raise ValueError(f"{group!r} is not a list of addresses")
    for address in group:
        host, port = _split(address)
        host.encode("idna")  # raises UnicodeError, a ValueError, for an invalid host name
        if not host or port not in range(1, 65536):
            raise ValueError(f"{address!r} is not host:port")
    return tuple(group)


def _split(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


# ----------------------------------------------------------------------------------- how they agree


class Alone:
    """One machine, which is its own chief."""

    index, addresses = 0, ("this machine",)
    chief = True

    def exchange(self, value):
        """The list of the values that all machines passed, by machine. value: JSON-serialisable."""
        return [value]

    @contextlib.contextmanager
    def together(self):
        """A UserError raised on one machine in this block is raised on all of them at its end."""
        yield

    def close(self):
        """Closes the connections to the other machines."""


class Meeting(Alone):
    """Two machines or more. All of them must call `exchange` and `together` in the same order.

    The workers connect to the chief at its address in `cluster`. The chief closes that port when
    all have connected, so that TensorFlow's server can use it. `say(line)` prints a line. Raises
    UserError if the machines do not connect within `timeout` seconds, PeerLost if one stops later.
    """

    def __init__(self, cluster, timeout=MEET_SECONDS, say=print):
        self.index, self.addresses, self.timeout = cluster.index, cluster.addresses, timeout
        self.chief = cluster.index == 0
        role = "the chief" if self.chief else f"a worker (the chief, {self.addresses[0]}, reports)"
        say(
            f"machine {self.index} of {len(self.addresses)}, {role}; waits up to {timeout:g} s for"
            " the others"
        )
        deadline = time.monotonic() + timeout
        # {machine's index: (socket, its reader)}. A worker has a link to the chief, the chief has
        # links to all workers.
        self._links = (
            self._gather_workers(deadline) if self.chief else {0: self._find_chief(deadline)}
        )
        for link, _ in self._links.values():
            link.settimeout(MESSAGE_SECONDS)
            _notice_death(link)
        with self.together():
            self._check_hellos()

    def _listen(self):
        """A server socket on the chief's port."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        try:
            return socket.create_server(
                ("", _split(self.addresses[0])[1]), family=family, dualstack_ipv6=dual
            )
        except OSError as error:
            raise UserError(
                f"TF_CONFIG: {self.addresses[0]} cannot be opened on this machine: {error}"
            ) from error

    def _gather_workers(self, deadline):
        """Accepts a connection of every worker: {index: (socket, reader)}, sorted by index."""
        workers = range(1, len(self.addresses))
        links, self._hellos = {}, {}
        with self._listen() as server:
            while len(links) < len(workers):
                server.settimeout(_left(deadline))
                try:
                    link, _ = server.accept()
                except TimeoutError as error:
                    missing = ", ".join(self.addresses[i] for i in workers if i not in links)
                    message = f"TF_CONFIG: {missing} did not connect within {self.timeout:g} s"
                    # The workers that did connect wait for a reply in their first `together`.
                    for link, _ in links.values():
                        _send(link, [message])
                    raise UserError(message) from error
                link.settimeout(5)  # another program may connect and send nothing
                reader = link.makefile("r", encoding="utf-8")
                hello = _hello(reader)
                if hello is None:
                    reader.close()
                    link.close()
                    continue
                # A worker with an invalid index gets a free one, so that _check_hellos can send it
                # the error.
                index = hello["machine"]
                free = [i for i in workers if i not in links]
                index = index if index in free else free[0]
                links[index], self._hellos[index] = (link, reader), hello
        return dict(sorted(links.items()))

    def _check_hellos(self):
        """Raises UserError if a worker has another TF_CONFIG than the chief."""
        for index, hello in self._hellos.items():
            if hello["cluster"] != list(self.addresses):
                theirs = ", ".join(map(str, hello["cluster"]))
                raise UserError(
                    f"TF_CONFIG: the chief's machines are {', '.join(self.addresses)}, but another"
                    f" machine has {theirs}"
                )
            if hello["machine"] != index:
                raise UserError(f"TF_CONFIG: two machines have the index {hello['machine']}")

    def _find_chief(self, deadline):
        """Connects to the chief and sends this machine's hello: (socket, reader)."""
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
                        f" {self.timeout:g} s: {error}"
                    ) from error
                time.sleep(0.2)

    def exchange(self, value):
        if self.chief:
            values = [value, *(self._read(index) for index in self._links)]
            for index in self._links:
                self._write(index, values)
            return values
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
                f"TF_CONFIG: {self.addresses[index]} answers, but it is not this program"
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
    """Sends `value` as one line of JSON."""
    link.sendall(json.dumps(value).encode() + b"\n")


def _hello(reader):
    """The first message of a worker, {"machine": index, "cluster": [addresses]}.

    None if the connection is from another program.
    """
    try:
        hello = json.loads(reader.readline(10_000))
        valid = isinstance(hello["machine"], int) and isinstance(hello["cluster"], list)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return hello if valid else None


def _notice_death(link):
    """Makes the system check every few seconds whether the other machine is still reachable."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # depends on the system
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _left(deadline):
    """Seconds until `deadline`, above 0."""
    return max(0.01, deadline - time.monotonic())


def meet(timeout=MEET_SECONDS, say=print):
    """The machines of this run: a Meeting of those in TF_CONFIG, or Alone."""
    cluster = cluster_from()
    return Alone() if cluster is None else Meeting(cluster, timeout, say)
