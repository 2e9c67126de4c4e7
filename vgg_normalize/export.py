"""Writing a network for others, and reading it back.

The SavedModel is a `tf.train.Checkpoint` with functions, not `model.export`: that form is callable
and keeps `variables` for every consumer, and stores the weights once.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import chain, decode, weight_export
from vgg_normalize.errors import NetworkError, OutputError
from vgg_normalize.means import Means
from vgg_normalize.vgg import Preprocessing
from vgg_normalize.weight_export import (
    FORMATS,
    adain_tensors,
    file_name,
    named_weights,
    require_formats,
)


def save(
    model: keras.Model,
    means: Means,
    directory: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("saved_model", "h5"),
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a normalised network into a new directory, all of it or nothing.

    Args:
        model: What `normalize` gave.
        means: The means that it was normalised with; they travel in `assets/means.json`.
        directory: Must not exist.
        formats: Of "saved_model", "h5" (for keras.applications), "npz" and "safetensors" (for
            PyTorch and JAX), and "adain" (for the `net.vgg` of AdaIN in PyTorch).
        settings: How the means were measured, for `assets/means.json`; "resize" and "image_size"
            also tell the signature `image_bytes` how to resize (squash to 224, or to the only size
            that the network takes).

    Raises:
        OutputError: The directory exists or cannot be written.
    """
    directory = Path(directory)
    if directory.exists():
        raise OutputError(
            f"Expected a new directory. Received: {directory}, which exists. Choose another name."
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise _cannot_write(directory, error) from error
    try:
        write(model, means, beside, formats=formats, settings=settings or {})
        means.save(beside / "means.npz")
        beside.chmod(0o755)
        os.rename(beside, directory)
    except OSError as error:
        raise _cannot_write(directory, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write(
    model: keras.Model,
    means: Means,
    directory: Path,
    *,
    formats: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Write the artefacts into an existing directory.

    Raises:
        OutputError: It cannot be written (full, say).
    """
    unknown = [form for form in formats if form not in FORMATS]
    if unknown:
        raise OutputError(
            f"Expected formats of {', '.join(FORMATS)}. Received: {', '.join(unknown)}. "
            "Choose from these."
        )
    writers: dict[str, Callable[[Path], None]] = {
        "saved_model": lambda path: _write_saved_model(model, means, path, settings),
        "h5": lambda path: weight_export.write_h5(model, path),
        "npz": lambda path: weight_export.write_npz(model, path),
        "safetensors": lambda path: weight_export.write_safetensors(
            named_weights(model), path, settings
        ),
        "adain": lambda path: weight_export.write_safetensors(adain_tensors(model), path, settings),
    }
    require_formats(model, formats)
    for form in formats:
        try:
            writers[form](directory / file_name(model, form))
        except NetworkError:
            raise
        except (OSError, RuntimeError, tf.errors.OpError) as error:  # h5py raises RuntimeError
            raise _cannot_write(directory / file_name(model, form), error) from error


def _cannot_write(path: Path, error: Exception) -> OutputError:
    why = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return OutputError(
        f"Expected to write {path}. Received: {' '.join(str(why).split())[:200]}. "
        "Make room or choose another --output."
    )


def _write_saved_model(
    model: keras.Model, means: Means, path: Path, settings: Mapping[str, Any]
) -> None:
    saved = tf.train.Checkpoint()
    weights = named_weights(model)
    # Not trainable, so that a tape of the consumer does not watch them.
    variables = [tf.Variable(array, trainable=False, name=name) for name, array in weights.items()]
    saved.variables = variables
    saved.trainable_variables = []
    saved.regularization_losses = []
    by_layer = dict(zip(weights, variables, strict=True))

    def function_of(names: Sequence[str], sub: keras.Model | None = None) -> Callable[..., Any]:
        network = chain.features(sub or model, names)
        held = [
            (weight, by_layer[f"{layer.name}/{weight.name}"])
            for layer in network.layers
            for weight in layer.weights
        ]

        def apply(image: tf.Tensor) -> dict[str, tf.Tensor]:
            with keras.StatelessScope(state_mapping=held):
                found = network(image, training=False)
            return {name: found[name] for name in names}

        return apply

    names = [stage.layer.name for stage in chain.stages(model)]
    everything = function_of(names)
    image = tf.TensorSpec([None, *chain.image_shape(model)], tf.float32, name="image")
    saved.__call__ = tf.function(everything, input_signature=[image])
    signatures = {"serving_default": saved.__call__}
    for block in _blocks(names):
        signatures[block] = tf.function(
            function_of([name for name in names if name.startswith(f"{block}_")]),
            input_signature=[image],
        )
    first = chain.layers(model)[0]
    if isinstance(first, Preprocessing) and first.preprocessing_mode == "caffe":
        without = chain.copy(model, without=[first])
        signatures["vgg_input"] = tf.function(function_of(names, without), input_signature=[image])
    resize = settings.get("resize", "squash")
    height, width, channels = chain.image_shape(model)
    size = int(settings.get("image_size", height or 224))
    if resize != "none" and {height, width} <= {None, size} and channels == 3:

        def from_bytes(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
            images = tf.map_fn(
                lambda one: decode.resize(decode.decode(one), resize, size),
                encoded,
                fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
            )
            return everything(images)

        signatures["image_bytes"] = tf.function(
            from_bytes, input_signature=[tf.TensorSpec([None], tf.string, name="bytes")]
        )
    with tempfile.TemporaryDirectory() as folder:
        asset = Path(folder) / "means.json"
        asset.write_text(json.dumps(_description(model, means, settings, list(weights))))
        saved.means = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(saved, str(path), signatures=signatures)


def _blocks(names: Sequence[str]) -> list[str]:
    found = [name.split("_")[0] for name in names]
    return list(dict.fromkeys(name for name in found if name.startswith("block")))


def _description(
    model: keras.Model, means: Means, settings: Mapping[str, Any], weights: list[str]
) -> dict[str, Any]:
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
                    e if np.isfinite(e) else None for e in means.standard_error[name]
                ],
                "positions": means.positions[name],
            }
            for name in means.mean
        },
        "settings": dict(settings),
    }


def load(directory: str | os.PathLike[str]) -> keras.Model:
    """Read a network that `save` or the command line wrote, as a keras.Model again.

    Args:
        directory: The output, or the `saved_model` within it.

    Raises:
        NetworkError: There is no such network, or it is damaged.
    """
    path = Path(directory)
    path = path / "saved_model" if (path / "saved_model").is_dir() else path
    asset = path / "assets" / "means.json"
    if not (path / "saved_model.pb").is_file() or not asset.is_file():
        raise NetworkError(
            f"Expected a directory that vgg_normalize saved. Received: {str(directory)!r}, which "
            "has no saved_model with assets/means.json. Check the path, or save with the format "
            "saved_model."
        )
    try:
        network = json.loads(asset.read_text())["network"]
        layers = [
            keras.saving.deserialize_keras_object(layer, safe_mode=True)
            for layer in network["layers"]
        ]
        shape = tuple(network["image_shape"])
        model = chain.assemble(layers, shape, network["name"])
        _require_all(model, network["weights"])
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        for i, name in enumerate(network["weights"]):
            layer, _, kind = name.rpartition("/")
            array = reader.get_tensor(f"variables/{i}/.ATTRIBUTES/VARIABLE_VALUE")
            getattr(model.get_layer(layer), kind).assign(array)
    except Exception as error:  # TensorFlow and JSON raise many kinds for damaged files
        raise NetworkError(
            f"Expected a whole network. Received: {path}, which is damaged "
            f"({' '.join(str(error).split())[:200]}). Make or fetch it again."
        ) from error
    return model


def _require_all(model: keras.Model, listed: Sequence[str]) -> None:
    """Raises ValueError where the list leaves a weight out, which would stay as it was drawn."""
    missing = sorted(set(named_weights(model)) - set(listed))
    if missing:
        raise ValueError(f"{missing[0]} is not listed")


def saved_function(directory: Path) -> Callable[[tf.Tensor], Mapping[str, tf.Tensor]]:
    """The SavedModel in an output as any TensorFlow program sees it."""
    return tf.saved_model.load(str(directory / "saved_model"))


def reload(model: keras.Model, directory: Path, form: str) -> keras.Model:
    """The network as one artefact holds it, for the proof that what was written is what was meant.

    Args:
        model: Of the same layers.
        directory: Where `write` wrote.
        form: One of `FORMATS`.
    """
    if form == "saved_model":
        return load(directory)
    return weight_export.read_back(model, directory, form)
