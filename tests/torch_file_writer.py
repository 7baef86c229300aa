"""Writes .pth files as PyTorch does and did, in all their forms, without PyTorch."""

import collections
import io
import pickle
import struct
import tarfile
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


class Parameter:
    """Pickles as a parameter of before 2018: called with its tensor, and given a state. state: as
    most files have it, None for the oldest form, where the tensor is in the state.
    """

    def __init__(self, tensor, state=(True, False, collections.OrderedDict())):
        self.tensor, self.state = tensor, state

    def __reduce__(self):
        made = Global("torch.nn.parameter", "Parameter")
        if self.state is None:
            return made, (), (self.tensor, None, collections.OrderedDict(), True, False)
        return made, (self.tensor,), self.state


class _Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, legacy, protocol=2, rebuild="_rebuild_tensor_v2", view=None):
        super().__init__(file, protocol)
        self.legacy, self.storages, self.types = legacy, {}, {}
        self.rebuild, self.view = rebuild, view

    def save_global_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_tensor(self, value):
        key, _ = self.storages.setdefault(
            id(value.storage), (str(len(self.storages)), value.storage)
        )
        kind = self.types.setdefault(value.kind, Global("torch", value.kind))
        self.save(Global("torch._utils", self.rebuild))
        self.write(pickle.MARK)
        view = (self.view,) if self.legacy else ()
        self.save(("storage", kind, key, "cpu", value.count, *view))
        self.write(pickle.BINPERSID)
        more = (False, {}) if self.rebuild.endswith("v2") else ()
        for argument in (value.offset, value.size, value.stride, *more):
            self.save(argument)
        self.write(pickle.TUPLE + pickle.REDUCE)

    dispatch[Global], dispatch[Tensor] = save_global_name, save_tensor


class _TarPickler(pickle._Pickler):
    """Leaves tensors out; their keys stand for them."""

    def __init__(self, file, tensors):
        super().__init__(file, 2)
        self.tensors = tensors

    def save_tensor(self, value):
        self.tensors[id(value)] = value
        self.save_pers(str(id(value)))

    def save_global_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    dispatch = dict(pickle._Pickler.dispatch)
    dispatch[Global], dispatch[Tensor] = save_global_name, save_tensor


def _pickled(value, legacy, **form):
    """(pickle, {key: storage}) of an object with Tensors in it; bytes are taken for the pickle
    itself.
    """
    if isinstance(value, bytes):
        return value, {}
    file = io.BytesIO()
    pickler = _Pickler(file, legacy, **form)
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


def write_legacy(path, value, **form):
    """The form before. form: `rebuild`, the function that makes tensors; `view`, the last item of
    persistent ids.
    """
    data, storages = _pickled(value, legacy=True, **form)
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    tail = [len(storage).to_bytes(8, "little") + storage.tobytes() for storage in storages.values()]
    path.write_bytes(b"".join([*head, data, pickle.dumps(list(storages), 2), *tail]))
    return path


def write_tar(path, value, *, parts=(), device="cpu", kind="torch", **other):
    """The first form, a .tar.

    parts: of storages, (key, key of the whole, offset, elements); device, kind: what is said of
    storages; other: other contents of members, None leaves one out.
    """
    data, tensors, storages = io.BytesIO(), {}, {}
    if isinstance(value, bytes):
        data.write(value)
    else:
        _TarPickler(data, tensors).dump(value)
    listed, bytes_of = io.BytesIO(), io.BytesIO()
    _dump(listed, len(tensors))
    for key, tensor in tensors.items():
        storages[id(tensor.storage)] = tensor
        name = tensor.kind.replace("Storage", "Tensor")
        _dump(listed, (key, id(tensor.storage), Global(kind, name)))
        axes = len(tensor.size)
        numbers = *tensor.size, *tensor.stride, tensor.offset
        listed.write(struct.pack(f"<ii{2 * axes + 1}q", axes, 0, *numbers))
    _dump(bytes_of, len(storages))
    for key, tensor in storages.items():
        _dump(bytes_of, (key, device, Global(kind, tensor.kind)))
        bytes_of.write(struct.pack("<q", tensor.count) + tensor.storage.tobytes())
    _dump(bytes_of, list(parts))
    system = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"int": 4}}
    members = {"sys_info": pickle.dumps(system, 2), "pickle": data.getvalue()}
    members |= {"tensors": listed.getvalue(), "storages": bytes_of.getvalue()} | other
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), 1484000000.25  # a header of its own, as then
                archive.addfile(info, io.BytesIO(content))
    return path


def _dump(file, value):
    _TarPickler(file, {}).dump(value)
