"""The SavedModel of a network: its weights stored once, its signatures, and its description.

It is a `tf.train.Checkpoint` with functions, not `model.export`: that form is callable and keeps
`variables` for every consumer, and stores the weights once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize.data import decode
from vgg_normalize.means import Means
from vgg_normalize.networks import chain
from vgg_normalize.networks.preprocessing import Preprocessing
from vgg_normalize.weights.exporting import named_weights

Function = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def write_saved_model(
    model: keras.Model, means: Means, path: Path, settings: Mapping[str, Any]
) -> None:
    """Write a SavedModel that needs nothing but TensorFlow.

    Args:
        model: A normalised network.
        means: The means that it was normalised with.
        path: Directory to make.
        settings: How the means were measured, see `saved_network.save`.
    """
    # Not trainable, so that a tape of the consumer does not watch them.
    variables = {
        name: tf.Variable(array, trainable=False, name=name)
        for name, array in named_weights(model).items()
    }
    saved = tf.train.Checkpoint()
    saved.variables = list(variables.values())
    saved.trainable_variables = []
    saved.regularization_losses = []
    signatures = _signatures(model, variables, settings)
    saved.__call__ = signatures["serving_default"]
    with tempfile.TemporaryDirectory() as folder:
        asset = Path(folder) / "means.json"
        asset.write_text(json.dumps(_description(model, means, settings, list(variables))))
        saved.means = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(saved, str(path), signatures=signatures)


def _signatures(
    model: keras.Model, variables: Mapping[str, tf.Variable], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The functions of the SavedModel by name, all on the same variables.

    serving_default gives all features of images in [0, 1], block1 to block5 those of one block;
    vgg_input takes what keras.applications' preprocess_input gives, image_bytes encoded files.
    """
    names = [stage.layer.name for stage in chain.stages(model)]
    image = tf.TensorSpec([None, *chain.image_shape(model)], tf.float32, name="image")

    def on_images(function: Function) -> Any:
        return tf.function(function, input_signature=[image], autograph=False)

    all_features = _features_on(variables, model, names)
    signatures = {"serving_default": on_images(all_features)}
    for block in _blocks(names):
        within = [name for name in names if name.startswith(f"{block}_")]
        signatures[block] = on_images(_features_on(variables, model, within))
    first = chain.layers(model)[0]
    if isinstance(first, Preprocessing) and first.preprocessing_mode == "caffe":
        bare = chain.copy(model, without=[first])
        signatures["vgg_input"] = on_images(_features_on(variables, bare, names))
    resize = settings.get("resize", "squash")
    height, width, channels = chain.image_shape(model)
    size = int(settings.get("image_size", height or 224))
    if resize != "none" and {height, width} <= {None, size} and channels == 3:
        encoded = tf.TensorSpec([None], tf.string, name="bytes")
        from_bytes = _decoding(all_features, resize, size)
        signatures["image_bytes"] = tf.function(
            from_bytes, input_signature=[encoded], autograph=False
        )
    return signatures


def _features_on(
    variables: Mapping[str, tf.Variable], model: keras.Model, names: Sequence[str]
) -> Function:
    """The features of some layers as a function of images, computed with these variables.

    Args:
        variables: `<layer>/kernel` and `<layer>/bias` to the variable that stands in for it.
        model: A chain.
        names: Names of the layers with weights.
    """
    network = chain.features(model, names)
    stand_ins = [
        (weight, variables[f"{layer.name}/{weight.name}"])
        for layer in network.layers
        for weight in layer.weights
    ]

    def features(image: tf.Tensor) -> dict[str, tf.Tensor]:
        with keras.StatelessScope(state_mapping=stand_ins):
            activations = network(image, training=False)
        return {name: activations[name] for name in names}

    return features


def _decoding(function: Function, resize: str, size: int) -> Function:
    """A function of encoded images, [B] strings, which are decoded and resized to `size` pixels."""

    def from_bytes(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(
            lambda content: decode.resize(decode.decode(content), resize, size),
            encoded,
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        )
        return function(images)

    return from_bytes


def _blocks(names: Sequence[str]) -> list[str]:
    """The blocks that layers belong to: block1_conv1 is in block1."""
    prefixes = [name.split("_")[0] for name in names]
    return list(dict.fromkeys(prefix for prefix in prefixes if prefix.startswith("block")))


def _description(
    model: keras.Model, means: Means, settings: Mapping[str, Any], weights: list[str]
) -> dict[str, Any]:
    """The content of `assets/means.json`; JSON knows no infinity, so null stands for it."""
    return {
        "network": {
            "name": model.name,
            "image_shape": chain.image_shape(model),
            "layers": [keras.saving.serialize_keras_object(layer) for layer in chain.layers(model)],
            "weights": weights,
        },
        "images": means.images,
        "means": {
            name: {
                "mean": means.mean[name].tolist(),
                "standard_error": [
                    error if np.isfinite(error) else None for error in means.standard_error[name]
                ],
                "positions": means.positions[name],
            }
            for name in means.mean
        },
        "settings": dict(settings),
    }
