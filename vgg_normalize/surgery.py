"""The surgery: divide each filter by its scale, and undo the scales of its input.

    W *= input_scales[None, None, :, None];  b /= scales;  W /= scales[None, None, None, :]

ReLU(x / s) = ReLU(x) / s for s > 0, and max and average pooling pass positive scales through, so
each activation becomes its original divided by its scale, and the last layer's output is
unchanged.

Reference: Gatys, Ecker and Bethge, CVPR 2016, section 2.
"""

from __future__ import annotations

import keras
import numpy as np

from vgg_normalize import chain
from vgg_normalize.errors import NetworkError
from vgg_normalize.means import Means


def rescale(
    kernel: np.ndarray, bias: np.ndarray | None, scales: np.ndarray, input_scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """The three lines, computed in float64.

    Args:
        kernel: [h, w, in, out], or [in, out] of a dense layer.
        bias: [out], or None.
        scales: What this layer's activations are divided by, [out], positive.
        input_scales: What its input was divided by, [in].

    Returns:
        Kernel and bias, float64.
    """
    kernel = kernel.astype(np.float64) * input_scales[:, None] / scales
    return kernel, None if bias is None else bias.astype(np.float64) / scales


def normalize(model: keras.Model, means: Means) -> keras.Model:
    """A new network whose filters have mean activation one, and whose output is the same.

    Args:
        model: Any chain of Conv2D or Dense + ReLU + pooling (max, average, global), Flatten,
            Dropout and zero padding.  It is left as it was.
        means: Channel means of this network.  A dead filter (mean 0) keeps scale 1; so does a
            layer without ReLU.

    Returns:
        A keras.Model with the same layers under the same names.

    Raises:
        NetworkError: The network is not rescalable (the layer is named), or the means are not
            this network's.
    """
    stages = chain.stages(model)
    require_fitting(means, stages)
    normal = chain.copy(model)
    input_scales = np.ones(1)
    for stage in stages:
        layer = normal.get_layer(stage.layer.name)
        kernel, *bias = (np.asarray(weight) for weight in layer.get_weights())
        inputs, outputs = kernel.shape[-2:]
        scales = means.scales(layer.name) if stage.rectified else np.ones(outputs)
        # Flatten puts channels last, so an input's scales repeat over positions; and the one
        # scale of the image itself stands for all its channels.
        repeated = np.tile(input_scales, inputs // len(input_scales))
        rescaled, offset = rescale(kernel, bias[0] if bias else None, scales, repeated)
        weights = [rescaled] if offset is None else [rescaled, offset]
        layer.set_weights([weight.astype(kernel.dtype) for weight in weights])
        input_scales = scales
    return normal


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
