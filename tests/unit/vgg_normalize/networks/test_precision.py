"""Networks that multiply in 16 bits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_weights, images, tiny_chain

from style.objective.features import feature_extractor
from vgg_normalize.networks import chain
from vgg_normalize.networks.precision import precision, with_precision


def test_a_copy_has_the_weights_and_the_policy_and_the_original_keeps_its_own():
    model = tiny_chain()
    copied = with_precision(model, "mixed_bfloat16")
    for old, new in zip(chain.layers(model), chain.layers(copied), strict=True):
        for before, after in zip(old.get_weights(), new.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)
        if chain.is_weighted(new):
            assert (old.compute_dtype, new.compute_dtype) == ("float32", "bfloat16")
            assert new.variable_dtype == "float32"


def test_a_network_that_is_so_already_is_not_copied():
    model = tiny_chain()
    assert with_precision(model, "float32") is model


def test_features_are_float32_and_off_by_the_rounding_of_8_bits():
    model = tiny_chain()
    names = [stage.layer.name for stage in chain.stages(model)]
    image = tf.constant(images(1))
    expected = feature_extractor(model, names)(image)
    found = feature_extractor(with_precision(model, "mixed_bfloat16"), names)(image)
    for name in names:
        assert found[name].dtype == tf.float32
        error = tf.norm(found[name] - expected[name]) / tf.norm(expected[name])
        assert 1e-4 < error < 3e-2, name


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_wide_convolutions_of_networks_stored_in_either_way_are_winograds(policy):
    layers = [
        keras.Input((None, None, 256)),
        keras.layers.Conv2D(512, 3, padding="same", name="wide"),
    ]
    layers[1].dtype_policy = keras.DTypePolicy(policy)
    kernels: dict = {}
    model = draw_weights(keras.Sequential(layers))
    image = tf.constant(np.random.default_rng(0).random((1, 16, 16, 256)), tf.float32)
    found = feature_extractor(model, ["wide"], kernels=kernels)(image)["wide"]
    expected = feature_extractor(model, ["wide"])(image)["wide"]
    assert set(kernels) == {"wide"} and found.dtype == expected.dtype == tf.float32
    assert tf.norm(found - expected) < 5e-2 * tf.norm(expected)


def test_the_policy_is_as_before_after_an_error():
    before = keras.config.dtype_policy()
    try:
        with precision("mixed_float16"):
            raise KeyError
    except KeyError:
        pass
    assert keras.config.dtype_policy() == before
