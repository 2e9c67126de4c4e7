"""Files as torch.save writes them, of both formats, without PyTorch."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Global:
    module: str
    name: str


@dataclass(frozen=True)
class Call:
    function: Any
    arguments: Any
    state: Any = None


@dataclass(frozen=True)
class Stored:
    identity: Any


@dataclass(frozen=True)
class Raw:
    """Instructions as they are."""

    code: bytes


def code(value: Any) -> bytes:
    """The instructions of pickle's protocol 2 that make `value`."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        made = code(value.function) + code(value.arguments) + b"R"
        return made if value.state is None else made + code(value.state) + b"b"
    if isinstance(value, Stored):
        return code(value.identity) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(code, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(code(key) + code(item) for key, item in value.items()) + b"u"
    # One plain value; the frame of the protocol, two bytes before and STOP after, is cut off.
    return re.sub(rb"q.$", b"", pickle.dumps(value, 2)[2:-1], flags=re.DOTALL)


def whole(value: Any) -> bytes:
    return b"\x80\x02" + code(value) + b"."


TYPES = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "bool": "Bool",
    "uint16": "BFloat16",  # its bits
}
VERSION_2 = Global("torch._utils", "_rebuild_tensor_v2")
ORDERED = Global("collections", "OrderedDict")


def storage(key, kind, count, legacy, module="torch"):
    identity = ("storage", Global(module, f"{kind}Storage"), key, "cpu", count)
    return Stored((*identity, None) if legacy else identity)


def view(stored, shape, strides, offset=0):
    return Call(VERSION_2, (stored, offset, tuple(shape), tuple(strides), False, Call(ORDERED, ())))


def tensor(key, array, legacy):
    """The whole of a storage, in the order of the array's memory."""
    strides = [step // array.itemsize for step in array.strides]
    return view(storage(key, TYPES[array.dtype.name], array.size, legacy), array.shape, strides)


def ordered(items, metadata=True):
    """A state dict, as Module.state_dict makes it: filled after it is made, and with versions."""
    versions = code({"_metadata": Call(ORDERED, ())}) + b"b" if metadata else b""
    return Raw(code(Call(ORDERED, ())) + code(items)[1:] + versions)


def write_zip(path, top, values, *, order=b"little", extra=(), root="net", method=0):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{root}/data.pkl", whole(top))
        if order:
            archive.writestr(f"{root}/byteorder", order)
        for key, array in values.items():
            archive.writestr(f"{root}/data/{key}", array.tobytes("A"))
        archive.writestr(f"{root}/version", b"3\n")
        for name in extra:
            archive.writestr(f"{root}/{name}", b"")


MAGIC = 0x1950A86A20F9469CFC6C


def write_legacy(path, top, values, *, little=True, magic=MAGIC, counts=None):
    facts = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2}}
    parts = [whole(part) for part in (magic, 1001, facts, top, list(values))]
    for key, array in values.items():
        count = (counts or {}).get(key, array.size)
        parts.append(struct.pack("<q", count) + array.tobytes("A"))
    path.write_bytes(b"".join(parts))


WRITERS = {"zip": write_zip, "legacy": write_legacy}


def write(kind, path, top, values=None):
    WRITERS[kind](path, top, {} if values is None else values)
    return path


def save(kind, path, arrays, wrap=ordered):
    """Write arrays, one storage each."""
    keys = {name: str(9000 - i) for i, name in enumerate(arrays)}
    items = {name: tensor(keys[name], a, kind == "legacy") for name, a in arrays.items()}
    return write(kind, path, wrap(items), {keys[name]: a for name, a in arrays.items()})
