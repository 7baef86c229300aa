"""Where steps run: one device, several GPUs, one CPU split into replicas, several machines; and
how: XLA, parts, precision.
"""

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

START_SECONDS = (
    180  # in which TensorFlow's servers have to find each other, once all machines have met
)

# Gates are filled up to a multiple of so many channels on CPUs, where oneDNN's kernels are faster
# then: bench/channels.py measured it (docs/performance.md). In float32 it is 8 for two more
# reasons: sums are then to the bit those of the network with all filters there, so that a search
# takes the same way; and with fewer channels than 8, oneDNN's kernel for AVX2 gets the gradient of
# a 1x1 convolution with strides wrong (uxlfoundation/oneDNN#6035).
MULTIPLES = {"float32": 8, "bfloat16": 16, "float16": 1}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where steps run and how.

    strategy: tf.distribute.Strategy; compile: whether XLA compiles them; accum: in how many parts a
    replica takes its batch; precision: float32, bfloat16 or float16, what layers compute in;
    sync_bn: whether batch norm's statistics span all replicas; gpu: whether they are GPUs;
    machines: machines.Alone or a machines.Meeting; precision_flag: the option that `precision`
    comes from, for advice; multiple: what `channel_multiple` gives, None for what suits device and
    precision.
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

    @property
    def replicas(self):
        return self.strategy.num_replicas_in_sync

    @property
    def parts(self):
        """In how many parts a global batch is taken, over all replicas."""
        return self.replicas * self.accum

    @property
    def synchronises(self):
        """Whether batch statistics need an all-reduce within the forward pass, which XLA cannot
        compile.
        """
        return self.sync_bn and self.replicas > 1

    @property
    def dtype(self):
        return tf.as_dtype(self.precision)

    def channel_multiple(self, masked):
        """Gates have a multiple of so many channels in a forward pass (nets.gates.Context), of a
        masked network or another.
        """
        if self.multiple is not None:
            return self.multiple
        if self.compile:
            return 1
        if self.gpu:
            return 8 if masked else 1
        return MULTIPLES[self.precision]

    def check_batch(self, flag, size):
        """Raises UserError unless a batch of `size` images, which option `flag` asks for, divides
        into equal parts.
        """
        if size % self.parts:
            raise UserError(
                f"{flag}: a batch of {size} does not divide into {self.replicas} replicas x"
                f" {self.accum} --accum"
            )


def choose_gpus(requested, available):
    """Indices of the GPUs to use. `requested`: list of ids or None; `available`: how many the
    machine has.

    None asks for the first GPU if there is one. An empty list means the CPU. Raises UserError for
    ids that are not there.
    """
    if available == 0:
        return []
    if requested is None:
        return [0]
    missing = [i for i in requested if i not in range(available)]
    if missing:
        there = ", ".join(map(str, range(available)))
        raise UserError(f"--gpu_id {missing[0]}: there is no such GPU; this machine has {there}")
    return sorted(set(requested))


def check_options(options, machines):
    """Raises UserError where DeviceOptions contradict each other."""
    if options.cpu_replicas and options.gpu_id is not None:
        raise UserError(
            "--cpu_replicas splits the CPU and --gpu_id asks for GPUs; leave one of them out"
        )
    if options.cpu_replicas and len(machines.addresses) > 1:
        raise UserError(
            "--cpu_replicas: in TF_CONFIG each machine without GPUs is one replica; leave"
            " --cpu_replicas out"
        )
    if options.sync_bn and options.accum > 1:
        raise UserError(
            f"--sync_bn needs a replica's batch at once, --accum {options.accum} takes it in parts;"
            " leave one of them out"
        )


def cpu_info():
    """dict of what the system says of a processor: "model name", "flags" ...; empty where it says
    nothing.
    """
    if not os.path.exists("/proc/cpuinfo"):
        return {}
    with open("/proc/cpuinfo") as file:
        return dict(re.findall(r"^([\w ]+?)\s*: (.*)$", file.read(), re.MULTILINE))


def make_runtime(options, machines):
    """(Runtime, lines to say). options: engine.options.DeviceOptions; machines: from machines.meet.

    To be called before TensorFlow has touched a device. Raises UserError for devices that are not
    there.
    """
    with machines.together():
        check_options(options, machines)
        gpus = tf.config.list_physical_devices("GPU")
        chosen = (
            []
            if options.cpu_replicas
            else [gpus[i] for i in choose_gpus(options.gpu_id, len(gpus))]
        )
    counts = machines.exchange(len(chosen))
    if len(set(counts)) > 1:
        raise UserError(
            f"--gpu_id: the machines of TF_CONFIG use {', '.join(map(str, counts))} GPUs; each must"
            " use as many"
        )
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:
        tf.config.experimental.set_memory_growth(gpu, True)
    compile = bool(chosen) if options.compile is None else options.compile
    strategy = _strategy(chosen, options.cpu_replicas, machines)
    runtime = Runtime(
        strategy, compile, options.accum, options.precision, options.sync_bn, bool(chosen), machines
    )
    lines = []
    if options.gpu_id is not None and not chosen:
        lines.append(f"--gpu_id {options.gpu_id[0]}: this machine has no GPU, the CPU is used")
    if options.sync_bn and not runtime.synchronises:
        lines.append("--sync_bn: there is one replica, nothing to synchronise")
    if compile and runtime.synchronises:
        lines.append(
            "--sync_bn: replicas meet within the forward pass, so steps that use batch statistics"
            " are not compiled"
        )
    return runtime, lines


def hardware():
    """The GPUs that are used and the processor, in words."""
    gpus = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.get_visible_devices("GPU")
    ]
    names = [gpu.get("device_name", "GPU") for gpu in gpus]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return ", ".join(
        [*counted, f"{cores()} cores of {cpu_info().get('model name', platform.machine())}"]
    )


def _strategy(gpus, cpu_replicas, machines):
    if len(machines.addresses) > 1:
        return _several_machines()
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(len(gpus))])
    if cpu_replicas and cpu_replicas > 1:
        _split_cpu(cpu_replicas)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(cpu_replicas)])
    return tf.distribute.get_strategy()  # the default strategy adds nothing to a call


def _split_cpu(count):
    """Makes `count` logical devices of the CPU, unless there are as many already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )


def _several_machines():
    """The strategy of several machines, all of which have just met.

    Its constructor holds Python still until all machines are there, and signals with it. Should one
    have died since, only a thread outside of Python can end this process, and only another process
    can say why.
    """
    said = (
        "another machine of TF_CONFIG has stopped before TensorFlow could reach it; start the"
        " command on all again"
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with without_greetings() as stderr:
        watch = subprocess.Popen(
            [
                "sh",
                "-c",
                'sleep "$1"; kill -0 "$2" && echo "$3" >&2',
                "sh",
                str(START_SECONDS),
                str(os.getpid()),
                said,
            ],
            stderr=stderr,
            start_new_session=True,
        )
        with open(os.devnull, "w") as nowhere:
            faulthandler.dump_traceback_later(START_SECONDS + 2, exit=True, file=nowhere)
            if handlers[signal.SIGINT] is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would wait for Python
            try:
                strategy = tf.distribute.MultiWorkerMirroredStrategy()
            finally:
                faulthandler.cancel_dump_traceback_later()
                os.killpg(watch.pid, signal.SIGKILL)
                watch.wait()
                for (
                    number,
                    handler,
                ) in handlers.items():  # TensorFlow has put one there that ends nothing
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)
    return strategy
