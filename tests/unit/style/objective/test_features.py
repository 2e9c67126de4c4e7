"""Features: what taps make of layers, its gradient, and the memory that takes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_weights, peak_memory
from keras import layers

from style.objective.features import feature_extractor

# Layers of 2 MiB each.
SIDE, FILTERS = 128, 32


def chain(count: int, filters: int, *, own_relu: bool = False, dtype: str = "float32"):
    """Convolutions "0", "1", ... with a pooling before the last."""
    stack: list[keras.layers.Layer] = []
    for i in range(count):
        if i == count - 1:
            stack.append(layers.MaxPooling2D(dtype=dtype))
        activation = None if own_relu else "relu"
        stack.append(
            layers.Conv2D(
                filters, 3, padding="same", activation=activation, name=str(i), dtype=dtype
            )
        )
        if own_relu:
            stack.append(layers.ReLU(dtype=dtype))
    return draw_weights(keras.Sequential([keras.Input((None, None, 3), dtype=dtype), *stack]))


def gram(name: str, layer: tf.Tensor) -> list[tf.Tensor]:
    flat = tf.reshape(layer, [-1, layer.shape[-1]])
    # An integer as well, which has no gradient.
    return [tf.matmul(flat, flat, transpose_a=True), tf.shape(flat)[0]]


@pytest.mark.parametrize("own_relu", [False, True])
@pytest.mark.parametrize("names", [["0", "2"], ["1"], ["0"], ["image", "0", "1", "2"], ["image"]])
@pytest.mark.parametrize("graph", [False, True])
def test_a_tap_has_the_values_and_the_gradient_of_what_it_is_made_of(names, own_relu, graph):
    model = chain(3, 4, own_relu=own_relu, dtype="float64")
    extract = feature_extractor(model, names)
    image = tf.constant(np.random.default_rng(0).random((1, 12, 10, 3)))

    def of_features(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            made = {name: gram(name, layer)[0] for name, layer in extract(image).items()}
            score = tf.add_n([tf.reduce_sum(made[name] ** 2) for name in names])
        return made, tape.gradient(score, image)

    def of_tap(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            made = {name: tapped[0] for name, tapped in extract(image, gram).items()}
            score = tf.add_n([tf.reduce_sum(made[name] ** 2) for name in names])
        return made, tape.gradient(score, image)

    wrap = (lambda f: tf.function(f, autograph=False)) if graph else (lambda f: f)
    (made, gradient), (expected, slope) = wrap(of_tap)(image), wrap(of_features)(image)
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(made[name], value)
    assert np.abs(slope).max() > 0
    np.testing.assert_allclose(gradient, slope, rtol=1e-12, atol=1e-12 * np.abs(slope).max())


def test_gradients_of_taps_are_in_memory_one_at_a_time():
    """Six layers that are kept, and what one of them is worked on with; all at once it is 13.5."""
    model = chain(7, FILTERS)
    names = [str(i) for i in range(7)]
    extract = feature_extractor(model, names)
    image = tf.random.stateless_uniform([1, SIDE, SIDE, 3], [0, 0])

    def slope(image, tap):
        with tf.GradientTape() as tape:
            tape.watch(image)
            made = extract(image, tap) if tap else extract(image)
            grams = [made[n][0] if tap else gram(n, made[n])[0] for n in names]
            score = tf.add_n([tf.reduce_sum(g * g) for g in grams])
        return tape.gradient(score, image)

    layer = 4 * SIDE**2 * FILTERS
    in_turn = peak_memory(lambda image: slope(image, gram), image) / layer
    at_once = peak_memory(lambda image: slope(image, None), image) / layer
    assert in_turn < 10 and in_turn < 0.8 * at_once
