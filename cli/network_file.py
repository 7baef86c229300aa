"""A network to look at: what its parameter file says, and flags for the rest."""

import dataclasses

from dataloader import DATASETS, IN_FILES, FileOptions
from nets import build_network, classes_of, input_size_of, variant_of
from nets.catalogue import BUILDERS, IMAGENET
from nets.parameters import check_known, check_saved_for, note_on_others, read_parameters
from utils import UserError

CIFAR_SIZE = 32  # height and width of all images that are not in files


@dataclasses.dataclass(frozen=True)
class NetworkFile:
    """A network as its file and the flags describe it.

    Args:
        path: of the parameter file.
        parameters: dict name -> float32 array.
        arch: a key of nets.catalogue.BUILDERS.
        dataset: one of dataloader.DATASETS.
        variant: see nets.variant_of.
        files: FileOptions if the images of `dataset` are in files, else None.
        note: line to print about other networks in the file, "" without any.
    """

    path: str
    parameters: dict
    arch: str
    dataset: str
    variant: dict
    files: FileOptions | None
    note: str = ""

    @property
    def classes(self):
        """Number of classes, None if the file does not show it."""
        return classes_of(self.parameters)

    def build(self, data):
        """The Network, for the images and classes of a Dataset."""
        shape = self.arch, data.classes, data.input_size
        return build_network(*shape, self.parameters, origin=self.path, **self.variant)

    def build_alone(self):
        """The Network, without a data set. Raises UserError if the file lacks its last layer."""
        if self.classes is None:
            raise UserError(f"{self.path} does not fit {self.arch}: it has no fc/biases:0")
        size = self.files.input_size if self.files else CIFAR_SIZE
        shape = self.arch, self.classes, size
        return build_network(*shape, self.parameters, origin=self.path, **self.variant)


def read_network_file(path, args, key=None):
    """The NetworkFile at `path`. key: of its network, see nets.parameters.read_parameters.

    args: parsed flags --arch, --dataset, --width_multiplier, --input_size, --val_labels. They must
    not contradict the file, and give what it does not say. Raises UserError.
    """
    parameters, meta = read_parameters(path, key)
    check_known(path, parameters)
    arch = _settled(args.arch, meta, "arch", BUILDERS, "ResNet-56", path)
    fallback = "ImageNet" if arch in IMAGENET else "CIFAR10"
    dataset = _settled(args.dataset, meta, "dataset", DATASETS, fallback, path)
    files = _file_options(args, dataset, meta)
    variant = variant_of(meta, path, args.width_multiplier)
    note = note_on_others(meta)
    note = note and f"{path}: {note}"
    return NetworkFile(path, parameters, arch, dataset, variant, files, note)


def _settled(asked, meta, key, known, fallback, path):
    """The value of --arch or --dataset.

    Args:
        asked: value of the flag or None; it must not contradict the file.
        meta: dict, metadata of the file.
        key: "arch" or "dataset".
        known: allowed values.
        fallback: used if neither the flag nor the file gives a value.
        path: of the parameter file, for messages.
    """
    written = meta.get(key)
    if asked:
        check_saved_for(path, meta, key, asked)
    if not asked and written and written not in known:
        raise UserError(f"{path} was saved for {key} {written}, which this program does not know")
    return asked or written or fallback


def _file_options(args, dataset, meta):
    """FileOptions if the images of `dataset` are in files, else None.

    The input size is that of --input_size, else of the file, else 224.
    """
    if dataset not in IN_FILES:
        given = {"--input_size": args.input_size, "--val_labels": args.val_labels}
        wrong = next((flag for flag, value in given.items() if value is not None), None)
        if wrong:
            raise UserError(f"{wrong} is only for images in files, not for {dataset}; leave it out")
        return None
    size = args.input_size or input_size_of(meta) or FileOptions.input_size
    return FileOptions(size, args.val_labels)
