"""Files of weights: kernels [h, w, in, out] and biases [out] by layer, whatever wrote them.

Nothing here runs code from a file: no pickle but tensors, no Lambda layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np
import safetensors.numpy

from vgg_normalize import chain, folding, torch_files, weight_layouts
from vgg_normalize.errors import NetworkError
from vgg_normalize.weight_layouts import Layers, Tensors

# What only batch normalisation has, as every Keras, and PyTorch, calls it.
_MOVING = ("moving_mean", "moving_variance", "running_mean", "running_std", "running_var")


class File(NamedTuple):
    """What a file of weights holds.

    Attributes:
        layers: Kernel and bias by the file's own names of layers, in order.
        layout: How they were laid out, in words.
    """

    layers: Layers
    layout: str


def read(path: Path, wanted: Collection[str] = ()) -> File:
    """All layers of a file.

    Args:
        path: Its suffix says what it is.
        wanted: Names of layers: of an .npz that has some of them the others are listed, not read.

    Raises:
        NetworkError: The file is missing, damaged, of no kind that is read, or holds code.
    """
    if path.suffix not in READERS:
        raise NetworkError(
            "Expected weights imagenet, imagenet_8bit, random, or a file .h5, .weights.h5, .keras "
            f"or .npz, .safetensors, .pth, .pt, .bin. Received: {str(path)!r}. Convert the weights "
            "to one of these."
        )
    if not path.is_file():
        raise NetworkError(
            f"Expected a file of weights. Received: {str(path)!r}, which is not a file. "
            "Check the path."
        )
    try:
        return _read_npz(path, wanted) if path.suffix == ".npz" else READERS[path.suffix](path)
    except NetworkError:
        raise
    except Exception as error:  # h5py, zipfile and Keras raise many kinds for damaged files
        raise NetworkError(
            f"Expected a {path.suffix} file of weights. Received: {path}, which cannot be read "
            f"({first_words(error)}). Fetch it again; pickled and executable content is refused."
        ) from error


def _read_npz(path: Path, wanted: Collection[str] = ()) -> File:
    with np.load(path, allow_pickle=False) as file:
        keys = [key for key in file.files if key.rpartition("/")[2] in ("kernel", "bias", *_MOVING)]
        known = {key for key in keys if key.rpartition("/")[0] in wanted}
        own = {key for key in keys if key.rpartition("/")[0] == weight_layouts.CONVERSION}
        needed = known | own if known else keys or file.files
        tensors = {key: file[key] if key in needed else np.empty(0) for key in keys or file.files}
        return _by_names(tensors, path)


def _read_safetensors(path: Path) -> File:
    tensors = safetensors.numpy.load_file(path)
    for name, tensor in tensors.items():
        if tensor.dtype.name == "bfloat16":  # ml_dtypes', which NumPy takes for no number
            tensors[name] = tensor.astype(np.float32)
    # The file sorts names as text, in which layer 10 comes before layer 2.
    return _by_names({name: tensors[name] for name in sorted(tensors, key=_natural)}, path)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_torch(path: Path) -> File:
    return _by_names(torch_files.read(path), path)


def _by_names(tensors: Tensors, path: Path) -> File:
    """Layers from tensors whose names tell the layout: `<layer>/kernel` is Keras'."""
    layers: Layers = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition("/")
        if key.replace("/", ".").rpartition(".")[2] in _MOVING:
            raise _batch_norm_refusal(path, layer or key.rpartition(".")[0])
        if layer and kind in ("kernel", "bias"):
            layers.setdefault(layer, [np.empty(0), np.empty(0)])[kind == "bias"] = tensor
    if layers:
        return File(layers, "<layer>/kernel")
    return File(*weight_layouts.convert(tensors, path))


def _read_h5(path: Path) -> File:
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs:
            return File(_legacy_h5(root, path), "Keras")
        return File(_keras3_h5(root, path), "Keras")


def _batch_norm_refusal(path: Path, layer: str) -> NetworkError:
    """Arrays alone say neither epsilon nor where the layer stands, and are not to be dropped."""
    return NetworkError(
        f"Expected kernels and biases only. Received: {path} with batch normalisation, layer "
        f"{layer!r}, which can be folded only where the order of layers is known. Give the "
        ".keras file, or what model.save writes as .keras from vgg_normalize.fold_batch_norm."
    )


def _legacy_h5(root: Any, path: Path) -> Layers:
    """Keras 1 and 2: the attributes give the order of layers and of their weights."""
    found = {}
    for raw in root.attrs["layer_names"]:
        layer = raw.decode() if isinstance(raw, bytes) else str(raw)
        names = [
            name.decode() if isinstance(name, bytes) else str(name)
            for name in root[layer].attrs.get("weight_names", [])
        ]
        if not names:
            continue
        if any(kind in name.split("/")[-1] for name in names for kind in _MOVING):
            raise _batch_norm_refusal(path, layer)
        # Kernels before biases whatever the order of writing.
        names.sort(key=lambda name: "bias" in name or name.endswith("_b_1:0"))
        found[layer] = [np.asarray(root[layer][name]) for name in names]
    return found


def _keras3_h5(root: Any, path: Path) -> Layers:
    """Keras 3: layers/<class>_<count>/vars/<i>; the counts give the order within a class."""
    found: Layers = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and name.split("/")[-1] == "vars" and len(item):
            layer = name.removesuffix("/vars").removeprefix("layers/")
            # These files name classes, not weights.
            if re.fullmatch(r"batch_normalization(_\d+)?", layer.split("/")[-1]):
                raise _batch_norm_refusal(path, str(item.attrs.get("name", layer)))
            found[layer] = [np.asarray(item[key]) for key in sorted(item, key=int)]

    root.visititems(visit)

    def order(layer: str) -> tuple[str, int]:
        kind, _, count = layer.rpartition("_")
        return (kind, int(count)) if count.isdigit() else (layer, 0)

    return {layer: found[layer] for layer in sorted(found, key=order)}


def _read_keras(path: Path) -> File:
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if folding.has_batch_norm(model):
        model = folding.fold_batch_norm(model)
    layers = {
        stage.layer.name: [np.asarray(weight) for weight in stage.layer.get_weights()]
        for stage in chain.stages(model)
    }
    return File(layers, "Keras")


READERS: dict[str, Callable[[Path], File]] = {
    ".npz": _read_npz,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".keras": _read_keras,
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
}


def first_words(error: BaseException) -> str:
    """What an error says, on one line and not for pages; its kind where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
