"""Features of a picture: the activations of named layers of a network, and the picture itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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

    With a tap the backward pass takes little memory.  What a tap works on is computed there again, and
    not before the gradient of the deeper layers has come, so that one layer's is in memory at a time.
    So is the first convolution, whose output is the largest and cheap.
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
    names_of = {x.name: [name for name, end in activations.items() if end is x] for x in path}
    # Up to the first convolution, or to a layer before it that is named.
    count = next((i + 1 for i, x in enumerate(path) if x.weights or names_of[x.name]), 0)

    def features(image: tf.Tensor, tap: Tap | None = None) -> dict[str, Any]:
        def view(layer: keras.Layer, tensor: tf.Tensor) -> tuple[tf.Tensor, dict[str, Any]]:
            """The tensor as it is, and what is made of it."""
            seen = _in_float32(tensor)
            return tensor, {n: tap(n, seen) if tap else seen for n in names_of[layer.name]}

        def begin(tensor: tf.Tensor) -> tuple[tf.Tensor, dict[str, Any]]:
            for layer in path[:count]:
                tensor = _call(layer, tensor, kernels)
            return view(path[count - 1], tensor)

        outputs = {IMAGE: tap(IMAGE, image) if tap else image}
        if not path:
            return outputs
        tensor, made = _computed_again(begin, image) if tap else begin(image)
        for layer in path[count:]:
            outputs |= made
            tensor = _call(layer, tensor, kernels)
            again = tap and names_of[layer.name] and layer is not path[-1]
            look = partial(view, layer)
            tensor, made = _computed_again(look, tensor) if again else look(tensor)
        return outputs | made

    return features


def _computed_again(function: Callable[[tf.Tensor], Any], tensor: tf.Tensor) -> Any:
    """(tensor, made) of a tensor; in the backward pass again, once the first one's gradient is there."""
    made: list[Any] = []

    @tf.custom_gradient
    def call(tensor: tf.Tensor) -> Any:
        made.append(function(tensor))

        def gradient(*upstream: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
            with tf.control_dependencies(upstream[:1]):
                again = tf.identity(tensor)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(again)
                flat = tf.nest.flatten(function(again))
            back = tape.gradient(flat, again, upstream, unconnected_gradients="zero")
            return (back, [None] * len(variables)) if variables else back

        return tf.nest.flatten(made[-1]), gradient

    flat = call(tensor)
    return tf.nest.pack_sequence_as(made[-1], flat)


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
