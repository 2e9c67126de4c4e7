"""The part of the pickle language that torch.save needs, run without unpickling.

A pickle is a program, so Python's unpickler is not used at all.  `Machine` knows the few
instructions that tensors, dicts and plain values need, calls nothing but the functions below, and
does work in proportion to the length of the pickle, whatever that holds.

A tensor is a call of _rebuild_tensor_v2 with an offset, sizes and strides into a storage, and a
storage is the persistent id ("storage", type, key, device, count).
"""

from __future__ import annotations

import math
import pickletools
import re
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAX_COUNT = 32  # dimensions of a tensor, or arguments of a call
AGAIN = "Fetch it again"
SAVE = "Save model.state_dict() with torch.save, or convert to .safetensors"


class Refusal(Exception):
    """Why a file is not read: what it holds, and what to do about it."""


class Storage(NamedTuple):
    """A row of values in the file.

    Attributes:
        key: Its name in the file.
        type: Type of a value.
        length: Number of values.
    """

    key: str
    type: np.dtype
    length: int

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.length * self.type.itemsize


class TensorView(NamedTuple):
    """A tensor as a view of a storage; offset and strides count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def require(condition: object, defect: str, advice: str = AGAIN) -> None:
    """Raises Refusal unless the condition holds."""
    if not condition:
        raise Refusal(defect, advice)


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> TensorView:
    """A view, checked against its storage; nothing is read or allocated yet."""
    require(isinstance(storage, Storage), "a tensor without a storage")
    lists = isinstance(shape, tuple) and isinstance(strides, tuple)
    alike = (
        lists and len(shape) == len(strides) <= _MAX_COUNT and _are_counts(offset, *shape, *strides)
    )
    require(alike, "a tensor with a wrong offset, size or stride")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    fits = 0 in shape or (math.prod(shape) <= storage.length and last < storage.length)
    require(fits, "a tensor larger than its storage", "Fetch it again, or save a clone of it")
    # After requires_grad and hooks comes, rarely, a dict of operations that wait for the reader.
    require(not any(rest[2:]), "a tensor that is to be negated", "Save a clone of it")
    return TensorView(storage, offset, shape, strides)


def _ordered(*values: Any) -> OrderedDict[str, Any]:
    """Python 2 wrote an OrderedDict with its items, as one list of pairs."""
    items: OrderedDict[str, Any] = OrderedDict()
    for pairs in values:
        require(isinstance(pairs, list), "a pickle with a wrong OrderedDict")
        items.update((key, value) for key, value in pairs if isinstance(key, str))
        pairs.clear()  # else a pickle could have one long list copied again and again
    return items


# NumPy has no bfloat16, which is the upper half of a float32.
BFLOAT16 = np.dtype([("bits", "<u2")])
_TYPES: dict[str, Any] = {
    **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": BFLOAT16, "Bool": "?"},
    **{"Byte": "<u1", "Char": "<i1", "Short": "<i2", "Int": "<i4", "Long": "<i8"},
}
_GLOBALS: dict[str, Any] = {
    "collections OrderedDict": _ordered,
    "torch._utils _rebuild_tensor": rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": rebuild_tensor,
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


class Machine:
    """Runs the harmless part of the pickle language.

    Attributes:
        storages: Key to storage, of all storages that the pickles so far have named.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}

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
            require(name in _TAKES, f"a pickle with {name}, which is not run", SAVE)
            start = len(self._stack) - _TAKES[name] if _TAKES[name] else self._marks.pop()
            require(start >= 0, "a damaged pickle")
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
            require(ours and len(arguments) <= _MAX_COUNT, "a pickle with a wrong call", SAVE)
            self._stack.append(function(*arguments))
        elif name == "STACK_GLOBAL":
            require(all(isinstance(value, str) for value in values), "a damaged pickle")
            self._stack.append(_find(" ".join(values)))
        elif name == "BINPERSID":
            self._stack.append(self._storage(*values))
        else:  # BUILD, with the _metadata of a state dict, which are versions of its layers
            self._top(OrderedDict)

    def _top(self, kind: type) -> Any:
        fits = isinstance(self._stack[-1], kind)
        require(fits, f"a pickle that fills what is no {kind.__name__}", SAVE)
        return self._stack[-1]

    def _storage(self, identity: Any) -> Storage:
        ours = isinstance(identity, tuple) and len(identity) in (5, 6) and identity[0] == "storage"
        require(ours and not any(identity[5:]), "a pickle with an unknown persistent id")
        kind, key, _, count = identity[1:5]
        fits = isinstance(kind, np.dtype) and isinstance(key, str) and _are_counts(count)
        require(fits, "a storage of a wrong type, key or count")
        storage = self.storages.setdefault(key, Storage(key, kind, count))
        require(storage[1:] == (kind, count), "a storage with two types or counts")
        return storage


def _find(name: str) -> Any:
    """What a pickle calls by name: one of the functions and types above, never an import."""
    model = name.startswith(("torch.nn.modules", "torchvision.models"))
    dotted = to_plain(name).replace(" ", ".", 1)
    defect = f"a {'whole model' if model else 'pickle'} that asks for {dotted}, which is not run"
    require(name in _GLOBALS, defect, SAVE)
    return _GLOBALS[name]


def to_plain(text: str) -> str:
    """Text from a file in one line, cut after 200 characters, with control characters escaped."""
    return " ".join(text[:200].encode("unicode_escape").decode().split())
