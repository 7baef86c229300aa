"""The networks by name. Nothing here imports TensorFlow until a network is built."""

import functools
import importlib

from nets.catalogue import BUILDERS, PADDINGS, PIXELS, WIDEST


def build_network(
    arch,
    classes,
    input_size,
    parameters=None,
    origin="the parameter file",
    seed=0,
    padding="SAME",
    width_multiplier=1.0,
):
    """The network `arch` for images [B, input_size, input_size, 3], logits float32 [B, classes].

    Args:
        arch: a key of BUILDERS.
        classes: C, the number of classes.
        input_size: height and width of an image.
        parameters: dict name -> float32 array (nets.parameters.read_parameters). It gives values
            and shapes, so a pruned file builds the pruned network. None: full width, initialised
            from `seed`.
        origin: the name of the file in error messages.
        seed: seed of the initial values.
        padding: one of PADDINGS, the one that the file was trained with; the file's meta has it.
        width_multiplier: scales all widths (Network.scaled); the file's meta has it. A file cannot
            be wider than that, and the shortcuts of a MobileNet depend on it.

    Raises UserError for an unknown padding, or naming the first array in which `parameters` and
    `arch` differ.
    """
    from nets.initial import Arrays
    from utils import UserError

    if padding not in PADDINGS:
        raise UserError(
            f"{origin} was saved for padding {str(padding)[:50]!r}, not {' or '.join(PADDINGS)}"
        )
    module, name, options = BUILDERS[arch]
    builder = getattr(importlib.import_module(module), name)
    called = arch if width_multiplier == 1 else f"{arch} of width {width_multiplier:g}"
    arrays = Arrays(parameters, origin=origin, arch=called, seed=seed)
    network = builder(
        arch,
        classes,
        input_size,
        arrays,
        padding=padding,
        width_multiplier=width_multiplier,
        **options,
    )
    arrays.check_all_taken()
    return network


def load(path, arch=None, dataset=None, width_multiplier=None, trained_key=None):
    """The network in a parameter file, dense or pruned, as a nets.predictor.Predictor.

    A Predictor is a function of images to logits. An argument that is None is read from the meta
    data of the file.

    Args:
        path: a file that nets.parameters.read_parameters can read.
        arch: a key of nets.catalogue.BUILDERS.
        dataset: a key of nets.catalogue.PIXELS.
        width_multiplier: see build_network; 1 if the file does not say.
        trained_key: of the network that is meant, if the file has several (read_parameters).

    Raises UserError if the file is damaged, contradicts an argument, or does not say what is None.
    """
    network, pixels = _read(path, arch, dataset, width_multiplier, trained_key)
    from nets.predictor import Predictor

    return Predictor(network, *pixels)


def to_keras(path, arch=None, dataset=None, width_multiplier=None, trained_key=None):
    """The network in a parameter file, dense or pruned, as a keras.Model of plain Keras layers.

    The model takes pixels 0..255, float32 or uint8 [B, S, S, 3], which it normalises itself, and
    gives logits, float32 [B, classes]. It trains on with `fit`; its batch norms have the network's
    moving averages. Arguments and errors are those of `load`.
    """
    network, pixels = _read(path, arch, dataset, width_multiplier, trained_key)
    from nets.keras_copy import keras_copy

    return keras_copy(network, *pixels)


def _read(path, arch, dataset, width_multiplier, trained_key):
    """(Network, its entry of PIXELS); see load."""
    from distribution.startup import import_tensorflow
    from nets.parameters import check_known, read_parameters

    import_tensorflow(whole_keras=True)
    path = str(path)
    arrays, meta = read_parameters(path, trained_key)
    check_known(path, arrays)
    arch = _settled(path, "arch", arch, meta.get("arch"), BUILDERS)
    dataset = _settled(path, "dataset", dataset, meta.get("dataset"), PIXELS)
    size = input_size_of(meta) or (224 if dataset == "ImageNet" else 32)
    variant = variant_of(meta, path, width_multiplier)
    classes = classes_of(arrays) or 1
    return build_network(arch, classes, size, arrays, origin=path, **variant), PIXELS[dataset]


def _settled(path, key, asked, written, choices):
    """The value asked for or in the file. Raises UserError if they differ or are unknown."""
    from utils import UserError

    if asked and written and asked != written:
        raise UserError(f"{path} was saved for {key} {str(written)[:50]}, not {asked}")
    value = asked or written
    if not isinstance(value, str) or value not in choices:
        found = f"has the unknown {key} {str(value)[:50]!r}" if value else f"does not say its {key}"
        raise UserError(f"{path} {found}; give {key}=, one of {', '.join(choices)}")
    return value


def classes_of(arrays):
    """Number of classes of the network with these arrays, None if unknown."""
    biases = arrays.get("fc/biases:0")
    return biases.shape[-1] if biases is not None and biases.ndim else None


def input_size_of(meta):
    """Height and width of images, as a file's meta data say; None if they do not, or nonsense."""
    size = meta.get("input_size")
    return size if type(size) is int and 32 <= size <= 2048 else None


def variant_of(meta, path, width_multiplier=None):
    """dict of padding and width_multiplier, for build_network, of the parameter file at `path`.

    meta: the file's meta (nets.parameters.read_parameters).
    width_multiplier: the requested one; None: the file's, or 1 if its meta has none.

    Raises UserError if the requested one is not the file's, or the file's is out of range.
    """
    from nets.parameters import check_saved_for
    from utils import UserError

    written = meta.get("width_multiplier", 1.0)
    if type(written) not in (int, float) or not 0 < written <= WIDEST:
        raise UserError(
            f"{path} was saved for width multiplier {str(written)[:50]!r}, not one above 0 and at"
            f" most {WIDEST}"
        )
    if width_multiplier is not None:
        check_saved_for(path, meta, "width_multiplier", width_multiplier)
        written = width_multiplier
    return {"padding": meta.get("padding", "SAME"), "width_multiplier": float(written)}


@functools.cache
def unpruned_cost(arch, classes, input_size, width_multiplier=1.0):
    """(FLOPs, parameters) of `arch` with all its filters (METHOD 9)."""
    return build_network(arch, classes, input_size, width_multiplier=width_multiplier).cost()
