"""Features of a picture: the activations of named layers of a network, and the picture itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from style.objective import winograd
from style.objective.layer_geometry import IMAGE
from vgg_normalize.networks import borders, chain

Convolve = Callable[[tf.Tensor], tf.Tensor]
Features = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def feature_extractor(
    model: keras.Model, names: Sequence[str], *, kernels: dict[str, Convolve] | None = None
) -> Features:
    """Image -> features of these layers, no deeper, in float32; with the image itself.

    Args:
        model: A chain of layers.
        names: Names of layers; `IMAGE` needs none.
        kernels: For evaluations again and again with the weights as they are: where the kernels
            made ready for `winograd` are kept, by layer, which extractors of the same model may
            share.  None: the layers themselves are called.
    """
    layers = sorted(set(names) - {IMAGE})
    if not layers:
        return lambda image: {IMAGE: image}
    activations = chain.activations(model, layers)
    path = chain.layers_up_to(model, activations.values())

    def features(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = {}
        tensor = image
        for layer in path:
            tensor = outputs[layer.name] = _call(layer, tensor, kernels)
        named = {name: _in_float32(outputs[layer.name]) for name, layer in activations.items()}
        return {**named, IMAGE: image}

    return features


def _call(layer: keras.Layer, tensor: tf.Tensor, kernels: dict[str, Convolve] | None) -> tf.Tensor:
    if kernels is None or not winograd.is_supported(layer, tensor.shape):
        return layer(tensor, training=False)
    if layer.name not in kernels:
        with tf.init_scope():  # outside the graph, which only refers to it
            kernels[layer.name] = winograd.winograd_convolution(
                np.asarray(layer.kernel), layer.compute_dtype
            )
    tensor = _in_float32(tensor)
    border = borders.border_of(layer)
    if border == "zero":
        tensor = kernels[layer.name](tensor)
    else:  # the outputs over the border itself are of zeros beyond it, and not wanted
        tensor = kernels[layer.name](borders.pad(tensor, 1, border))[:, 1:-1, 1:-1]
    if layer.use_bias:
        tensor = tf.nn.bias_add(tensor, tf.cast(layer.bias, tensor.dtype))
    return layer.activation(tensor)


def _in_float32(tensor: tf.Tensor) -> tf.Tensor:
    """What a layer computed in 16 bits, in 32."""
    return tf.cast(tensor, tf.float32) if tensor.dtype.size < 4 else tensor
