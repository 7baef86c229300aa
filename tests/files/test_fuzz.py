"""Files damaged at random: each loads to valid arrays or is refused in one line, in 5 s and 1 GB.
100 of each form, 600 in `make test-slow`.

What a check sum protects is damaged on both sides of it: outside, where the check sum sees it, and
inside, packed again. `pytest -s tests/files/test_fuzz.py` prints how many of each form were loaded
and refused.
"""

import collections
import gc
import gzip
import io
import pickle
import struct
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow as tf
from cifar_files import generate, planes, write, write_archive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutation import mutations, within_bounds
from PIL import Image
from python2 import python2
from safetensors_writer import write_safetensors
from torch_file_writer import Tensor, write_legacy, write_tar, write_zip

from dataloader.cifar import load_cifar
from dataloader.encoded import PNG, decode_image
from dataloader.formats import DECODES_WEBP
from dataloader.shards import index_shard
from nets.parameters import read_parameters
from utils import UserError

pytestmark = pytest.mark.long

FEW, MANY = 100, 600  # examples of each form
ARRAYS = {
    "conv/kernel:0": np.arange(24, dtype=np.float32).reshape(2, 3, 1, 4),
    "bn/gamma:0": np.linspace(0, 1, 5),
    "n": np.arange(3),
    "half": np.asfortranarray(np.ones((2, 3), np.float16)),
    "__meta__": '{"arch": "ResNet-20"}',
}
TENSORS = {
    name.replace("/", "."): Tensor(array)
    for name, array in ARRAYS.items()
    if isinstance(array, np.ndarray)
}
IMAGE = np.stack([*np.indices((24, 20), np.uint8) * 9, np.full((24, 20), 90, np.uint8)], -1)
RNG = np.random.default_rng(0)


# ------------------------------------------------------------------------- forms: what is in a file


def written(write, *arguments, **options):
    """The bytes that write(path, ...) writes."""
    file = io.BytesIO()
    file.write_bytes = file.write
    write(file, *arguments, **options)
    return file.getvalue()


def npy(array):
    return written(np.save, array)


def zip_of(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_zip(**other):
    return written(lambda file: write_zip(file, TENSORS, **other))


def torch_member(name):
    with zipfile.ZipFile(io.BytesIO(torch_zip())) as archive:
        return archive.read(f"archive/{name}")


def with_right_check_sums(png):
    """The chunks of a PNG, each with the check sum of what is in it."""
    place, data = len(PNG), bytearray(png)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


def png_inside(data):
    """A PNG of 24 x 20 from what its zlib stream holds."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + bytes(4)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 24, 8, 2, 0, 0, 0))
    return with_right_check_sums(
        PNG + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


def pil(form, **options):
    return written(Image.fromarray(IMAGE).save, form, **options)


def records(tmp_path, contents):
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents:
            writer.write(content)
    return path.read_bytes()


def example(label):
    features = {
        "image/encoded": tf.train.Feature(bytes_list={"value": [bytes([label]) * 20]}),
        "image/class/label": tf.train.Feature(int64_list={"value": [label]}),
    }
    return tf.train.Example(features={"feature": features}).SerializeToString()


# --------------------------------------------------------------------------- readers: what is valid


def read_parameter_file(tmp_path, data):
    path = tmp_path / "param"
    path.write_bytes(data)
    arrays, meta = read_parameters(str(path))
    assert arrays and isinstance(meta, dict)
    for name, array in arrays.items():
        assert isinstance(name, str) and array.dtype == np.float32
        assert array.size == np.prod(array.shape, dtype=int) and np.isfinite(array).all()


def read_cifar(path):
    x_train, y_train, x_test, y_test = load_cifar("CIFAR10", 10, str(path))
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        assert (
            images.dtype == np.uint8
            and images.shape == (len(labels), 32, 32, 3)
            and images.sum() >= 0
        )
        assert labels.dtype == np.int64 and labels.min() >= 0 and labels.max() < 10


def read_batch(kind, file):
    def read(tmp_path, data):
        folder = tmp_path / ("cifar-10-batches-py" if kind == "python" else "cifar-10-batches-bin")
        if not folder.exists():
            write(kind, tmp_path, "CIFAR10", generate("CIFAR10"))
        (folder / file).write_bytes(data)
        read_cifar(folder)

    return read


def read_archive(tmp_path, data):
    (tmp_path / "cifar.tar.gz").write_bytes(data)
    read_cifar(tmp_path / "cifar.tar.gz")


def read_image(tmp_path, data):
    image = decode_image(data).numpy()
    assert (
        image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
        and image.sum() >= 0
    )


def read_shard(tmp_path, data):
    (tmp_path / "shard").write_bytes(data)
    offsets, sizes, labels, problems = index_shard(tmp_path / "shard")
    assert len(offsets) == len(sizes) == len(labels)
    assert (offsets > 0).all() and (sizes >= 0).all() and (offsets + sizes <= len(data)).all()
    if problems:
        raise ValueError(problems[0][1])


ROWS = planes(RNG.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8))
BATCH = {
    "data": ROWS,
    "labels": list(range(10)),
    "batch_label": "testing batch 1 of 1",
    "filenames": ["a.png"] * 10,
}
BINARY = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], ROWS], 1).tobytes()
NPYS = {name: npy(np.asarray(array)) for name, array in ARRAYS.items()}
Form = collections.namedtuple("Form", "seed pack read error opcodes")
SAME = lambda tmp_path, data: data


def form(seed, read, pack=SAME, error=UserError, opcodes=False):
    """seed(tmp_path) -> what is damaged; pack makes it a file, read(tmp_path, file) loads and
    checks it or raises `error`.
    """
    return Form(seed if callable(seed) else lambda _: seed, pack, read, error, opcodes)


def tar_of_tensors(tmp_path):
    return write_tar(tmp_path / "tensors", TENSORS).read_bytes()


def tar_mended(tmp_path, data):
    """The .tar with the right check sum in every header that is where it was."""
    data = bytearray(data)
    for begin in range(0, len(data), 512):
        header = data[begin : begin + 512]
        if header[257:262] == b"ustar":
            data[begin + 148 : begin + 156] = b"%06o\0 " % sum(
                header[:148] + b" " * 8 + header[156:]
            )
    return bytes(data)


def parameters(seed, pack=SAME, opcodes=False):
    return form(seed, read_parameter_file, pack, opcodes=opcodes)


def image(seed, pack=SAME):
    return form(seed, read_image, pack, ValueError)


def archive_of(tmp_path):
    return write_archive(write("python", tmp_path, "CIFAR10", generate("CIFAR10"))).read_bytes()


FORMS = {
    **{
        f"pickle, protocol {p}": parameters(pickle.dumps(ARRAYS, p), opcodes=True)
        for p in (2, 4, 5)
    },
    ".npz stored": parameters(written(np.savez, **ARRAYS)),
    ".npz deflated": parameters(written(np.savez_compressed, **ARRAYS)),
    ".npz, inside": parameters(
        NPYS["conv/kernel:0"],
        lambda _, data: zip_of({"w.npy": data, "n.npy": NPYS["n"]}, zipfile.ZIP_DEFLATED),
    ),
    ".pth": parameters(torch_zip()),
    ".pth, pickle inside": parameters(
        torch_member("data.pkl"), lambda _, data: torch_zip(**{"data.pkl": data}), True
    ),
    ".safetensors": parameters(
        written(write_safetensors, {n: np.asarray(a) for n, a in ARRAYS.items() if n != "__meta__"})
    ),
    ".pth legacy": parameters(written(write_legacy, TENSORS), opcodes=True),
    ".pth tar": parameters(tar_of_tensors, tar_mended, opcodes=True),
    "CIFAR python batch": form(python2(BATCH), read_batch("python", "test_batch"), opcodes=True),
    "CIFAR binary batch": form(BINARY, read_batch("binary", "data_batch_2.bin")),
    "CIFAR archive": form(archive_of, read_archive),
    "CIFAR archive, inside": form(
        lambda tmp_path: gzip.decompress(archive_of(tmp_path)),
        read_archive,
        lambda _, data: gzip.compress(data, 1),
    ),
    "JPEG": image(tf.io.encode_jpeg(IMAGE).numpy()),
    "JPEG progressive": image(tf.io.encode_jpeg(IMAGE, progressive=True).numpy()),
    "BMP": image(pil("BMP")),
    "GIF": image(pil("GIF")),
    **(
        {"WebP": image(pil("WEBP")), "WebP, lossless": image(pil("WEBP", lossless=True))}
        if DECODES_WEBP
        else {}
    ),
    "PNG": image(tf.io.encode_png(IMAGE).numpy()),
    "PNG, inside chunks": image(
        tf.io.encode_png(IMAGE).numpy(), lambda _, data: with_right_check_sums(data)
    ),
    "PNG, inside zlib": image(
        np.pad(IMAGE.reshape(24, 60), ((0, 0), (1, 0))).tobytes(), lambda _, data: png_inside(data)
    ),
    "TFRecord": form(
        lambda tmp_path: records(tmp_path, map(example, range(3))), read_shard, error=ValueError
    ),
    "TFRecord, inside": form(
        example(5),
        read_shard,
        lambda tmp_path, data: records(tmp_path, [example(1), data, example(2)]),
        ValueError,
    ),
}
FEW_LOAD = {".npz deflated", "CIFAR archive", "PNG"}  # for a check sum sees nearly every damage
tally = {FEW: {}, MANY: {}}  # examples asked for -> form -> what they came to


some_or_many = pytest.mark.parametrize(
    "examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
)


@some_or_many
@pytest.mark.parametrize("name", FORMS)
def test_damaged_file_loads_or_is_refused_in_one_line(tmp_path, name, examples):
    form = FORMS[name]
    seed = form.seed(tmp_path)
    form.read(tmp_path, form.pack(tmp_path, seed))
    counts, begin = collections.Counter(), time.monotonic()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=5000,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(draws):
        data = form.pack(tmp_path, draws.draw(mutations(seed, form.opcodes)))
        counts[outcome(lambda: form.read(tmp_path, data), form.error)] += 1

    one()
    tally[examples][name] = {**counts, "seconds": round(time.monotonic() - begin, 1)}
    assert counts.total() >= examples
    assert counts["refused"] >= examples // 100
    assert counts["loaded"] >= (1 if name in FEW_LOAD else examples // 100)


def outcome(read, expected):
    with within_bounds():
        try:
            read()
        except expected as error:
            assert type(error) is expected
            assert len(str(error).splitlines()) == 1 and str(error).isprintable(), str(error)
            return "refused"
    return "loaded"


@some_or_many
def test_thousands_of_files_were_tried(examples):
    """Two thousand, or ten thousand and more."""
    tried = tally[examples]
    if len(tried) < len(FORMS):
        pytest.skip("only some forms were asked for")
    for name, counts in tried.items():
        print(f"{name:24}{counts}")
    total = sum(counts["loaded"] + counts["refused"] for counts in tried.values())
    assert total >= (10_000 if examples == MANY else 2_000)


# -------------------------------------------------------------------------- the measures themselves


def test_more_time_than_allowed_is_seen():
    def hang():
        try:
            time.sleep(60)
        except Exception:
            pass

    with pytest.raises(AssertionError, match="more than"), within_bounds(seconds=0.1):
        hang()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is measured on Linux only")
@pytest.mark.parametrize(
    "taken", [lambda: b"x" * (500 << 20), lambda: np.ones(62 << 20), lambda: tf.ones(125 << 20)]
)
def test_more_memory_than_allowed_is_seen_though_it_is_given_back(taken):
    gc.collect()  # what earlier tests have left would otherwise be given back in between
    with pytest.raises(AssertionError, match="MiB"), within_bounds(60, size=150 << 20):
        taken()
    with within_bounds(60, size=150 << 20):
        bytes(10 << 20)
