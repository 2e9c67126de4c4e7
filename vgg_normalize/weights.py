"""The weights of a VGG: drawn, downloaded by Keras, or read from a file, and checked.

Nothing here runs code from a file: no pickle, no Lambda layer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from vgg_normalize import chain, folding
from vgg_normalize.errors import NetworkError

Shapes = Mapping[str, tuple[int, ...]]
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
# What only batch normalisation has, as every Keras, and PyTorch, calls it.
_MOVING = ("moving_mean", "moving_variance", "running_mean", "running_std", "running_var")


def obtain(
    source: str | os.PathLike[str],
    architecture: str,
    shapes: Shapes,
    *,
    pooling: str = "max",
    seed: int = 0,
) -> Arrays:
    """Kernel and bias of each layer in `shapes`, float32, finite.

    Raises:
        NetworkError: No such file, another architecture, damaged, or not finite.
    """
    if source == "random":
        return random(shapes, seed)
    arrays = _imagenet(architecture, shapes) if source == "imagenet" else read(source, shapes)
    require_finite(arrays)
    return arrays


def random(shapes: Shapes, seed: int) -> Arrays:
    """He-normal kernels and zero biases (He et al., ICCV 2015, equation 10)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    arrays: Arrays = {}
    for name, shape in shapes.items():
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        kernel = generator.standard_normal(shape, np.float32) * np.float32(deviation)
        arrays[name] = kernel, np.zeros(shape[-1], np.float32)
    return arrays


def _imagenet(architecture: str, shapes: Shapes) -> Arrays:
    top = "predictions" in shapes
    application = getattr(keras.applications, architecture.upper())
    try:
        model = application(weights="imagenet", include_top=top)
    except Exception as error:  # Keras raises the bare Exception when a download fails
        suffix = "" if top else "_notop"
        name = f"{architecture}_weights_tf_dim_ordering_tf_kernels{suffix}.h5"
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
        raise NetworkError(
            f"Expected Keras' ImageNet weights of {architecture}. Received: "
            f"{_one_line(error)}. Connect to the network, or place {name} in "
            f"{folder}, or use --weights=PATH."
        ) from error
    return {name: tuple(model.get_layer(name).get_weights()) for name in shapes}  # type: ignore[misc]


def read(path: str | os.PathLike[str], shapes: Shapes) -> Arrays:
    """Kernel and bias of each layer in `shapes` from a file; other layers are ignored.

    Layers are found by name, or, in files that hold other names, by order.

    Raises:
        NetworkError: The file is missing, damaged, or of another architecture.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".h5": _read_h5, ".hdf5": _read_h5, ".keras": _read_keras}
    if path.suffix not in readers:
        raise NetworkError(
            "Expected weights imagenet, random, or a file .h5, .weights.h5, .keras or .npz. "
            f"Received: {str(path)!r}. Convert the weights to one of these."
        )
    if not path.is_file():
        raise NetworkError(
            f"Expected a file of weights. Received: {str(path)!r}, which is not a file. "
            "Check the path."
        )
    try:
        found = readers[path.suffix](path)
    except NetworkError:
        raise
    except Exception as error:  # h5py, zipfile and Keras raise many kinds for damaged files
        raise NetworkError(
            f"Expected a {path.suffix} file of weights. Received: {path}, which cannot be read "
            f"({_one_line(error)}). Fetch it again; pickled and executable content is refused."
        ) from error
    return _match(found, shapes, path)


def _match(found: Mapping[str, list[np.ndarray]], shapes: Shapes, path: Path) -> Arrays:
    """Pick the layers by name, or by order where the names are others'."""
    by_name = all(name in found for name in shapes)
    if not by_name and any(name in found for name in shapes):
        missing = next(name for name in shapes if name not in found)
        raise NetworkError(
            f"Expected {len(shapes)} layers. Received: {path} with {len(found)}, "
            f"without {missing}. Check --architecture, --include_top and --last_layer."
        )
    if not by_name and len(found) < len(shapes):
        raise NetworkError(
            f"Expected {len(shapes)} layers. Received: {path} with {len(found)}. "
            "Check --architecture, --include_top and --last_layer."
        )
    names = shapes if by_name else dict(zip(shapes, found, strict=False)).values()
    arrays: Arrays = {}
    for (name, shape), key in zip(shapes.items(), names, strict=False):
        weights = found[key]
        kernel, bias = weights[0], weights[1] if len(weights) > 1 else np.zeros(shape[-1])
        if kernel.shape != shape or bias.shape != shape[-1:]:
            raise NetworkError(
                f"Expected {len(shapes)} layers, {name} with a kernel {list(shape)} and a bias "
                f"{list(shape[-1:])}. Received: {path} with {len(found)} layers, {key} with "
                f"{list(kernel.shape)} and {list(bias.shape)}. Check --architecture."
            )
        arrays[name] = np.asarray(kernel, np.float32), np.asarray(bias, np.float32)
    _refuse_deeper_blocks(found, shapes, path)
    return arrays


def _refuse_deeper_blocks(found: Mapping[str, Any], shapes: Shapes, path: Path) -> None:
    """VGG19 has every layer name of VGG16, so names alone would let it pass for one.

    Layers after a cut may be left over; a convolution inside a block that was read whole may not.
    """
    blocks = [name.split("_")[0] for name in shapes if name.startswith("block")]
    for name in found:
        if name not in shapes and name.split("_")[0] in set(blocks) - {blocks[-1]}:
            raise NetworkError(
                f"Expected {len(shapes)} layers. Received: {path} with {len(found)}, among them "
                f"{name}, which this architecture lacks. Check --architecture."
            )


def _read_npz(path: Path) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            layer, _, kind = key.rpartition("/")
            if kind in _MOVING:
                raise _batch_norm_refusal(path, layer)
            if kind not in ("kernel", "bias"):
                continue
            found.setdefault(layer, [np.empty(0), np.empty(0)])[kind == "bias"] = file[key]
    return found


def _read_h5(path: Path) -> dict[str, list[np.ndarray]]:
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs:
            return _legacy_h5(root, path)
        return _keras3_h5(root, path)


def _batch_norm_refusal(path: Path, layer: str) -> NetworkError:
    """Arrays alone say neither epsilon nor where the layer stands, and are not to be dropped."""
    return NetworkError(
        f"Expected kernels and biases only. Received: {path} with batch normalisation, layer "
        f"{layer!r}, which can be folded only where the order of layers is known. Give the "
        ".keras file, or what model.save writes as .keras from vgg_normalize.fold_batch_norm."
    )


def _legacy_h5(root: Any, path: Path) -> dict[str, list[np.ndarray]]:
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


def _keras3_h5(root: Any, path: Path) -> dict[str, list[np.ndarray]]:
    """Keras 3: layers/<class>_<count>/vars/<i>; the counts give the order within a class."""
    found: dict[str, list[np.ndarray]] = {}

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


def _read_keras(path: Path) -> dict[str, list[np.ndarray]]:
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if folding.has_batch_norm(model):
        model = folding.fold_batch_norm(model)
    return {
        stage.layer.name: [np.asarray(weight) for weight in stage.layer.get_weights()]
        for stage in chain.stages(model)
    }


def require_finite(arrays: Mapping[str, tuple[np.ndarray, ...]]) -> None:
    """Raises NetworkError naming the first layer with a NaN or an infinity."""
    for name, weights in arrays.items():
        for kind, array in zip(("kernel", "bias"), weights, strict=False):
            bad = int(np.size(array) - np.isfinite(array).sum())
            if bad:
                raise NetworkError(
                    f"Expected finite weights. Received: {bad} NaN or infinite values in the "
                    f"{kind} of {name}. Use weights that were saved before training diverged."
                )


def require_finite_model(model: keras.Model) -> None:
    """Raises NetworkError naming the first layer of a chain with a NaN or an infinity."""
    require_finite({stage.layer.name: stage.layer.get_weights() for stage in chain.stages(model)})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
