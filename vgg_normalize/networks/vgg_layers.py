"""VGG16 and VGG19 layer by layer: names, shapes, and the network without trained weights.

Reference: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, table 1, configurations D and E.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain
from vgg_normalize.networks.borders import PADDINGS, with_border
from vgg_normalize.networks.preprocessing import Preprocessing as Preprocessing

# Convolutions in each of the five blocks, and their filters.
DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
FILTERS = (64, 128, 256, 512, 512)
CLASSIFIER = {"fc1": 4096, "fc2": 4096, "predictions": 1000}
# Side in pixels of the images that the classifier takes.
CLASSIFIER_SIZE = 224
# The 1 x 1 convolution of a file whose network converts pixels itself.
CONVERSION = "conversion"


@dataclass(frozen=True)
class VggOptions:
    """Which VGG to build, apart from its weights.

    Attributes:
        architecture: "vgg16" or "vgg19".
        pooling: "max" or "avg", for all five pooling layers.
        include_top: Whether to keep the classifier, which takes images of 224 x 224 pixels only.
        classifier_activation: Activation of the classifier's last layer: "softmax", or "linear"
            for logits.
        last_layer: Name of the convolution after which to cut the network; None: keep all blocks.
        preprocessing: What the first convolution expects, see `Preprocessing`.
        padding: What convolutions see beyond the border: "zero", "reflect", "replicate" or "wrap".
    """

    architecture: str
    pooling: str = "max"
    include_top: bool = False
    classifier_activation: str = "softmax"
    last_layer: str | None = None
    preprocessing: str = "caffe"
    padding: str = "zero"


def convolutions(architecture: str, last_layer: str | None = None) -> list[str]:
    """The names of the convolutions of VGG16 or VGG19, up to and including `last_layer`.

    Raises:
        NetworkError: The architecture or the layer is unknown.
    """
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
    """The shape of each kernel: [h, w, in, out], or [in, out] in the classifier.

    Raises:
        NetworkError: The architecture or the layer is unknown.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for name in convolutions(architecture, last_layer):
        filters = FILTERS[_block(name) - 1]
        shapes[name] = (3, 3, channels, filters)
        channels = filters
    if include_top:
        inputs = channels * (CLASSIFIER_SIZE // 32) ** 2
        for name, units in CLASSIFIER.items():
            shapes[name] = (inputs, units)
            inputs = units
    return shapes


def build_architecture(options: VggOptions, *, conversion: bool = False) -> keras.Model:
    """The network with kernels of zeros, which take no time to draw and are to be replaced.

    Args:
        options: Which VGG to build.
        conversion: Whether to put the layer `CONVERSION` before the first convolution.

    Raises:
        NetworkError: An option is unknown, or two of them contradict each other.
    """
    if options.pooling not in ("max", "avg"):
        raise NetworkError(
            f"Expected pooling max or avg. Received: {options.pooling!r}. Choose one."
        )
    if options.padding not in PADDINGS:
        raise NetworkError(
            f"Expected padding {', '.join(PADDINGS)}. Received: {options.padding!r}. Choose one."
        )
    if options.include_top and options.last_layer is not None:
        raise NetworkError(
            "Expected include_top or last_layer. Received: both, "
            f"last_layer={options.last_layer!r}. The classifier needs the whole network: leave "
            "one of them out."
        )
    stack: list[keras.Layer] = [Preprocessing(options.preprocessing, name="preprocessing")]
    if conversion:
        stack.append(keras.layers.Conv2D(3, 1, dtype="float32", name=CONVERSION))
    stack += _convolutional_layers(options)
    size = None
    if options.include_top:
        size = CLASSIFIER_SIZE
        stack += _classifier_layers(options.classifier_activation)
    return chain.assemble(stack, (size, size, 3), options.architecture)


def _block(convolution: str) -> int:
    """The number of the block, from 1, that a convolution belongs to."""
    return int(convolution[len("block")])


def _convolutional_layers(options: VggOptions) -> list[keras.Layer]:
    """The blocks of convolutions, each with its pooling layer unless the network is cut there."""
    names = convolutions(options.architecture, options.last_layer)
    average = options.pooling == "avg"
    pool = keras.layers.AveragePooling2D if average else keras.layers.MaxPooling2D
    stack: list[keras.Layer] = []
    for name, following in zip(names, [*names[1:], None], strict=True):
        block = _block(name)
        convolution = keras.layers.Conv2D(
            FILTERS[block - 1],
            3,
            padding="same",
            activation="relu",
            data_format="channels_last",
            dtype="float32",
            kernel_initializer="zeros",
            name=name,
        )
        if options.padding != "zero":
            convolution = with_border(convolution, options.padding)
        stack.append(convolution)
        ends_block = following is None or _block(following) != block
        if ends_block and name != options.last_layer:
            stack.append(pool(2, strides=2, data_format="channels_last", name=f"block{block}_pool"))
    return stack


def _classifier_layers(last_activation: str) -> list[keras.Layer]:
    stack: list[keras.Layer] = [keras.layers.Flatten(data_format="channels_last", name="flatten")]
    for name, units in CLASSIFIER.items():
        activation = last_activation if name == "predictions" else "relu"
        options = {"dtype": "float32", "kernel_initializer": "zeros", "name": name}
        stack.append(keras.layers.Dense(units, activation=activation, **options))
    return stack
