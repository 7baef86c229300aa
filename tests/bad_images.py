"""The bad inputs for images in files, as in bad_inputs.py: flags, layouts, lists of labels, shards,
images.
"""

import tensorflow as tf
from bad_inputs import Bad, saved, test_py
from imagenet_files import WNIDS, pictures, record, write_flat, write_folders, write_shards

from nets import build_network
from nets.parameters import write_parameters

TRAIN, VAL = pictures(5), pictures(3, first=100)


def folders(root):
    write_folders(root / "data" / "train", TRAIN)
    write_folders(root / "data" / "val", VAL)


def train_alone(root):
    write_folders(root / "data" / "train", TRAIN)


def flat(labels):
    def make(root):
        train_alone(root)
        write_flat(root / "data" / "val", VAL)
        (root / "labels.txt").write_bytes(labels)

    return make


def flat_train(root):
    write_flat(root / "data" / "train", TRAIN)
    write_folders(root / "data" / "val", VAL)


def strange_class(root):
    folders(root)
    (root / "data" / "val" / WNIDS[0]).rename(root / "data" / "val" / "n99999999")


def listed_folders(root):
    folders(root)
    (root / "labels.txt").write_bytes(b"1\n")


def empty_classes(root):
    folders(root)
    for path in root.glob("data/train/*/*"):
        path.unlink()


def one_empty_class(root):
    folders(root)
    (root / "data" / "train" / "n00000001").mkdir()
    (root / "data" / "train" / "n00000001" / "scan.tiff").write_bytes(b"x")


def archive_of_train(root):
    (root / "data" / "train").mkdir(parents=True)
    (root / "data" / "train" / "train.tar").write_bytes(b"x")


def compressed(root):
    (root / "data").mkdir()
    with tf.io.TFRecordWriter(str(root / "data" / "train-00000-of-00001"), "GZIP") as writer:
        writer.write(record(TRAIN[0][2], 1))


def small_class(root):
    folders(root)
    for path in list(root.glob(f"data/train/{WNIDS[2]}/*"))[1:]:
        path.unlink()


def devkit(root):
    flat(b"")(root)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_bytes(b"1\n" * len(VAL))


def strange_meta(root):
    devkit(root)
    (root / "meta.mat").write_bytes(b"MATLAB" * 100)


def shards_of(train, val):
    def make(root):
        (root / "data").mkdir()
        for split, labels in (("train", train), ("validation", val)):
            with tf.io.TFRecordWriter(str(root / "data" / f"{split}-00000-of-00001")) as writer:
                for label in labels:
                    writer.write(record(TRAIN[0][2], label))

    return make


def listed_shards(root):
    shards_of([1, 2], [1])(root)
    (root / "labels.txt").write_bytes(b"1\n")


def shards_of_train(root):
    write_shards(root / "data", "train", TRAIN, 1)


def cut_short(root):
    write_shards(root / "data", "train", TRAIN, 1)
    write_shards(root / "data", "validation", VAL, 1)
    path = root / "data" / "validation-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-50])


def broken_of_val(root):
    folders(root)
    (root / "data" / "val" / WNIDS[1] / f"{WNIDS[1]}_101.JPEG").write_bytes(b"no image")


LISTED = "--val_labels labels.txt"
DEVKIT = "--val_labels ILSVRC2012_validation_ground_truth.txt"
# what -> (layout, flags beside --data_path data)
LAYOUTS = {
    "an empty folder": (lambda root: (root / "data").mkdir(), ""),
    "no val": (train_alone, ""),
    "train without one folder per class": (flat_train, ""),
    "folders of classes without images": (empty_classes, ""),
    "a class without images": (one_empty_class, ""),
    "an archive in train": (archive_of_train, ""),
    "a compressed shard": (compressed, ""),
    "a class with one image": (small_class, "--val_per_class 1 --subset_per_class 2"),
    "a class of val that is not in train": (strange_class, ""),
    "a flat val without `--val_labels`": (flat(b""), ""),
    "`--val_labels` beside folders": (listed_folders, LISTED),
    "`--val_labels` beside shards": (listed_shards, LISTED),
    "`--val_labels` that does not exist": (flat(b""), "--val_labels missing.txt"),
    "an empty list": (flat(b"\n"), LISTED),
    "a list of 2 labels": (flat(b"1\n2\n"), LISTED),
    "a list without an image": (flat(b"ILSVRC2012_val_00000001.JPEG 1\n" * 12), LISTED),
    "a list with class 7 of 4": (flat(b"7\n" * 12), LISTED),
    "a list with an unknown wnid": (flat(b"n99999999\n" * 12), LISTED),
    "a list that is not text": (flat(b"\xff\xfe" * 30), LISTED),
    "the development kit's numbers without its meta.mat": (devkit, DEVKIT),
    "a meta.mat of another format": (strange_meta, DEVKIT),
    "shards of train only": (shards_of_train, ""),
    "shards of train without records": (shards_of([], [1]), ""),
    "shards of val with a label above train's": (shards_of([1, 2], [3]), ""),
    "shards with label -2": (shards_of([1, -2], [1]), ""),
    "a shard of val cut short": (cut_short, ""),
}


def on_images(what, flags, lay_out=lambda folder: None):
    return Bad(
        what,
        tuple(flags.split()),
        lambda folder, monkeypatch: lay_out(folder),
        ("train_imagenet.py",),
    )


def evaluated(lay_out, classes=4):
    """Images, and a ResNet-18 of `classes` classes for test.py."""

    def prepare(folder, monkeypatch):
        lay_out(folder)
        network = build_network("ResNet-18", classes, 32)
        write_parameters(
            str(folder / "p.pkl"), network.parameters(), {"arch": "ResNet-18", "input_size": 32}
        )

    return prepare


IMAGES = [
    *(
        on_images(f"`{flags}`", flags)
        for flags in (
            "--arch ResNet-56",
            "--input_size 31",
            "--input_size 4096",
            "--shuffle_buffer 0",
            "--temperature 0",
            "--label_smoothing 2",
            "--bank_top -1",
            "--schedule linear",
            "--warmup_epoch 100",
            "--baseline_epoch 5 --baseline_warmup_epoch 5",
        )
    ),
    on_images("no `--data_path`", ""),
    on_images("`--data_path` that does not exist", "--data_path data"),
    *(
        on_images(what, f"--data_path data {flags}", lay_out)
        for what, (lay_out, flags) in LAYOUTS.items()
    ),
    on_images(
        "`--accum 3` with 20 images",
        "--data_path data --accum 3 --val_per_class 1 --subset_per_class 2",
        folders,
    ),
    test_py("`--input_size 64` for CIFAR", "--trained_param param.pkl --input_size 64", saved()),
    test_py(
        "a file of val that is not an image",
        "--trained_param p.pkl --data_path data",
        evaluated(broken_of_val),
    ),
    test_py(
        "a network of 5 classes for folders of 4",
        "--trained_param p.pkl --data_path data",
        evaluated(folders, 5),
    ),
]
