"""The normalisation layers against NumPy, and each row of the module's table of normalisations."""

from __future__ import annotations

import doctest
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_gradient, double, python

from style.feedforward import layers
from style.feedforward.layers import (
    AdaptiveInstanceNormalization,
    ConditionalInstanceNormalization,
    InstanceNormalization,
    instance_normalization,
    moments,
)

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
each_type = pytest.mark.parametrize("dtype", TOLERANCE)


def draw(*shape: int, seed: int = 0, mean: float = 0.5, deviation: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, shape)


X = draw(2, 4, 5, 3)
STYLE = draw(2, 7, 3, 3, seed=1, mean=-1.0, deviation=2.0)
GAMMA, BETA = draw(2, 3, seed=2), draw(2, 3, seed=3)
WEIGHTS = np.array([[0.0, 1.0, 0.0, 0.0], [0.2, 0.0, 1.1, -0.4]])
TABLES = draw(4, 3, seed=4), draw(4, 3, seed=5)


def expected_moments(x, epsilon=1e-5):
    """One image and one channel at a time."""
    mean, deviation = (np.zeros((x.shape[0], x.shape[3])) for _ in range(2))
    for b, c in np.ndindex(mean.shape):
        values = x[b, :, :, c].ravel()
        mean[b, c] = sum(values) / len(values)
        deviation[b, c] = np.sqrt(sum((values - mean[b, c]) ** 2) / len(values) + epsilon)
    return mean, deviation


def expected(x, scale, offset, epsilon=1e-5):
    mean, deviation = expected_moments(x, epsilon)
    result = np.empty_like(x)
    for b, h, w, c in np.ndindex(x.shape):
        gain = scale[b, c] / deviation[b, c]
        result[b, h, w, c] = gain * (x[b, h, w, c] - mean[b, c]) + offset[b, c]
    return result


def learnt(dtype="float64"):
    layer = InstanceNormalization(dtype=dtype)
    layer.build(X.shape)
    layer.set_weights([GAMMA[0], BETA[0]])
    return layer


def adaptive(dtype="float64"):
    return AdaptiveInstanceNormalization(dtype=dtype)


def conditional(dtype="float64"):
    layer = ConditionalInstanceNormalization(4, dtype=dtype)
    layer.build([X.shape, WEIGHTS.shape])
    layer.set_weights(TABLES)
    return layer


# name: (the layer for a type, its inputs, the scale and the offset that they stand for)
CASES = {
    "learnt": (learnt, X, np.tile(GAMMA[0], (2, 1)), np.tile(BETA[0], (2, 1))),
    "style": (
        adaptive,
        [X, STYLE],
        *expected_moments(STYLE)[::-1],
    ),
    "given": (adaptive, [X, GAMMA, BETA], GAMMA, BETA),
    "conditional": (conditional, [X, WEIGHTS], *(WEIGHTS @ table for table in TABLES)),
}
each_case = pytest.mark.parametrize("case", CASES)


def as_list(inputs):
    return inputs if isinstance(inputs, list) else [inputs]


def cast(inputs, dtype):
    return keras.tree.map_structure(lambda x: tf.constant(x, dtype), inputs)


def functional(layer, inputs):
    """A model of this one layer, for images of any size."""
    shapes = [(None, None, a.shape[-1]) if a.ndim == 4 else a.shape[1:] for a in as_list(inputs)]
    entries = [keras.Input(shape, dtype=layer.compute_dtype) for shape in shapes]
    return keras.Model(entries, layer(entries if isinstance(inputs, list) else entries[0]))


# The function


@each_type
def test_moments_are_those_of_numpy(dtype):
    for found, wanted in zip(moments(tf.constant(X, dtype)), expected_moments(X), strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE[dtype])


def test_moments_add_epsilon_under_the_root():
    _, deviation = moments(double(X), epsilon=0.3)
    np.testing.assert_allclose(deviation, np.sqrt(X.var((1, 2)) + 0.3), rtol=1e-12)


def test_moments_of_a_large_picture_are_exact_in_float32():
    x = draw(1, 1024, 1024, 2, mean=1000.0).astype(np.float32)
    mean, deviation = moments(tf.constant(x))
    exact = x.astype(np.float64)
    # TensorFlow's own mean over H and W at once is off by 1e-5 on a CPU.
    np.testing.assert_allclose(mean, exact.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation, exact.std((1, 2)), rtol=1e-5)


@each_type
def test_function_is_that_of_numpy(dtype):
    found = instance_normalization(tf.constant(X, dtype), GAMMA, BETA)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected(X, GAMMA, BETA), rtol=0, atol=TOLERANCE[dtype])


def test_one_row_serves_every_image():
    wanted = instance_normalization(double(X), np.tile(GAMMA[0], (2, 1)), np.tile(BETA[0], (2, 1)))
    for rows in ((GAMMA[0], BETA[0]), (GAMMA[:1], BETA[:1])):
        np.testing.assert_array_equal(instance_normalization(double(X), *rows), wanted)


def test_function_without_scale_and_offset_has_ones_and_zeros():
    wanted = instance_normalization(double(X), np.ones(3), np.zeros(3))
    np.testing.assert_array_equal(instance_normalization(double(X)), wanted)


def test_a_constant_channel_becomes_its_offset_with_finite_gradient():
    for value, dtype in ((0.0, "float32"), (7.3, "float32"), (1e3, "float16"), (0.1, "float64")):
        x = tf.fill([2, 6, 5, 3], tf.constant(value, dtype))
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = instance_normalization(x, GAMMA, BETA)
            value = tf.reduce_sum(found * tf.cast(draw(2, 6, 5, 3), dtype))
        wanted = np.broadcast_to(BETA[:, None, None], found.shape)
        # Rounding of a mean of 7, 1e-6, is divided by the root of epsilon, 3e-3.
        np.testing.assert_allclose(tf.cast(found, "float64"), wanted, atol=2e-3)
        assert np.isfinite(tape.gradient(value, x)).all()


def test_second_derivative_is_right():
    # tf.nn.moments, and so Keras' own layers, take the mean for a constant there.
    direction = double(draw(1, 4, 5, 3, seed=6))
    cotangent = draw(1, 4, 5, 3, seed=7)

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(instance_normalization(x, epsilon=0.1) ** 2 * cotangent)
        return tf.reduce_sum(tape.gradient(value, x) * direction)

    assert_gradient(slope, X[:1])


# The layers against the function's oracle


@each_type
@each_case
def test_layer_is_that_of_numpy(case, dtype):
    layer, inputs, scale, offset = CASES[case]
    found = layer(dtype)(cast(inputs, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected(X, scale, offset), rtol=0, atol=TOLERANCE[dtype])


def test_new_layers_only_normalise():
    wanted = instance_normalization(double(X))
    one_hot = double(np.eye(4)[:2])
    np.testing.assert_array_equal(InstanceNormalization(dtype="float64")(X), wanted)
    found = ConditionalInstanceNormalization(4, dtype="float64")([double(X), one_hot])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_learnt_scale_and_offset_can_be_left_out(center, scale):
    layer = InstanceNormalization(center=center, scale=scale, dtype="float64")
    layer.build(X.shape)
    names = [weight.name for weight in layer.weights]
    assert names == ["gamma"] * scale + ["beta"] * center
    layer.set_weights([GAMMA[0]] * scale + [BETA[0]] * center)
    gamma, beta = GAMMA[0] if scale else np.ones(3), BETA[0] if center else np.zeros(3)
    wanted = expected(X, np.tile(gamma, (2, 1)), np.tile(beta, (2, 1)))
    np.testing.assert_allclose(layer(X), wanted, rtol=0, atol=1e-10)


def test_adain_of_itself_is_itself():
    for dtype, tolerance in (("float64", 1e-15), ("float32", 1e-6)):
        x = tf.constant(X, dtype)
        found = AdaptiveInstanceNormalization(dtype=dtype)([x, x])
        np.testing.assert_allclose(found, x, rtol=0, atol=tolerance)


def test_adain_gives_the_moments_of_the_style():
    found = AdaptiveInstanceNormalization(epsilon=1e-12, dtype="float64")([X, STYLE])
    ours, theirs = expected_moments(found.numpy(), 0), expected_moments(STYLE, 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_one_style_serves_every_image():
    layer = AdaptiveInstanceNormalization(dtype="float64")
    both = layer([X, np.concatenate([STYLE[:1]] * 2)])
    np.testing.assert_allclose(layer([X, STYLE[:1]]), both, rtol=1e-12)


def test_one_hot_weights_are_that_style_exactly():
    gammas, betas = TABLES
    layer = conditional("float32")
    for style in range(4):
        weights = np.eye(4, dtype=np.float32)[[style, style]]
        found = layer([tf.constant(X, "float32"), weights])
        wanted = instance_normalization(tf.constant(X, "float32"), gammas[style], betas[style])
        np.testing.assert_array_equal(found, wanted)


def test_weights_mix_what_the_styles_give():
    x, layer = double(X), conditional()
    one_hot = [layer([x, double(np.eye(4)[[style, style]])]).numpy() for style in range(4)]
    wanted = np.einsum("bs,sbhwc->bhwc", WEIGHTS, one_hot)
    np.testing.assert_allclose(layer([x, double(WEIGHTS)]), wanted, rtol=0, atol=1e-12)


# Gradients


@pytest.mark.parametrize(
    ("case", "position"),
    [(case, i) for case, (_, inputs, *_) in CASES.items() for i in range(len(as_list(inputs)))],
)
def test_gradient_to_each_input(case, position):
    layer, inputs, *_ = CASES[case]
    layer, inputs, cotangent = layer(), as_list(inputs), draw(*X.shape, seed=8)

    def function(value):
        given = [*map(double, inputs)]
        given[position] = value
        return tf.reduce_sum(layer(given if len(given) > 1 else given[0]) * cotangent)

    assert_gradient(function, inputs[position])


@pytest.mark.parametrize("name", ["gamma", "beta"])
@pytest.mark.parametrize("case", ["learnt", "conditional"])
def test_gradient_to_the_weights(case, name):
    make, inputs, *_ = CASES[case]
    layer, cotangent, inputs = make(), draw(*X.shape, seed=8), cast(inputs, "float64")
    weight = getattr(layer, name)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer(inputs) * cotangent)
    gradient, start = tape.gradient(value, weight.value), weight.numpy()
    direction, values = draw(*start.shape, seed=9), []
    for sign in (1, -1):
        weight.assign(start + sign * direction)
        values.append(float(tf.reduce_sum(layer(inputs) * cotangent)))
    # The result is linear in both, so that any step will do.
    slope = (values[0] - values[1]) / 2
    assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-9)


# As Keras layers


@each_case
def test_config_round_trip(case):
    layer = CASES[case][0]()
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert keras.saving.get_registered_name(type(layer)) == f"style>{type(layer).__name__}"


def test_config_holds_every_argument():
    layer = InstanceNormalization(epsilon=0.1, center=False, scale=False)
    config = layer.get_config()
    assert (config["epsilon"], config["center"], config["scale"]) == (0.1, False, False)
    assert AdaptiveInstanceNormalization(epsilon=0.2).get_config()["epsilon"] == 0.2
    config = ConditionalInstanceNormalization(5, epsilon=0.3).get_config()
    assert (config["styles"], config["epsilon"]) == (5, 0.3)


@each_case
def test_save_and_load_keeps_results_at_any_size(case, tmp_path):
    layer, inputs, *_ = CASES[case]
    model = functional(layer("float32"), inputs)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for size in (1, 2):
        given = [np.tile(a, (1, size, 1, 1)) if a.ndim == 4 else a for a in as_list(inputs)]
        given = cast(given, "float32")
        np.testing.assert_array_equal(again(given), model(given))


@each_case
def test_symbolic_and_eager_shapes_and_types_agree(case):
    layer, inputs, *_ = CASES[case]
    layer = layer("float32")
    model = functional(layer, inputs)
    assert model.output_shape == (None, None, None, 3)
    given = cast(inputs, "float32")
    found = layer(given)
    shapes = keras.tree.map_structure(lambda x: tuple(x.shape), given)
    assert layer.compute_output_shape(shapes) == found.shape == X.shape
    assert model.output.dtype == found.dtype == "float32"
    np.testing.assert_array_equal(model(given), found)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_case
def test_mixed_precision_computes_statistics_in_float32(case, dtype):
    layer, inputs, *_ = CASES[case]
    # Squares of such values are beyond float16's 65504.
    halves = [tf.cast(1000 + 300 * a if a.ndim == 4 else a, dtype) for a in as_list(inputs)]
    exact = [tf.cast(a, "float32") for a in halves]
    policy = keras.DTypePolicy(f"mixed_{dtype}")
    single = len(halves) == 1
    found = layer(policy)(halves[0] if single else halves)
    wanted = layer("float32")(exact[0] if single else exact).numpy()
    assert found.dtype == dtype
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    # Only the result is rounded.
    np.testing.assert_allclose(tf.cast(found, "float32"), wanted, rtol=unit, atol=1e-6)


def test_mixed_precision_uses_learnt_values_in_float32():
    layer = InstanceNormalization(dtype=keras.DTypePolicy("mixed_float16"))
    layer.build((1, 1, 2, 1))
    # Not a number of float16, which counts in twos there; but one more and one less are.
    layer.set_weights([np.float32([1]), np.float32([2049])])
    found = layer(np.float32([[[[-1], [1]]]]))
    np.testing.assert_array_equal(found, np.float16([[[[2048], [2050]]]]))


@pytest.mark.parametrize("jit", [False, True])
@each_case
def test_graphs_give_what_eager_gives(case, jit):
    layer, inputs, *_ = CASES[case]
    layer, given = layer("float32"), cast(inputs, "float32")

    @tf.function(jit_compile=jit)
    def compiled(x):
        return layer(x)

    np.testing.assert_allclose(compiled(given), layer(given), rtol=0, atol=1e-5)


def test_graph_of_any_size():
    layer = learnt("float32")
    signature = [tf.TensorSpec([None, None, None, 3], tf.float32)]
    compiled = tf.function(lambda x: layer(x), input_signature=signature)
    for shape in ((1, 4, 5, 3), (3, 6, 2, 3)):
        x = tf.constant(draw(*shape), tf.float32)
        np.testing.assert_allclose(compiled(x), layer(x), rtol=0, atol=1e-5)


def test_the_function_works_in_a_functional_model():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, instance_normalization(x, GAMMA[0], BETA[0]))
    wanted = instance_normalization(tf.constant(X, "float32"), GAMMA[0], BETA[0])
    np.testing.assert_array_equal(model(np.float32(X)), wanted)


def test_a_batch_not_known_yet_may_fit():
    layer = ConditionalInstanceNormalization(4)
    for sizes in ((2, None), (None, 2), (None, 1), (2, 1)):
        x, weights = (
            keras.Input(shape, batch_size=size)
            for shape, size in zip(((4, 5, 3), (4,)), sizes, strict=True)
        )
        assert layer([x, weights]).shape == (sizes[0], 4, 5, 3)


def test_one_step_of_training_moves_the_weights():
    layer = ConditionalInstanceNormalization(4)
    model = functional(layer, CASES["conditional"][1])
    model.compile("sgd", "mse")
    model.fit([np.float32(X), np.float32(WEIGHTS)], np.float32(X) + 3, verbose=0)
    assert len(model.trainable_weights) == 2
    assert np.all(layer.beta[1] != 0)


def test_docstrings_run():
    found = doctest.testmod(layers)
    assert (found.attempted, found.failed) == (5, 0)


# Refusals

REFUSED = {
    "x of rank 3": (InstanceNormalization, X[0], "x .B, H, W, C."),
    "one tensor": (AdaptiveInstanceNormalization, X, "inputs .x, style. or .x, gamma, beta."),
    "one input": (AdaptiveInstanceNormalization, [X], "inputs .x, style."),
    "four inputs": (AdaptiveInstanceNormalization, [X, GAMMA, BETA, BETA], "inputs .x, style."),
    "style of rank 2": (AdaptiveInstanceNormalization, [X, GAMMA], "style .B, H, W, C."),
    "channels of the style": (AdaptiveInstanceNormalization, [X, STYLE[..., :2]], ".* C=3"),
    "images of the style": (AdaptiveInstanceNormalization, [X, STYLE[[0, 1, 0]]], ".* B=2 or 1"),
    "channels of gamma": (AdaptiveInstanceNormalization, [X, GAMMA[:, :2], BETA], "gamma .*C=3"),
    "channels of beta": (AdaptiveInstanceNormalization, [X, GAMMA, BETA[:, :1]], "beta .*C=3"),
    "rank of beta": (AdaptiveInstanceNormalization, [X, GAMMA, BETA[None]], "beta .*C=3"),
    "no weights": (lambda: ConditionalInstanceNormalization(4), X, "inputs .x, weights."),
    "three": (lambda: ConditionalInstanceNormalization(4), [X, WEIGHTS, X], "inputs .x, weights."),
    "styles": (lambda: ConditionalInstanceNormalization(5), [X, WEIGHTS], "weights .* S=5"),
    "one weight": (lambda: ConditionalInstanceNormalization(4), [X, WEIGHTS[:, :1]], ".* S=4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_do_not_fit_are_refused(case):
    make, inputs, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"Expected {message}.* Received: .*shape"):
        make()(inputs)
    if isinstance(inputs, list):
        symbolic = [keras.Input(a.shape[1:], batch_size=len(a)) for a in inputs]
        with pytest.raises(ValueError, match=f"Expected {message}.* Received: .*shape"):
            make()(symbolic)


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_do_not_fit_are_refused_after_others_that_did(case):
    make, inputs, message = REFUSED[case]
    layer = make()
    if isinstance(layer, ConditionalInstanceNormalization):
        layer([X, np.ones((2, layer.styles))])
    elif isinstance(layer, AdaptiveInstanceNormalization):
        layer([X, STYLE])
    else:
        layer(X)
    with pytest.raises(ValueError, match=f"Expected {message}.* Received: .*shape"):
        layer(inputs)


def test_unknown_or_other_channels_are_refused():
    with pytest.raises(ValueError, match="Expected x .B, H, W, C., C known. Received: x of shape"):
        InstanceNormalization()(keras.Input((None, None, None)))
    with pytest.raises(ValueError, match="Expected scale .* C=2. Received: scale of shape"):
        learnt()(X[..., :2])


def test_integers_are_refused():
    with pytest.raises(ValueError, match="Expected x of a float type. Received: .*uint8"):
        instance_normalization(np.zeros((1, 2, 2, 3), np.uint8))


@pytest.mark.parametrize("epsilon", [0, -1e-5, float("nan")])
@pytest.mark.parametrize(
    "make",
    [
        InstanceNormalization,
        AdaptiveInstanceNormalization,
        functools.partial(ConditionalInstanceNormalization, 4),
    ],
)
def test_epsilon_must_be_above_zero(make, epsilon):
    with pytest.raises(ValueError, match="Expected epsilon > 0. Received: epsilon="):
        make(epsilon=epsilon)


@pytest.mark.parametrize("styles", [0, -1, 2.0])
def test_styles_must_be_a_whole_number(styles):
    with pytest.raises(ValueError, match="Expected styles .* Received: styles="):
        ConditionalInstanceNormalization(styles)


# The rows of the module's table

SCALE, OFFSET = GAMMA[0], BETA[0]


def over(axes, x=X, epsilon=1e-3):
    """(x - mean) / deviation over these axes."""
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def affine(layer, *arguments, **options):
    """The layer's result for X with weights that are not ones and zeros."""
    layer(X)
    weights = layer.get_weights()
    weights[:2] = [draw(*weights[0].shape, seed=10), draw(*weights[0].shape, seed=11)]
    layer.set_weights(weights)
    return layer(X, *arguments, **options), weights[0], weights[1]


def assert_row(found, normalised):
    result, scale, offset = found
    np.testing.assert_allclose(result, normalised * scale + offset, rtol=0, atol=1e-10)


def test_row_batch():
    assert_row(
        affine(keras.layers.BatchNormalization(dtype="float64"), training=True), over((0, 1, 2))
    )


def test_row_batch_at_inference_has_moving_averages():
    layer = keras.layers.BatchNormalization(dtype="float64", momentum=0.9)
    layer(X, training=True)
    mean, variance = 0.1 * X.mean((0, 1, 2)), 0.9 + 0.1 * X.var((0, 1, 2))
    np.testing.assert_allclose(layer(X), (X - mean) / np.sqrt(variance + 1e-3), atol=1e-10)


@pytest.mark.slow
def test_row_synchronised_counts_the_images_of_all_replicas():
    found = python(
        """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
x = np.random.default_rng(0).normal(1, 2, (2, 2, 3, 4, 3))
x[1] = 5 * x[1] + 3
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layers = [keras.layers.BatchNormalization(synchronized=s, dtype="float64") for s in (0, 1)]
    for layer in layers:
        layer.build(x.shape[1:])

@tf.function
def run(share):
    return [layer(share, training=True) for layer in layers]

shares = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(x[context.replica_id_in_sync_group])
)
alone, together = (
    np.stack([part.numpy() for part in strategy.experimental_local_results(value)])
    for value in strategy.run(run, [shares])
)
def over(axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)

np.testing.assert_allclose(alone, over((1, 2, 3)), atol=1e-10)
np.testing.assert_allclose(together, over((0, 1, 2, 3)), atol=1e-10)
"""
    )
    assert found.returncode == 0, found.stderr


def test_row_layer():
    image = affine(keras.layers.LayerNormalization(axis=[1, 2, 3], dtype="float64"))
    assert image[1].shape == X.shape[1:]
    assert_row(image, over((1, 2, 3)))
    position = affine(keras.layers.LayerNormalization(dtype="float64"))
    assert position[1].shape == (3,)
    assert_row(position, over(-1))
    any_size = affine(keras.layers.GroupNormalization(1, dtype="float64"))
    assert any_size[1].shape == (3,)
    assert_row(any_size, over((1, 2, 3)))


def test_row_group():
    x = draw(2, 3, 4, 6)
    layer = keras.layers.GroupNormalization(2, dtype="float64")
    wanted = np.concatenate([over((1, 2, 3), x[..., :3]), over((1, 2, 3), x[..., 3:])], -1)
    np.testing.assert_allclose(layer(x), wanted, rtol=0, atol=1e-10)


def test_row_instance():
    theirs = affine(keras.layers.GroupNormalization(-1, epsilon=1e-5, dtype="float64"))
    assert_row(theirs, over((1, 2), epsilon=1e-5))
    ours = affine(InstanceNormalization(dtype="float64"))
    assert_row(ours, over((1, 2), epsilon=1e-5))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-12)


def test_row_per_pixel(tmp_path):
    wanted = X / np.sqrt(np.mean(X**2, -1, keepdims=True) + 1e-8)
    found = keras.ops.rms_normalization(double(X), epsilon=1e-8)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
    layer = keras.layers.RMSNormalization(epsilon=1e-8, dtype="float64")
    np.testing.assert_allclose(layer(X), wanted, rtol=0, atol=1e-10)
    layer.set_weights([SCALE])
    np.testing.assert_allclose(layer(X), wanted * SCALE, rtol=0, atol=1e-10)
    x = keras.Input((None, None, 3))
    model = keras.Model(x, keras.ops.rms_normalization(x, epsilon=1e-8))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert not again.weights
    np.testing.assert_allclose(again(np.float32(X)), wanted, rtol=0, atol=1e-5)
    large = tf.constant(1000 * X, "float16")
    half = keras.ops.rms_normalization(large, epsilon=1e-8)
    np.testing.assert_allclose(tf.cast(half, "float64"), wanted, rtol=0, atol=2e-3)


def test_row_unit():
    found = keras.layers.UnitNormalization(dtype="float64")(X)
    wanted = X / np.sqrt(np.sum(X**2, -1, keepdims=True))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)


def test_row_spectral():
    layer = keras.layers.Conv2D(4, 3, dtype="float64")
    # So many steps of the power iteration leave nothing of a ratio of singular values of 0.9.
    wrapper = keras.layers.SpectralNormalization(layer, power_iterations=200, dtype="float64")
    wrapper.build(X.shape)
    kernel = draw(3, 3, 3, 4, seed=12)
    layer.kernel.assign(kernel)
    wrapper(X)
    np.testing.assert_array_equal(layer.kernel, kernel)
    wrapper(X, training=True)
    largest = np.linalg.svd(kernel.reshape(-1, 4), compute_uv=False)[0]
    np.testing.assert_allclose(layer.kernel, kernel / largest, rtol=0, atol=1e-10)
