"""TF_CONFIG, and how machines connect: each thread plays a machine."""

import concurrent.futures
import json
import re
import socket
import time

import pytest
from processes import addresses

from distribution.machines import Alone, Cluster, Meeting, PeerLost, cluster_from, meet
from engine.configuration import check_agreement
from utils import UserError


def config(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def everywhere(count, act, timeout=20):
    """Calls act(meeting) on `count` machines at once; a list of what each returned or raised."""
    where = addresses(count)

    def machine(index):
        try:
            return act(Meeting(Cluster(where, index), timeout, say=lambda line: None))
        except (UserError, PeerLost) as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(machine, range(count)))


def all_refused(clusters, message, timeout=10):
    """Each machine with its Cluster in `clusters` raises a UserError that matches `message`."""

    def machine(cluster):
        with pytest.raises(UserError, match=message):
            Meeting(cluster, timeout, say=lambda line: None)
        return True

    with concurrent.futures.ThreadPoolExecutor(len(clusters)) as pool:
        assert all(pool.map(machine, clusters))


# ---------------------------------------------------------------------------------------- TF_CONFIG


@pytest.mark.parametrize(
    "environment", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, config({"worker": ["a:1"]})]
)
def test_one_machine_is_no_cluster(environment):
    assert cluster_from(environment) is None


def test_the_first_worker_or_the_chief_comes_first():
    assert cluster_from(config({"worker": ["a:1", "b:2"]}, index=1)) == Cluster(("a:1", "b:2"), 1)
    both = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    assert cluster_from(config(both, "chief")) == Cluster(("a:1", "b:2", "c:3"), 0)
    assert cluster_from(config(both, "worker", 1)) == Cluster(("a:1", "b:2", "c:3"), 2)


@pytest.mark.parametrize(
    "environment",
    [
        {"TF_CONFIG": "worker"},
        {"TF_CONFIG": "[1]"},
        {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:2"]}}'},
        config({"worker": ["a:1", "b:2"]}, index=2),
        config({"worker": ["a:1", "b:2"]}, index=-1),
        config({"worker": ["a:1", "b:2"]}, "evaluator"),
        config({"worker": ["a:1", "b"]}),
        config({"worker": ["a:1", "b:x"]}),
        config({"worker": ["a:1", "a:1"]}),
        config({"worker": "a:1"}),
        config({"worker": {"a:1": 1, "b:2": 2}}),
        config({"worker": ["a:1", "b:0"]}),
        config({"worker": ["a:1", "b:99999"]}),
        config({"worker": ["a:1", ":2"]}),
        config({"worker": ["a:1", "b" * 70 + ":2"]}),
        config({"worker": ["a:1", "b:2"]}, index=True),
        config({"worker": ["a:1"], "ps": ["b:2"]}),
        config({"worker": ["a:1"], "chief": ["b:2", "c:3"]}),
    ],
)
def test_a_tf_config_that_makes_no_sense_is_refused_in_one_line(environment):
    with pytest.raises(UserError, match=r"^TF_CONFIG"):
        cluster_from(environment)


def test_without_tf_config_a_machine_is_alone_and_agrees_with_itself(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    alone = meet()
    assert type(alone) is Alone and alone.chief and alone.exchange({"a": 1}) == [{"a": 1}]
    with pytest.raises(UserError, match="mine"), alone.together():
        raise UserError("mine")


# ----------------------------------------------------------------------------------------- meetings


@pytest.mark.parametrize("count", [2, 3])
def test_everyone_hears_what_everyone_says_in_their_order(count):
    def act(meeting):
        values = [meeting.exchange({"index": meeting.index, "round": n}) for n in range(3)]
        meeting.close()
        return meeting.chief, values

    expected = [[{"index": i, "round": n} for i in range(count)] for n in range(3)]
    assert everywhere(count, act) == [(index == 0, expected) for index in range(count)]


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_the_mistake_of_one_machine_is_told_on_all(culprit):
    def act(meeting):
        with meeting.together():
            if meeting.index == culprit:
                raise UserError("its data are missing")

    for index, error in enumerate(everywhere(3, act)):
        assert isinstance(error, UserError) and "its data are missing" in str(error)
        assert str(error).startswith(
            "its" if index == culprit else f"machine {culprit}, 127.0.0.1:"
        )


class Data:
    digest = "the same images"


@pytest.mark.parametrize("seeds", [(0, 0), (0, 3)])
def test_machines_with_other_options_are_refused_on_all(seeds):
    def act(meeting):
        try:
            check_agreement(meeting, {"seed": seeds[meeting.index], "train_path": "run"}, Data())
        finally:
            meeting.close()

    found = everywhere(2, act)
    if seeds[0] == seeds[1]:
        assert found == [None, None]
        return
    for error in found:
        assert re.match(r"machine 1, .*\(seed: 0 at the chief, 3 there\)$", str(error)), error


def test_a_machine_that_leaves_is_missed_at_once():
    def act(meeting):
        if meeting.index == 1:
            meeting.close()
            return None
        begin = time.monotonic()
        with pytest.raises(PeerLost, match=r"machine (1|0), 127\.0\.0\.1:"):
            meeting.exchange("anyone?")
        meeting.close()
        return time.monotonic() - begin

    results = everywhere(3, act, timeout=30)
    assert results[1] is None and max(results[0], results[2]) < 15


@pytest.mark.long
@pytest.mark.parametrize("index, missing", [(0, 1), (1, 0)])
def test_a_machine_that_never_comes_is_named(index, missing):
    where = addresses(2)
    with pytest.raises(UserError) as refusal:
        Meeting(Cluster(where, index), timeout=1, say=lambda line: None)
    assert where[missing] in str(refusal.value) and "within 1 s" in str(refusal.value)


@pytest.mark.long
def test_those_who_came_hear_who_did_not():
    where = addresses(3)
    all_refused(
        [Cluster(where, 0), Cluster(where, 1)], f"{where[2]} did not connect within 1 s", timeout=1
    )


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        where = (f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:1")
        with pytest.raises(UserError, match="cannot be opened"):
            Meeting(Cluster(where, 0), timeout=2, say=lambda line: None)


def test_machines_with_other_lists_are_refused_on_all():
    where = addresses(2)
    all_refused([Cluster(where, 0), Cluster((where[0], "10.1.2.3:4"), 1)], r"10\.1\.2\.3:4")


def test_two_machines_with_one_index_are_refused_on_all():
    where = addresses(3)
    all_refused([Cluster(where, index) for index in (0, 1, 1)], "two machines have the index 1")


def test_another_service_at_the_chiefs_address_is_told_apart():
    with (
        socket.create_server(("127.0.0.1", 0)) as service,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):

        def answer():
            link, _ = service.accept()
            with link:
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                link.recv(1000)

        answered = pool.submit(answer)
        where = (f"127.0.0.1:{service.getsockname()[1]}", "127.0.0.1:1")
        with pytest.raises(UserError, match="it is not this program"):
            Meeting(Cluster(where, 1), timeout=5, say=lambda line: None)
        answered.result(10)


@pytest.mark.long
def test_strangers_that_knock_are_sent_away():
    where = addresses(2)

    def stranger(_):
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b'{"machine": 7}\n', b"[]\n"):
            while True:
                try:
                    with socket.create_connection(
                        ("127.0.0.1", int(where[0].rsplit(":")[-1])), timeout=5
                    ) as link:
                        link.sendall(sent)
                        assert link.recv(10) == b"", "sent away at once"
                    break
                except ConnectionResetError:  # sent away before all was read
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
        return "knocked"

    def machine(index):
        if index == 2:
            return stranger(index)
        if index == 1:
            time.sleep(1)
        return Meeting(Cluster(where, index), timeout=20, say=lambda line: None).exchange(index)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(machine, range(3))) == [[0, 1], [0, 1], "knocked"]
