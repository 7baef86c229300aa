"""What the analyses of a command share: data, devices, images, networks."""

import dataclasses
import shlex
import sys

from analysis.curvature import Hessian
from analysis.folder import FLAG, AnalysisFolder
from analysis.images import Images, select
from analysis.options import ImageOptions
from analysis.subjects import load
from dataloader import Dataset, load_dataset
from dataloader.augment import normalise
from distribution.machines import Alone, cluster_from
from distribution.runtime import Runtime, hardware, make_runtime
from engine.console import Console, Silent
from utils import UserError


@dataclasses.dataclass(frozen=True)
class Setting:
    """Data, devices and images of an analysis.

    Args:
        data: Dataset.
        runtime: Runtime.
        image: ImageOptions.
        images: Images, chosen by them.
        console: Console.
    """

    data: Dataset
    runtime: Runtime
    image: ImageOptions
    images: Images
    console: Console

    def prepare(self, batch):
        """float32 [b, S, S, 3], normalised, from a batch of pixels."""
        return normalise(batch["images"], self.data.augmentation)

    def load(self, subject):
        """The Loaded network of a Subject (analysis.subjects)."""
        return load(subject, self.data, self.runtime, self.prepare)

    def bar(self, label, total):
        return self.console.bar((), label, total)

    def hessian(self, network, over, bar=Silent):
        """The Hessian of the loss of a network over the images.

        over: see HessianOptions; bar: see Hessian.
        """
        return Hessian(network, over, self.runtime, self.images, self.prepare, bar)

    def folder(self, path, kind, options, overwrite=False, flag=FLAG):
        """The AnalysisFolder of these images. For path, kind, overwrite and flag see there.

        options: dataclass of what decides the results besides the images.
        """
        decisive = {
            "dataset": self.data.name,
            "data": self.data.digest,
            "image": dataclasses.asdict(self.image),
            **dataclasses.asdict(options),
        }
        made_with = {"command": shlex.join(["python", *sys.argv]), "hardware": hardware()}
        return AnalysisFolder(path, kind, decisive, made_with, overwrite, flag)


def check_one_machine():
    """Raises UserError with several machines: an analysis does not divide over them."""
    if cluster_from():
        raise UserError("TF_CONFIG: an analysis runs on one machine; give it several GPUs instead")


def make_setting(described, data_path, device, image, batch_size):
    """The Setting of an analysis.

    Args:
        described: NetworkFile that says the data set.
        data_path: of the data.
        device: DeviceOptions.
        image: ImageOptions.
        batch_size: images per batch; with fewer images, all of them.

    Raises UserError for mistakes in the command or the data.
    """
    check_one_machine()
    console = Console()
    data = load_dataset(described.dataset, data_path, described.files)
    runtime, lines = make_runtime(device, Alone())
    for line in (*data.notes, *lines):
        console.say(line)
    batch_size = min(batch_size, image.images)
    runtime.check_batch("--image_batch_size", batch_size)
    images = select(data, image.split, image.images, image.seed, batch_size)
    return Setting(data, runtime, image, images, console)
