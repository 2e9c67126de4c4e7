"""Tensors that PyTorch saved (.pth, .pt, .bin), read without PyTorch and without unpickling.

torch.save (torch/serialization.py) writes, since 1.6, a zip archive without compression:
`<root>/data.pkl`, a pickle of the object, `<root>/data/<key>`, the values of a storage, and
`<root>/byteorder`.  Before, it wrote pickles in a row, of a magic number, the version 1001, facts
about the machine, the object, and the keys of its storages; then for each key a count, int64, and
so many values.  The pickles are read by `torch_pickle`.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vgg_normalize.errors import NetworkError
from vgg_normalize.weights.torch_pickle import (
    AGAIN,
    BFLOAT16,
    SAVE,
    Machine,
    Refusal,
    Storage,
    TensorView,
    require,
    to_plain,
)

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_PICKLE_LIMIT = 4 << 20  # bytes; a tensor takes some 200, and its values are elsewhere
_COPIES = 16  # of a file, when its tensors share storages; more is an attack on the memory
_NESTED = ("state_dict", "model", "model_state_dict", "params", "net")


def _zip(file: BinaryIO, size: int) -> tuple[Any, Callable[[Storage], bytes]]:
    """The object in a file since PyTorch 1.6, and how to read the values of a storage."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    code = [to_plain(name) for name in names if re.match(r"[^/]+/(constants\.pkl$|code/)", name)]
    require(not code, f"a TorchScript archive with {''.join(code[:1])}", SAVE)
    roots = [name[:-8] for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    require(len(roots) == 1, f"a zip archive with {len(roots)} members <root>/data.pkl", SAVE)

    def member(name: str, limit: int) -> bytes:
        part = archive.getinfo(roots[0] + name)
        fits = part.compress_type == zipfile.ZIP_STORED and part.file_size <= min(limit, size)
        require(fits, f"an archive with a compressed or too long {to_plain(name)}", SAVE)
        return archive.read(part)

    if f"{roots[0]}byteorder" in names:
        require(member("byteorder", 6) == b"little", "values that are not little-endian", SAVE)
    top = Machine().run(io.BytesIO(member("data.pkl", _PICKLE_LIMIT)))
    return top, lambda storage: member(f"data/{storage.key}", storage.size)


def _legacy(file: BinaryIO, size: int) -> tuple[Any, Callable[[Storage], bytes]]:
    """The same of a file before PyTorch 1.6."""
    head, machine = io.BytesIO(file.read(min(size, _PICKLE_LIMIT))), Machine()
    ours = machine.run(head) == _MAGIC and machine.run(head) == _VERSION
    require(ours, "a pickle that is none of torch.save's", SAVE)
    require(machine.run(head)["little_endian"] is True, "values that are not little-endian", SAVE)
    top, keys = machine.run(head), machine.run(head)
    position, starts = head.tell(), {}
    for key in keys:
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        require(
            isinstance(key, str) and count == machine.storages[key].length,
            "a storage with two counts",
        )
        starts[key] = position + 8
        position += 8 + machine.storages[key].size
        require(position <= size, f"{size} bytes where at least {position} are needed")

    def values(storage: Storage) -> bytes:
        file.seek(starts[storage.key])
        return file.read(storage.size)

    return top, values


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, by their names, in the order of the file.

    Values keep their types, but bfloat16 becomes float32, which is exact.  The state dict may be
    inside a dict, under `state_dict` or another usual name.  What is not a tensor is left out, and so
    is the prefix `module.` that DataParallel gives to all names.

    Raises:
        NetworkError: The file is missing, damaged, or asks for more than tensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            archived = file.peek(4)[:4] == b"PK\x03\x04"
            top, values = (_zip if archived else _legacy)(file, size)
            return _arrays(_state_dict(top), values, size)
    except Exception as error:  # a damaged file makes pickletools and zipfile raise many kinds
        reason = f"which cannot be read ({type(error).__name__}: {to_plain(str(error))})"
        defect, advice = error.args if isinstance(error, Refusal) else (reason, AGAIN)
        raise NetworkError(
            f"Expected tensors only, from torch.save. Received: {path}, {defect}. {advice}."
        ) from error


def _state_dict(top: Any) -> dict[str, TensorView]:
    """The tensors at the top, or, where there are none, those of the one state dict below."""
    require(isinstance(top, dict), "which holds no dict", SAVE)
    tensors = _tensors(top)
    if not tensors:
        nested = {name: values for name in _NESTED if (values := _tensors(top.get(name)))}
        content = f"tensors under each of {', '.join(nested)}" if nested else "no tensors"
        require(len(nested) == 1, f"a dict with {content}", SAVE)
        (tensors,) = nested.values()
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _tensors(values: Any) -> dict[str, TensorView]:
    items = values.items() if isinstance(values, dict) else ()
    return {name: value for name, value in items if isinstance(value, TensorView)}


def _arrays(
    tensors: Mapping[str, TensorView], values: Callable[[Storage], bytes], size: int
) -> dict[str, np.ndarray]:
    """Read each storage that is used, once, and copy its tensors out of it."""
    names: dict[Storage, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(tensor.storage, []).append(name)
    needed = sum(storage.size for storage in names)
    require(needed <= size, f"{size} bytes, {needed} of them in tensors")
    copies = sum(math.prod(x.shape) * x.storage.type.itemsize for x in tensors.values())
    require(copies <= _COPIES * size, "too many tensors in one storage", SAVE)
    arrays: dict[str, np.ndarray] = {}
    for storage, group in names.items():
        stored = values(storage) if storage.size else b""
        require(len(stored) == storage.size, "a storage with too few bytes")
        arrays |= {name: _array(tensors[name], stored) for name in group}
    return {name: arrays[name] for name in tensors}


def _array(tensor: TensorView, stored: bytes) -> np.ndarray:
    """A copy of a tensor in C order, from the bytes of its storage."""
    kind, shape = tensor.storage.type, tensor.shape
    strides = tuple(stride * kind.itemsize for stride in tensor.strides)
    if 0 in shape:
        view = np.empty(shape, kind)
    else:
        view = np.ndarray(shape, kind, stored, tensor.offset * kind.itemsize, strides)
    if kind == BFLOAT16:
        bits = np.array(view["bits"], np.uint32, order="C")
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    if kind == np.bool_:  # a file may hold other bytes than 0 and 1
        return np.array(view.view(np.uint8) != 0, order="C")
    return np.array(view, kind.newbyteorder("="), order="C")
