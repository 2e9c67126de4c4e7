"""Reading files of weights: kernels [h, w, in, out] and biases [out] by layer, in any format.

Nothing here runs code from a file: pickles may hold tensors only, and no Lambda layer is loaded.
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

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import batch_norm, chain
from vgg_normalize.weights import layouts, torch_files
from vgg_normalize.weights.layouts import Layers, Tensors

# The names of what only batch normalisation has, in all versions of Keras and in PyTorch.
_MOVING = ("moving_mean", "moving_variance", "running_mean", "running_std", "running_var")


class File(NamedTuple):
    """The content of a file of weights.

    Attributes:
        layers: Kernel and bias of each layer, by the file's own names, in order.
        layout: Name of the layout that the file has, for reports.
    """

    layers: Layers
    layout: str


def read(path: Path, names: Collection[str] = ()) -> File:
    """All layers of a file.

    Args:
        path: Path of the file; its suffix tells the format.
        names: Names of layers.  If an .npz has any of them, the arrays of its other layers are
            left empty instead of being read.

    Raises:
        NetworkError: The file is missing, damaged, of an unknown format, or holds code.
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
        return _read_npz(path, names) if path.suffix == ".npz" else READERS[path.suffix](path)
    except NetworkError:
        raise
    except Exception as error:  # h5py, zipfile and Keras raise many kinds for damaged files
        raise NetworkError(
            f"Expected a {path.suffix} file of weights. Received: {path}, which cannot be read "
            f"({first_words(error)}). Fetch it again; pickled and executable content is refused."
        ) from error


def _read_npz(path: Path, names: Collection[str] = ()) -> File:
    with np.load(path, allow_pickle=False) as file:
        weights = [k for k in file.files if k.rpartition("/")[2] in ("kernel", "bias", *_MOVING)]
        keys = weights or file.files
        named = {key for key in weights if key.rpartition("/")[0] in names}
        conversion = {key for key in weights if key.rpartition("/")[0] == layouts.CONVERSION}
        needed = named | conversion if named else keys
        tensors = {key: file[key] if key in needed else np.empty(0) for key in keys}
        return _by_names(tensors, path)


def _read_safetensors(path: Path) -> File:
    tensors = safetensors.numpy.load_file(path)
    for name, tensor in tensors.items():
        if tensor.dtype.name == "bfloat16":  # of ml_dtypes; NumPy does not see it as a number
            tensors[name] = tensor.astype(np.float32)
    # The file sorts names as text, in which layer 10 comes before layer 2.
    return _by_names({name: tensors[name] for name in sorted(tensors, key=_natural)}, path)


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that orders numbers within names by value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_torch(path: Path) -> File:
    return _by_names(torch_files.read(path), path)


def _by_names(tensors: Tensors, path: Path) -> File:
    """Layers from tensors whose names tell the layout; `<layer>/kernel` is that of Keras."""
    layers: Layers = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition("/")
        if key.replace("/", ".").rpartition(".")[2] in _MOVING:
            raise _batch_norm_refusal(path, layer or key.rpartition(".")[0])
        if layer and kind in ("kernel", "bias"):
            layers.setdefault(layer, [np.empty(0), np.empty(0)])[kind == "bias"] = tensor
    if layers:
        return File(layers, "<layer>/kernel")
    return File(*layouts.convert(tensors, path))


def _read_h5(path: Path) -> File:
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs:
            return File(_legacy_h5(root, path), "Keras")
        return File(_keras3_h5(root, path), "Keras")


def _batch_norm_refusal(path: Path, layer: str) -> NetworkError:
    """The error for arrays of batch normalisation: they tell neither epsilon nor the layer's place."""
    return NetworkError(
        f"Expected kernels and biases only. Received: {path} with batch normalisation, layer "
        f"{layer!r}, which can be folded only where the order of layers is known. Give the "
        ".keras file, or what model.save writes as .keras from vgg_normalize.fold_batch_norm."
    )


def _legacy_h5(root: Any, path: Path) -> Layers:
    """Keras 1 and 2: the attributes give the order of layers and of their weights."""
    layers = {}
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
        layers[layer] = [np.asarray(root[layer][name]) for name in names]
    return layers


def _keras3_h5(root: Any, path: Path) -> Layers:
    """Keras 3: layers/<class>_<count>/vars/<i>; the counts give the order within a class."""
    layers: Layers = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and name.split("/")[-1] == "vars" and len(item):
            layer = name.removesuffix("/vars").removeprefix("layers/")
            # These files name classes, not weights.
            if re.fullmatch(r"batch_normalization(_\d+)?", layer.split("/")[-1]):
                raise _batch_norm_refusal(path, str(item.attrs.get("name", layer)))
            layers[layer] = [np.asarray(item[key]) for key in sorted(item, key=int)]

    root.visititems(visit)

    def order(layer: str) -> tuple[str, int]:
        kind, _, count = layer.rpartition("_")
        return (kind, int(count)) if count.isdigit() else (layer, 0)

    return {layer: layers[layer] for layer in sorted(layers, key=order)}


def _read_keras(path: Path) -> File:
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if batch_norm.has_batch_norm(model):
        model = batch_norm.fold_batch_norm(model)
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
    """The message of an error on one line, at most 300 characters; its type if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
