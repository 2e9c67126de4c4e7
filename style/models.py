"""The network that a command names: the real VGG19, a saved one, or a file of weights."""

from __future__ import annotations

from pathlib import Path

import keras

import vgg_normalize as vn
from vgg_normalize import shipped, surgery, vgg, weights
from vgg_normalize.errors import NetworkError
from vgg_normalize.progress import Heartbeat, say

NORMALIZED = "vgg19"
ORIGINAL = "vgg19_original"


def load(name: str) -> keras.Model:
    """The network; a line says what it is.

    Args:
        name: "vgg19" (ImageNet weights normalised by the means that come with vgg_normalize),
            "vgg19_original" (the same as they are), a directory that vgg_normalize saved, or a file
            of weights, which are taken as they are.

    Raises:
        NetworkError: There is no such network, or it is damaged.
    """
    Heartbeat.doing("loading the network")
    if name in (NORMALIZED, ORIGINAL):
        model = _imagenet(normalized=name == NORMALIZED)
    elif Path(name).is_dir():
        model = vn.load(name)
        say(f"network: {name}")
    elif Path(name).is_file():
        model = vgg.from_file(name)
        say(f"network: {name}, {model.name} as it is, for pixels less the mean in BGR order")
    else:
        raise NetworkError(
            f"Expected {NORMALIZED}, {ORIGINAL}, a directory that vgg_normalize saved, or a file of "
            f"weights as --model. Received: {name!r}, which does not exist. Check the path."
        )
    weights.require_finite_model(model)
    return model


def _imagenet(*, normalized: bool) -> keras.Model:
    loaded = shipped.imagenet_weights("vgg19")
    if loaded.note:
        say(loaded.note)
    model = vgg.with_weights(loaded, "vgg19")
    if not normalized:
        say("network: VGG19 as it was trained on ImageNet, not normalised")
        return model
    means = shipped.require_of_network(shipped.imagenet_means(), model, shipped.SHIPPED)
    say(
        f"network: VGG19 trained on ImageNet, normalised by the means of {means.images} photographs"
    )
    return surgery.normalize(model, means)
