"""The order of the layers of a functional Keras model, read from its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from vgg_normalize.errors import NetworkError


def ordered_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a functional model from its input to its output, nested models as they are.

    Raises:
        NetworkError: The model is not a chain; the message names the layer where it branches.
    """
    straight = _straight_path(model)
    if straight is not None:
        return straight
    config = model.get_config()
    if "layers" not in config:
        raise NetworkError(
            f"Expected a functional or sequential Keras model. Received: {type(model).__name__} "
            f"{model.name!r}, a subclass whose layers have no order. Rebuild it as keras.Model."
        )
    successor: dict[str, str] = {}
    start = None
    for entry in config["layers"]:
        name = entry["name"]
        if entry["class_name"] == "InputLayer":
            if start is not None:
                raise NetworkError(
                    f"Expected one input. Received: {start!r} and {name!r} of {model.name!r}. "
                    "Give a network with the image as its only input."
                )
            start = name
            continue
        source = _only_source(entry)
        if source in successor:
            raise NetworkError(
                f"Expected a chain of layers. Received: {source!r}, read by "
                f"{successor[source]!r} and by {name!r}. Give a network without branches."
            )
        successor[source] = name
    layers = []
    following = successor.get(start) if start is not None else None
    while following is not None:
        layers.append(model.get_layer(following))
        following = successor.get(following)
    return layers


def _straight_path(model: keras.Model) -> list[keras.Layer] | None:
    """The layers between one input and one output, where these are all that there are.

    None where the path is not that simple, or Keras keeps it elsewhere: then the configuration
    tells, which takes a hundred times as long.
    """
    try:
        (start,), (tensor,) = model.inputs, model.outputs
        layers: list[keras.Layer] = []
        while tensor is not start:
            layer, node, _ = tensor._keras_history
            layers.append(layer)
            (tensor,) = layer._inbound_nodes[node].input_tensors
        count = len(model.operations)
    except (AttributeError, TypeError, ValueError):
        return None
    whole = len(set(map(id, layers))) == len(layers) == count - 1  # less the input
    return layers[::-1] if whole else None


def _only_source(entry: dict[str, Any]) -> str:
    """The name of the one layer that a layer reads."""
    sources = [source for node in entry["inbound_nodes"] for source in _histories(node)]
    if len(sources) != 1:
        raise NetworkError(
            f"Expected a chain of layers. Received: layer {entry['name']!r} "
            f"({entry['class_name']}) with {len(sources)} inputs, which does not pass the scale of "
            "a filter through. Give a network without branches (VGG has none)."
        )
    return sources[0]


def _histories(node: Any) -> Iterator[str]:
    """The names of the layers whose outputs are the arguments of one serialised call of a layer."""
    if isinstance(node, dict):
        if "keras_history" in node:
            yield node["keras_history"][0]
        else:
            for value in node.values():
                yield from _histories(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _histories(value)
