"""Batch normalisation folded into convolutions and dense layers, exact at inference.

At inference batch normalisation is a line for each channel: y = gain x + shift, with

    gain = gamma / sqrt(variance + epsilon);  shift = beta - mean gain

Behind a convolution without activation it is taken up there (kernel *= gain by output channel,
bias = bias gain + shift); behind a ReLU, by the next layer with weights (kernel *= gain by input
channel, bias += sum of kernel x shift), if all that stands between lets a line pass.

Reference: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from vgg_normalize import chain
from vgg_normalize.errors import NetworkError

# Means over positions, or choices of them: both commute with one line for all positions.
# (Keras' average pooling with padding "same" counts only what is inside the image.)
_TRANSPARENT = (
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
)
_MAXIMA = (keras.layers.MaxPooling2D, keras.layers.GlobalMaxPooling2D)

Weights = dict[str, tuple[np.ndarray, np.ndarray]]


class _Line(NamedTuple):
    """y = gain x + shift by channel, float64 [C]: one batch normalisation, or several in a row."""

    gain: np.ndarray
    shift: np.ndarray
    names: tuple[str, ...]
    # Why the layer before could not take it up.
    back: str = ""


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """The same network at inference, without its BatchNormalization layers.

    Args:
        model: A chain that `normalize` takes but for BatchNormalization layers, from image
            [B, H, W, 3].  It is left as it was.

    Returns:
        A new keras.Model with the other layers under the same names.  A layer without bias that
        takes a batch normalisation up gets one.

    Raises:
        NetworkError: A batch normalisation cannot be folded exactly, or its numbers are not
            finite, or another layer is not rescalable; the message names the layer.
    """
    layers = chain.layers(model)
    kept = [layer for layer in layers if not is_batch_norm(layer)]
    # What is known about the other layers below is only so for those of a rescalable chain.
    chain.stages(kept)
    changed = _fold(layers)
    fresh = [
        chain.copy_layer(layer, use_bias=True) if layer.name in changed else chain.copy_layer(layer)
        for layer in kept
    ]
    folded = chain.assemble(fresh, chain.image_shape(model), model.name)
    for new, old in zip(fresh, kept, strict=True):
        if chain.is_weighted(new):
            weights = old.get_weights()
            kind = weights[0].dtype
            new.set_weights([weight.astype(kind) for weight in changed.get(old.name, weights)])
    return folded


def is_batch_norm(layer: keras.Layer) -> bool:
    """Whether the layer is a batch normalisation."""
    return isinstance(layer, keras.layers.BatchNormalization)


def has_batch_norm(model: keras.Model) -> bool:
    """Whether a chain holds a batch normalisation.

    Raises:
        NetworkError: The model is not a chain.
    """
    return any(is_batch_norm(layer) for layer in chain.layers(model))


def _fold(layers: Sequence[keras.Layer]) -> Weights:
    """Kernel and bias, float64, of each layer that takes a batch normalisation up."""
    changed: Weights = {}
    linear: keras.Layer | None = None  # the last layer with weights, if without activation
    since: list[keras.Layer] = []  # what stands behind the last layer with weights
    waiting: _Line | None = None  # for the next layer with weights
    for layer in layers:
        if is_batch_norm(layer):
            line = _read(layer)
            if linear is not None:
                obstacles = [_obstacle_back(one, line) for one in since]
                line = line._replace(back=next(filter(None, obstacles), ""))
            if waiting is not None:
                waiting = _after(waiting, line)
            elif linear is not None and not line.back:
                changed[linear.name] = _scale_outputs(*_weights(linear, changed), line)
            else:
                waiting = line
        elif chain.is_weighted(layer):
            if waiting is not None:
                _require_unpadded(layer, waiting)
                changed[layer.name] = _scale_inputs(*_weights(layer, changed), waiting)
            linear = layer if _has_no_activation(layer) else None
            since, waiting = [], None
        else:
            since.append(layer)
            obstacle = _obstacle(layer, waiting) if waiting is not None else None
            if waiting is not None and obstacle is not None:
                raise _refusal(waiting, obstacle)
    if waiting is not None:
        raise _refusal(waiting, "no layer with weights")
    return changed


def _read(layer: keras.Layer) -> _Line:
    """What a batch normalisation does at inference."""
    rank = layer.input_spec.ndim
    if layer.axis not in (-1, rank - 1):
        raise NetworkError(
            f"Expected batch normalisation of channels, the last axis. Received: layer "
            f"{layer.name!r} with axis={layer.axis} of {rank}. Build the network channels last."
        )
    numbers = {"moving_mean": layer.moving_mean, "moving_variance": layer.moving_variance}
    numbers |= {"gamma": layer.gamma} if layer.scale else {}
    numbers |= {"beta": layer.beta} if layer.center else {}
    arrays = {name: number.numpy().astype(np.float64) for name, number in numbers.items()}
    for name, array in arrays.items():
        bad = ~np.isfinite(array)
        if name == "moving_variance":
            # With both zero the network itself would divide by zero.
            bad |= (array < 0) | (array + layer.epsilon <= 0)
        if bad.any():
            raise NetworkError(
                "Expected finite batch normalisation with variances that are not negative. "
                f"Received: layer {layer.name!r} with {array[bad][0]} in {name}, epsilon "
                f"{layer.epsilon}. Use weights that were saved before training diverged."
            )
    variance = arrays["moving_variance"]
    gain = arrays.get("gamma", np.ones_like(variance)) / np.sqrt(variance + layer.epsilon)
    shift = arrays.get("beta", np.zeros_like(gain)) - arrays["moving_mean"] * gain
    return _Line(gain, shift, (layer.name,))


def _after(first: _Line, second: _Line) -> _Line:
    """Both, one after the other."""
    shift = first.shift * second.gain + second.shift
    names = first.names + second.names
    return _Line(first.gain * second.gain, shift, names, first.back or second.back)


def _has_no_activation(layer: keras.Layer) -> bool:
    return getattr(layer, "activation", None) is keras.activations.linear


def _weights(layer: keras.Layer, changed: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias as they are so far, float64; zeros for a bias that is not there."""
    if layer.name in changed:
        return changed[layer.name]
    kernel, *bias = (weight.astype(np.float64) for weight in layer.get_weights())
    return kernel, bias[0] if bias else np.zeros(kernel.shape[-1])


def _scale_outputs(
    kernel: np.ndarray, bias: np.ndarray, line: _Line
) -> tuple[np.ndarray, np.ndarray]:
    return kernel * line.gain, bias * line.gain + line.shift


def _scale_inputs(
    kernel: np.ndarray, bias: np.ndarray, line: _Line
) -> tuple[np.ndarray, np.ndarray]:
    inputs = kernel.shape[-2]
    # Flatten puts channels last: they repeat over positions.
    gain, shift = (np.tile(one, inputs // len(one)) for one in (line.gain, line.shift))
    by_input = kernel.reshape(-1, inputs, kernel.shape[-1]).sum(axis=0)
    return kernel * gain[:, None], bias + shift @ by_input


def _require_unpadded(layer: keras.Layer, line: _Line) -> None:
    """The zeros around an image are zeros behind the batch normalisation, not before it."""
    pads = isinstance(layer, keras.layers.Conv2D) and layer.padding != "valid"
    if pads and max(layer.kernel_size) > 1 and line.shift.any():
        raise _refusal(
            line, f"{layer.name!r} pads with zeros (padding={layer.padding!r}), not with the shift"
        )


def _obstacle(layer: keras.Layer, line: _Line) -> str | None:
    """Why a line may not change places with the layer; None if it may."""
    what = f"{layer.name!r} ({type(layer).__name__})"
    if isinstance(layer, _MAXIMA):
        negative = int((line.gain < 0).sum())
        # A gain of zero makes the channel constant, and passes too.
        return f"{what} takes maxima, and {negative} gains are negative" if negative else None
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return f"{what} pads with zeros, not with the shift" if line.shift.any() else None
    if isinstance(layer, (*_TRANSPARENT, keras.layers.Flatten)) or _has_no_activation(layer):
        return None
    return f"{what} stands in between"


def _obstacle_back(layer: keras.Layer, line: _Line) -> str | None:
    """The same towards the layer before, whose filters know nothing of positions."""
    if isinstance(layer, keras.layers.Flatten):
        return f"{layer.name!r} (Flatten) gave each position a line of its own"
    return _obstacle(layer, line)


def _refusal(line: _Line, reason: str) -> NetworkError:
    names = ", ".join(map(repr, line.names))
    back = f"; nor by what comes before: {line.back}" if line.back else ""
    return NetworkError(
        "Expected batch normalisation that a convolution or dense layer can take up exactly. "
        f"Received: layer {names} (BatchNormalization), not by what follows: {reason}{back}. "
        "Give a network with batch normalisation between each convolution and its ReLU."
    )
