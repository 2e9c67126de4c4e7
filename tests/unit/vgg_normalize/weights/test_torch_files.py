"""What torch.save wrote is read as it was, and nothing else that such a file may hold is run."""

from __future__ import annotations

import io
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_writer import (
    MAGIC,
    ORDERED,
    VERSION_2,
    WRITERS,
    Call,
    Global,
    Raw,
    Stored,
    code,
    ordered,
    save,
    storage,
    tensor,
    view,
    whole,
    write,
    write_legacy,
    write_zip,
)

from vgg_normalize.errors import NetworkError
from vgg_normalize.weights import torch_files, torch_pickle

both = pytest.mark.parametrize("kind", WRITERS)


def some_arrays():
    generator = np.random.Generator(np.random.PCG64(7))
    return {
        "features.0.weight": generator.standard_normal((4, 3, 3, 3), np.float32),
        "features.0.bias": generator.standard_normal(4, np.float32),
        "features.1.num_batches_tracked": np.array(12, np.int64),
        "half": generator.standard_normal(5).astype(np.float16),
        "double": generator.standard_normal((2, 2)),
        "bytes": generator.integers(0, 256, (3, 2), np.uint8),
        "signed": generator.integers(-128, 128, 3, np.int8),
        "short": np.array([-3, 7], np.int16),
        "int": np.array([1 << 20], np.int32),
        "flags": np.array([True, False, True]),
        "empty": np.empty((0, 4), np.float32),
    }


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert isinstance(found[name], np.ndarray) and found[name].shape == array.shape, name
        assert found[name].flags.c_contiguous and found[name].flags.writeable, name


def refused(path, match):
    """The refusal of a file: one line in the form of the house, about the thing expected."""
    with pytest.raises(NetworkError, match=match) as caught:
        torch_files.read(path)
    message = str(caught.value)
    assert re.fullmatch(r"Expected [^\n]+\. Received: [^\n]+\. [A-Z][^\n]+\.", message), message
    return message


@both
def test_every_type_comes_back(tmp_path, kind):
    arrays = some_arrays()
    assert_equal(torch_files.read(save(kind, tmp_path / "a.pth", arrays)), arrays)


@both
def test_bfloat16_becomes_float32_exactly(tmp_path, kind):
    values = np.array([1, -2.5, 0.15625, 3e38, np.inf, -0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    arrays = {"many": bits, "one": bits[1:2].reshape(()), "grid": bits.reshape(2, 3).T}
    found = torch_files.read(save(kind, tmp_path / "a.pth", arrays))
    expected = {"many": exact, "one": exact[1].reshape(()), "grid": exact.reshape(2, 3).T}
    assert_equal(found, expected)
    assert np.signbit(found["many"][-1])


@both
def test_views_of_one_storage_are_copied_apart(tmp_path, kind):
    values = np.arange(24, dtype=np.float32)
    stored = storage("5", "Float", 24, kind == "legacy")
    shapes = {
        "rows": ((2, 3), (12, 1), 4),
        "turned": ((3, 2), (1, 3), 0),
        "steps": ((4,), (5,), 8),
        "all": ((2, 3, 4), (12, 4, 1), 0),
        "one": ((), (), 23),
        "unit": ((1, 24), (999, 1), 0),
    }
    top = {name: view(stored, *arguments) for name, arguments in shapes.items()}
    found = torch_files.read(write(kind, tmp_path / "a.pth", top, {"5": values}))
    expected = {
        "rows": np.array([[4, 5, 6], [16, 17, 18]], np.float32),
        "turned": values[:6].reshape(2, 3).T,
        "steps": values[8::5],
        "all": values.reshape(2, 3, 4),
        "one": values[23].reshape(()),
        "unit": values.reshape(1, 24),
    }
    assert_equal(found, expected)
    found["all"][:] = 0
    assert_equal({**found, "all": values.reshape(2, 3, 4)}, expected)


@both
def test_parameters_old_tensors_and_storages_of_gpus_are_read(tmp_path, kind):
    values, legacy = np.arange(4, dtype=np.float32), kind == "legacy"
    plain = tensor("0", values, legacy)
    old = Call(
        Global("torch._utils", "_rebuild_tensor"),
        (storage("0", "Float", 4, legacy), 0, (4,), (1,)),
    )
    gpu = view(storage("1", "Float", 4, legacy, "torch.cuda"), (4,), (1,))
    hooks = Call(ORDERED, ())
    top = {
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), (plain, True, hooks)),
        "stateful": Call(
            Global("torch._utils", "_rebuild_parameter_with_state"), (plain, True, hooks, {"a": 1})
        ),
        "old": old,
        "gpu": gpu,
    }
    path = write(kind, tmp_path / "a.pth", top, {"0": values, "1": values})
    assert_equal(torch_files.read(path), dict.fromkeys(top, values))


def test_an_ordered_dict_of_python_2_is_read(tmp_path):
    """With its items as an argument, and with byte strings."""
    values = np.arange(3, dtype=np.float32)

    def short(text):
        return Raw(b"U" + bytes([len(text)]) + text.encode())

    identity = (short("storage"), Global("torch", "FloatStorage"), short("7"), short("cpu"), 3)
    stored = Stored((*identity, None))
    top = Call(ORDERED, ([[short("a.weight"), view(stored, (3,), (1,))], [short("n"), 2]],))
    write_legacy(tmp_path / "a.pth", top, {"7": values})
    assert_equal(torch_files.read(tmp_path / "a.pth"), {"a.weight": values})


def test_newer_protocols_are_read(tmp_path):
    """torch.save(pickle_protocol=4): names on the stack, a memo without numbers, a frame."""
    values = np.arange(3, dtype=np.float32)

    def short(text):
        return b"\x8c" + bytes([len(text)]) + text.encode() + b"\x94"

    def named(module, name):
        return short(module) + short(name) + b"\x93\x94"

    top = (
        b"}\x94" + short("w") + named("torch._utils", "_rebuild_tensor_v2")
        + b"((" + short("storage") + named("torch", "FloatStorage") + short("0") + short("cpu")
        + b"K\x03t\x94QK\x00K\x03\x85\x94K\x01\x85\x94\x89" + named("collections", "OrderedDict")
        + b")R\x94t\x94R\x94s"
    )  # fmt: skip
    frame = b"\x95" + struct.pack("<Q", len(top) + 1)
    path = write("zip", tmp_path / "a.pth", Raw(b"\x80\x04" + frame + top), {"0": values})
    assert_equal(torch_files.read(path), {"w": values})


@both
def test_what_is_no_tensor_is_dropped(tmp_path, kind):
    values = np.ones(2, np.float32)
    bytes_ = Call(Global("_codecs", "encode"), ("abc", "latin1"))
    top = {
        "epoch": 3, "loss": 0.5, "name": "vgg", "none": None, "yes": True, "no": False,
        "list": [1, [2.0, "x"]], "pair": (1, 2), "big": 1 << 70, "bytes": bytes_,
        "size": Call(Global("torch", "Size"), ((1, 2),)),
        "device": Call(Global("torch", "device"), ("cpu",)),
        "weight": tensor("0", values, kind == "legacy"),
        5: tensor("0", values, kind == "legacy"),
        "deep": {"weight": tensor("0", values, kind == "legacy")},
    }  # fmt: skip
    path = write(kind, tmp_path / "a.pth", top, {"0": values})
    assert_equal(torch_files.read(path), {"weight": values})


@both
@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict", "params", "net"])
def test_a_state_dict_in_a_dict_is_found(tmp_path, kind, name):
    arrays = {"a.weight": np.ones((2, 2), np.float32), "a.bias": np.zeros(2, np.float32)}
    optimizer = {"state": {0: {"step": 4}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}

    def wrap(items):
        return {"epoch": 90, name: ordered(items), "optimizer": optimizer}

    assert_equal(torch_files.read(save(kind, tmp_path / "a.pth", arrays, wrap)), arrays)


def test_two_state_dicts_are_refused_by_name(tmp_path):
    def wrap(items):
        return {"model": items, "net": items}

    path = save("zip", tmp_path / "a.pth", {"a": np.ones(2, np.float32)}, wrap)
    refused(path, "each of model, net")


@both
def test_the_prefix_of_data_parallel_goes_only_from_all_names(tmp_path, kind):
    one = np.ones(2, np.float32)
    path = save(kind, tmp_path / "a.pth", {"module.a.weight": one, "module.b": one})
    assert list(torch_files.read(path)) == ["a.weight", "b"]
    path = save(kind, tmp_path / "b.pth", {"module.a.weight": one, "b": one})
    assert list(torch_files.read(path)) == ["module.a.weight", "b"]


@both
@pytest.mark.parametrize("top", [{}, {"epoch": 3}, [1, 2], "text", 5, None, {"model": {"a": 1}}])
def test_a_file_without_tensors_is_refused(tmp_path, kind, top):
    refused(write(kind, tmp_path / "a.pth", top), "holds no dict|a dict with no tensors")


def test_only_the_storages_that_are_used_are_read(tmp_path):
    """A damaged optimizer does no harm to the weights."""
    arrays = {"a": np.arange(4, dtype=np.float32), "moment": np.full(4, 77, np.float32)}

    def wrap(items):
        return {"model": {"a": items["a"]}, "optimizer": {"state": {"m": items["moment"]}}}

    path = save("zip", tmp_path / "a.pth", arrays, wrap)
    content = path.read_bytes()
    path.write_bytes(content.replace(arrays["moment"].tobytes(), bytes(16)))
    assert_equal(torch_files.read(path), {"a": arrays["a"]})
    path.write_bytes(content.replace(arrays["a"].tobytes(), bytes(16)))
    refused(path, "Bad CRC.*Fetch it again")


def test_other_byte_orders_are_refused(tmp_path):
    values = np.ones(2, np.float32)
    for order in (b"big", b"what"):
        write_zip(tmp_path / "a.pth", {"a": tensor("0", values, False)}, {"0": values}, order=order)
        refused(tmp_path / "a.pth", "not little-endian")
    write_legacy(tmp_path / "b.pth", {"a": tensor("0", values, True)}, {"0": values}, little=False)
    refused(tmp_path / "b.pth", "not little-endian")
    write_zip(tmp_path / "c.pth", {"a": tensor("0", values, False)}, {"0": values}, order=None)
    assert_equal(torch_files.read(tmp_path / "c.pth"), {"a": values})


# Each would write a file, or fetch a function that does, were it run.
PAYLOADS = {
    "os.system": Call(Global("os", "system"), ("touch {0}",)),
    "posix.system": Call(Global("posix", "system"), ("touch {0}",)),
    "builtins.open": Call(Global("builtins", "open"), ("{0}", "w")),
    "io.open": Call(Global("io", "open"), ("{0}", "w")),
    "builtins.eval": Call(Global("builtins", "eval"), ("open('{0}', 'w')",)),
    "__builtin__.eval": Call(
        Global("__builtin__", "eval"),
        (Call(Global("builtins", "compile"), ("open('{0}', 'w')", "", "eval")),),
    ),
    "copyreg._reconstructor": Call(
        Global("copyreg", "_reconstructor"),
        (Global("subprocess", "Popen"), Global("builtins", "object"), None),
    ),
    "builtins.getattr": Call(
        Call(Global("builtins", "getattr"), (Global("torch", "Size"), "__call__")), ()
    ),
    "torch.storage._load_from_bytes": Call(
        Global("torch.storage", "_load_from_bytes"), ("{0}",)
    ),
    "torch.serialization.load": Call(Global("torch.serialization", "load"), ("{0}",)),
    "numpy.load": Call(Global("numpy", "load"), ("{0}",)),
    "pathlib.Path.touch": Call(Global("pathlib", "Path.touch"), ("{0}",)),
    "torch.FloatStorage.__class__": Call(Global("torch", "FloatStorage.__class__"), ()),
    "collections.OrderedDict.fromkeys": Call(Global("collections", "OrderedDict.fromkeys"), ()),
}  # fmt: skip


def filled(value, path):
    """The payload with the path of the file that it is to make."""
    if isinstance(value, Call):
        return Call(filled(value.function, path), filled(value.arguments, path))
    if isinstance(value, tuple):
        return tuple(filled(item, path) for item in value)
    return value.format(path) if isinstance(value, str) else value


def unpickled(payload):
    """Let Python run the payload, in another process."""
    subprocess.run(
        [sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"],
        input=whole(payload), check=False, capture_output=True,
    )  # fmt: skip


def test_the_payloads_are_real(tmp_path):
    """Else that no file is made would say nothing."""
    unpickled(filled(PAYLOADS["posix.system"], tmp_path / "made"))
    assert (tmp_path / "made").exists()


PLACES = {
    "top": lambda payload: payload,
    "value": lambda payload: {"a": 1, "b": payload},
    "nested": lambda payload: {"state_dict": {"a": [1, (2, payload)]}},
    "metadata": lambda payload: Call(ORDERED, (), {"_metadata": payload}),
    "key": lambda payload: Raw(b"}(" + code(payload) + code(1) + b"u"),
    "argument": lambda payload: Call(VERSION_2, (payload, 0, (1,), (1,))),
    "persistent id": lambda payload: Stored(("storage", payload, "0", "cpu", 1)),
}


@both
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_code_in_a_file_is_run(tmp_path, kind, name):
    payload = filled(PAYLOADS[name], tmp_path / "made")
    for place, put in PLACES.items():
        path = write(kind, tmp_path / f"{place}.pth", put(payload))
        message = refused(path, f"{re.escape(name)}, which is not run")
        assert "Save model.state_dict()" in message
    assert not (tmp_path / "made").exists()


def test_no_code_in_the_other_pickles_of_a_legacy_file_is_run(tmp_path):
    payload = filled(PAYLOADS["posix.system"], tmp_path / "made")
    good = [whole(part) for part in (MAGIC, 1001, {"little_endian": True}, {}, [])]
    for i in range(len(good)):
        (tmp_path / "a.pth").write_bytes(b"".join([*good[:i], whole(payload), *good[i + 1 :]]))
        refused(tmp_path / "a.pth", r"posix\.system, which is not run")
    assert not (tmp_path / "made").exists()


NAMED = b"\x8c\x05posix\x8c\x06system\x93"
PUSHED = b"\x8c\x05touch"


@pytest.mark.parametrize(
    ("instructions", "found"),
    {
        "a name on the stack": (NAMED + PUSHED + b"\x85R", r"posix\.system"),
        "an instance": (b"(" + code("x") + b"iposix\nsystem\n", "INST"),
        "an object": (b"(" + code(Global("torch", "Size")) + b"o", "OBJ"),
        "a new object": (code(Global("torch", "Size")) + b")\x81", "NEWOBJ"),
        "a new object with names": (code(Global("torch", "Size")) + b")}\x92", "NEWOBJ_EX"),
        "an extension": (b"\x82\x01", "EXT1"),
        "a buffer": (b"\x97", "NEXT_BUFFER"),
        "bytes to fill": (b"\x96" + struct.pack("<Q", 1 << 40), "bytearray8"),
        "bytes that are not there": (b"B" + struct.pack("<I", 0xFFFFFFF0), "bytes4"),
        "a text of an identity": (b"Pabc\n", "PERSID"),
        "a call of a number": (b"K\x01)R", "wrong call"),
        "a call of a type": (code(Global("torch", "FloatStorage")) + b")R", "wrong call"),
        "a call of a dict": (b"})R", "wrong call"),
        "a call without a tuple": (code(ORDERED) + b"]R", "wrong call"),
        "a state of a function": (code(VERSION_2) + code({"__code__": 1}) + b"b", "OrderedDict"),
        "slots of a function": (
            code(VERSION_2) + code((None, {"__defaults__": (1,)})) + b"b", "OrderedDict",
        ),
        "a state of a type": (code(Global("torch", "FloatStorage")) + b"}b", "OrderedDict"),
        "a state of a dict": (b"}}b", "OrderedDict"),
        "a name that is no text": (b"K\x01K\x02\x93", "damaged"),
        "nothing on the stack": (b"\x87", "damaged"),
        "items of a tuple": (b")K\x01a", "no list"),
        "items of a list": (b"]K\x01K\x02s", "no dict"),
        "a memo that is empty": (b"h\x05", "KeyError"),
        "a number like no other": (b"I12\n", "INT"),
    }.values(),
)  # fmt: skip
@both
def test_instructions_can_do_nothing_else(tmp_path, kind, instructions, found):
    before = torch_pickle.rebuild_tensor.__code__, torch_pickle.rebuild_tensor.__defaults__
    refused(write(kind, tmp_path / "a.pth", Raw(instructions)), found)
    assert before == (
        torch_pickle.rebuild_tensor.__code__,
        torch_pickle.rebuild_tensor.__defaults__,
    )


@both
def test_the_reader_does_not_import_what_a_file_names(tmp_path, kind):
    (tmp_path / "evil_module.py").write_text("raise SystemExit(3)")
    sys.path.insert(0, str(tmp_path))
    try:
        path = write(kind, tmp_path / "a.pth", Call(Global("evil_module", "run"), ()))
        refused(path, r"evil_module\.run")
        assert "evil_module" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))


@both
@pytest.mark.parametrize(
    ("module", "name"),
    [("torch.nn.modules.container", "Sequential"), ("torchvision.models.vgg", "VGG")],
)
def test_a_whole_model_is_refused_with_advice(tmp_path, kind, module, name):
    model = Raw(code(Global(module, name)) + b")\x81" + code({"training": True}) + b"b")
    message = refused(write(kind, tmp_path / "a.pth", model), f"whole model.*{name}")
    assert "Save model.state_dict() with torch.save" in message


def test_a_module_by_persistent_id_is_refused(tmp_path):
    top = Stored(("module", Global("torch", "Size"), "file.py", "source"))
    refused(write("legacy", tmp_path / "a.pth", top), "unknown persistent id")


def test_torchscript_is_refused(tmp_path):
    values = np.ones(2, np.float32)
    for name in ("constants.pkl", "code/__torch__.py"):
        top = {"a": tensor("0", values, False)}
        write_zip(tmp_path / "a.pt", top, {"0": values}, extra=[name])
        refused(tmp_path / "a.pt", f"TorchScript archive with net/{name}")


HUGE = 10**12
FAR = {
    "count": ("Float", HUGE, (2,), (1,), 0),
    "count of a view": ("Float", HUGE, (HUGE,), (1,), 0),
    "past the end": ("Float", 4, (5,), (1,), 0),
    "offset": ("Float", 4, (2,), (1,), 3),
    "far offset": ("Float", 4, (1,), (1,), 1 << 62),
    "stride": ("Float", 4, (2, 2), (3, 1), 0),
    "huge stride": ("Float", 4, (2,), (1 << 62,), 0),
    "negative offset": ("Float", 4, (2,), (1,), -1),
    "negative stride": ("Float", 4, (2,), (-1,), 3),
    "negative size": ("Float", 4, (-2,), (1,), 0),
    "negative count": ("Float", -4, (2,), (1,), 0),
    "count beyond int64": ("Float", 1 << 64, (2,), (1,), 0),
    "expanded": ("Float", 4, (HUGE, HUGE, HUGE), (0, 0, 0), 0),
    "expanded a little": ("Float", 4, (5,), (0,), 0),
    "other lengths": ("Float", 4, (2, 2), (1,), 0),
    "many dimensions": ("Float", 4, (1,) * 70, (1,) * 70, 0),
    "a size that is true": ("Float", 4, (True,), (1,), 0),
    "a size that is a fraction": ("Float", 4, (1.5,), (1,), 0),
    "a size that is a list": ("Float", 4, [2], [1], 0),
    "more bytes than there are": ("Double", 4, (4,), (1,), 0),
    "fewer bytes than there are": ("Half", 4, (4,), (1,), 0),
    "too many of none": ("Float", 4, (0, 1 << 62, 1 << 62), (1, 1, 1), 0),
}


@both
@pytest.mark.parametrize("name", FAR)
def test_sizes_are_checked_before_anything_is_allocated(tmp_path, kind, name):
    word, count, shape, strides, offset = FAR[name]
    stored = storage("0", word, count, kind == "legacy")
    made = Call(VERSION_2, (stored, offset, shape, strides, False, Call(ORDERED, ())))
    path = write(kind, tmp_path / "a.pth", {"a": made}, {"0": np.zeros(4, np.float32)})
    tracemalloc.start()
    try:
        # A legacy file says the length in elements, so half of it is just a shorter storage.
        if (kind, name) == ("legacy", "fewer bytes than there are"):
            torch_files.read(path)
        else:
            refused(path, "Received")
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_counts_of_a_legacy_file_must_agree(tmp_path):
    values, path = np.ones(4, np.float32), tmp_path / "a.pth"
    for count in (3, 5, -1, HUGE, (1 << 63) - 1):
        write_legacy(path, {"a": tensor("0", values, True)}, {"0": values}, counts={"0": count})
        refused(path, "two counts")
    write_legacy(path, {"a": tensor("0", values, True)}, {})
    refused(path, "KeyError")
    write_legacy(path, {"a": tensor("0", values, True)}, {"0": values, "other": values})
    refused(path, "KeyError")


@both
def test_a_storage_has_one_type(tmp_path, kind):
    values = np.ones(4, np.float32)
    top = {
        "a": view(storage("0", "Float", 4, kind == "legacy"), (4,), (1,)),
        "b": view(storage("0", "Int", 4, kind == "legacy"), (4,), (1,)),
    }
    refused(write(kind, tmp_path / "a.pth", top, {"0": values}), "two types")


@both
def test_one_storage_cannot_fill_the_memory(tmp_path, kind):
    values = np.zeros(1000, np.float32)
    stored = storage("0", "Float", 1000, kind == "legacy")
    top = {f"{i}": view(stored, (1000,), (1,)) for i in range(2000)}
    path = write(kind, tmp_path / "a.pth", top, {"0": values})
    refused(path, "too many tensors in one storage")


def test_parts_of_an_archive_are_stored_and_as_long_as_they_should_be(tmp_path):
    values, path = np.zeros(1 << 16, np.float32), tmp_path / "a.pth"
    top = {"a": tensor("0", values, False)}
    write_zip(path, top, {"0": values}, method=zipfile.ZIP_DEFLATED)
    refused(path, "compressed or too long")
    write_zip(path, {"a": tensor("0", values[:4], False)}, {"0": values})
    refused(path, "compressed or too long")
    write_zip(path, top, {"0": values[:4]})
    refused(path, "bytes")
    write_zip(path, top, {"1": values})
    refused(path, "data/0")


def bomb(levels=200):
    """A tuple of twice a tuple of twice a tuple; its hash, or its text, would take for ever."""
    return Raw(
        b")q\x00" + b"".join(b"h%c\x86q%c" % (i % 200, (i + 1) % 200) for i in range(levels))
    )


@both
def test_work_does_not_grow_faster_than_the_file(tmp_path, kind):
    tops = {
        "key": Raw(b"}" + code(bomb()) + b"K\x01s"),
        "identity": Stored(bomb()),
        "size": view(storage("0", "Float", 4, kind == "legacy"), (1,), (1,), bomb()),
        "name": Raw(code(bomb()) + code(bomb()) + b"\x93"),
        "state": Call(ORDERED, (), bomb()),
        "value": {"a": bomb()},
        "call": Raw(code(ORDERED) + b"(" + b"N" * 10**5 + b"tq\x01" + b"h\x01h\x01R" * 10**4),
        "memo": Raw(b"Nr\xff\xff\xff\xff"),
        "pairs": Raw(
            b"](" + code(["a", 1]) * 10**4 + b"eq\x01" + (code(ORDERED) + b"h\x01\x85R") * 10**4
        ),
    }
    for name, top in tops.items():
        path, start = write(kind, tmp_path / f"{name}.pth", top), time.monotonic()
        refused(path, "Received")
        assert time.monotonic() - start < 5, name


def test_a_legacy_list_of_strange_keys_is_refused(tmp_path):
    parts = [whole(part) for part in (MAGIC, 1001, {"little_endian": True}, {}, [bomb(150)])]
    (tmp_path / "a.pth").write_bytes(b"".join(parts) + bytes(8))
    refused(tmp_path / "a.pth", "Received")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P",
        b"PK\x03\x04",
        b"<!DOCTYPE html>",
        b"\x89HDF\r\n\x1a\n",
        b"\x80",
        b"\x80\x02.",
        b"N.",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    refused(tmp_path / "a.pth", "Received")


def test_other_pickles_archives_and_paths_are_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": 1}, 2))
    refused(tmp_path / "a.pth", "none of torch.save's")
    write_legacy(tmp_path / "b.pth", {}, {}, magic=MAGIC + 1)
    refused(tmp_path / "b.pth", "none of torch.save's")
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("config.json", "{}")
    refused(tmp_path / "c.pth", "0 members <root>/data.pkl")
    refused(tmp_path / "none.pth", "No such file")
    refused(tmp_path, "Is a directory")


def test_a_strange_name_cannot_break_the_line(tmp_path):
    named = b"\x8c\x08os\n\x1b[31m" + b"X" + struct.pack("<I", 10**5) + b"y" * 10**5 + b"\x93"
    message = refused(write("zip", tmp_path / "a.pth", Raw(named)), r"os\\n\\x1b\[31m")
    assert len(message) < 700


def small_file(kind, folder):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.bias": np.array([1, 2], np.float16),
        "n": np.array(3, np.int64),
    }
    return save(kind, folder / "small.pth", arrays).read_bytes()


def read_or_refuse(path):
    """Whatever the bytes are: arrays, or one line."""
    try:
        found = torch_files.read(path)
    except NetworkError as error:
        assert "\n" not in str(error) and str(error).startswith("Expected ")
        return None
    assert found and all(isinstance(array, np.ndarray) for array in found.values())
    assert sum(array.nbytes for array in found.values()) < 1 << 16
    return found


@both
def test_a_truncated_file_is_refused(tmp_path, kind):
    content = small_file(kind, tmp_path)
    for length in range(0, len(content), 3):
        (tmp_path / "a.pth").write_bytes(content[:length])
        refused(tmp_path / "a.pth", "Received")
    (tmp_path / "a.pth").write_bytes(content[:-1])
    refused(tmp_path / "a.pth", "Received")


@both
def test_damaged_files_give_arrays_or_one_line(tmp_path, kind):
    content, generator = small_file(kind, tmp_path), np.random.Generator(np.random.PCG64(11))
    path, results = tmp_path / "a.pth", []
    tracemalloc.start()
    try:
        for _ in range(600):
            damaged = bytearray(content)
            for place in generator.integers(0, len(content), generator.integers(1, 5)):
                damaged[place] = generator.integers(256)
            if generator.random() < 0.2:
                first, last = sorted(generator.integers(0, len(content), 2))
                del damaged[first:last]
            path.write_bytes(damaged)
            results.append(read_or_refuse(path) is None)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert any(results)


def test_damaged_pickles_give_arrays_or_one_line(tmp_path):
    """In an archive that is otherwise whole, so that no checksum comes first."""
    content = io.BytesIO(small_file("zip", tmp_path))
    with zipfile.ZipFile(content) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    generator, results = np.random.Generator(np.random.PCG64(12)), []
    for _ in range(600):
        damaged = bytearray(parts["net/data.pkl"])
        for place in generator.integers(0, len(damaged), generator.integers(1, 4)):
            damaged[place] = generator.integers(256)
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            for name, part in {**parts, "net/data.pkl": bytes(damaged)}.items():
                archive.writestr(name, part)
        results.append(read_or_refuse(tmp_path / "a.pth") is None)
    assert len(set(results)) == 2, "some are read and some are refused"


def test_pytorch_and_unpickling_are_not_needed():
    names = "{'torch', 'tensorflow', 'keras'}"
    code = f"import sys, vgg_normalize.weights.torch_files\nsys.exit(bool({names} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)
    for module in (torch_files, torch_pickle):
        source = Path(module.__file__).read_text()
        assert not re.search(
            r"^\s*(import|from) pickle\b|\bUnpickler\b|\beval\(|\bexec\(", source, re.M
        )
