"""What content and style are worth in a training, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import images, tiny_chain

import vgg_normalize as vn
from style.feedforward import calibration, networks
from style.feedforward.batch_losses import LossConfig

LAYERS = (("first", 1.0), ("second", 0.5))


def gram(features: np.ndarray) -> np.ndarray:
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    return flat.T @ flat / len(flat)


def test_worths_are_means_over_pairs_without_the_weights_of_the_terms():
    model, config = tiny_chain(), LossConfig(LAYERS[1:], LAYERS, 3.0, 7.0, style_loss="gram")
    contents, styles = images(4, 16, 16), images(2, 16, 16, seed=4)
    content_worth, style_worth = calibration.worths(
        networks.cin(2), model, config, contents, styles
    )
    of_contents, of_styles = (
        {k: v.numpy() for k, v in vn.features(model, ["first", "second"])(x).items()}
        for x in (contents, styles[[0, 1, 0, 1]])
    )
    expected = 0.5 * np.mean((of_contents["second"] - of_styles["second"]) ** 2)
    assert content_worth == pytest.approx(expected, rel=1e-4)
    distances = [
        weight * np.mean((gram(of_contents[name][i]) - gram(of_styles[name][i])) ** 2)
        for name, weight in LAYERS
        for i in range(4)
    ]
    assert style_worth == pytest.approx(sum(distances) / 4, rel=1e-3)
    balanced = config._replace(balance=True)
    assert calibration.worths(networks.cin(2), model, balanced, contents, styles) == (
        content_worth,
        1.0,
    )


def test_adain_is_calibrated_at_its_own_layer():
    model = tiny_chain()
    config = LossConfig((), LAYERS, style_loss="moments")
    contents, styles = images(2, 16, 16), images(2, 16, 16, seed=4)
    worth, _ = calibration.worths(networks.adain(model), model, config, contents, styles)
    features = [vn.features(model, ["second"])(x)["second"].numpy() for x in (contents, styles)]
    assert worth == pytest.approx(np.mean((features[0] - features[1]) ** 2), rel=1e-4)
