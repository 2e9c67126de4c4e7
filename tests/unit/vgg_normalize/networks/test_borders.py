"""Borders: which networks can be padded otherwise."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import borders


def chain_of(*layers: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((None, None, 3)), *layers])


def convolution(size: object = 3, **options: object) -> keras.Layer:
    return keras.layers.Conv2D(2, size, padding="same", name="layer", **options)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: convolution(strides=2),
        lambda: convolution(2),
        lambda: convolution((3, 5)),
        lambda: convolution(dilation_rate=(1, 2)),
        lambda: keras.layers.ZeroPadding2D(name="layer"),
    ],
    ids=["strided", "even", "oblong", "dilated", "zeros"],
)
def test_what_cannot_be_padded_otherwise_is_refused(layer):
    model = chain_of(keras.layers.Conv2D(3, 3, padding="same"), layer())
    assert borders.with_padding(model, "zero") is model
    with pytest.raises(NetworkError, match="'layer'"):
        borders.with_padding(model, "reflect")


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(
    ("padding", "mode"), [("reflect", "reflect"), ("replicate", "edge"), ("wrap", "wrap")]
)
def test_a_padded_convolution_is_that_of_a_padded_image(padding, mode, dilation):
    model = chain_of(convolution(dilation_rate=dilation))
    image = np.random.default_rng(0).random((1, 9, 11, 3), np.float32)
    reach = dilation
    wider = np.pad(image, [(0, 0), (reach, reach), (reach, reach), (0, 0)], mode)
    expected = model(wider).numpy()[:, reach:-reach, reach:-reach]
    found = borders.with_padding(model, padding)(image).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
