"""Features of a picture: the activations of named layers of a network, and the picture itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from style.objective import winograd
from style.objective.layer_geometry import IMAGE
from vgg_normalize.networks import borders, chain

Convolve = Callable[[tf.Tensor], tf.Tensor]
# (layer name, features) -> what is made of them.
Tap = Callable[[str, tf.Tensor], list[Any]]


class Features(Protocol):
    """Image -> features of layers; or what `tap` makes of each layer as soon as it is computed.

    The gradients of what taps give wait for those of deeper layers, so that the backward pass holds
    one of them at a time: they could be computed long before, and would all be kept.
    """

    def __call__(self, image: tf.Tensor, tap: Tap | None = None) -> dict[str, Any]:
        """See the class."""


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
    activations = chain.activations(model, layers) if layers else {}
    path = chain.layers_up_to(model, activations.values()) if layers else []

    def features(image: tf.Tensor, tap: Tap | None = None) -> dict[str, Any]:
        outputs: dict[str, Any] = {}

        def visit(name: str, tensor: tf.Tensor, *, deepest: bool) -> tf.Tensor:
            outputs[name] = _in_float32(tensor)
            if tap is None:
                return tensor
            outputs[name] = tap(name, outputs[name])
            if outputs[name] and not deepest:
                tensor, outputs[name] = _gradients_in_turn(tensor, outputs[name])
            return tensor

        tensor = visit(IMAGE, image, deepest=not path)
        for layer in path:
            tensor = _call(layer, tensor, kernels)
            for name in (name for name, end in activations.items() if end is layer):
                tensor = visit(name, tensor, deepest=layer is path[-1])
        return outputs

    return features


def _gradients_in_turn(tensor: tf.Tensor, branches: list[Any]) -> tuple[tf.Tensor, list[Any]]:
    """The same, but gradients come to the branches only after that of the tensor is there."""

    @tf.custom_gradient
    def identities(tensor: tf.Tensor, *flat: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor, *of_flat: tf.Tensor) -> Any:
            with tf.control_dependencies([upstream]):
                return upstream, *(tf.identity(each) for each in of_flat)

        return (tensor, *flat), gradient

    tensor, *flat = identities(tensor, *tf.nest.flatten(branches))
    return tensor, tf.nest.pack_sequence_as(branches, flat)


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
