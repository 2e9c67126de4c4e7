"""ONNX files: written by Keras' exporter, run by ONNX Runtime, and compared with what was meant."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize.networks import chain
from vgg_normalize.runtime.extras import require_extras
from vgg_normalize.weights.exporting import named_weights

# Largest difference of a layer's features between ONNX Runtime and TensorFlow, over the largest
# feature: both compute in float32, but sum in other orders.
TOLERANCE = 1e-4


def write(model: keras.Model, inputs: Mapping[str, tf.TensorSpec], path: Path) -> None:
    """Write a model as an ONNX file, whose outputs are named as the model's.

    Args:
        model: A model that gives a dict.
        inputs: Shape of each input by name, in the model's order; None where any size will do.
        path: The file to write.

    Raises:
        UsageError: The packages of the extra [onnx] are missing.
    """
    require_extras(["onnx"])
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()]
    # One input is a positional argument of the model; several are a dict, as the model takes them.
    signature: list[Any] = specs if len(specs) == 1 else [dict(zip(inputs, specs, strict=True))]
    with _quiet():
        model.export(path, format="onnx", verbose=False, input_signature=signature)
    _name_axes(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tf2onnx's account of its passes, and without Keras' and NumPy's about each other."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_axes(path: Path) -> None:
    """Name the free axes, content_height in place of unk__474, for those who look at the file."""
    import onnx

    proto = onnx.load(path)
    for value in (*proto.graph.input, *proto.graph.output):
        axes = value.type.tensor_type.shape.dim
        names = ("batch", "height", "width", "channels") if len(axes) == 4 else ("batch", "size")
        for axis, name in zip(axes, names, strict=False):
            if axis.dim_param:
                axis.dim_param = f"{value.name}_{name}"
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def features_of(model: keras.Model) -> keras.Model:
    """A chain as a model from `image` to the features of every layer with weights, by name."""
    return chain.features(model, [stage.layer.name for stage in chain.stages(model)])


def write_features(model: keras.Model, path: Path) -> None:
    """Write a chain as an ONNX file: `image` [B, H, W, 3] in [0, 1] -> the features of every layer.

    Args:
        model: A chain.
        path: The file to write.

    Raises:
        UsageError: The packages of the extra [onnx] are missing.
    """
    image = tf.TensorSpec([None, *chain.image_shape(model)], tf.float32)
    write(features_of(model), {"image": image}, path)


def run(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes on the CPU, by the name of each output.

    Args:
        path: An ONNX file.
        inputs: Array of each input by name.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def worst_difference(path: Path, model: keras.Model, images: np.ndarray) -> float:
    """How far a file of `write_features` is from its network on these images.

    Args:
        path: The file.
        model: The chain that was written.
        images: [B, H, W, 3] in [0, 1].

    Returns:
        The largest max |f - g| / max |g| of all layers, f the features that ONNX Runtime computes
        and g the network's; infinite where a layer is missing or has another shape.
    """
    expected = {name: np.asarray(array) for name, array in features_of(model)(images).items()}
    found = run(path, {"image": images})
    if [(n, a.shape) for n, a in found.items()] != [(n, a.shape) for n, a in expected.items()]:
        return float("inf")
    return max(
        float(np.abs(found[name] - array).max() / max(np.abs(array).max(), np.finfo("f").tiny))
        for name, array in expected.items()
    )


def missing_weights(path: Path, model: keras.Model) -> list[str]:
    """Names of the weights whose bits an ONNX file does not hold.

    Outputs alone do not prove the weights of a filter that does not fire on the images compared.
    """
    import onnx
    from onnx import numpy_helper

    stored = {_digest(numpy_helper.to_array(array)) for array in onnx.load(path).graph.initializer}
    return [
        name
        for name, array in named_weights(model).items()
        # A bias of zeros is left out; ONNX's kernels are [out, in, h, w].
        if array.any()
        and _digest(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array) not in stored
    ]


def _digest(array: np.ndarray) -> tuple[Sequence[int], bytes]:
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
