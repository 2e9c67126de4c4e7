"""The comparison: whether two networks are the same up to a positive factor for each filter.

Layers are matched in order and compared one by one (see `layer_comparison`).  The input factors of
a layer are the factors s of the layer before; after Flatten they repeat over positions, channel
fastest.  Only weights are compared: no strides, no padding, no pooling.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vgg_normalize.errors import NetworkError
from vgg_normalize.layer_comparison import (
    FILTER_TOLERANCES,
    LayerPair,
    compare_layer,
)
from vgg_normalize.layer_comparison import LayerComparison as LayerComparison
from vgg_normalize.means import Means
from vgg_normalize.networks import chain
from vgg_normalize.weights import loading

# The verdict lists at most this many differing filters.
SHOWN = 8


@dataclass(frozen=True)
class Comparison:
    """The findings on two networks.

    Attributes:
        same: Whether they are the same up to scales.
        sentence: The verdict in one sentence.
        layers: The findings by layer, as far as the layers have the same shapes.
        tolerance: Largest residual of a layer that counts as the same.
    """

    same: bool
    sentence: str
    layers: tuple[LayerComparison, ...]
    tolerance: float = 0.02

    def save_scales(self, path: str | os.PathLike[str]) -> None:
        """Write the factors as an .npz file, `<layer>/scale`, float64 [C]."""
        scales: dict[str, Any] = {f"{layer.name}/scale": layer.scale for layer in self.layers}
        with Path(path).open("wb") as file:
            np.savez(file, **scales)


def compare(model: keras.Model, reference: keras.Model, *, tolerance: float = 0.02) -> Comparison:
    """Whether one network is the other with each filter divided by a positive factor.

    They are the same when they have equally many layers of the same shapes, each layer's residual
    is at most `tolerance`, and no filter differs.  A filter differs when

        - its own residual is above 3 times `tolerance`, or its factor is not positive,
        - its kernel is zero in one network only, or
        - |s b - c| > tolerance max(|c|, |R| t), t the median of |c| / |R| over filters, or 0.001:
          the bias is off by much both of itself and of what is typical of the layer, where the
          kernel's norm stands for the size of the activation, and changes with the factor.

    Inputs from filters that differ, or whose factor is unknown, are left out of the next layer.

    Args:
        model: A chain, called "weights" in the verdict.
        reference: The chain that it may have been made of.
        tolerance: Largest residual of a layer, relative to its kernel's norm.

    Raises:
        NetworkError: A network is not a chain through which scales pass, or not finite.
    """
    stages, reference_stages = chain.stages(model), chain.stages(reference)
    for network in (model, reference):
        loading.require_finite_model(network)
    layers, mismatch = _compare_layers(stages, reference_stages, tolerance)
    mismatch = mismatch or _extra_layers(stages, reference_stages)
    within = all(layer.residual <= tolerance and not layer.differing for layer in layers)
    if mismatch:
        before = f"; the layers before it are {'' if within else 'not '}the same up to scales"
        sentence = f"Not the same network: {mismatch}{before if layers else ''}."
    else:
        sentence = _same(layers) if within else _not_same(layers, tolerance)
    return Comparison(within and not mismatch, sentence, tuple(layers), tolerance)


def _compare_layers(
    stages: list[chain.Stage], reference_stages: list[chain.Stage], tolerance: float
) -> tuple[list[LayerComparison], str]:
    """The findings by layer, and why the next layer cannot be compared, or ""."""
    layers: list[LayerComparison] = []
    scales, known = np.ones(1), np.ones(1, bool)
    for stage, reference in zip(stages, reference_stages, strict=False):
        mismatch = _mismatch(stage, reference)
        if mismatch:
            return layers, mismatch
        name = stage.layer.name
        inputs, outputs = stage.layer.kernel.shape[-2:]
        if not known.any() and layers[-1].differing:
            hint = f"not comparable, because every filter of {layers[-1].name} differs or is dead"
            every, ones = tuple(range(outputs)), np.ones(outputs)
            layer = LayerComparison(name, np.nan, np.nan, ones, every, hint)
        else:
            factors = np.tile(scales * known, inputs // len(scales))
            layer = compare_layer(name, _pair(stage, reference), factors, tolerance)
        layers.append(layer)
        scales, known = layer.scale, layer.known
    return layers, ""


def _pair(stage: chain.Stage, reference: chain.Stage) -> LayerPair:
    arrays: list[np.ndarray] = []
    for layer in (stage.layer, reference.layer):
        kernel, *bias = (np.asarray(weight) for weight in layer.get_weights())
        arrays.append(kernel.reshape(-1, *kernel.shape[-2:]))
        arrays.append(bias[0].astype(np.float64) if bias else np.zeros(kernel.shape[-1]))
    return LayerPair(stage.rectified, *arrays)


def _mismatch(stage: chain.Stage, reference: chain.Stage) -> str:
    """Why the layers cannot be compared, or ""."""
    name = stage.layer.name
    shape, reference_shape = (
        "x".join(map(str, side.layer.kernel.shape)) for side in (stage, reference)
    )
    if shape != reference_shape:
        return f"{name} has a kernel of {shape}, and of {reference_shape} in the reference"
    if stage.rectified != reference.rectified:
        return f"{name} has a ReLU in {'weights' if stage.rectified else 'the reference'} only"
    return ""


def _extra_layers(stages: list[chain.Stage], reference_stages: list[chain.Stage]) -> str:
    """The first layer that only the longer of two networks has, or ""."""
    count, reference_count = len(stages), len(reference_stages)
    if count == reference_count:
        return ""
    longer = count > reference_count
    extra = stages[reference_count] if longer else reference_stages[count]
    return (
        f"weights have {count} layers and the reference {reference_count}, {extra.layer.name} in "
        f"{'weights' if longer else 'the reference'} only"
    )


def _same(layers: list[LayerComparison]) -> str:
    """The verdict on networks that are the same."""
    residuals = [layer.residual for layer in layers]
    factors = np.concatenate([layer.scale[layer.known] for layer in layers])
    span = f", factors {factors.min():.3g} to {factors.max():.3g}" if len(factors) else ""
    count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
    residual_span = f"residuals {min(residuals):.4f} to {max(residuals):.4f}"
    return f"The same network up to scales: {count}, {residual_span}{span}."


def _not_same(layers: list[LayerComparison], tolerance: float) -> str:
    """The verdict on networks of the same shapes that are not the same."""
    first = next(layer for layer in layers if layer.differing or layer.residual > tolerance)
    if first.differing:
        more = ", ..." if len(first.differing) > SHOWN else ""
        filters = ", ".join(map(str, first.differing[:SHOWN])) + more
        return (
            f"Not the same network: {first.name} differs in {len(first.differing)} of "
            f"{len(first.scale)} filters ({filters}): {first.hint}."
        )
    return (
        f"Not the same network: {first.name} is off by {first.residual:.4f} of its kernel's norm "
        f"(at most {tolerance:g}), though no filter by {FILTER_TOLERANCES:g} times as much."
    )


def compare_means(means: Means, comparison: Comparison) -> list[dict[str, Any]]:
    """How well means of the reference agree with the factors, layer by layer.

    Over the living filters whose factor is known and whose standard error is positive and finite,
    with m, e a filter's mean and standard error and d = (m - s) / e:

        ratio                 average and standard deviation of m / s
        log_correlation       Pearson's, of log m and log s
        rms_standard_errors   root mean square of d
        rms_about_average     that of d less its average

    A value that cannot be computed is None.

    Raises:
        NetworkError: The means are of other layers, or of another number of filters.
    """
    layers = [layer for layer in comparison.layers if layer.name in means.mean]
    widths = {layer.name: len(layer.scale) for layer in layers or comparison.layers}
    received = {
        name: len(mean) for name, mean in means.mean.items() if name in widths or not layers
    }
    if widths and widths != received:
        differing = sorted(widths.items() ^ received.items())
        raise NetworkError(
            f"Expected means of the {len(widths)} layers compared. Received: others, or of another "
            f"number of filters ({differing[:3]}). Use means of the reference."
        )
    rows = []
    for layer in layers:
        mean, error = means.mean[layer.name], means.standard_error[layer.name]
        used = layer.known & (mean > 0) & np.isfinite(mean) & (error > 0) & np.isfinite(error)
        rows.append({"name": layer.name, **_agreement(mean[used], error[used], layer.scale[used])})
    return rows


def _agreement(mean: np.ndarray, error: np.ndarray, scale: np.ndarray) -> dict[str, Any]:
    """One row of `compare_means` but its name, from m, e and s, [C] each."""
    keys = ("ratio", "log_correlation", "rms_standard_errors", "rms_about_average")
    if not len(mean):
        return dict.fromkeys(keys)
    ratio, deviation = mean / scale, (mean - scale) / error
    varied = np.ptp(mean) > 0 and np.ptp(scale) > 0
    values = (
        {"mean": float(ratio.mean()), "deviation": float(ratio.std())},
        float(np.corrcoef(np.log(mean), np.log(scale))[0, 1]) if varied else None,
        float(np.sqrt(np.square(deviation).mean())),
        float(deviation.std()),
    )
    return dict(zip(keys, values, strict=True))


def as_json(
    comparison: Comparison, means_rows: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The findings for report.json; null stands for what could not be computed."""
    content = {
        "same": comparison.same,
        "sentence": comparison.sentence,
        "tolerance": comparison.tolerance,
        "layers": [_entry(layer) for layer in comparison.layers],
    }
    return content if means_rows is None else {**content, "means": means_rows}


def _entry(layer: LayerComparison) -> dict[str, Any]:
    factors = layer.scale[layer.known] if layer.known.any() else np.array([np.nan])
    return {
        "name": layer.name,
        "filters": len(layer.scale),
        "residual": _number(layer.residual),
        "bias_residual": _number(layer.bias_residual),
        "factor": {
            "min": _number(factors.min()),
            "median": _number(np.median(factors)),
            "max": _number(factors.max()),
        },
        "differing": list(layer.differing),
        "hint": layer.hint,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
