"""Winograd's convolution against the definition, and where it stands in for a layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_weights

from style.objective import value_and_gradient, winograd

RANDOM = np.random.default_rng(0)
SHAPES = [(1, 4, 4, 1, 1), (2, 5, 11, 3, 2), (3, 17, 16, 2, 5), (1, 1, 7, 4, 3), (1, 3, 2, 1, 4)]


def drawn(batch, height, width, channels, filters, dtype=np.float64):
    random = np.random.default_rng(1)
    image = random.normal(size=(batch, height, width, channels)).astype(dtype)
    return image, random.normal(size=(3, 3, channels, filters)).astype(dtype)


def definition(image, kernel):
    """Sums over the window, written out."""
    _, height, width, _ = image.shape
    padded = np.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )


@pytest.mark.parametrize("filtering", [winograd.F4, winograd.F6], ids=["F4", "F6"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_convolution(shape, filtering):
    image, kernel = drawn(*shape)
    found = winograd.winograd_convolution(kernel, filtering=filtering)(tf.constant(image))
    np.testing.assert_allclose(found, definition(image, kernel), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("filtering", [winograd.F4, winograd.F6], ids=["F4", "F6"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_its_gradient_is_that_of_the_convolution(shape, filtering):
    image, kernel = drawn(*shape)
    upstream = RANDOM.normal(size=(*image.shape[:3], kernel.shape[3]))
    x, convolve = tf.constant(image), winograd.winograd_convolution(kernel, filtering=filtering)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = convolve(x)
    # <upstream, conv(d)> = <gradient, d> for every d, as the convolution is linear.
    gradient = tape.gradient(found, x, upstream).numpy()
    for direction in RANDOM.normal(size=(3, *image.shape)):
        expected = np.sum(upstream * definition(direction, kernel))
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_products_in_bfloat16_are_off_by_their_rounding_and_no_more():
    image, kernel = drawn(1, 32, 32, 64, 64, np.float32)
    expected = definition(image.astype(np.float64), kernel)
    scale = np.sqrt(np.mean(expected**2))
    errors = {
        products: np.sqrt(np.mean((np.asarray(found) - expected) ** 2)) / scale
        for products in ("float32", "bfloat16")
        for found in [winograd.winograd_convolution(kernel, products)(tf.constant(image))]
    }
    # 8 bits against 24, and transforms that raise either alike.
    assert errors["float32"] < 1e-5
    assert 2e-3 < errors["bfloat16"] < 3e-2


def test_sizes_that_a_graph_does_not_know():
    image, kernel = drawn(2, 6, 9, 3, 4)
    signature = tf.TensorSpec([None, None, None, 3], tf.float64)
    graph = tf.function(winograd.winograd_convolution(kernel), input_signature=[signature])
    np.testing.assert_allclose(graph(image), definition(image, kernel), rtol=1e-12, atol=1e-12)
    known = tf.function(winograd.winograd_convolution(kernel)).get_concrete_function(
        tf.constant(image)
    )
    assert known.output_shapes == (2, 6, 9, 4)


@pytest.mark.parametrize("filtering", [winograd.F4, winograd.F6], ids=["F4", "F6"])
def test_the_turned_kernel_has_the_same_values_at_reciprocal_points(filtering):
    kernel = RANDOM.normal(size=(3, 3))
    values = filtering.kernel @ kernel.reshape(9)
    turned = filtering.kernel @ kernel[::-1, ::-1].reshape(9)
    np.testing.assert_allclose(turned, values[filtering.rotated], rtol=1e-13)
    assert np.abs(turned - values).max() > 0.1


def rounding(filtering):
    """The error in float32 relative to the result, rms, on features and kernels as in VGG."""
    image, kernel = drawn(1, 18, 18, 256, 8, np.float32)
    image = np.maximum(image, 0)
    exact = definition(image.astype(np.float64), kernel.astype(np.float64))
    found = winograd.winograd_convolution(kernel, filtering=filtering)(tf.constant(image))
    assert found.dtype == tf.float32
    return np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))


def test_in_float32_it_rounds_less_than_with_the_points_of_the_paper():
    output, inward, kernel = winograd.transforms((0.0, 1.0, -1.0, 2.0, -2.0, np.inf))
    paper = winograd.F4._replace(output=output, input=inward, kernel=kernel)
    assert rounding(winograd.F4) < min(3e-6, 0.85 * rounding(paper))
    assert rounding(winograd.F6) < 9e-6


@pytest.mark.parametrize(
    ("channels", "filters", "products", "window"),
    [(256, 256, None, 8), (256, 512, None, 6), (64, 128, "bfloat16", 6)],
)
def test_small_kernels_are_transformed_to_larger_ones(channels, filters, products, window):
    kernel = np.zeros((3, 3, channels, filters), np.float32)
    convolve = tf.function(winograd.winograd_convolution(kernel, products), autograph=False)
    graph = convolve.get_concrete_function(tf.TensorSpec([1, 16, 16, channels])).graph
    kept = [tuple(tensor.shape) for tensor, _ in graph.captures]
    assert (window**2, channels, filters) in kept


def convolution_layer(filters=128, size=3, kind=keras.layers.Conv2D, **options):
    layer = kind(filters, size, **{"padding": "same", **options})
    layer.build((None, None, None, 64))
    return layer


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({}, (1, 16, 16, 64), True),
        ({}, (1, None, None, 64), True),
        ({"use_bias": False, "activation": "relu"}, (1, 16, 300, 64), True),
        ({}, (1, 15, 300, 64), False),
        ({"filters": 127}, (1, 16, 16, 64), False),
        ({"size": 5}, (1, 16, 16, 64), False),
        ({"size": 1}, (1, 16, 16, 64), False),
        ({"strides": 2}, (1, 16, 16, 64), False),
        ({"dilation_rate": 2}, (1, 16, 16, 64), False),
        ({"padding": "valid"}, (1, 16, 16, 64), False),
        ({"dtype": "mixed_bfloat16"}, (1, 16, 16, 64), False),
        ({"dtype": "mixed_bfloat16", "filters": 2048}, (1, 16, 16, 64), True),
        ({"dtype": "mixed_float16", "filters": 2048}, (1, 16, 16, 64), False),
        ({"groups": 2, "filters": 512}, (1, 16, 16, 64), False),
        ({"data_format": "channels_first"}, (1, 64, 16, 16), False),
        ({"kind": keras.layers.Conv2DTranspose}, (1, 16, 16, 64), False),
    ],
    ids=str,
)
def test_layers_that_it_stands_in_for(options, shape, expected):
    if options.get("data_format") == "channels_first":
        layer = keras.layers.Conv2D(128, 3, padding="same", data_format="channels_first")
        layer.build((None, 64, None, None))
    else:
        layer = convolution_layer(**options)
    assert winograd.is_supported(layer, tf.TensorShape(shape)) is expected


def test_accelerators_choose_for_themselves(monkeypatch):
    devices = [tf.config.LogicalDevice(f"/device:{kind}:0", kind) for kind in ("CPU", "GPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    assert not winograd.is_supported(convolution_layer(), tf.TensorShape((1, 16, 16, 64)))


@pytest.fixture(scope="module")
def network():
    """Two layers that suit, one without bias, and others before and after."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(128, 3, padding="same", activation="relu", name="second"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.5),
            layers.Conv2D(64, 3, padding="same", use_bias=False, name="third"),
            layers.ReLU(),
            layers.Conv2D(8, 1, activation="relu", name="fourth"),
        ]
    )
    return draw_weights(model)


def gradient(features, image):
    with tf.GradientTape() as tape:
        tape.watch(image)
        found = features(image)
        score = tf.add_n([tf.reduce_mean(found[name] ** 2) for name in ("second", "fourth")])
    return found, tape.gradient(score, image)


def test_an_extractor_with_kernels_gives_the_same_features_and_gradient(network):
    names, kernels = ["first", "second", "third", "fourth"], {}
    plain = value_and_gradient.feature_extractor(network, names)
    quick = tf.function(value_and_gradient.feature_extractor(network, names, kernels=kernels))
    errors = []
    for _ in range(5):
        image = tf.constant(RANDOM.normal(size=(2, 34, 37, 3)), tf.float32)
        (expected, slope), (found, quick_slope) = (gradient(one, image) for one in (plain, quick))
        assert set(kernels) == {"second", "third"}
        for name in names:
            assert tf.norm(found[name] - expected[name]) < 5e-6 * tf.norm(expected[name]), name
        errors.append(tf.norm(quick_slope - slope) / tf.norm(slope))
    # Where two maxima of a pooling are equal but for rounding, the gradient goes to either.
    assert np.median(errors) < 3e-5
    operations = quick.get_concrete_function(image).graph.get_operations()
    assert sum(one.type == "Conv2D" for one in operations) == 2


def test_extractors_share_kernels(network):
    kernels = {}
    image = tf.constant(RANDOM.normal(size=(1, 16, 16, 3)), tf.float32)
    graphs = [
        tf.function(value_and_gradient.feature_extractor(network, [name], kernels=kernels))
        for name in ("second", "second")
    ]
    first, second = (graph.get_concrete_function(image) for graph in graphs)
    large = [
        [
            tensor
            for tensor in graph.captured_inputs
            if tensor.shape.rank == 3 and tensor.dtype == tf.float32
        ]
        for graph in (first, second)
    ]
    assert len(large[0]) == len(large[1]) == 1
    assert large[0][0] is large[1][0]
