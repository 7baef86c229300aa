"""Where steps run (one device, several GPUs, a CPU split into replicas, several machines) and how
(XLA, accumulation, precision).
"""

import contextlib
import dataclasses
import faulthandler
import os
import platform
import re
import signal
import subprocess

import tensorflow as tf

from distribution.machines import Alone
from distribution.startup import without_greetings
from utils import UserError, cores

# How long TensorFlow's servers may take to connect, after all machines have met.
START_SECONDS = 180

# On CPUs, gates are padded to a multiple of this many channels, because oneDNN's kernels are faster
# then (bench/channels.py, docs/performance.md). In float32, 8 has another reason: sums are
# bit-identical to those of the network with all filters, so a search makes the same choices.
MULTIPLES = {"float32": 8, "bfloat16": 16}
TF32 = "tf32"  # of --precision
# Of x86 processors that have instructions for bfloat16, or on which oneDNN composes them of others.
FAST_BFLOAT16 = {"avx512bw", "avx_ne_convert"}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where steps run and how.

    Args:
        strategy: tf.distribute.Strategy.
        compile: whether XLA compiles the steps.
        accum: number of parts that a replica splits its batch into.
        precision: float32, tf32, bfloat16 or float16: what layers compute in. tf32 is float32 whose
            products are rounded to 10 bits, on GPUs that can.
        sync_bn: whether batch norm uses the statistics of all replicas.
        gpu: whether the replicas are GPUs.
        machines: machines.Alone or machines.Meeting.
        precision_flag: the flag that `precision` comes from, for error messages.
        multiple: the value of `channel_multiple`; None chooses it by device and precision.
        drops: whether passes of masked networks leave dropped filters out where they can.
    """

    strategy: tf.distribute.Strategy
    compile: bool = False
    accum: int = 1
    precision: str = "float32"
    sync_bn: bool = False
    gpu: bool = False
    machines: Alone = dataclasses.field(default_factory=Alone)
    precision_flag: str = "--precision"
    multiple: int | None = None
    drops: bool = True

    @property
    def replicas(self):
        return self.strategy.num_replicas_in_sync

    @property
    def parts(self):
        """Number of parts of a global batch: replicas x accum."""
        return self.replicas * self.accum

    @property
    def synchronises(self):
        """Whether the forward pass contains an all-reduce of batch statistics.

        XLA cannot compile that.
        """
        return self.sync_bn and self.replicas > 1

    @property
    def dtype(self):
        return tf.float32 if self.precision == TF32 else tf.as_dtype(self.precision)

    @contextlib.contextmanager
    def arithmetic(self):
        """In the block, products have the precision of this runtime. Wrap every call of the device.

        TensorFlow's switch for TF32 is one for the whole process, and read when a step is compiled
        or runs. It is off outside such blocks: float32 means float32.
        """
        if self.precision != TF32:
            yield
            return
        tf.config.experimental.enable_tensor_float_32_execution(True)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(False)

    def channel_multiple(self, masked):
        """The multiple of channels that gates are padded to in a forward pass (nets.gates.Context).

        masked: whether the pass is of a masked network.
        """
        if self.multiple is not None:
            return self.multiple
        if self.compile:
            return 1
        if self.gpu or self.precision == "float16":  # not faster there, or not measured
            return 8 if masked else 1
        return MULTIPLES[self.dtype.name]

    def check_batch(self, flag, size):
        """Raises UserError unless a batch of `size` images divides into equal parts.

        flag: the flag that sets the batch size, for the message.
        """
        if size % self.parts:
            raise UserError(
                f"{flag}: a batch of {size} does not divide into {self.replicas} replicas x"
                f" {self.accum} --accum"
            )


def choose_gpus(requested, available):
    """The indices of the GPUs to use; an empty list means the CPU.

    requested: list of ids, or None for the first GPU if there is one; available: how many GPUs the
    machine has. Raises UserError if a requested GPU does not exist.
    """
    if available == 0:
        return []
    if requested is None:
        return [0]
    missing = [i for i in requested if i not in range(available)]
    if missing:
        ids = ", ".join(map(str, range(available)))
        raise UserError(f"--gpu_id {missing[0]}: there is no such GPU; this machine has {ids}")
    return sorted(set(requested))


def check_options(options, machines):
    """Raises UserError if engine.options.DeviceOptions contradict each other."""
    if options.cpu_replicas and options.gpu_id is not None:
        raise UserError(
            "--cpu_replicas splits the CPU but --gpu_id selects GPUs; leave one of them out"
        )
    if options.cpu_replicas and len(machines.addresses) > 1:
        raise UserError(
            "--cpu_replicas: with TF_CONFIG each machine without GPUs is one replica; leave"
            " --cpu_replicas out"
        )
    if options.sync_bn and options.accum > 1:
        raise UserError(
            f"--sync_bn needs a replica's whole batch, but --accum {options.accum} splits it; leave"
            " one of them out"
        )


def cpu_info():
    """dict from /proc/cpuinfo: "model name", "flags" ...; empty if the system has no such file."""
    if not os.path.exists("/proc/cpuinfo"):
        return {}
    with open("/proc/cpuinfo") as file:
        return dict(re.findall(r"^([\w ]+?)\s*: (.*)$", file.read(), re.MULTILINE))


def _has_fast_bfloat16():
    """False for x86 processors on which bfloat16 is computed number by number."""
    flags = cpu_info().get("flags")  # ARM's are "Features"
    return flags is None or not FAST_BFLOAT16.isdisjoint(flags.split())


def make_runtime(options, machines):
    """(Runtime, lines to print). options: engine.options.DeviceOptions; machines: machines.meet().

    Call this before TensorFlow uses a device. Raises UserError if a device does not exist or the
    options contradict each other.
    """
    with machines.together():
        check_options(options, machines)
        gpus = tf.config.list_physical_devices("GPU")
        ids = [] if options.cpu_replicas else choose_gpus(options.gpu_id, len(gpus))
        chosen = [gpus[i] for i in ids]
    counts = machines.exchange(len(chosen))
    if len(set(counts)) > 1:
        raise UserError(
            f"--gpu_id: the machines of TF_CONFIG use {', '.join(map(str, counts))} GPUs; all must"
            " use the same number"
        )
    # TF32, the default on some GPUs, rounds products to 10 bits: see Runtime.arithmetic.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    # In a notebook TensorFlow may have started: then what it sees of GPUs and memory stays.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)
    compile = bool(chosen) if options.compile is None else options.compile
    strategy = _strategy(chosen, options.cpu_replicas, machines)
    runtime = Runtime(
        strategy, compile, options.accum, options.precision, options.sync_bn, bool(chosen), machines
    )
    return runtime, _notes(options, runtime)


def _notes(options, runtime):
    """Lines to print about flags that have no effect, or not the usual one."""
    lines = []
    if options.gpu_id is not None and not runtime.gpu:
        lines.append(f"--gpu_id {options.gpu_id[0]}: this machine has no GPU, the CPU is used")
    if options.precision == TF32 and not (runtime.gpu and all(map(_has_tf32, _gpus_in_use()))):
        lines.append("--precision tf32 has no effect: it needs a GPU of 2020 or later (Ampere)")
    if "bfloat16" in (options.precision, options.search_precision) and not (
        runtime.gpu or _has_fast_bfloat16()
    ):
        lines.append(
            "bfloat16 is several times slower than float32 on this processor, which has no"
            " instructions for it"
        )
    if options.sync_bn and not runtime.synchronises:
        lines.append("--sync_bn has no effect: there is only one replica")
    if runtime.compile and runtime.synchronises:
        lines.append(
            "--sync_bn: steps that use batch statistics are not compiled, because they exchange"
            " data between replicas in the forward pass"
        )
    return lines


def _gpus_in_use():
    """[dict of details] of the GPUs in use."""
    gpus = tf.config.get_visible_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def _has_tf32(gpu):
    return gpu.get("compute_capability", (0, 0)) >= (8, 0)


def hardware():
    """The GPUs in use and the processor, as text."""
    names = [gpu.get("device_name", "GPU") for gpu in _gpus_in_use()]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return ", ".join(
        [*counted, f"{cores()} cores of {cpu_info().get('model name', platform.machine())}"]
    )


def _strategy(gpus, cpu_replicas, machines):
    """The tf.distribute.Strategy for these devices."""
    if len(machines.addresses) > 1:
        return _several_machines()
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(len(gpus))])
    if cpu_replicas and cpu_replicas > 1:
        _split_cpu(cpu_replicas)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(cpu_replicas)])
    return tf.distribute.get_strategy()  # the default strategy adds nothing to a call


def _split_cpu(count):
    """Splits the CPU into `count` logical devices, unless it has as many already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )


def _several_machines():
    """The strategy for several machines, to be called right after they have met.

    Its constructor blocks the interpreter, signal handlers included, until all machines have
    connected. If a machine has died in the meantime, only a thread outside Python can end this
    process (faulthandler), and only another process can print why (the shell below).
    """
    message = (
        "another machine of TF_CONFIG has stopped before TensorFlow could reach it; start the"
        " command again on all machines"
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with without_greetings() as stderr:
        script = 'sleep "$1"; kill -0 "$2" && echo "$3" >&2'
        watch = subprocess.Popen(
            ["sh", "-c", script, "sh", str(START_SECONDS), str(os.getpid()), message],
            stderr=stderr,
            start_new_session=True,
        )
        with open(os.devnull, "w") as nowhere:
            faulthandler.dump_traceback_later(START_SECONDS + 2, exit=True, file=nowhere)
            if handlers[signal.SIGINT] is not signal.SIG_IGN:
                # Python's own handler would run only after the constructor has returned.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                strategy = tf.distribute.MultiWorkerMirroredStrategy()
            finally:
                faulthandler.cancel_dump_traceback_later()
                os.killpg(watch.pid, signal.SIGKILL)
                watch.wait()
                # TensorFlow has installed handlers that do not end the process.
                for number, handler in handlers.items():
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)
    return strategy
