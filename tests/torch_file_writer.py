"""Writes .pth files as PyTorch does, in both their forms, without PyTorch."""

import io
import pickle
import zipfile

import numpy as np

KINDS = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
}
KINDS = {np.dtype(code): f"{kind}Storage" for code, kind in {**KINDS, "b1": "Bool"}.items()}


class Global:
    """Pickles as the name of something that need not exist."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise NotImplementedError  # the pickler only asks whether it could be called


class Tensor:
    """A window into `storage`, an array [N]; by default all of it in the shape of `array`."""

    def __init__(
        self, array, kind=None, storage=None, offset=0, size=None, stride=None, count=None
    ):
        array = np.asarray(array)
        self.storage = array.reshape(-1) if storage is None else storage
        self.kind = kind or KINDS[self.storage.dtype]
        self.offset, self.size = offset, array.shape if size is None else size
        self.stride = (
            tuple(n // array.itemsize for n in np.array(array, order="C").strides)
            if stride is None
            else stride
        )
        self.count = len(self.storage) if count is None else count


class _Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, legacy, protocol=2):
        super().__init__(file, protocol)
        self.legacy, self.storages, self.types = legacy, {}, {}

    def save_global_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_tensor(self, value):
        key, _ = self.storages.setdefault(
            id(value.storage), (str(len(self.storages)), value.storage)
        )
        kind = self.types.setdefault(value.kind, Global("torch", value.kind))
        self.save(Global("torch._utils", "_rebuild_tensor_v2"))
        self.write(pickle.MARK)
        self.save(("storage", kind, key, "cpu", value.count, *((None,) if self.legacy else ())))
        self.write(pickle.BINPERSID)
        for argument in (value.offset, value.size, value.stride, False, {}):
            self.save(argument)
        self.write(pickle.TUPLE + pickle.REDUCE)

    dispatch[Global], dispatch[Tensor] = save_global_name, save_tensor


def _pickled(value, legacy):
    """(pickle, {key: storage}) of an object with Tensors in it; bytes are taken for the pickle
    itself.
    """
    if isinstance(value, bytes):
        return value, {}
    file = io.BytesIO()
    pickler = _Pickler(file, legacy)
    pickler.dump(value)
    return file.getvalue(), dict(pickler.storages.values())


def write_zip(path, value, *, order="little", compression=zipfile.ZIP_STORED, **other):
    """The form since PyTorch 1.6. other: further members, or other contents of members; None leaves
    one out.
    """
    data, storages = _pickled(value, legacy=False)
    members = {"data.pkl": data, "byteorder": order.encode()}
    members |= (
        {f"data/{key}": storage.tobytes() for key, storage in storages.items()}
        | {"version": b"3\n"}
        | other
    )
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(f"archive/{name}", content)
    return path


def write_legacy(path, value):
    """The form before."""
    data, storages = _pickled(value, legacy=True)
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    tail = [len(storage).to_bytes(8, "little") + storage.tobytes() for storage in storages.values()]
    path.write_bytes(b"".join([*head, data, pickle.dumps(list(storages), 2), *tail]))
    return path
