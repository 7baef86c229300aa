"""Makes data laid out like ImageNet: JPEGs of several sizes whose colours tell the class, in
folders, flat, or in shards.

Among those of each class are a grey and a CMYK JPEG and a PNG that is called .JPEG.
"""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

KINDS = {"grey": ("JPEG", "L"), "CMYK": ("JPEG", "CMYK"), "disguised": ("PNG", "RGB")}
WNIDS = ("n01440764", "n01443537", "n02007558", "n09835506")


def picture(label, number, kind=None):
    """The bytes of an image file; kind: one of KINDS, None for a colour JPEG."""
    rng = np.random.default_rng([label, number])
    height, width = rng.integers(48, 90, 2)
    colour = np.array([40 + 60 * (label % 4), 220 - 50 * (label % 4), 120])
    waves = (
        40
        * np.sin(np.arange(width)[None, :, None] / (2 + label) + number)
        * np.ones((height, 1, 1))
    )
    image = np.clip(colour + waves + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    form, mode = KINDS.get(kind, ("JPEG", "RGB"))
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(
        file, form, **({"quality": 90} if form == "JPEG" else {})
    )
    return file.getvalue()


def pictures(per_class, classes=4, first=0):
    """[(label, file name, bytes)], class by class."""
    kinds = [*KINDS, *[None] * per_class]
    return [
        (label, f"{WNIDS[label]}_{first + n}.JPEG", picture(label, first + n, kinds[n]))
        for label in range(classes)
        for n in range(per_class)
    ]


def write_folders(folder, images):
    for label, name, data in images:
        (folder / WNIDS[label]).mkdir(parents=True, exist_ok=True)
        (folder / WNIDS[label] / name).write_bytes(data)


def write_flat(folder, images, seed=0):
    """Images in one folder, named in an order of no meaning; gives [(name, label)] in the order of
    their names.
    """
    folder.mkdir(parents=True)
    order = np.random.default_rng(seed).permutation(len(images))
    listed = []
    for place, i in enumerate(order):
        label, _, data = images[i]
        name = f"ILSVRC2012_val_{place + 1:08d}.JPEG"
        (folder / name).write_bytes(data)
        listed.append((name, label))
    return listed


def record(data, label):
    """A tf.train.Example with the features that are asked for, and one that is not."""
    feature = {
        "image/encoded": tf.train.Feature(bytes_list={"value": [data]}),
        "image/class/label": tf.train.Feature(int64_list={"value": [label]}),
        "image/format": tf.train.Feature(bytes_list={"value": [b"JPEG"]}),
    }
    return tf.train.Example(features={"feature": feature}).SerializeToString()


def write_shards(folder, split, images, count, first_label=1, seed=0):
    """`count` shards of a split, images in an order of no meaning, labels from `first_label`."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(images))
    for shard, part in enumerate(np.array_split(order, count)):
        with tf.io.TFRecordWriter(str(folder / f"{split}-{shard:05d}-of-{count:05d}")) as writer:
            for i in part:
                writer.write(record(images[i][2], images[i][0] + first_label))
