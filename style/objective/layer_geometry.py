"""What a position of a layer is of the picture: its pixels, and how far it sees beyond them."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain

# The picture itself, as a layer.
IMAGE = "image"

_POINTWISE = (
    keras.layers.ReLU,
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
)


def layer_shapes(
    model: keras.Model, names: Sequence[str], shape: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Layer name -> height, width and channels of its features.

    Args:
        model: A chain of layers.
        names: Names of layers; `IMAGE` is the picture itself.
        shape: Height and width of the picture in pixels.
    """
    shapes: dict[str, tuple[int, ...]] = {IMAGE: (*shape, 3)}
    layers = [name for name in names if name != IMAGE]
    if layers:
        network = chain.features(model, layers)
        for name, spec in network.compute_output_spec(keras.KerasTensor((1, *shape, 3))).items():
            shapes[name] = tuple(int(side) for side in spec.shape[1:])
    return shapes


def receptive_field(model: keras.Model, names: Sequence[str]) -> tuple[dict[str, int], int]:
    """The stride of each named layer, and how far beyond their own pixels its positions see.

    Args:
        model: A chain of layers.
        names: Names of layers, `IMAGE` among them or not.

    Returns:
        Layer name -> stride r_l in pixels, and the largest halo h_l in pixels.

    Raises:
        NetworkError: See `make_tiling`.
    """
    strides, halos, halo, stride = {IMAGE: 1}, {IMAGE: 0}, 0, 1
    remaining = set(names) - {IMAGE}
    if not remaining:
        return strides, halo
    if chain.image_shape(model)[:2] != (None, None):
        raise NetworkError(
            "Expected a network for pictures of any size. Received: one for "
            f"{chain.image_shape(model)}. Compute the whole picture, without tiles."
        )
    layers = chain.layers(model)
    activations = {stage.layer.name: stage.activation.name for stage in chain.stages(layers)}
    for layer in layers:
        if remaining <= set(strides):
            break
        if isinstance(layer, keras.layers.Conv2D) and _keeps_size(layer):
            halo += layer.dilation_rate[0] * (layer.kernel_size[0] // 2) * stride
        elif isinstance(layer, (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)) and (
            layer.padding == "valid"
            and tuple(layer.pool_size) == tuple(layer.strides)
            and layer.strides[0] == layer.strides[1]
        ):
            stride *= layer.strides[0]
        elif not (isinstance(layer, _POINTWISE) or chain.is_input_conversion(layer)):
            raise NetworkError(
                "Expected convolutions padded to the same size and pooling of blocks. Received: "
                f"layer {layer.name!r} ({type(layer).__name__}). Compute the whole picture, "
                "without tiles."
            )
        for name in remaining:
            if activations.get(name, name) == layer.name:
                strides[name], halos[name] = stride, halo
    return strides, max(halos.values())


def _keeps_size(layer: keras.layers.Conv2D) -> bool:
    """Whether the output has the input's size, and sees equally far to all sides."""
    kernel, dilation = layer.kernel_size, layer.dilation_rate
    return (
        layer.padding == "same"
        and tuple(layer.strides) == (1, 1)
        and kernel[0] == kernel[1]
        and kernel[0] % 2 == 1
        and dilation[0] == dilation[1]
    )
