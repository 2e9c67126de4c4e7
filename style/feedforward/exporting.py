"""A saved network for other runtimes: ONNX and LiteRT files beside the SavedModel, and their proof.

Each file is the SavedModel's `serving_default`: content and style, or of CIN content and weights, to
an image.  ONNX takes any size.  LiteRT takes one size and one picture: for a free height or width
TensorFlow's converter leaves convolutions of features that were enlarged to operations of
TensorFlow, which LiteRT alone does not have; and a file for one size does not compute right after
`resize_tensor_input`, since sizes have become constants in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style.feedforward.saved_network import ASSET
from style.images import resizing
from vgg_normalize import onnx_files
from vgg_normalize.data import synthetic
from vgg_normalize.errors import (
    Error,
    NetworkError,
    OutputError,
    UsageError,
    VerificationError,
)
from vgg_normalize.runtime.extras import require_extras

FILES = {"onnx": "network.onnx", "litert": "network.tflite"}
# Largest difference from the SavedModel's image, whose range is 1: float32, other orders of sums.
TOLERANCE = 1e-3
# Heights and widths on which a file for any size is proved: content, then style.  Prime sides are no
# multiples of a stride.
_ANY_SIZE = ((67, 83), (97, 71))


def export(directory: Path, form: str, size: int | None) -> Path:
    """Write a network once more, beside its SavedModel.

    Args:
        directory: What `saved_network.save` wrote.
        form: "onnx" or "litert".
        size: Height and width in pixels of contents and styles; None for any (not of "litert").

    Returns:
        The path of the file.

    Raises:
        UsageError: The packages of the format are missing.
        NetworkError: The format cannot hold this network.
        OutputError: The file cannot be written.
    """
    require_extras([form])
    module = tf.saved_model.load(str(directory))
    path = directory / FILES[form]
    try:
        _WRITERS[form](module, size, path)
    except Error:
        raise
    except OSError as error:
        raise OutputError(
            f"Expected to write {path}. Received: {error.strerror or error}. Make room or choose "
            "another `output`."
        ) from error
    except Exception as error:  # the converters raise many kinds
        raise NetworkError(
            f"Expected a network that the format {form} can hold. Received: "
            f"{' '.join(str(error).split())[:200]}. Leave {form} out of `formats`."
        ) from error
    return path


def _specs(function: Any, batch: int | None, size: int | None) -> dict[str, tf.TensorSpec]:
    """The inputs of a signature by name, the content first, for this size."""
    specs = function.structured_input_signature[1]
    return {
        name: tf.TensorSpec(
            [batch, size, size, 3]
            if specs[name].shape.rank == 4
            else [batch, specs[name].shape[-1]],
            tf.float32,
            name=name,
        )
        for name in sorted(specs)
    }


class _Served(keras.layers.Layer):
    """A signature as a layer, since Keras exports Keras' models."""

    def __init__(self, function: Any) -> None:
        super().__init__(trainable=False)
        self._function = function

    def call(self, inputs: dict[str, Any]) -> Any:
        return self._function(**inputs)

    def compute_output_spec(self, inputs: dict[str, Any]) -> Any:
        """An image of the content's size."""
        return {"image": keras.KerasTensor(inputs["content"].shape, "float32")}


def _write_onnx(module: Any, size: int | None, path: Path) -> None:
    function = module.signatures["serving_default"]
    specs = _specs(function, None, size)
    inputs = {
        name: keras.Input(batch_shape=tuple(spec.shape), name=name) for name, spec in specs.items()
    }
    onnx_files.write(keras.Model(inputs, _Served(function)(inputs)), specs, path)


def _write_litert(module: Any, size: int | None, path: Path) -> None:
    """Write a LiteRT file.

    Not by `keras.Model.export(format="litert")`: on its way through a SavedModel the sizes are lost,
    so that even for a fixed size some convolutions stay TensorFlow's (FlexConv2D), which LiteRT does
    not have.  The concrete function keeps them.
    """
    function = module.signatures["serving_default"]
    specs = _specs(function, 1, size)

    @tf.function(input_signature=list(specs.values()), autograph=False)
    def serve(*inputs: tf.Tensor) -> Any:
        return function(**dict(zip(specs, inputs, strict=True)))

    # With the module that holds the variables, else inputs and outputs have no names.
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [serve.get_concrete_function()], module
    )
    path.write_bytes(converter.convert())


_WRITERS: dict[str, Callable[[Any, int | None, Path], None]] = {
    "onnx": _write_onnx,
    "litert": _write_litert,
}


def worst_difference(directory: Path, form: str, size: int | None) -> float:
    """How far a file is from the SavedModel beside it, when its own runtime runs it.

    Args:
        directory: What `export` wrote to.
        form: "onnx" or "litert".
        size: That of `export`.

    Returns:
        The largest difference of a pixel, of a range of 1.  Pictures and styles differ, and with any
        size so do their sizes, which are no multiples of the stride.

    Raises:
        VerificationError: The runtime cannot run the file, or gives an image of another shape.
    """
    module = tf.saved_model.load(str(directory))
    function, path = module.signatures["serving_default"], directory / FILES[form]
    worst = 0.0
    for inputs in _examples(_specs(function, None, None), size, batch=1 if form == "litert" else 2):
        tensors = {name: tf.constant(array) for name, array in inputs.items()}
        expected = function(**tensors)["image"].numpy()
        try:
            image = _RUNNERS[form](path, inputs)["image"]
        except Exception as error:  # the runtimes raise many kinds
            raise VerificationError(
                f"Expected {path.name} to run. Received: {' '.join(str(error).split())[:200]}. Leave "
                f"{form} out of `formats`."
            ) from error
        if image.shape != expected.shape:
            raise VerificationError(
                f"Expected {path.name} to give an image {list(expected.shape)}. Received: "
                f"{list(image.shape)}. Leave {form} out of `formats`."
            )
        worst = max(worst, float(np.abs(image - expected).max()))
    return worst


def _examples(
    specs: dict[str, tf.TensorSpec], size: int | None, *, batch: int
) -> list[dict[str, np.ndarray]]:
    """Two batches of inputs, in which no two pictures and no two rows of weights are alike."""
    shapes = _ANY_SIZE if size is None else ((size, size), (size, size))
    examples = []
    for i in range(2):
        inputs = {}
        for (name, spec), shape in zip(specs.items(), shapes, strict=True):
            first = 2 * batch * i + (0 if name == "content" else batch)
            inputs[name] = np.stack(
                [
                    _picture(first + j, shape)
                    if spec.shape.rank == 4
                    else _row(i + j, spec.shape[-1])
                    for j in range(batch)
                ]
            )
        examples.append(inputs)
    return examples


def _picture(index: int, shape: tuple[int, int]) -> np.ndarray:
    """A picture with natural statistics, [H, W, 3] in [0, 1]."""
    pixels = synthetic.picture(index)[:224, :224].astype(np.float32) / 255
    return np.clip(resizing.resize(pixels, *shape), 0, 1)


def _row(index: int, count: int) -> np.ndarray:
    """Weights of styles, all different; a single one for an even index."""
    row = (
        np.eye(count)[-1] if index % 2 == 0 else np.arange(1, count + 1) / (count * (count + 1) / 2)
    )
    return row.astype(np.float32)


def _run_litert(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner("serving_default")
    return dict(runner(**inputs))


_RUNNERS: dict[str, Callable[[Path, dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "onnx": onnx_files.run,
    "litert": _run_litert,
}


def require_close(form: str, worst: float) -> None:
    """See that a file gives the SavedModel's images.

    Raises:
        VerificationError: It does not.
    """
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"Expected {FILES[form]} to give the SavedModel's images within {TOLERANCE:g}. Received: "
            f"a difference of {worst:.2g}. Leave {form} out of `formats`, or install other versions "
            "of its packages."
        )


def require_size(directory: Path, size: int) -> None:
    """See that a network takes contents and styles of this size.

    Args:
        directory: What `saved_network.save` wrote.
        size: Their height and width in pixels.

    Raises:
        UsageError: It does not.
    """
    description = json.loads((directory / "assets" / ASSET).read_text())
    stride, least = int(description["stride"]), int(description["least_style"])
    if size % stride or size < least:
        raise UsageError(
            f"Expected `export_size` a multiple of {stride}, the stride of this network, of at least "
            f"{least}. Received: {size}. Correct it."
        )
