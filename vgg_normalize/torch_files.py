"""Tensors that PyTorch saved (.pth, .pt, .bin), read without PyTorch and without unpickling.

torch.save (torch/serialization.py) writes, since 1.6, a zip archive without compression:
`<root>/data.pkl`, a pickle of the object, `<root>/data/<key>`, the values of a storage, and
`<root>/byteorder`.  Before, it wrote pickles in a row, of a magic number, the version 1001, facts
about the machine, the object, and the keys of its storages; then for each key a count, int64, and
so many values.  In both, a tensor is a call of _rebuild_tensor_v2 with an offset, sizes and strides
into a storage, and a storage is the persistent id ("storage", type, key, device, count).

A pickle is a program, so Python's unpickler is not used at all.  `_Machine` knows the few
instructions that tensors, dicts and plain values need, calls nothing but the functions below, and
does work in proportion to the length of the pickle, whatever that holds.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vgg_normalize.errors import NetworkError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_PICKLE_LIMIT = 4 << 20  # bytes; a tensor takes some 200, and its values are elsewhere
_COPIES = 16  # of a file, when its tensors share storages; more is an attack on the memory
_MOST = 32  # dimensions of a tensor, or arguments of a call
_NESTED = ("state_dict", "model", "model_state_dict", "params", "net")
_AGAIN = "Fetch it again"
_SAVE = "Save model.state_dict() with torch.save, or convert to .safetensors"


class _Refused(Exception):
    """What was found in the file, and what to do about it."""


class _Storage(NamedTuple):
    key: str
    type: np.dtype
    length: int

    @property
    def size(self) -> int:
        return self.length * self.type.itemsize


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _require(condition: object, found: str, advice: str = _AGAIN) -> None:
    if not condition:
        raise _Refused(found, advice)


def _counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    """A view, checked against its storage; nothing is read or allocated yet."""
    _require(isinstance(storage, _Storage), "a tensor without a storage")
    lists = isinstance(shape, tuple) and isinstance(strides, tuple)
    alike = lists and len(shape) == len(strides) <= _MOST and _counts(offset, *shape, *strides)
    _require(alike, "a tensor with a wrong offset, size or stride")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    fits = 0 in shape or (math.prod(shape) <= storage.length and last < storage.length)
    _require(fits, "a tensor larger than its storage", "Fetch it again, or save a clone of it")
    # After requires_grad and hooks comes, rarely, a dict of operations that wait for the reader.
    _require(not any(rest[2:]), "a tensor that is to be negated", "Save a clone of it")
    return _Tensor(storage, offset, shape, strides)


def _ordered(*values: Any) -> OrderedDict[str, Any]:
    """Python 2 wrote an OrderedDict with its items, as one list of pairs."""
    made: OrderedDict[str, Any] = OrderedDict()
    for pairs in values:
        _require(isinstance(pairs, list), "a pickle with a wrong OrderedDict")
        made.update((key, value) for key, value in pairs if isinstance(key, str))
        pairs.clear()  # else a pickle could have one long list copied again and again
    return made


# NumPy has no bfloat16, which is the upper half of a float32.
_BFLOAT16 = np.dtype([("bits", "<u2")])
_TYPES: dict[str, Any] = {
    **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": _BFLOAT16, "Bool": "?"},
    **{"Byte": "<u1", "Char": "<i1", "Short": "<i2", "Int": "<i4", "Long": "<i8"},
}
_GLOBALS: dict[str, Any] = {
    "collections OrderedDict": _ordered,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *rest: tensor,
    "torch._utils _rebuild_parameter_with_state": lambda tensor, *rest: tensor,
    **{f"torch {name}Storage": np.dtype(kind) for name, kind in _TYPES.items()},
    **{f"torch.cuda {name}Storage": np.dtype(kind) for name, kind in _TYPES.items()},
    # Plain values, which are dropped; bytes are written as a call of encode.
    **dict.fromkeys(("torch Size", "torch device", "_codecs encode"), lambda *values: None),
}


_PUSHES = re.compile(r"NONE|BININT[12]?|LONG1|BINFLOAT|(SHORT_)?BIN(UNICODE|STRING|BYTES)")
_MAKES: dict[str, Callable[[], Any]] = {
    **{"NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict},
}
# How many values an instruction takes from the stack; with 0, all after the mark.
_TAKES = {
    **{"TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": 0, "SETITEM": 2},
    **{"SETITEMS": 0, "REDUCE": 2, "BUILD": 1, "STACK_GLOBAL": 2, "BINPERSID": 1},
}


class _Machine:
    """Runs the harmless part of the pickle language; `storages` are those that were named."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}

    def run(self, file: BinaryIO) -> Any:
        """The object that the next pickle in `file` describes."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        for instruction, argument, _ in pickletools.genops(file):
            if instruction.name not in ("PROTO", "FRAME", "STOP"):
                self._step(instruction.name, argument)
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if _PUSHES.fullmatch(name):
            self._stack.append(argument)
        elif name in _MAKES:
            self._stack.append(_MAKES[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(self._stack))
        elif name == "GLOBAL":
            self._stack.append(_find(argument))
        else:
            _require(name in _TAKES, f"a pickle with {name}, which is not run", _SAVE)
            start = len(self._stack) - _TAKES[name] if _TAKES[name] else self._marks.pop()
            _require(start >= 0, "a damaged pickle")
            values = self._stack[start:]
            del self._stack[start:]
            self._build(name, values)

    def _build(self, name: str, values: list[Any]) -> None:
        """Make or fill something with values that were on the stack."""
        if name.startswith("TUPLE"):
            self._stack.append(tuple(values))
        elif name.startswith("APPEND"):
            self._top(list).extend(values)
        elif name.startswith("SETITEM"):
            pairs = zip(values[::2], values[1::2], strict=True)
            # State dicts have strings; to hash tuples of tuples of tuples may take for ever.
            self._top(dict).update((key, value) for key, value in pairs if isinstance(key, str))
        elif name == "REDUCE":
            function, arguments = values
            ours = isinstance(function, types.FunctionType) and isinstance(arguments, tuple)
            _require(ours and len(arguments) <= _MOST, "a pickle with a wrong call", _SAVE)
            self._stack.append(function(*arguments))
        elif name == "STACK_GLOBAL":
            _require(all(isinstance(value, str) for value in values), "a damaged pickle")
            self._stack.append(_find(" ".join(values)))
        elif name == "BINPERSID":
            self._stack.append(self._storage(*values))
        else:  # BUILD, with the _metadata of a state dict, which are versions of its layers
            self._top(OrderedDict)

    def _top(self, kind: type) -> Any:
        fits = isinstance(self._stack[-1], kind)
        _require(fits, f"a pickle that fills what is no {kind.__name__}", _SAVE)
        return self._stack[-1]

    def _storage(self, identity: Any) -> _Storage:
        known = isinstance(identity, tuple) and len(identity) in (5, 6) and identity[0] == "storage"
        _require(known and not any(identity[5:]), "a pickle with an unknown persistent id")
        kind, key, _, count = identity[1:5]
        fits = isinstance(kind, np.dtype) and isinstance(key, str) and _counts(count)
        _require(fits, "a storage of a wrong type, key or count")
        storage = self.storages.setdefault(key, _Storage(key, kind, count))
        _require(storage[1:] == (kind, count), "a storage with two types or counts")
        return storage


def _find(name: str) -> Any:
    model = name.startswith(("torch.nn.modules", "torchvision.models"))
    shown = _plain(name).replace(" ", ".", 1)
    found = f"a {'whole model' if model else 'pickle'} that asks for {shown}, which is not run"
    _require(name in _GLOBALS, found, _SAVE)
    return _GLOBALS[name]


def _zip(file: BinaryIO, size: int) -> tuple[Any, Callable[[_Storage], bytes]]:
    """The object in a file since PyTorch 1.6, and how to read the values of a storage."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    code = [_plain(name) for name in names if re.match(r"[^/]+/(constants\.pkl$|code/)", name)]
    _require(not code, f"a TorchScript archive with {''.join(code[:1])}", _SAVE)
    roots = [name[:-8] for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    _require(len(roots) == 1, f"a zip archive with {len(roots)} members <root>/data.pkl", _SAVE)

    def member(name: str, limit: int) -> bytes:
        part = archive.getinfo(roots[0] + name)
        fits = part.compress_type == zipfile.ZIP_STORED and part.file_size <= min(limit, size)
        _require(fits, f"an archive with a compressed or too long {_plain(name)}", _SAVE)
        return archive.read(part)

    if f"{roots[0]}byteorder" in names:
        _require(member("byteorder", 6) == b"little", "values that are not little-endian", _SAVE)
    top = _Machine().run(io.BytesIO(member("data.pkl", _PICKLE_LIMIT)))
    return top, lambda storage: member(f"data/{storage.key}", storage.size)


def _legacy(file: BinaryIO, size: int) -> tuple[Any, Callable[[_Storage], bytes]]:
    """The same of a file before PyTorch 1.6."""
    head, machine = io.BytesIO(file.read(min(size, _PICKLE_LIMIT))), _Machine()
    ours = machine.run(head) == _MAGIC and machine.run(head) == _VERSION
    _require(ours, "a pickle that is none of torch.save's", _SAVE)
    _require(machine.run(head)["little_endian"] is True, "values that are not little-endian", _SAVE)
    top, keys = machine.run(head), machine.run(head)
    place, places = head.tell(), {}
    for key in keys:
        file.seek(place)
        (count,) = struct.unpack("<q", file.read(8))
        _require(
            isinstance(key, str) and count == machine.storages[key].length,
            "a storage with two counts",
        )
        places[key] = place + 8
        place += 8 + machine.storages[key].size
        _require(place <= size, f"{size} bytes where at least {place} are needed")

    def values(storage: _Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.size)

    return top, values


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, by their names, in the order of the file.

    Values keep their types, but bfloat16 becomes float32, which is exact.  The state dict may be
    inside a dict, under `state_dict` or another usual name.  What is no tensor is left out, and so
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
        why = f"which cannot be read ({type(error).__name__}: {_plain(str(error))})"
        found, advice = error.args if isinstance(error, _Refused) else (why, _AGAIN)
        raise NetworkError(
            f"Expected tensors only, from torch.save. Received: {path}, {found}. {advice}."
        ) from error


def _state_dict(top: Any) -> dict[str, _Tensor]:
    """The tensors at the top, or, where there are none, those of the one state dict below."""
    _require(isinstance(top, dict), "which holds no dict", _SAVE)
    tensors = _tensors(top)
    if not tensors:
        below = {name: found for name in _NESTED if (found := _tensors(top.get(name)))}
        names = f"tensors under each of {', '.join(below)}" if below else "no tensors"
        _require(len(below) == 1, f"a dict with {names}", _SAVE)
        (tensors,) = below.values()
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _tensors(values: Any) -> dict[str, _Tensor]:
    items = values.items() if isinstance(values, dict) else ()
    return {name: value for name, value in items if isinstance(value, _Tensor)}


def _arrays(
    tensors: Mapping[str, _Tensor], values: Callable[[_Storage], bytes], size: int
) -> dict[str, np.ndarray]:
    """Read each storage that is used, once, and copy its tensors out of it."""
    names: dict[_Storage, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(tensor.storage, []).append(name)
    needed = sum(storage.size for storage in names)
    _require(needed <= size, f"{size} bytes, {needed} of them in tensors")
    copies = sum(math.prod(x.shape) * x.storage.type.itemsize for x in tensors.values())
    _require(copies <= _COPIES * size, "too many tensors in one storage", _SAVE)
    arrays: dict[str, np.ndarray] = {}
    for storage, group in names.items():
        stored = values(storage) if storage.size else b""
        _require(len(stored) == storage.size, "a storage with too few bytes")
        arrays |= {name: _array(tensors[name], stored) for name in group}
    return {name: arrays[name] for name in tensors}


def _array(tensor: _Tensor, stored: bytes) -> np.ndarray:
    kind, shape = tensor.storage.type, tensor.shape
    steps = tuple(stride * kind.itemsize for stride in tensor.strides)
    if 0 in shape:
        view = np.empty(shape, kind)
    else:
        view = np.ndarray(shape, kind, stored, tensor.offset * kind.itemsize, steps)
    if kind == _BFLOAT16:
        bits = np.array(view["bits"], np.uint32, order="C")
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    if kind == np.bool_:  # a file may hold other bytes than 0 and 1
        return np.array(view.view(np.uint8) != 0, order="C")
    return np.array(view, kind.newbyteorder("="), order="C")


def _plain(text: str) -> str:
    """In one line, whatever the file says, and not too long."""
    return " ".join(text[:200].encode("unicode_escape").decode().split())
