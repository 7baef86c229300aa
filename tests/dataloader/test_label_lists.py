"""Lists of labels as spreadsheets and people write them; compressed shards are named as such."""

import gzip
import zlib

import pytest
import tensorflow as tf
from imagenet_files import WNIDS, pictures, record, write_shards

from dataloader.imagenet import find_imagenet
from dataloader.val_labels import read_val_labels
from utils import UserError

IMAGES = ["a.JPEG", "b, c.JPEG", "d.JPEG"]
CLASSES = list(WNIDS)
LISTS = {
    "byte-order mark": '\ufeffa.JPEG,2\n"b, c.JPEG",0\nd.JPEG,1\n',
    "byte-order mark and spaces": "\ufeffa.JPEG 2\nb c 0\nd 1\n",
    "quoted fields": '"a.JPEG","2"\r\n"b, c.JPEG","0"\r\n"d.JPEG","1"\r\n',
    "semicolons": "a.JPEG;2\nb, c.JPEG;0\nd.JPEG;1\n",
    "quoted, with spaces": '"a.JPEG" 2\n"b, c.JPEG" 0\n"d.JPEG" 1\n',
    "quoted, with tabs": '"a.JPEG"\t2\n"b, c.JPEG"\t0\n"d.JPEG"\t1\n',
    "a first line": 'filename,label\na.JPEG,2\n"b, c.JPEG",0\nd.JPEG,1\n',
    "a byte-order mark before a first line": '\ufeffImage,Class\na,2\n"b, c",0\nd,1\n',
    "numbered rows": ',file_name,label\n0,a.JPEG,2\n1,"b, c.JPEG",0\n2,d.JPEG,1\n',
    "columns in between": 'id,split,class\na,val,2\n"b, c",val,0\nd,val,1\n',
    "quoted names of classes": f'"a","{WNIDS[2]}"\n"b, c","{WNIDS[0]}"\n"d","{WNIDS[1]}"\n',
    "quoted labels alone": f'"{WNIDS[2]}"\n"{WNIDS[0]}"\n"{WNIDS[1]}"\n',
    "a first line above labels": f"label\n{WNIDS[2]}\n{WNIDS[0]}\n{WNIDS[1]}\n",
    "numbers alone, with a byte-order mark": "\ufeff2\n0\n1\n",
}


@pytest.mark.parametrize("what", LISTS)
def test_lists_are_read_as_spreadsheets_write_them(tmp_path, what):
    (path := tmp_path / "labels.csv").write_bytes(LISTS[what].encode())
    images = [name.replace(", ", " ") for name in IMAGES] if "mark and spaces" in what else IMAGES
    assert read_val_labels(str(path), images, CLASSES)[0].tolist() == [2, 0, 1]


def test_a_class_called_label_is_no_first_line(tmp_path):
    (path := tmp_path / "labels.txt").write_text("label\ncat\n")
    assert read_val_labels(str(path), IMAGES[:2], ["cat", "label"])[0].tolist() == [1, 0]


def test_a_field_beyond_every_bound_is_refused_in_one_line(tmp_path):
    (path := tmp_path / "labels.csv").write_text(f'"{"a" * 200_000}",2\n')
    with pytest.raises(UserError, match="is not a list of labels") as refusal:
        read_val_labels(str(path), IMAGES, CLASSES)
    assert len(str(refusal.value)) < 500


# ------------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("how", ["GZIP", "ZLIB"])
def test_compressed_shards_are_named(tmp_path, split, how):
    for name in ("train", "validation"):
        write_shards(tmp_path, name, pictures(2), 1)
    path = tmp_path / f"{split}-00000-of-00001"
    with tf.io.TFRecordWriter(str(path), how) as writer:
        for label, _, data in pictures(2):
            writer.write(record(data, label))
    with pytest.raises(UserError, match=rf"{path} is compressed \({how}\)"):
        find_imagenet(str(tmp_path))


def test_shards_that_were_compressed_as_files_are_found_and_named(tmp_path):
    write_shards(tmp_path, "train", pictures(2), 1)
    path = tmp_path / "train-00000-of-00001"
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    with pytest.raises(UserError, match=r"of-00001\.gz is compressed \(GZIP\)"):
        find_imagenet(str(tmp_path))


def test_a_shard_whose_first_length_looks_like_a_compressed_one_is_read(tmp_path):
    """zlib's first bytes are those of a length too: 0x9c78 bytes of a record."""
    data, length = pictures(1)[0][2], int.from_bytes(zlib.compress(b"")[:2], "little")
    write = lambda padding: record(data + bytes(padding), 1)
    padding = length - len(write(0))
    padding -= len(write(padding)) - length
    assert len(write(padding)) == length
    for split in ("train", "validation"):
        with tf.io.TFRecordWriter(str(tmp_path / f"{split}-00000-of-00001")) as writer:
            writer.write(write(padding))
    assert len(find_imagenet(str(tmp_path))["train"].labels) == 1
