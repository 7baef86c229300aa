"""Broken images: skipped, counted and recorded, so that a resumed run skips the same images."""

import json
import os

from engine.run_files import BROKEN
from files.guards import refusals
from utils import UserError, write_json


class BrokenImages:
    """The broken training images of one run. All machines must call each method together.

    A run always skips an image that it skipped before, even if the file has been replaced since:
    the memory bank has no row for that image.
    """

    def __init__(self, data, folder, machines):
        self.data, self.folder, self.machines = data, folder, machines
        self.written = 0  # number of images in broken.json

    def count(self):
        """Number of training images and shard records skipped so far on all machines, each counted
        once.
        """
        by_machine = self.machines.exchange(sorted(self.data.x_train.broken))
        return len({i for broken in by_machine for i in broken}) + self.data.broken_records

    def save(self):
        """Writes the skipped images to broken.json."""
        if not self.data.encoded:
            return
        by_machine = self.machines.exchange(
            {str(i): why for i, why in self.data.x_train.broken.items()}
        )
        broken = {i: why for one in by_machine for i, why in one.items()}
        if len(broken) > self.written and self.folder.writes:
            self.written = len(broken)
            write_json(self.folder.file(BROKEN), {"data": self.data.digest, "images": broken})

    def load(self):
        """Reads broken.json of an earlier start. Raises UserError for a damaged file."""
        if not self.data.encoded:
            return
        with self.machines.together():
            known = self._read() if self.folder.writes else None
        known = self.machines.exchange(known and [*known.items()])[0]  # the chief's
        self.data.x_train.broken |= dict(known or ())
        self.written = len(self.data.x_train.broken)

    def _read(self):
        """dict index -> reason, from broken.json; None if there is no file, or if it is about other
        data (of an earlier run).
        """
        path = self.folder.file(BROKEN)
        if not os.path.exists(path):
            return None
        try:
            with open(path, "rb") as file, refusals():
                content = json.load(file)
                images = {int(i): str(why) for i, why in content["images"].items()}
                if content.get("data") != self.data.digest:
                    return None
                if not all(0 <= i < len(self.data.x_train) for i in images):
                    raise ValueError("it names an image that does not exist")
                return images
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it") from error
