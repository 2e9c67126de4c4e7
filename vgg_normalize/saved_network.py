"""Writing a network for others in all formats, and reading it back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from vgg_normalize import onnx_files
from vgg_normalize.errors import Error, NetworkError, OutputError
from vgg_normalize.means import Means
from vgg_normalize.networks import borders as borders  # registers its layer, for `load`
from vgg_normalize.networks import chain
from vgg_normalize.saved_model import write_saved_model
from vgg_normalize.weights import exporting
from vgg_normalize.weights.exporting import (
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
        model: A network that `normalize` returned.
        means: The means that it was normalised with; they are stored in `assets/means.json`.
        directory: Directory to make; it must not exist.
        formats: Any of "saved_model", "h5" (for keras.applications), "npz" and "safetensors" (for
            PyTorch and JAX), "adain" (for the `net.vgg` of AdaIN in PyTorch), and "onnx" (for ONNX
            Runtime; needs the extra [onnx]).
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
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise _cannot_write(directory, error) from error
    try:
        write(model, means, temporary, formats=formats, settings=settings or {})
        means.save(temporary / "means.npz")
        temporary.chmod(0o755)
        os.rename(temporary, directory)
    except OSError as error:
        raise _cannot_write(directory, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(
    model: keras.Model,
    means: Means,
    directory: Path,
    *,
    formats: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Write the artefacts into an existing directory; the arguments are those of `save`.

    Raises:
        OutputError: A format is unknown, or a file cannot be written.
        NetworkError: A format cannot hold this network.
    """
    unknown = [form for form in formats if form not in FORMATS]
    if unknown:
        raise OutputError(
            f"Expected formats of {', '.join(FORMATS)}. Received: {', '.join(unknown)}. "
            "Choose from these."
        )
    writers: dict[str, Callable[[Path], None]] = {
        "saved_model": lambda path: write_saved_model(model, means, path, settings),
        "h5": lambda path: exporting.write_h5(model, path),
        "npz": lambda path: exporting.write_npz(model, path),
        "safetensors": lambda path: exporting.write_safetensors(
            named_weights(model), path, settings
        ),
        "adain": lambda path: exporting.write_safetensors(adain_tensors(model), path, settings),
        "onnx": lambda path: onnx_files.write_features(model, path),
    }
    require_formats(model, formats)
    for form in formats:
        try:
            writers[form](directory / file_name(model, form))
        except Error:
            raise
        except (OSError, RuntimeError, tf.errors.OpError) as error:  # h5py raises RuntimeError
            raise _cannot_write(directory / file_name(model, form), error) from error


def _cannot_write(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return OutputError(
        f"Expected to write {path}. Received: {' '.join(str(reason).split())[:200]}. "
        "Make room or choose another `output`."
    )


def load(directory: str | os.PathLike[str]) -> keras.Model:
    """Read a network that `save` or the command line wrote, as a keras.Model again.

    Args:
        directory: The output directory, or the `saved_model` within it.

    Raises:
        NetworkError: There is no network in it, or it is damaged.
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
    """Raises ValueError if the list leaves a weight out, which would keep its random values."""
    missing = sorted(set(named_weights(model)) - set(listed))
    if missing:
        raise ValueError(f"{missing[0]} is not listed")


def saved_function(directory: Path) -> Callable[[tf.Tensor], Mapping[str, tf.Tensor]]:
    """The SavedModel in an output directory, as any TensorFlow program sees it."""
    return tf.saved_model.load(str(directory / "saved_model"))


def reload(model: keras.Model, directory: Path, form: str) -> keras.Model:
    """The network as one artefact holds it, for the check that the right weights were written.

    Args:
        model: A network of the same layers.
        directory: Directory that `write` wrote into.
        form: One of `FORMATS`, but not "onnx", which is run and not read: see `onnx_files`.
    """
    if form == "saved_model":
        return load(directory)
    return exporting.read_back(model, directory, form)
