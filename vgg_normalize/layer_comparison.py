"""One layer of two networks: the factor of each filter, and the filters that differ.

With W, b the weights' kernel and bias of a layer, R, c the reference's, and s the factors,

    W[..., i, o] = R[..., i, o] s_in[i] / s[o],    b[o] = c[o] / s[o],

so that the reference's activation is s times the weights'.  The reference's kernel is brought to
the units of the weights' input, G = s_in R, and the factor of a filter is that of least squares
over its kernel, and not negative:

    s = max(<W, G>, 0) / <W, W>,    residual = |s W - G| / |G|.

In these units an input counts as much as it contributes where the weights are normalised.  A
layer without ReLU has s = 1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# A single filter may be off by this many tolerances.  Clustering a kernel to 256 values errs
# equally on all its filters, so that small ones are farther off than their layer: by 2.1 % where
# the layer is by 0.8 %.
FILTER_TOLERANCES = 3.0
# A bias counts as at least this share of its filter's kernel: rounding of zero is no difference.
LEAST_BIAS = 1e-3
# Kernels with at least this cosine are taken for each other in hints.
ALIKE = 0.99


@dataclass(frozen=True)
class LayerComparison:
    """The findings on one layer.

    Attributes:
        name: Its name in the weights.
        residual: |s W - G| / |G| over all filters; NaN where no input could be compared.
        bias_residual: |s b - c| / |c| likewise; 1 where only c is zero.
        scale: The factor s of each filter, float64 [C]; 1 where it differs or is unknown.
        differing: Indices of the filters that are not the reference's.
        hint: What the differing filters look like; "" if there are none.
        unknown: Indices of the filters that are dead in both networks (kernel zero, bias not
            positive), so that their factor cannot be known.
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
        """Whether `scale` is the factor of a filter, bool [C]."""
        return ~np.isin(np.arange(len(self.scale)), self.differing + self.unknown)


class LayerPair(NamedTuple):
    """A layer of both networks.

    Attributes:
        rectified: Whether a ReLU follows.
        kernel: W, [positions, in, out].
        bias: b, float64 [out].
        reference_kernel: R, [positions, in, out].
        reference_bias: c, float64 [out].
    """

    rectified: bool
    kernel: np.ndarray
    bias: np.ndarray
    reference_kernel: np.ndarray
    reference_bias: np.ndarray


class _Fit(NamedTuple):
    """The least-squares fit of each filter's kernel, [C] each."""

    factor: np.ndarray  # s; 1 where W is zero
    difference: np.ndarray  # |s W - G|
    norm: np.ndarray  # |G|
    reference_norm: np.ndarray  # |R|, over the inputs that are compared
    is_zero: np.ndarray  # whether W is zero
    reference_is_zero: np.ndarray  # whether G is zero


def compare_layer(
    name: str, pair: LayerPair, inputs: np.ndarray, tolerance: float
) -> LayerComparison:
    """Compare one layer.

    Args:
        name: Its name in the weights.
        pair: The layer of both networks.
        inputs: Factors of its inputs, s_in, [in]; 0 where an input is left out.
        tolerance: Largest residual of a layer.
    """
    fit = _fit(pair, inputs)
    factor, unknown = _constant_filters(pair, fit)
    limit = FILTER_TOLERANCES * tolerance * fit.norm
    one_is_zero = fit.is_zero != fit.reference_is_zero
    kernel_differs = (fit.difference > limit) | (factor <= 0) | one_is_zero
    bias_difference = np.where(unknown, 0, np.abs(factor * pair.bias - pair.reference_bias))
    bias_norm = np.where(unknown, 0, np.abs(pair.reference_bias))
    allowed = tolerance * _bias_unit(bias_norm, fit.reference_norm)
    differs = kernel_differs | (bias_difference > allowed)
    looks = Counter(_looks(pair, fit, inputs, differs & kernel_differs)[differs].tolist())
    return LayerComparison(
        name=name,
        residual=_relative(fit.difference, fit.norm),
        bias_residual=_relative(bias_difference, bias_norm),
        scale=np.where(differs | unknown, 1.0, factor),
        differing=tuple(np.flatnonzero(differs).tolist()),
        hint=", ".join(f"{n} {look}" if len(looks) > 1 else look for look, n in looks.items()),
        unknown=tuple(np.flatnonzero(unknown).tolist()),
    )


def _constant_filters(pair: LayerPair, fit: _Fit) -> tuple[np.ndarray, np.ndarray]:
    """The factors where those of kernels that are zero follow from biases, and which are unknown.

    Behind a ReLU such a filter is a constant, max(b, 0): if both constants are positive, s = c / b;
    if neither is, both filters are dead and s is unknown.
    """
    if not pair.rectified:
        return fit.factor, np.zeros(len(fit.factor), bool)
    constant = fit.is_zero & fit.reference_is_zero
    positive = constant & (pair.bias > 0) & (pair.reference_bias > 0)
    ratio = pair.reference_bias / np.where(positive, pair.bias, 1.0)
    unknown = constant & (pair.bias <= 0) & (pair.reference_bias <= 0)
    return np.where(positive, ratio, fit.factor), unknown


def _bias_unit(bias_norm: np.ndarray, reference_norm: np.ndarray) -> np.ndarray:
    """What a bias difference is measured against: max(|c|, |R| t), t the median of |c| / |R|.

    Args:
        bias_norm: |c|, [C].
        reference_norm: |R|, [C]; filters of norm 0 have no part in the median.
    """
    alive = reference_norm > 0
    typical = np.median(bias_norm[alive] / reference_norm[alive]) if alive.any() else 0
    return np.maximum(bias_norm, reference_norm * max(typical, LEAST_BIAS))


def _fit(pair: LayerPair, inputs: np.ndarray) -> _Fit:
    """Least squares by <W, W>, <W, G> and <G, G>, so that no kernel is copied as float64:

        s = max(<W, G>, 0) / <W, W>,    |s W - G|^2 = s^2 <W, W> - 2 s <W, G> + <G, G>.

    The biases are left out.  Against the exact factors, which the biases of the published network
    give, those of its kernels are off by 0.08 to 0.12 % by layer (root mean square), and with the
    biases as one more entry by 0.07 to 0.12 %; without them a wrong bias spoils no factor.
    """
    compared = np.sign(inputs)

    def inner(left: np.ndarray, right: np.ndarray, input_weights: np.ndarray) -> np.ndarray:
        return np.einsum("pio,pio,i->o", left, right, input_weights, dtype=np.float64)

    w, r = pair.kernel, pair.reference_kernel
    ww, wg = inner(w, w, compared), inner(w, r, inputs)
    gg, rr = inner(r, r, np.square(inputs)), inner(r, r, compared)
    s = np.ones(len(ww))
    if pair.rectified:
        np.divide(np.maximum(wg, 0), ww, out=s, where=ww > 0)
    difference = np.sqrt(np.maximum(s * s * ww - 2 * s * wg + gg, 0))
    return _Fit(s, difference, np.sqrt(gg), np.sqrt(rr), ww == 0, gg == 0)


def _relative(difference: np.ndarray, norm: np.ndarray) -> float:
    """The norm of differences over that of the whole; 1 where only the whole is zero."""
    numerator, whole = float(np.linalg.norm(difference)), float(np.linalg.norm(norm))
    return numerator / whole if whole else float(numerator > 0)


def _looks(
    pair: LayerPair, fit: _Fit, inputs: np.ndarray, kernel_differs: np.ndarray
) -> np.ndarray:
    """What each differing filter looks like, given those whose kernels differ, [C] strings."""
    looks = np.full(len(kernel_differs), "another bias", object)
    looks[kernel_differs & fit.is_zero] = "zero in weights"
    looks[kernel_differs & fit.reference_is_zero] = "zero in the reference"
    others = np.flatnonzero(kernel_differs & ~fit.is_zero & ~fit.reference_is_zero)
    if not len(others):
        return looks
    directions = _directions(pair.kernel[..., others], np.sign(inputs))
    cosines = directions.T @ _directions(pair.reference_kernel[..., others], inputs)
    own = np.diagonal(cosines)
    near = "nearly the reference's" if pair.rectified else "rescaled without a ReLU"
    looks[others] = np.select([own < -ALIKE, own > ALIKE], ["negated", near], "other kernels")
    unlike = np.flatnonzero(np.abs(own) <= ALIKE)
    among = cosines[np.ix_(unlike, unlike)]
    nearest = among.argmax(1) if len(unlike) else unlike
    # A permutation: each filter has a counterpart, and no two of them the same.
    if len(unlike) and among.max(1).min() > ALIKE and len(set(nearest)) == len(unlike):
        filters = others[unlike]
        match = filters[nearest[0]]
        looks[filters] = f"permuted: filter {filters[0]} is the reference's {match}"
    return looks


def _directions(kernel: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Filters of norm one, [positions * in, C], float32."""
    scaled = kernel * (inputs / inputs.max()).astype(np.float32)[:, None]
    flat = scaled.reshape(kernel.shape[0] * kernel.shape[1], -1)
    return flat / np.linalg.norm(flat, axis=0)
