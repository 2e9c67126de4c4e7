"""Batch normalisation folded into convolutions and dense layers, exact at inference.

At inference batch normalisation is an affine function of each channel,

    y = g x + t,    g = gamma / sqrt(variance + epsilon),    t = beta - mean g.

After a convolution without activation it is folded into that layer; after a ReLU, into the next
layer with weights, if all layers between let an affine function pass:

    after:     W[..., i, o] <- W[..., i, o] g[o],    b[o] <- b[o] g[o] + t[o]
    before:    W[..., i, o] <- W[..., i, o] g[i],    b[o] <- b[o] + sum over ..., i of W[..., i, o] t[i]

Reference: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain

# Means over positions, or choices of them: both commute with one affine function for all positions.
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


class _Affine(NamedTuple):
    """y = gain x + shift: one batch normalisation, or several in a row.

    Attributes:
        gain: g, float64 [C].
        shift: t, float64 [C].
        names: Names of the BatchNormalization layers.
        obstacle_back: Why it cannot be folded into the layer before; "" if it can.
    """

    gain: np.ndarray
    shift: np.ndarray
    names: tuple[str, ...]
    obstacle_back: str = ""


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """The same network at inference, without its BatchNormalization layers.

    Args:
        model: A chain that `normalize` would take without its BatchNormalization layers, from image
            [B, H, W, 3].  It is not changed.

    Returns:
        A new keras.Model with the other layers under the same names.  A layer without bias gets one
        if a batch normalisation is folded into it.

    Raises:
        NetworkError: A batch normalisation cannot be folded exactly or is not finite, or another
            layer is not rescalable; the message names the layer.
    """
    layers = chain.layers(model)
    others = [layer for layer in layers if not is_batch_norm(layer)]
    # What is assumed below about the other layers holds only in a rescalable chain.
    chain.stages(others)
    changed = _fold(layers)
    fresh = [
        chain.copy_layer(layer, use_bias=True) if layer.name in changed else chain.copy_layer(layer)
        for layer in others
    ]
    folded = chain.assemble(fresh, chain.image_shape(model), model.name)
    for new, old in zip(fresh, others, strict=True):
        if chain.is_weighted(new):
            weights = old.get_weights()
            dtype = weights[0].dtype
            new.set_weights([weight.astype(dtype) for weight in changed.get(old.name, weights)])
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
    """Kernel and bias, float64, of each layer that a batch normalisation is folded into."""
    changed: Weights = {}
    linear: keras.Layer | None = None  # the last layer with weights, if it has no activation
    since: list[keras.Layer] = []  # the other layers after the last one with weights
    pending: _Affine | None = None  # to be folded into the next layer with weights
    for layer in layers:
        if is_batch_norm(layer):
            affine = _read(layer)
            if linear is not None:
                obstacles = [_obstacle_back(between, affine) for between in since]
                affine = affine._replace(obstacle_back=next(filter(None, obstacles), ""))
            if pending is not None:
                pending = _compose(pending, affine)
            elif linear is not None and not affine.obstacle_back:
                changed[linear.name] = _scale_outputs(*_weights(linear, changed), affine)
            else:
                pending = affine
        elif chain.is_weighted(layer):
            if pending is not None:
                _require_unpadded(layer, pending)
                changed[layer.name] = _scale_inputs(*_weights(layer, changed), pending)
            linear = layer if _has_no_activation(layer) else None
            since, pending = [], None
        else:
            since.append(layer)
            obstacle = _obstacle(layer, pending) if pending is not None else None
            if pending is not None and obstacle is not None:
                raise _refusal(pending, obstacle)
    if pending is not None:
        raise _refusal(pending, "no layer with weights")
    return changed


def _read(layer: keras.Layer) -> _Affine:
    """The affine function that a batch normalisation is at inference."""
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
    return _Affine(gain, shift, (layer.name,))


def _compose(first: _Affine, second: _Affine) -> _Affine:
    """Both, one after the other: g2 (g1 x + t1) + t2."""
    shift = first.shift * second.gain + second.shift
    names = first.names + second.names
    return _Affine(
        first.gain * second.gain, shift, names, first.obstacle_back or second.obstacle_back
    )


def _has_no_activation(layer: keras.Layer) -> bool:
    return getattr(layer, "activation", None) is keras.activations.linear


def _weights(layer: keras.Layer, changed: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias as they are so far, float64; zeros if the layer has no bias."""
    if layer.name in changed:
        return changed[layer.name]
    kernel, *bias = (weight.astype(np.float64) for weight in layer.get_weights())
    return kernel, bias[0] if bias else np.zeros(kernel.shape[-1])


def _scale_outputs(
    kernel: np.ndarray, bias: np.ndarray, affine: _Affine
) -> tuple[np.ndarray, np.ndarray]:
    return kernel * affine.gain, bias * affine.gain + affine.shift


def _scale_inputs(
    kernel: np.ndarray, bias: np.ndarray, affine: _Affine
) -> tuple[np.ndarray, np.ndarray]:
    inputs = kernel.shape[-2]
    # Flatten puts channels last: they repeat over positions.
    repeats = inputs // len(affine.gain)
    gain, shift = np.tile(affine.gain, repeats), np.tile(affine.shift, repeats)
    by_input = kernel.reshape(-1, inputs, kernel.shape[-1]).sum(axis=0)
    return kernel * gain[:, None], bias + shift @ by_input


def _require_unpadded(layer: keras.Layer, affine: _Affine) -> None:
    """Raises NetworkError if the layer pads: its zeros stand for y = 0, not for x = 0."""
    pads = isinstance(layer, keras.layers.Conv2D) and layer.padding != "valid"
    if pads and max(layer.kernel_size) > 1 and affine.shift.any():
        raise _refusal(
            affine,
            f"{layer.name!r} pads with zeros (padding={layer.padding!r}), not with the shift",
        )


def _obstacle(layer: keras.Layer, affine: _Affine) -> str | None:
    """Why an affine function does not commute with the layer; None if it does."""
    what = f"{layer.name!r} ({type(layer).__name__})"
    if isinstance(layer, _MAXIMA):
        negative = int((affine.gain < 0).sum())
        # A gain of zero makes the channel constant, and passes too.
        return f"{what} takes maxima, and {negative} gains are negative" if negative else None
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return f"{what} pads with zeros, not with the shift" if affine.shift.any() else None
    if isinstance(layer, (*_TRANSPARENT, keras.layers.Flatten)) or _has_no_activation(layer):
        return None
    return f"{what} stands in between"


def _obstacle_back(layer: keras.Layer, affine: _Affine) -> str | None:
    """The same towards the layer before, whose filters have one gain for all positions."""
    if isinstance(layer, keras.layers.Flatten):
        return f"{layer.name!r} (Flatten) gave each position a line of its own"
    return _obstacle(layer, affine)


def _refusal(affine: _Affine, reason: str) -> NetworkError:
    names = ", ".join(map(repr, affine.names))
    back = f"; nor by what comes before: {affine.obstacle_back}" if affine.obstacle_back else ""
    return NetworkError(
        "Expected batch normalisation that a convolution or dense layer can take up exactly. "
        f"Received: layer {names} (BatchNormalization), not by what follows: {reason}{back}. "
        "Give a network with batch normalisation between each convolution and its ReLU."
    )
