"""Where nothing was compared, or the means are of other images: what the proof makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import images, tiny_chain

import vgg_normalize as vn
from vgg_normalize import verification


def silenced(model, name):
    """All filters of a layer dead, whatever the image."""
    layer = model.get_layer(name)
    kernel, bias = layer.get_weights()
    layer.set_weights([np.zeros_like(kernel), np.full_like(bias, -1)])
    return model


def checked(model, batch=None, **options):
    batch = images(6) if batch is None else batch
    means = vn.channel_means(model, [batch])
    return vn.check(model, vn.normalize(model, means), means, [batch], **options)


@pytest.mark.parametrize("other_images", [False, True])
@pytest.mark.parametrize("names", [["first"], ["second"], ["first", "second"]])
def test_a_layer_in_which_nothing_fires_does_not_pass_and_is_named(names, other_images):
    model = tiny_chain()
    if names != ["first"]:
        silenced(model, "second")
    if "first" in names:
        silenced(model, "first")
        if len(names) == 1:  # what follows fires by its biases alone
            kernel, bias = model.get_layer("second").get_weights()
            model.get_layer("second").set_weights([kernel, np.abs(bias)])
    found = checked(model, other_images=other_images)
    assert found.silent == tuple(names)
    assert not found.passed and found.worst_feature_error < verification.FEATURE_TOLERANCE
    assert f"no filter fired in {', '.join(names)}, so nothing was" in verification.describe(found)


def test_a_network_of_zeros_does_not_pass():
    model = tiny_chain()
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    found = checked(model)
    assert not found.passed and found.silent == ("first", "second")


def test_a_layer_that_is_dark_on_these_images_only_does_not_pass():
    model = tiny_chain()
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([np.abs(kernel), np.zeros_like(bias)])
    means = vn.channel_means(model, [images(6)])
    normal = vn.normalize(model, means)
    black = [np.zeros((2, 32, 32, 3), np.float32)]
    found = vn.check(model, normal, means, black, other_images=True)
    assert found.silent == ("first",) and not found.passed
    found = vn.check(model, normal, means, [*black, images(2)], other_images=True)
    assert found.silent == () and found.passed


def test_one_filter_that_fires_is_enough():
    model = silenced(tiny_chain(), "second")
    kernel, bias = model.get_layer("second").get_weights()
    bias[3] = 0.5
    model.get_layer("second").set_weights([kernel, bias])
    found = checked(model)
    assert found.silent == () and found.passed
    assert "no filter" not in verification.describe(found)


def test_means_of_other_images_say_nothing_of_these():
    model = tiny_chain()
    means = vn.channel_means(model, [images(6)])
    normal = vn.normalize(model, means)
    bright = [np.sqrt(images(6, seed=3))]
    found = vn.check(model, normal, means, bright, other_images=True)
    assert found.passed and found.images == 6
    assert found.worst_mean_deviation is None and found.agreeing is None
    assert 0 < found.worst_feature_error < verification.FEATURE_TOLERANCE
    text = verification.describe(found)
    assert text.endswith("on 6 images, on which the means were not measured")
    assert "mean deviation" not in text


def test_means_that_are_far_from_those_of_the_images_pass_only_where_said():
    model = tiny_chain()
    means = vn.channel_means(model, [images(6)])
    apart = replace(means, mean={name: 3 * mean for name, mean in means.mean.items()})
    normal = vn.normalize(model, apart)
    assert not vn.check(model, normal, apart, [images(6)]).passed
    assert vn.check(model, normal, apart, [images(6)], other_images=True).passed


def test_wrong_features_fail_on_other_images_too():
    model = tiny_chain()
    means = vn.channel_means(model, [images(6)])
    normal = vn.normalize(model, means)
    kernel, bias = normal.get_layer("second").get_weights()
    kernel[0, 1, 2, 3] *= 1.01
    normal.get_layer("second").set_weights([kernel, bias])
    found = vn.check(model, normal, means, [images(6, seed=3)], other_images=True)
    assert not found.passed
    assert found.feature_errors["second"] > verification.FEATURE_TOLERANCE
    assert found.feature_errors["first"] < verification.FEATURE_TOLERANCE


def test_a_generator_that_was_read_before_is_told_to_be_empty():
    model = tiny_chain()
    batches = (images(2, seed=i) for i in range(3))
    means = vn.channel_means(model, batches)
    normal = vn.normalize(model, means)
    with pytest.raises(ValueError, match="generator that was read before is empty"):
        vn.check(model, normal, means, batches)
    found = vn.check(model, normal, means, (images(2, seed=i) for i in range(3)))
    assert found.passed and found.images == 6
