"""What tests that start processes share."""

import json
import os
import pathlib
import socket
import subprocess
import sys

# As a user has it: TensorFlow's log level is what the tests themselves have set.
QUIET = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Runs a program and ends it with 77 if it writes under a folder, other than rows of the memory
# bank.
WATCHED = """
import os, runpy, sys
folder = sys.argv[1]
def watch(event, args):
    if not args or not str(args[0]).startswith(folder):
        return
    opens = event == "open" and isinstance(args[2], int)
    writes = opens and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    rows = str(args[0]).endswith("memory_bank.npy.part")
    writes = writes and not (rows and args[2] & ~os.O_CLOEXEC == os.O_WRONLY)
    if writes or event in ("os.rename", "os.mkdir", "os.remove"):
        os.write(2, f"{event} {args}".encode())
        os._exit(77)
sys.addaudithook(watch)
sys.argv = sys.argv[2:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def addresses(count):
    return tuple(f"127.0.0.1:{port}" for port in free_ports(count))


def start(*flags_by_machine, program="train_cifar.py", watched=None):
    """The processes of a cluster, the chief first. flags_by_machine: the flags each machine is
    started with.
    """
    where, processes = addresses(len(flags_by_machine)), []
    for index, flags in enumerate(flags_by_machine):
        config = {"cluster": {"worker": where}, "task": {"type": "worker", "index": index}}
        run = (
            [sys.executable]
            if watched is None or index == 0
            else [sys.executable, "-c", WATCHED, str(watched)]
        )
        processes.append(
            subprocess.Popen(
                [*run, program, *flags],
                cwd=ROOT,
                env={**QUIET, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def ends(processes, seconds=300):
    """(exit code, stdout, stderr) of each."""
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            results.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return results


def records(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def without_tensorflow(folder, *command):
    """Runs a program where importing TensorFlow fails and leaves a trace."""
    trace = folder / "imported"
    stub = folder / "stub"
    stub.mkdir()
    (stub / "tensorflow.py").write_text(
        f"open({str(trace)!r}, 'w').close()\nraise ImportError('TensorFlow was imported')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(stub)}
    name, *flags = command
    command = [sys.executable, str(ROOT / name), *flags]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert not trace.exists(), "TensorFlow was imported"
    return done
