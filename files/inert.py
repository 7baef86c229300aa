"""Names of values that training scripts save beside weights, and that no weights are made of.

Such a value is recognised by its name and left alone: see pickle_reader.Inert. The list has what
the standard library and PyTorch themselves make; any other name is a reason to refuse a file.
"""

import re

NAMES = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    *(f"datetime.{name}" for name in ("date", "time", "datetime", "timedelta", "timezone")),
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath".split())
    ),
    # Python 2 and protocols up to 2 say __builtin__.
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in "set frozenset complex slice range xrange object bytes bytearray".split()
    ),
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "torch.device",
    "torch.torch_version.TorchVersion",
    "torch.serialization._get_layout",
    *(
        f"torch.{name}"
        for name in (
            "float16 float32 float64 bfloat16 half float double uint8 int8 int16 int32 int64"
            " short int long bool complex64 complex128 strided contiguous_format channels_last"
            " preserve_format"
        ).split()
    ),
}
# Optimisers, schedules, scalers of the loss and losses, as objects.
PATTERN = re.compile(r"torch\.(optim|amp|cuda\.amp|nn\.modules\.loss)\.[A-Za-z_][\w.]*")
# What a defaultdict makes: only right behind its name, since elsewhere some could be called.
FACTORY = re.compile(r"(builtins|__builtin__)\.(int|float|bool|str|list|dict|tuple)")


def is_inert(name, behind=None):
    """Whether values of the global `name` are left alone.

    behind: the name of the inert value that stands right before it in the pickle, or None.
    """
    if behind == "collections.defaultdict" and FACTORY.fullmatch(name):
        return True
    return name in NAMES or PATTERN.fullmatch(name) is not None
