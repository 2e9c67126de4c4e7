"""What is taken for images, by every public function that takes some."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import images, tiny_chain

import vgg_normalize as vn
from vgg_normalize.errors import ImagesError

FLOATS = images(2, 16, 16)
WRONG = {
    "integers": ((FLOATS * 255).astype(np.uint8), "uint8.*/ 255"),
    "an integer tensor": (tf.cast(FLOATS * 255, tf.int32), "int32"),
    "0 to 255": (FLOATS * 255, "values from .*Divide"),
    "-1 to 1": (FLOATS * 2 - 1, r"\(x \+ 1\) / 2"),
    "channels first": (FLOATS.transpose(0, 3, 1, 2), "transpose"),
    "a single image": (FLOATS[0], r"image\[None\]"),
    "grey": (FLOATS[..., :1], r"\[B, H, W, 3\]"),
}


@pytest.fixture(scope="module")
def network():
    model = tiny_chain()
    means = vn.channel_means(model, [FLOATS])
    return model, vn.normalize(model, means), means


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("function", ["channel_means", "check"])
def test_what_is_no_image_is_refused_in_one_line(network, kind, function):
    model, normal, means = network
    batch, said = WRONG[kind]
    call = {
        "channel_means": lambda: vn.channel_means(model, [FLOATS, batch]),
        "check": lambda: vn.check(model, normal, means, [FLOATS, batch]),
    }[function]
    with pytest.raises(ImagesError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_other_floats_and_a_little_overshoot_are_taken(network, kind):
    model, _, means = network
    found = vn.channel_means(model, [FLOATS.astype(kind)])
    np.testing.assert_allclose(found.mean["first"], means.mean["first"], rtol=1e-2)
    vn.channel_means(model, [FLOATS * 1.2 - 0.1])


def test_a_spent_generator_says_what_it_is(network):
    model, normal, means = network
    batches = iter([FLOATS])
    vn.channel_means(model, batches)
    with pytest.raises(ImagesError, match="read before"):
        vn.check(model, normal, means, batches)
