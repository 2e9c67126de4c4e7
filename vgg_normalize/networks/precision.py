"""Layers that compute in 16 bits, by Keras' policies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from vgg_normalize.networks import chain


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made in here have this policy: "float32", "mixed_bfloat16" or "mixed_float16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def with_precision(model: keras.Model, policy: str) -> keras.Model:
    """A network whose convolutions compute so, with the same weights in float32.

    What converts the pixels stays in float32: differences of 1/255 would be lost in 8 bits.

    Args:
        model: A chain of layers; returned as it is where it has this policy.
        policy: "float32", "mixed_bfloat16" or "mixed_float16".
    """
    layers = chain.layers(model)
    if all(layer.dtype_policy.name == policy for layer in layers if chain.is_weighted(layer)):
        return model

    def fresh_layer(layer: keras.Layer) -> keras.Layer:
        if chain.is_input_conversion(layer):
            return chain.copy_layer(layer)
        return chain.copy_layer(layer, dtype=policy)

    return chain.copy(model, fresh_layer=fresh_layer)
