"""What convolutions see beyond the border of an image: zeros, a reflection, the edge, the other side."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain

PADDINGS = ("zero", "reflect", "replicate", "wrap")


def pad(images: tf.Tensor, count: int, padding: str) -> tf.Tensor:
    """[B, H, W, C] -> [B, H + 2 count, W + 2 count, C].

    Args:
        images: At least `count` positions a side, one more for "reflect".
        count: How many positions to add on each side.
        padding: One of `PADDINGS`; "reflect" does not repeat the edge, "wrap" continues at the
            opposite side.
    """
    if padding == "wrap":
        for axis in (1, 2):
            parts = [(-count, None), (0, None), (0, count)]
            slices: list[Any] = [
                (slice(None),) * axis + (slice(start, end),) for start, end in parts
            ]
            images = tf.concat([images[part] for part in slices], axis=axis)
        return images
    if padding == "replicate":  # which symmetric padding by one is
        for _ in range(count):
            images = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        return images
    mode = "REFLECT" if padding == "reflect" else "CONSTANT"
    return tf.pad(images, [[0, 0], [count, count], [count, count], [0, 0]], mode)


@keras.saving.register_keras_serializable("vgg_normalize")
class BorderConv2D(keras.layers.Conv2D):
    """A convolution padded to the same size by something other than zeros.

    Args:
        border: One of `PADDINGS`.
        **options: Of keras.layers.Conv2D: square kernels of an odd size, stride 1, channels last,
            padding "same".
    """

    def __init__(self, *args: Any, border: str = "zero", **options: Any) -> None:
        super().__init__(*args, **options)
        self.border = border

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The convolution without bias and activation."""
        reach = self.dilation_rate[0] * (self.kernel_size[0] // 2)
        return keras.ops.conv(
            pad(tf.convert_to_tensor(inputs), reach, self.border),
            kernel,
            strides=self.strides,
            padding="valid",
            dilation_rate=self.dilation_rate,
            data_format="channels_last",
        )

    def compute_output_spec(self, inputs: Any) -> Any:
        """That of a convolution with padding "same"."""
        return keras.KerasTensor((*inputs.shape[:-1], self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """What it takes to make the layer again."""
        return {**super().get_config(), "border": self.border}


def border_of(layer: keras.Layer) -> str:
    """What a convolution sees beyond the border."""
    return str(getattr(layer, "border", "zero"))


def padding_of(model: keras.Model) -> str:
    """The padding of a chain's convolutions: that of the first which looks beyond the border."""
    return next((border_of(layer) for layer in chain.layers(model) if _is_padded(layer)), "zero")


def with_padding(model: keras.Model, padding: str) -> keras.Model:
    """The chain with its convolutions padded so: the model itself where it is, or a copy.

    Args:
        model: A chain of layers.
        padding: One of `PADDINGS`.

    Raises:
        NetworkError: A layer cannot be padded otherwise than it is: one that pads with zeros by
            itself, or a convolution that is strided, not square or of an even size.
    """
    layers = chain.layers(model)
    if all(border_of(layer) == padding for layer in layers if _is_padded(layer)):
        return model
    for layer in layers:
        _require_suited(layer)
    return chain.copy(model, fresh_layer=lambda layer: with_border(layer, padding))


def _require_suited(layer: keras.Layer) -> None:
    suited = not isinstance(layer, keras.layers.ZeroPadding2D)
    if _is_padded(layer):
        height, width = layer.kernel_size
        dilations = set(layer.dilation_rate)
        suited = height == width and height % 2 == 1 and len(dilations) == 1
        suited = suited and set(layer.strides) == {1}
    if not suited:
        raise NetworkError(
            "Expected square convolutions of odd sizes and stride 1 for another `padding`. Received: "
            f"{layer.name!r}, a {type(layer).__name__} that is none. Leave `padding` out."
        )


def with_border(layer: keras.Layer, padding: str) -> keras.Layer:
    """A fresh layer like this one, a convolution that looks beyond the border padded so."""
    if not _is_padded(layer):
        return chain.copy_layer(layer)
    config = layer.get_config()
    config.pop("border", None)
    if padding == "zero":
        return keras.layers.Conv2D.from_config(config)
    return BorderConv2D.from_config({**config, "border": padding})


def _is_padded(layer: keras.Layer) -> bool:
    """Whether the layer is a convolution of the same size that looks beyond the border."""
    return (
        isinstance(layer, keras.layers.Conv2D)
        and layer.padding == "same"
        and max(layer.kernel_size) > 1
    )
