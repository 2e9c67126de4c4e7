"""The signatures of a SavedModel of a trained network.

All take any H and W, float32 in [0, 1]:

* `serving_default(content, style)`, of CIN `serving_default(content, weights)` -> `image`;
* `code(style)` -> `code`; not of CIN, where the weights are the code;
* `transform(content, code)` -> `image`;
* of AdaIN `encode(image)` -> `features`, and `render(content, scale, offset)` -> `image`, which
  gives each channel of the features a scale and an offset: with both, large pictures are made tile
  by tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from style.feedforward.networks import Network
from style.objective import tiling
from vgg_normalize.networks import chain


def make_signatures(
    network: Network, model: keras.Model
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """The signatures by name.

    Args:
        network: The trained network.
        model: The VGG that it was built with.
    """
    width = int(network.transform.input["code"].shape[-1])
    image = tf.TensorSpec([None, None, None, 3], tf.float32)
    codes = tf.TensorSpec([None, width], tf.float32)

    def transform(content: tf.Tensor, code: tf.Tensor) -> dict[str, tf.Tensor]:
        def body(x: tf.Tensor) -> tf.Tensor:
            return network.transform({"content": x, "code": code})["image"]

        return _apply_padded(body, content, network.stride)

    # `serving_default` calls the others' graphs: the network is traced and stored once.
    render = _function(transform, content=image, code=codes)
    signatures = {"transform": render}
    if network.code is None:
        signatures["serving_default"] = _function(
            lambda content, weights: render(content, weights), content=image, weights=codes
        )
        return signatures
    encode_style = network.code
    encode = _function(lambda style: {"code": encode_style(style)}, style=image)
    signatures["serving_default"] = _function(
        lambda content, style: render(content, encode(style)["code"]), content=image, style=image
    )
    signatures["code"] = encode
    if network.target_layer is not None:
        encoder = chain.features(model, [network.target_layer])
        signatures |= _tile_signatures(network, encoder, image, width // 2)
    return signatures


def _tile_signatures(
    network: Network, encoder: keras.Model, image: tf.TensorSpec, channels: int
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """The signatures by which AdaIN makes a picture tile by tile.

    AdaIN is an affine map of each channel, s x + o with s = sigma(style) / sigma(content) and
    o = mu(style) - s mu(content): with moments of the whole content, each tile is made alone.
    """
    layer, decoder = network.target_layer, network.trainable_models[0]
    row = tf.TensorSpec([None, channels], tf.float32)

    def render(content: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> dict[str, tf.Tensor]:
        def body(x: tf.Tensor) -> tf.Tensor:
            return decoder(encoder(x)[layer] * scale[:, None, None] + offset[:, None, None])

        return _apply_padded(body, content, network.stride)

    return {
        "encode": _function(lambda image: {"features": encoder(image)[layer]}, image=image),
        "render": _function(render, content=image, scale=row, offset=row),
    }


def _apply_padded(
    body: Callable[[tf.Tensor], tf.Tensor], content: tf.Tensor, stride: int
) -> dict[str, tf.Tensor]:
    """Pad by reflection to multiples of the stride, apply, crop to the content, clip to [0, 1]."""
    shape = tf.shape(content)
    padded = content
    for axis in (1, 2):
        padded = tf.gather(padded, _mirrored(shape[axis], stride), axis=axis)
    image = body(padded)
    return {"image": tf.clip_by_value(image[:, : shape[1], : shape[2]], 0.0, 1.0)}


def _mirrored(side: tf.Tensor, stride: int) -> tf.Tensor:
    """Positions to read for a side of whole strides: 0 1 2 3 4 4 3 2 for 5 pixels, stride 4.

    Not `tf.pad(..., "SYMMETRIC")`: ONNX has no such padding, and what tf2onnx puts in its place crops
    pictures whose sides are no multiples.
    """
    positions = tf.range((side + stride - 1) // stride * stride)
    return tf.minimum(positions, 2 * side - 1 - positions)


def _function(body: Callable[..., Any], **inputs: tf.TensorSpec) -> Any:
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()]
    return tf.function(body, input_signature=specs, autograph=False)


def decoder_halo(network: Network, model: keras.Model) -> int:
    """Pixels around a tile that AdaIN's encoder and decoder see, in whole strides; else 0."""
    if network.target_layer is None:
        return 0
    _, halo = tiling.receptive_field(model, [network.target_layer])
    # The decoder mirrors the encoder; up-sampling may begin anywhere in a cell.
    return (-(-2 * halo // network.stride) + 1) * network.stride
