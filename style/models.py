"""The network that `model` names: the trained VGG19, a saved network, or a file of weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

import vgg_normalize as vn
from vgg_normalize import rescaling, shipped_means, vgg
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain
from vgg_normalize.networks.vgg_layers import VggOptions
from vgg_normalize.weights import files, loading

NORMALIZED = "vgg19"
ORIGINAL = "vgg19_original"
# Side in pixels of the pictures that a network is tried on.
SMALLEST_PROBE = 16
# Advice about options that only vgg_normalize has, and what to say instead.
_ADVICE = (
    (r" Check `architecture`[^.]*\.$", " Give the weights of a VGG19 or a VGG16."),
    ("`weights=PATH`", "`model=PATH`"),
    (" and use imagenet_8bit", ""),
)


def load(name: str, log: Callable[[str], None] = lambda line: None) -> keras.Model:
    """The network that a name stands for.

    Args:
        name: "vgg19" (ImageNet weights normalised by the means that come with vgg_normalize),
            "vgg19_original" (the same as they are), a directory that vgg_normalize saved, or a file
            of weights, which are taken as they are.
        log: Receives a line that says what the network is.

    Raises:
        NetworkError: There is no such network, it is damaged, or it does not respond to pictures.
    """
    if name in (NORMALIZED, ORIGINAL):
        model = _imagenet(log, normalized=name == NORMALIZED)
    elif Path(name).is_dir():
        model = vn.load(name)
        log(f"network: {name}")
    elif Path(name).is_file():
        model = _from_file(name)
        log(f"network: {name}, {model.name} as it is, for pixels less the mean in BGR order")
    else:
        raise NetworkError(
            f"Expected {NORMALIZED}, {ORIGINAL}, a directory that vgg_normalize saved, or a file of "
            f"weights as `model`. Received: {name!r}, which does not exist. Check the path."
        )
    loading.require_finite_model(model)
    _require_response(model, name)
    return model


def _from_file(path: str) -> keras.Model:
    """The VGG of a file of weights, as deep as the file goes."""
    suffixes = list(files.READERS)
    if Path(path).suffix not in suffixes:
        raise NetworkError(
            f"Expected {NORMALIZED}, {ORIGINAL}, a directory that vgg_normalize saved, or a file of "
            f"weights ({', '.join(suffixes)}) as `model`. Received: {path!r}, which is named like "
            "none of them. Check the path."
        )
    with _advice_for_model():
        return vgg.from_file(path)


@contextlib.contextmanager
def _advice_for_model() -> Iterator[None]:
    """Errors in here that advise options of `vgg_normalize` advise `model` instead."""
    try:
        yield
    except NetworkError as error:
        message = str(error)
        for pattern, replacement in _ADVICE:
            message = re.sub(pattern, replacement, message)
        raise NetworkError(message) from error


def _require_response(model: keras.Model, name: str) -> None:
    """Check that the features of a network depend on the picture.

    Args:
        model: A chain of layers.
        name: What was given as `model`.

    Raises:
        NetworkError: They do not, in any layer.
    """
    stages = chain.stages(model)
    smallest = max(chain.min_image_size(model), SMALLEST_PROBE)
    height, width = (side or smallest for side in chain.image_shape(model)[:2])
    noise = np.random.default_rng(0).random((height, width, 3), np.float32)
    pictures = np.stack([noise, np.zeros_like(noise)])
    features = chain.features(model, [stage.layer.name for stage in stages])(pictures)
    arrays = [np.asarray(feature) for feature in features.values()]
    if any((array[0] != array[1]).any() for array in arrays):
        return
    zero = not any(array.any() for array in arrays)
    defect = "are all zero" if zero else "are the same for every picture"
    raise NetworkError(
        f"Expected a network whose features depend on the picture. Received: {name!r}, whose "
        f"features {defect}, in every layer. Use weights that were trained."
    )


def _imagenet(log: Callable[[str], None], *, normalized: bool) -> keras.Model:
    with _advice_for_model():
        loaded = shipped_means.imagenet_weights("vgg19")
    if loaded.note:
        log(loaded.note)
    model = vgg.with_weights(loaded, VggOptions("vgg19"))
    if not normalized:
        log("network: VGG19 as it was trained on ImageNet, not normalised")
        return model
    means = shipped_means.require_of_network(
        shipped_means.imagenet_means(), model, shipped_means.SHIPPED
    )
    log(
        f"network: VGG19 trained on ImageNet, normalised by the means of {means.images} photographs"
    )
    rescaling.normalize_in_place(model, means)
    return model
