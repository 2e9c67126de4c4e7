"""The comparison: whether two networks are the same up to a positive factor for each filter.

With W, b the weights' kernel and bias of a layer, R, c the reference's, and s the factors,

    W[..., i, o] = R[..., i, o] s_in[i] / s[o],    b[o] = c[o] / s[o],

so that the reference's activation is s times the weights'.  The input factors s_in are those of
the layer before; after Flatten they repeat over positions, channel fastest.  The reference's
kernel is brought to the units of the weights' input, G = s_in R, and the factor of a filter is
that of least squares over its kernel, and not negative:

    s = max(<W, G>, 0) / <W, W>,    residual = |s W - G| / |G|.

In these units an input counts as much as it contributes where the weights are normalised.  A
layer without ReLU has s = 1.  Only weights are compared: no strides, no padding, no pooling.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from vgg_normalize import chain, weights
from vgg_normalize.errors import NetworkError
from vgg_normalize.means import Means

# A single filter may be off by this many tolerances.  Clustering a kernel to 256 values errs
# equally on all its filters, so that small ones are farther off than their layer: by 2.1 % where
# the layer is by 0.8 %.
FILTER_TOLERANCES = 3.0
# A bias counts as at least this share of its filter's kernel: rounding of zero is no difference.
LEAST_BIAS = 1e-3
# Kernels with at least this cosine are taken for each other in hints.
ALIKE = 0.99
SHOWN = 8


@dataclass(frozen=True)
class LayerComparison:
    """What was found on one layer.

    Attributes:
        name: The weights' name of it.
        residual: |s W - G| / |G| over all filters; NaN where no input could be compared.
        bias_residual: |s b - c| / |c| likewise; 1 where only c is zero.
        scale: The factor s of each filter, float64 [C]; 1 where it differs or is unknown.
        differing: Indices of the filters that are not the reference's.
        hint: What the differing filters look like; "" without any.
        unknown: Indices of the filters that are dead in both, which tells no factor: their kernels
            are zero, their biases not positive.
    """

    name: str
    residual: float
    bias_residual: float
    scale: np.ndarray
    differing: tuple[int, ...]
    hint: str
    unknown: tuple[int, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """Whether `scale` is a factor that was found, [C]."""
        return ~np.isin(np.arange(len(self.scale)), self.differing + self.unknown)


@dataclass(frozen=True)
class Comparison:
    """What was found on two networks; `same` is the verdict, `sentence` says it."""

    same: bool
    sentence: str
    layers: tuple[LayerComparison, ...]
    tolerance: float = 0.02

    def save_scales(self, path: str | os.PathLike[str]) -> None:
        """Write the factors, `<layer>/scale`, as an .npz file."""
        scales: dict[str, Any] = {f"{layer.name}/scale": layer.scale for layer in self.layers}
        with Path(path).open("wb") as file:
            np.savez(file, **scales)


class _Pair(NamedTuple):
    """A layer of both networks, kernels [positions, in, out]."""

    rectified: bool
    kernel: np.ndarray
    bias: np.ndarray
    its_kernel: np.ndarray
    its_bias: np.ndarray


class _Fit(NamedTuple):
    """What each filter's kernel says, [C] each."""

    factor: np.ndarray  # s; 1 where W is zero
    difference: np.ndarray  # |s W - G|
    size: np.ndarray  # |G|
    plain_size: np.ndarray  # |R|
    absent: np.ndarray  # whether W is zero
    its_absent: np.ndarray  # whether G is zero


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
        model: A chain, called "weights" in what is said; layers are matched in order.
        reference: The chain that it may have been made of.
        tolerance: Largest residual of a layer.

    Raises:
        NetworkError: One of them is not a chain through which scales pass, or not finite.
    """
    stages, its_stages = chain.stages(model), chain.stages(reference)
    for network in (model, reference):
        weights.require_finite_model(network)
    found, mismatch = _compare_layers(stages, its_stages, tolerance)
    mismatch = mismatch or _missing(stages, its_stages)
    within = all(layer.residual <= tolerance and not layer.differing for layer in found)
    if mismatch:
        before = f"; the layers before it are {'' if within else 'not '}the same up to scales"
        sentence = f"Not the same network: {mismatch}{before if found else ''}."
    else:
        sentence = _same(found) if within else _not_same(found, tolerance)
    return Comparison(within and not mismatch, sentence, tuple(found), tolerance)


def _compare_layers(
    stages: list[chain.Stage], its_stages: list[chain.Stage], tolerance: float
) -> tuple[list[LayerComparison], str]:
    """The layers as far as they have the same shapes, and why the next has not."""
    found: list[LayerComparison] = []
    scales, known = np.ones(1), np.ones(1, bool)
    for stage, its in zip(stages, its_stages, strict=False):
        mismatch = _mismatch(stage, its)
        if mismatch:
            return found, mismatch
        name = stage.layer.name
        inputs, outputs = stage.layer.kernel.shape[-2:]
        if not known.any() and found[-1].differing:
            hint = f"not comparable, because every filter of {found[-1].name} differs or is dead"
            every, ones = tuple(range(outputs)), np.ones(outputs)
            layer = LayerComparison(name, np.nan, np.nan, ones, every, hint)
        else:
            factors = np.tile(scales * known, inputs // len(scales))
            layer = _compare_layer(name, _pair(stage, its), factors, tolerance)
        found.append(layer)
        scales, known = layer.scale, layer.known
    return found, ""


def _pair(stage: chain.Stage, its: chain.Stage) -> _Pair:
    arrays: list[np.ndarray] = []
    for layer in (stage.layer, its.layer):
        kernel, *bias = (np.asarray(weight) for weight in layer.get_weights())
        arrays.append(kernel.reshape(-1, *kernel.shape[-2:]))
        arrays.append(bias[0].astype(np.float64) if bias else np.zeros(kernel.shape[-1]))
    return _Pair(stage.rectified, *arrays)


def _mismatch(stage: chain.Stage, its: chain.Stage) -> str:
    """Why the layers cannot be compared, or nothing."""
    shape, its_shape = ("x".join(map(str, one.layer.kernel.shape)) for one in (stage, its))
    if shape != its_shape:
        return f"{stage.layer.name} has a kernel of {shape}, and of {its_shape} in the reference"
    where = "weights" if stage.rectified else "the reference"
    same = stage.rectified == its.rectified
    return "" if same else f"{stage.layer.name} has a ReLU in {where} only"


def _missing(stages: list[chain.Stage], its_stages: list[chain.Stage]) -> str:
    """What the longer of two networks has more, or nothing."""
    count, its_count = len(stages), len(its_stages)
    more = stages[its_count:] if count > its_count else its_stages[count:]
    where = "weights" if count > its_count else "the reference"
    counts = f"weights have {count} layers and the reference {its_count}"
    return f"{counts}, {more[0].layer.name} in {where} only" if more else ""


def _compare_layer(name: str, pair: _Pair, inputs: np.ndarray, tolerance: float) -> LayerComparison:
    """Compare one layer, given the factors of its inputs, [in], 0 where they are left out."""
    fit = _fit(pair, inputs)
    factor, unknown = fit.factor, np.zeros(len(fit.factor), bool)
    if pair.rectified:
        zero = fit.absent & fit.its_absent
        told = zero & (pair.bias > 0) & (pair.its_bias > 0)
        factor = np.where(told, pair.its_bias / np.where(told, pair.bias, 1.0), factor)
        # A constant that is not positive is 0 after ReLU, whatever it is.
        unknown = zero & (pair.bias <= 0) & (pair.its_bias <= 0)
    limit = FILTER_TOLERANCES * tolerance * fit.size
    kernel_off = (fit.difference > limit) | (factor <= 0) | (fit.absent != fit.its_absent)
    bias_difference = np.where(unknown, 0, np.abs(factor * pair.bias - pair.its_bias))
    its_bias = np.where(unknown, 0, np.abs(pair.its_bias))
    there = fit.plain_size > 0
    typical = np.median(its_bias[there] / fit.plain_size[there]) if there.any() else 0
    allowed = np.maximum(its_bias, fit.plain_size * max(typical, LEAST_BIAS))
    off = kernel_off | (bias_difference > tolerance * allowed)
    looks = Counter(_looks(pair, fit, inputs, off & kernel_off)[off].tolist())
    return LayerComparison(
        name=name,
        residual=_share(fit.difference, fit.size),
        bias_residual=_share(bias_difference, its_bias),
        scale=np.where(off | unknown, 1.0, factor),
        differing=tuple(np.flatnonzero(off).tolist()),
        hint=", ".join(f"{n} {look}" if len(looks) > 1 else look for look, n in looks.items()),
        unknown=tuple(np.flatnonzero(unknown).tolist()),
    )


def _fit(pair: _Pair, inputs: np.ndarray) -> _Fit:
    """Least squares by <W, W>, <W, G> and <G, G>, so that no kernel is copied as float64.

    The biases are left out.  Against the exact factors, which the biases of the published network
    give, those of its kernels are off by 0.08 to 0.12 % by layer (root mean square), and with the
    biases as one more entry by 0.07 to 0.12 %; without them a wrong bias spoils no factor.
    """
    compared = np.sign(inputs)

    def inner(one: np.ndarray, other: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.einsum("pio,pio,i->o", one, other, counts, dtype=np.float64)

    own = inner(pair.kernel, pair.kernel, compared)
    both = inner(pair.kernel, pair.its_kernel, inputs)
    size = inner(pair.its_kernel, pair.its_kernel, np.square(inputs))
    plain = inner(pair.its_kernel, pair.its_kernel, compared)
    factor = np.ones(len(own))
    if pair.rectified:
        np.divide(np.maximum(both, 0), own, out=factor, where=own > 0)
    difference = np.sqrt(np.maximum(factor * factor * own - 2 * factor * both + size, 0))
    return _Fit(factor, difference, np.sqrt(size), np.sqrt(plain), own == 0, size == 0)


def _share(difference: np.ndarray, size: np.ndarray) -> float:
    """The norm of the one over that of the other; 1 where only the other is zero."""
    apart, whole = float(np.linalg.norm(difference)), float(np.linalg.norm(size))
    return apart / whole if whole else float(apart > 0)


def _looks(pair: _Pair, fit: _Fit, inputs: np.ndarray, off: np.ndarray) -> np.ndarray:
    """What each filter looks like, given those whose kernels are off, [C] strings."""
    looks = np.full(len(off), "another bias", object)
    looks[off & fit.absent] = "zero in weights"
    looks[off & fit.its_absent] = "zero in the reference"
    others = np.flatnonzero(off & ~fit.absent & ~fit.its_absent)
    if not len(others):
        return looks
    weight = _directions(pair.kernel[..., others], np.sign(inputs))
    cosines = weight.T @ _directions(pair.its_kernel[..., others], inputs)
    own = np.diagonal(cosines)
    near = "nearly the reference's" if pair.rectified else "rescaled without a ReLU"
    looks[others] = np.select([own < -ALIKE, own > ALIKE], ["negated", near], "other kernels")
    strange = np.flatnonzero(np.abs(own) <= ALIKE)
    nearest = cosines[np.ix_(strange, strange)]
    if (
        len(strange)
        and nearest.max(1).min() > ALIKE
        and len(set(nearest.argmax(1))) == len(strange)
    ):
        filters = others[strange]
        match = filters[nearest.argmax(1)[0]]
        looks[filters] = f"permuted: filter {filters[0]} is the reference's {match}"
    return looks


def _directions(kernel: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Filters of norm one, [positions * in, C], float32."""
    scaled = kernel * (inputs / inputs.max()).astype(np.float32)[:, None]
    flat = scaled.reshape(kernel.shape[0] * kernel.shape[1], -1)
    return flat / np.linalg.norm(flat, axis=0)


def _same(found: list[LayerComparison]) -> str:
    residuals = [layer.residual for layer in found]
    factors = np.concatenate([layer.scale[layer.known] for layer in found])
    span = f", factors {factors.min():.3g} to {factors.max():.3g}" if len(factors) else ""
    count = f"{len(found)} layer{'s' if len(found) > 1 else ''}"
    what = f"{count}, residuals {min(residuals):.4f} to {max(residuals):.4f}{span}"
    return f"The same network up to scales: {what}."


def _not_same(found: list[LayerComparison], tolerance: float) -> str:
    first = next(one for one in found if one.differing or one.residual > tolerance)
    if first.differing:
        more = ", ..." if len(first.differing) > SHOWN else ""
        shown = ", ".join(map(str, first.differing[:SHOWN])) + more
        what = f"differs in {len(first.differing)} of {len(first.scale)} filters ({shown})"
        return f"Not the same network: {first.name} {what}: {first.hint}."
    return (
        f"Not the same network: {first.name} is off by {first.residual:.4f} of its kernel's norm "
        f"(at most {tolerance:g}), though no filter by {FILTER_TOLERANCES:g} times as much."
    )


def compare_means(means: Means, comparison: Comparison) -> list[dict[str, Any]]:
    """How well means of the reference agree with the factors, a layer at a time.

    Over the living filters whose factor was found and whose standard error is positive and finite,
    with m, e a filter's mean and standard error and d = (m - s) / e:

        ratio                 average and standard deviation of m / s
        log_correlation       Pearson's, of log m and log s
        rms_standard_errors   root mean square of d
        rms_about_average     that of d less its average

    A value that cannot be had is None.

    Raises:
        NetworkError: The means are of other layers, or of another number of filters.
    """
    layers = [layer for layer in comparison.layers if layer.name in means.mean]
    widths = {layer.name: len(layer.scale) for layer in layers or comparison.layers}
    received = {
        name: len(mean) for name, mean in means.mean.items() if name in widths or not layers
    }
    if widths and widths != received:
        apart = sorted(widths.items() ^ received.items())
        raise NetworkError(
            f"Expected means of the {len(widths)} layers compared. Received: others, or of another "
            f"number of filters ({apart[:3]}). Use means of the reference."
        )
    rows = []
    for layer in layers:
        mean, error = means.mean[layer.name], means.standard_error[layer.name]
        used = layer.known & (mean > 0) & np.isfinite(mean) & (error > 0) & np.isfinite(error)
        rows.append({"name": layer.name, **_agreement(mean[used], error[used], layer.scale[used])})
    return rows


def _agreement(mean: np.ndarray, error: np.ndarray, scale: np.ndarray) -> dict[str, Any]:
    keys = ("ratio", "log_correlation", "rms_standard_errors", "rms_about_average")
    if not len(mean):
        return dict.fromkeys(keys)
    ratio, apart = mean / scale, (mean - scale) / error
    varied = np.ptp(mean) > 0 and np.ptp(scale) > 0
    values = (
        {"mean": float(ratio.mean()), "deviation": float(ratio.std())},
        float(np.corrcoef(np.log(mean), np.log(scale))[0, 1]) if varied else None,
        float(np.sqrt(np.square(apart).mean())),
        float(apart.std()),
    )
    return dict(zip(keys, values, strict=True))


def as_json(
    comparison: Comparison, means_rows: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """What was found, for report.json; null stands for what could not be had."""
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
