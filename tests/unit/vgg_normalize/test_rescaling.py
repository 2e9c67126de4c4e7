from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers import draw_weights, images, small_vgg
from keras import layers

import vgg_normalize as vn
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain, vgg_layers

SIDE = 40


def random_chain(seed):
    """A random network of all the kinds of layers that pass scales through."""
    random = np.random.default_rng(seed)
    image = keras.Input((SIDE, SIDE, 3))
    tensor = layers.Rescaling(2.0, offset=-1.0)(image) if random.random() < 0.5 else image
    for i in range(random.integers(2, 5)):
        fused = random.random() < 0.5
        tensor = layers.Conv2D(
            int(random.integers(2, 7)),
            tuple(int(size) for size in random.integers(1, 4, 2)),
            strides=int(random.integers(1, 3)) if i == 0 else 1,
            padding=str(random.choice(["same", "valid"])) if i < 2 else "same",
            use_bias=bool(random.random() < 0.7),
            activation="relu" if fused else None,
            name=f"conv{i}",
        )(tensor)
        if not fused:
            pooled_first = random.random() < 0.3  # max pooling and ReLU commute
            tensor = layers.MaxPooling2D(2, padding="same")(tensor) if pooled_first else tensor
            tensor = layers.ReLU()(tensor) if random.random() < 0.5 else relu()(tensor)
        between = random.choice(["max", "avg", "pad", "drop", "crop", "nothing"])
        tensor = {
            "max": layers.MaxPooling2D(2, padding="same"),
            "avg": layers.AveragePooling2D(2, padding="same"),
            "pad": layers.ZeroPadding2D(1),
            "drop": layers.Dropout(0.5),
            "crop": layers.Cropping2D(1) if i == 0 else layers.Identity(),
            "nothing": layers.Activation("linear"),
        }[str(between)](tensor)
    end = random.choice(["flatten", "global avg", "global max", "none"])
    if end == "none":
        return draw_weights(keras.Model(image, tensor), seed)
    tensor = {
        "flatten": layers.Flatten(),
        "global avg": layers.GlobalAveragePooling2D(),
        "global max": layers.GlobalMaxPooling2D(),
    }[str(end)](tensor)
    tensor = layers.Dense(6, activation="relu", name="hidden")(tensor)
    tensor = layers.Dropout(0.3)(tensor)
    if random.random() < 0.5:
        tensor = layers.Dense(5, activation="softmax", name="predictions")(tensor)
    else:
        tensor = layers.Softmax()(layers.Dense(5, name="predictions")(tensor))
    return draw_weights(keras.Model(image, tensor), seed)


def relu():
    return layers.Activation("relu")


def measured(model, count=6, side=SIDE, seed=0):
    batch = images(count, side, side, seed)
    return batch, vn.channel_means(model, [batch])


def test_rescale_is_the_loop_written_out():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 2, 4, 5)).astype(np.float32)
    bias = random.normal(size=5).astype(np.float32)
    scales, input_scales = random.uniform(0.1, 9, 5), random.uniform(0.1, 9, 4)
    expected = np.empty((3, 2, 4, 5))
    for y in range(3):
        for x in range(2):
            for i in range(4):
                for o in range(5):
                    expected[y, x, i, o] = float(kernel[y, x, i, o]) * input_scales[i] / scales[o]
    kept = kernel.copy(), bias.copy()
    found_kernel, found_bias = vn.rescale(kernel, bias, scales, input_scales)
    assert np.allclose(found_kernel, expected, rtol=1e-14, atol=0)
    assert np.allclose(found_bias, [float(b) / s for b, s in zip(bias, scales, strict=True)])
    assert (kernel == kept[0]).all()
    assert (bias == kept[1]).all()


def test_rescale_of_a_dense_layer_without_bias():
    kernel = np.float32([[1, 2, 3], [4, 5, 6]])
    found, bias = vn.rescale(kernel, None, np.array([1.0, 2, 4]), np.array([10.0, 100]))
    assert bias is None
    assert (found == [[10, 10, 7.5], [400, 250, 150]]).all()


@pytest.mark.parametrize("seed", range(10))
def test_means_are_one_and_features_are_scaled_originals(seed):
    model = random_chain(seed)
    batch, means = measured(model)
    normal = vn.normalize(model, means)
    before, after = vn.features(model)(batch), vn.features(normal)(batch)
    again = vn.channel_means(normal, [batch])
    assert list(again.mean) == list(means.mean) != []
    for name, mean in means.mean.items():
        # A filter that hardly fires is the difference of large numbers: its mean counts less.
        weight = np.minimum(mean / (0.01 * mean.mean()), 1)
        assert (weight * np.abs(again.mean[name] - 1) <= 1e-5).all(), name
        assert (again.mean[name][mean == 0] == 0).all(), name
        scale = np.where(mean > 0, mean, 1.0)
        difference = np.abs(after[name].numpy() * scale - before[name].numpy())
        assert difference.max() <= 1e-5 * before[name].numpy().max(), name
    if not chain.stages(model)[-1].rectified:
        assert np.allclose(normal(batch), model(batch), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_random_networks_are_not_normalised_before(seed):
    _, means = measured(random_chain(seed))
    assert max(np.abs(mean - 1).max() for mean in means.mean.values()) > 0.2


@pytest.mark.parametrize("seed", range(3))
def test_zeros_stay_zeros_and_nothing_else_becomes_zero(seed):
    model = random_chain(seed)
    random = np.random.default_rng(seed)
    for layer in chain.layers(model):
        if layer.weights:
            kernel = np.asarray(layer.kernel)
            layer.kernel.assign(np.where(random.random(kernel.shape) < 0.3, 0, kernel))
    normal = vn.normalize(model, measured(model)[1])
    for before, after in zip(model.get_weights(), normal.get_weights(), strict=True):
        assert ((before == 0) == (after == 0)).all()
        assert (np.sign(before) == np.sign(after)).all()


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_every_convolution_of_vgg_is_normalised(monkeypatch, pooling):
    small_vgg(monkeypatch)
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", pooling=pooling))
    )
    batch, means = measured(model, side=32)
    again = vn.channel_means(vn.normalize(model, means), [batch])
    assert list(again.mean) == vgg_layers.convolutions("vgg19")
    for name, mean in again.mean.items():
        assert np.allclose(mean[means.mean[name] > 0], 1, atol=1e-5), name


def test_predictions_of_vgg_are_unchanged(monkeypatch):
    # 64 pixels leave 2 x 2 positions to flatten: channels must repeat fastest.
    small_vgg(monkeypatch, side=64)
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg16", include_top=True))
    )
    batch, means = measured(model, side=64)
    assert list(means.mean)[-2:] == ["fc1", "fc2"]
    assert np.allclose(vn.normalize(model, means)(batch), model(batch), atol=1e-5)


def test_a_normalised_network_stays_as_it_is(monkeypatch):
    small_vgg(monkeypatch)
    model = draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")))
    batch, means = measured(model, side=32)
    once = vn.normalize(model, means)
    twice = vn.normalize(once, vn.channel_means(once, [batch]))
    for before, after in zip(once.get_weights(), twice.get_weights(), strict=True):
        assert np.allclose(before, after, rtol=1e-4, atol=1e-6 * np.abs(before).max())


def test_a_linear_layer_in_the_middle_undoes_and_keeps_scale_one():
    model = draw_weights(
        keras.Sequential(
            [
                keras.Input((SIDE, SIDE, 3)),
                layers.Conv2D(4, 3, activation="relu", name="a"),
                layers.Conv2D(4, 3, name="linear"),
                layers.Conv2D(4, 3, activation="relu", name="b"),
                layers.Conv2D(2, 1, name="last"),
            ]
        )
    )
    batch, means = measured(model)
    assert list(means.mean) == ["a", "b"]
    normal = vn.normalize(model, means)
    for name in ("linear", "last"):
        found, expected = (net.get_layer(name).get_weights()[1] for net in (normal, model))
        assert (found == expected).all()
    assert np.allclose(normal(batch), model(batch), atol=1e-5)
    assert vn.check(model, normal, means, [batch]).passed


def with_dead_filter():
    model = draw_weights(
        keras.Sequential(
            [
                keras.Input((SIDE, SIDE, 3)),
                layers.Conv2D(4, 3, activation="relu", name="a"),
                layers.Conv2D(3, 3, activation="relu", name="b"),
            ]
        )
    )
    model.get_layer("a").bias.assign([0.1, -1e3, 0.2, 0.3])
    model.get_layer("b").bias.assign([0.5, 0.5, 0.5])
    return model


def test_a_dead_filter_keeps_scale_one():
    model = with_dead_filter()
    batch, means = measured(model)
    assert list(means.dead("a")) == [1]
    normal = vn.normalize(model, means)
    (kernel, bias), (kernel_b, _) = (model.get_layer(name).get_weights() for name in "ab")
    (dead_kernel, dead_bias), (after_b, _) = (normal.get_layer(n).get_weights() for n in "ab")
    assert (dead_kernel[..., 1] == kernel[..., 1]).all()
    assert dead_bias[1] == bias[1]
    assert all(np.isfinite(array).all() for array in normal.get_weights())
    # What is undone downstream is the scale that was used, 1, not the mean, 0.
    expected = kernel_b[:, :, 1] / means.mean["b"]
    assert np.allclose(after_b[:, :, 1], expected, rtol=1e-6)
    assert vn.check(model, normal, means, [batch]).passed


def test_a_filter_that_hardly_fires_is_scaled_like_any_other():
    model = with_dead_filter()
    means = measured(model)[1]
    tiny = {**means.mean, "a": np.array([1.0, 1e-12, 1.0, 1.0])}
    normal = vn.normalize(model, replace(means, mean=tiny))
    kernel = model.get_layer("a").get_weights()[0]
    found = normal.get_layer("a").get_weights()[0]
    assert np.allclose(found[..., 1], kernel[..., 1] * 1e12, rtol=1e-6)


def test_arguments_are_left_as_they_were():
    model = random_chain(0)
    _, means = measured(model)
    weights = model.get_weights()
    kept = {name: mean.copy() for name, mean in means.mean.items()}
    normal = vn.normalize(model, means)
    draw_weights(normal, seed=9)  # nothing may be shared either
    assert all((a == b).all() for a, b in zip(weights, model.get_weights(), strict=True))
    assert all((means.mean[name] == kept[name]).all() for name in kept)


def test_layers_keep_their_names_and_options():
    model = random_chain(3)
    normal = vn.normalize(model, measured(model)[1])
    for before, after in zip(chain.layers(model), chain.layers(normal), strict=True):
        assert before.get_config() == after.get_config()


FAULTS = {
    "negative": lambda mean: {**mean, "b": mean["b"] - 100},
    "nan": lambda mean: {**mean, "b": np.full(3, np.nan)},
    "infinite": lambda mean: {**mean, "b": np.full(3, np.inf)},
    "wrong length": lambda mean: {**mean, "b": np.ones(4)},
    "wrong order": lambda mean: {"b": mean["b"], "a": mean["a"]},
    "a layer missing": lambda mean: {"a": mean["a"]},
    "a layer too many": lambda mean: {**mean, "c": np.ones(3)},
    "other names": lambda mean: {"x": mean["a"], "y": mean["b"]},
    "none": lambda mean: {},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_means_of_something_else_are_refused(fault):
    model = with_dead_filter()
    means = measured(model)[1]
    wrong = replace(means, mean=FAULTS[fault](dict(means.mean)))
    with pytest.raises(NetworkError, match="Expected means.*Received: ") as caught:
        vn.normalize(model, wrong)
    assert caught.value.exit_code == 3


def test_means_of_the_other_architecture_are_refused(monkeypatch):
    small_vgg(monkeypatch)
    means = measured(
        draw_weights(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg16"))), side=32
    )[1]
    with pytest.raises(NetworkError, match="Expected means of 16 layers.*Received: 13"):
        vn.normalize(vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19")), means)
