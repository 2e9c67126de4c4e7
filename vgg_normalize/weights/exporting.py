"""Writing files of weights for Keras, PyTorch, JAX and AdaIN, and reading them back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors.numpy

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain, vgg_layers
from vgg_normalize.weights import files, layouts
from vgg_normalize.weights.layouts import CONVERSION

FORMATS = ("saved_model", "h5", "npz", "safetensors", "adain", "onnx")
# Bytes that an HDF5 file has at most besides its arrays.
HDF5_OVERHEAD = 1 << 18


def file_name(model: keras.Model, form: str) -> str:
    """The name of an artefact within the output: saved_model, vgg19_normalized.weights.h5 ..."""
    stem = f"{model.name}_normalized"
    return {
        "saved_model": "saved_model",
        "h5": f"{stem}.weights.h5",
        "npz": f"{stem}.npz",
        "safetensors": f"{stem}.safetensors",
        "adain": f"{stem}_adain.safetensors",
        "onnx": f"{stem}.onnx",
    }[form]


def require_formats(model: keras.Model, formats: Sequence[str]) -> None:
    """Check, before any work is done, that the network can be saved in these formats.

    Raises:
        NetworkError: A format cannot hold this network.
    """
    names = [layer.name for layer in chain.layers(model)]
    if CONVERSION in names and {"h5", "adain"} & set(formats):
        raise NetworkError(
            "Expected formats that can hold this network. Received: h5 or adain, and a network that "
            "begins with a convolution of its own. Use `formats=saved_model,npz,safetensors`."
        )
    preprocessing = getattr(chain.layers(model)[0], "preprocessing_mode", None)
    convolutions = [name for name in names if "_conv" in name]
    if "adain" in formats and (
        convolutions != vgg_layers.convolutions("vgg19")
        or "fc1" in names
        or preprocessing != "caffe"
    ):
        raise NetworkError(
            "Expected the 16 convolutions of VGG19 with preprocessing caffe, which is what the "
            f"format adain is. Received: {model.name} with {len(convolutions)} convolutions"
            f"{', its classifier' * ('fc1' in names)}, preprocessing {preprocessing}. Leave adain "
            "out of `formats`."
        )


def _bare(model: keras.Model) -> keras.Model:
    """The network as in keras.applications, without the conversion of pixel values."""
    conversions = [layer for layer in chain.layers(model) if chain.is_input_conversion(layer)]
    return chain.copy(model, without=conversions)


def named_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """`<layer>/kernel` and `<layer>/bias` of every layer, in order."""
    return {
        f"{layer.name}/{weight.name}": np.asarray(weight)
        for layer in chain.layers(model)
        for weight in layer.weights
        if weight.name in ("kernel", "bias")
    }


def weights_digest(model: keras.Model) -> str:
    """SHA-256 of all weights with their names and shapes."""
    digest = hashlib.sha256()
    for name, array in named_weights(model).items():
        digest.update(f"{name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_h5(model: keras.Model, path: Path) -> None:
    """Write the weights that `keras.applications` has, without the conversion of pixel values."""
    # On a full disk h5py crashes the interpreter, so the space is allocated first.
    needed = sum(array.nbytes for array in named_weights(model).values()) + HDF5_OVERHEAD
    # Not on macOS and Windows, where a full disk shows only when writing.
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, needed)
    _bare(model).save_weights(path)


def write_npz(model: keras.Model, path: Path) -> None:
    """Write `<layer>/kernel` [h, w, in, out] and `<layer>/bias` [out]."""
    with path.open("wb") as file:
        np.savez(file, **named_weights(model))  # type: ignore[arg-type]


def adain_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights as naoto0804/pytorch-AdaIN's `net.vgg` names them, kernels [out, in, h, w].

    Its first layer is the conversion from RGB in [0, 1] to what VGG19 expects, as a convolution.
    """
    pairs = [layouts.CAFFE_CONVERSION]
    for name in vgg_layers.convolutions("vgg19"):
        kernel, bias = model.get_layer(name).get_weights()
        pairs.append((kernel, bias))
    numbers = [0, *layouts.adain_numbers(vgg_layers.DEPTHS["vgg19"])]
    tensors = {}
    for number, (kernel, bias) in zip(numbers, pairs, strict=True):
        tensors[f"{number}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors[f"{number}.bias"] = np.asarray(bias)
    return tensors


def write_safetensors(
    tensors: Mapping[str, np.ndarray], path: Path, settings: Mapping[str, Any]
) -> None:
    """Write tensors by name, and a few of the settings as metadata."""
    metadata = {"format": "np"}
    described = [
        key for key in ("weights", "pooling", "preprocessing", "padding") if key in settings
    ]
    metadata |= {key: str(settings[key]) for key in described}
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    path.write_bytes(safetensors.numpy.save(arrays, metadata))  # save_file hides it from others


def read_back(model: keras.Model, directory: Path, form: str) -> keras.Model:
    """The network as one artefact holds it, for the check that the right weights were written.

    Args:
        model: A network of the same layers.
        directory: Directory that the artefact is in.
        form: One of `FORMATS`, but neither "saved_model" nor "onnx".
    """
    path = directory / file_name(model, form)
    fresh = chain.copy(model)
    for weight in fresh.weights:  # so that a weight that the file lacks does not look right
        weight.assign(np.zeros(weight.shape, weight.dtype))
    if form == "h5":
        bare = _bare(fresh)
        bare.load_weights(path)
        arrays = named_weights(bare)
    else:
        layers = files.read(path).layers
        if form == "adain":  # numbered; the first layer stands for the preprocessing
            layers.pop(CONVERSION)
            names = [layer.name for layer in chain.layers(fresh) if chain.is_weighted(layer)]
            layers = dict(zip(names, layers.values(), strict=True))
        arrays = {
            f"{name}/{kind}": array
            for name, pair in layers.items()
            for kind, array in zip(("kernel", "bias"), pair, strict=True)
            if array.size
        }
    for name, array in arrays.items():
        layer, _, kind = name.rpartition("/")
        getattr(fresh.get_layer(layer), kind).assign(array)
    return fresh
