"""Rescaling: divide each filter by its scale, and undo the scales of its input.

With scales s of a layer's activations and s_in of its input,

    W[..., i, o] <- W[..., i, o] s_in[i] / s[o],    b[o] <- b[o] / s[o].

ReLU(x / s) = ReLU(x) / s for s > 0, and max and average pooling pass positive scales through, so
each activation becomes its original divided by its scale, and the last layer's output is
unchanged.

Reference: Gatys, Ecker and Bethge, CVPR 2016, section 2.
"""

from __future__ import annotations

import keras
import numpy as np

from vgg_normalize.errors import NetworkError
from vgg_normalize.means import Means
from vgg_normalize.networks import chain


def rescale(
    kernel: np.ndarray, bias: np.ndarray | None, scales: np.ndarray, input_scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel and bias of a layer whose activations are divided by scales.

    Args:
        kernel: Kernel W, [h, w, in, out], or [in, out] of a dense layer.
        bias: Bias b, [out], or None.
        scales: What this layer's activations are to be divided by, s, [out], positive.
        input_scales: What its input has been divided by, s_in, [in].

    Returns:
        Kernel and bias, computed in float64.
    """
    kernel = kernel.astype(np.float64) * input_scales[:, None] / scales
    return kernel, None if bias is None else bias.astype(np.float64) / scales


def normalize(model: keras.Model, means: Means) -> keras.Model:
    """A new network whose filters have mean activation one, and whose output is the same.

    Args:
        model: Any chain of Conv2D or Dense + ReLU + pooling (max, average, global), Flatten,
            Dropout and zero padding.  It is not changed.
        means: Channel means of this network.  A dead filter (mean 0) and a layer without ReLU have
            scale 1.

    Returns:
        A keras.Model with the same layers under the same names.

    Raises:
        NetworkError: The network is not rescalable (the message names the layer), or the means
            are not those of this network.
    """
    require_fitting(means, chain.stages(model))
    normal = chain.copy(model)
    _rescale_all(chain.stages(normal), means)
    return normal


def normalize_in_place(model: keras.Model, means: Means) -> None:
    """What `normalize` does, to the network itself."""
    stages = chain.stages(model)
    require_fitting(means, stages)
    _rescale_all(stages, means)


def _rescale_all(stages: list[chain.Stage], means: Means) -> None:
    input_scales = np.ones(1)
    for stage in stages:
        layer = stage.layer
        kernel, *bias = (np.asarray(weight) for weight in layer.get_weights())
        inputs, outputs = kernel.shape[-2:]
        scales = means.scales(layer.name) if stage.rectified else np.ones(outputs)
        # Flatten puts channels last, so the scales of the input repeat over positions; and the
        # image itself has one scale for all its channels.
        repeated = np.tile(input_scales, inputs // len(input_scales))
        weights = rescale(kernel, bias[0] if bias else None, scales, repeated)
        layer.set_weights([w.astype(kernel.dtype) for w in weights if w is not None])
        input_scales = scales


def require_fitting(means: Means, stages: list[chain.Stage]) -> None:
    """Raises NetworkError unless these are finite, non-negative means of exactly these layers."""
    expected = {
        stage.layer.name: int(stage.layer.get_weights()[0].shape[-1])
        for stage in stages
        if stage.rectified
    }
    received = {name: len(mean) for name, mean in means.mean.items()}
    if list(expected.items()) != list(received.items()):
        differing = sorted(set(expected.items()) ^ set(received.items()))
        raise NetworkError(
            f"Expected means of {len(expected)} layers in the network's order. Received: "
            f"{len(received)}, differing in {differing[:3] or 'order'}. Use means that were "
            "measured on this network."
        )
    for name, mean in means.mean.items():
        if not np.isfinite(mean).all() or (mean < 0).any():
            raise NetworkError(
                "Expected means of activations after ReLU, finite and not negative. Received: "
                f"{name} with {mean[~(np.isfinite(mean) & (mean >= 0))][:3]}. Measure again."
            )
