"""A preconditioner for pictures: it learns the curvature of each frequency and colour.

The losses see edges far more than slow gradients, and some colours more than others, so the Hessian
A is far from a multiple of the identity; but it is nearly diagonal in frequency.  Let s and y be
recent differences of the picture and of the gradient, s^(f) and y^(f) [C] their Fourier transforms
at frequency f.  In each band b of frequencies, covariances [C, C] over colours are

    S_b = sum over f in b of Re s^(f) s^(f)^H / (H W),    Y_b likewise of y,

averaged over the pairs as S <- 0.8 S + 0.2 S_b / (s.y).  If y = A s there, then A S A = Y; the one
symmetric positive definite solution gives the band's block of P,

    P = A^-1 = Y^-1/2 (Y^1/2 S Y^1/2)^1/2 Y^-1/2,

the geometric mean of S and Y^-1.  P of a picture multiplies each of its frequencies by the block of
its band.  Until some pairs are known, frequency f is multiplied by 1 / max(f, f0)^2a, which is
optimising in Fourier space with steps scaled by 1 / max(f, f0)^a; f0 is one cycle over the longer
side.

P being the geometric mean is ours; for quasi-Newton matrices by spectra see the diagonal scalings
of Gilbert and Lemarechal, "Some numerical experiments with variable-storage quasi-Newton
algorithms", Mathematical Programming 1989.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from style.optimizers.base import Preconditioner

# Bands of frequency, spaced evenly in log f.
BANDS = 24
# Share of the past that is kept at each new pair.
DECAY = 0.8
# Pairs after which what was learnt is used.
WARM_UP = 3
# Added to the covariances, relative to their traces: a colour that never moved stays solvable.
RIDGE = 1e-6


class PreconditionerState(NamedTuple):
    """What has been learnt.

    Attributes:
        pair_count: How many pairs were seen.
        s_covariance: S in each band, [bands, C, C].
        y_covariance: Y in each band, [bands, C, C].
        inverse_hessian: P in each band, [bands, C, C].
    """

    pair_count: tf.Tensor
    s_covariance: tf.Tensor
    y_covariance: tf.Tensor
    inverse_hessian: tf.Tensor


class _Spectrum(NamedTuple):
    """The half plane of frequencies of a real transform, F = H (W // 2 + 1) of them, and its bands.

    Attributes:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        band: The band of each frequency, int32 [F].
        band_count: How many bands.
        weight: What each frequency counts in sums over a band, float64 [F].
    """

    height: int
    width: int
    band: tf.Tensor
    band_count: int
    weight: np.ndarray

    def transform(self, x: tf.Tensor) -> list[tf.Tensor]:
        """x^(f) of a picture [1, H, W, C]: for each colour complex [F]."""
        transform = tf.signal.rfft2d(tf.transpose(x[0], [2, 0, 1]))
        return tf.unstack(tf.reshape(transform, [x.shape[-1], -1]))

    def inverse(self, planes: list[tf.Tensor]) -> tf.Tensor:
        """The picture [1, H, W, C] of such a transform."""
        transform = tf.reshape(tf.stack(planes), [len(planes), self.height, self.width // 2 + 1])
        return tf.transpose(tf.signal.irfft2d(transform, [self.height, self.width]), [1, 2, 0])[
            None
        ]

    def covariances(self, x: tf.Tensor) -> tf.Tensor:
        """Sums over each band of Re x^(f) x^(f)^H / (H W), [bands, C, C]."""
        planes = self.transform(x)
        with tf.init_scope():  # outside the graph, which only refers to it
            weight = tf.constant(self.weight, x.dtype)
        sums = {}
        for i, a in enumerate(planes):
            for j, b in enumerate(planes[: i + 1]):
                product = tf.math.real(a) * tf.math.real(b) + tf.math.imag(a) * tf.math.imag(b)
                sums[i, j] = sums[j, i] = tf.math.unsorted_segment_sum(
                    weight * product, self.band, self.band_count
                )
        channels = range(len(planes))
        return tf.stack([tf.stack([sums[i, j] for j in channels], -1) for i in channels], -1)

    def multiply(self, blocks: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Each frequency of a picture multiplied by its band's block [C, C]."""
        planes = self.transform(x)
        products = []
        for i in range(len(planes)):
            mixed = tf.zeros_like(planes[0])
            for j, plane in enumerate(planes):
                mixed += plane * tf.cast(tf.gather(blocks[:, i, j], self.band), plane.dtype)
            products.append(mixed)
        return self.inverse(products)


def frequencies(height: int, width: int) -> np.ndarray:
    """|f| in cycles a pixel on the half plane of a real transform, at least one over the longer
    side, [H, W // 2 + 1]."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    return np.maximum(frequency, 1 / max(height, width))


def bands(height: int, width: int) -> np.ndarray:
    """The band of each frequency, [H, W // 2 + 1], from 0 (slowest) up; none is empty."""
    frequency = frequencies(height, width)
    edges = np.geomspace(frequency.min(), frequency.max() * (1 + 1e-9), BANDS + 1)
    numbers = np.digitize(frequency, edges[1:-1])
    return np.unique(numbers, return_inverse=True)[1].reshape(frequency.shape)


def preconditioner(
    height: int, width: int, *, exponent: float = 0.25, learn: bool = True
) -> Preconditioner:
    """P for pictures [1, H, W, C]; symmetric and positive definite at any time.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        exponent: a of the start, 1 / f^2a in frequency f; 0 is the identity.
        learn: Whether to learn from pairs.
    """
    spectrum = _spectrum(height, width)
    start = _power_law(height, width, exponent)

    def init(x: tf.Tensor) -> PreconditionerState:
        channels = x.shape[-1]
        zeros = tf.zeros([spectrum.band_count, channels, channels], x.dtype)
        inverse_hessian = start[:, None, None] * np.eye(channels)
        return PreconditionerState(
            tf.constant(0), zeros, zeros, tf.constant(inverse_hessian, x.dtype)
        )

    def update(
        state: PreconditionerState, s: tf.Tensor, y: tf.Tensor
    ) -> tuple[PreconditionerState, tf.Tensor]:
        y_covariance = spectrum.covariances(y)
        if learn:
            state = _learn(state, tf.reduce_sum(s * y), spectrum.covariances(s), y_covariance)
        # s.y / y.P y, by Parseval as a sum over bands.
        gamma = tf.reduce_sum(s * y) / tf.reduce_sum(state.inverse_hessian * y_covariance)
        # What was learnt has a scale already: the geometric mean of 1 and of Nocedal and Wright's.
        return state, tf.where(state.pair_count > WARM_UP, tf.sqrt(gamma), gamma)

    def apply(state: PreconditionerState, gradient: tf.Tensor) -> tf.Tensor:
        return spectrum.multiply(state.inverse_hessian, gradient)

    return Preconditioner(init, update, apply)


def _spectrum(height: int, width: int) -> _Spectrum:
    band = bands(height, width)
    # A column of the half plane stands for its mirror image too, but for the first and, of an even
    # width, the last.  With these weights band sums of |x^|^2 add up to x.x (Parseval).
    mirrored = np.full(band.shape, 2.0)
    mirrored[:, 0] = 1
    if width % 2 == 0:
        mirrored[:, -1] = 1
    return _Spectrum(
        height,
        width,
        tf.constant(band.ravel(), tf.int32),
        int(band.max()) + 1,
        mirrored.ravel() / (height * width),
    )


def _power_law(height: int, width: int, exponent: float) -> np.ndarray:
    """The mean of 1 / f^2a over each band, divided by the mean of these, [bands]."""
    band = bands(height, width).ravel()
    power = frequencies(height, width) ** (-2 * exponent)
    means = np.bincount(band, power.ravel()) / np.bincount(band)
    return means / means.mean()


def _learn(
    state: PreconditionerState,
    curvature: tf.Tensor,
    s_covariance: tf.Tensor,
    y_covariance: tf.Tensor,
) -> PreconditionerState:
    """The state after one more pair, of curvature s.y."""
    # Divided by s.y every pair counts the same, however long its step was.
    curvature = tf.where(curvature > 0, curvature, tf.ones_like(curvature))
    first = tf.cast(state.pair_count == 0, curvature.dtype)
    keep = DECAY * (1 - first)
    s_mean = keep * state.s_covariance + (1 - keep) * s_covariance / curvature
    y_mean = keep * state.y_covariance + (1 - keep) * y_covariance / curvature
    pair_count = state.pair_count + 1
    # Eigenvalues of what is not finite raise; then nothing is learnt.
    finite = tf.reduce_all(tf.math.is_finite(s_mean) & tf.math.is_finite(y_mean))
    exact = [tf.cast(tf.where(finite, mean, 0), tf.float64) for mean in (s_mean, y_mean)]
    learnt = tf.cast(solve(*exact), curvature.dtype)
    usable = finite & (pair_count > WARM_UP) & tf.reduce_all(tf.math.is_finite(learnt))
    inverse_hessian = tf.where(usable, learnt, state.inverse_hessian)
    return PreconditionerState(pair_count, s_mean, y_mean, inverse_hessian)


def solve(s_covariance: tf.Tensor, y_covariance: tf.Tensor) -> tf.Tensor:
    """The symmetric positive definite P with P Y P = S for each band, [bands, C, C]:

    P = Y^-1/2 (Y^1/2 S Y^1/2)^1/2 Y^-1/2.
    """
    root, inverse_root = _roots(_ridged(y_covariance))
    middle, _ = _roots(tf.matmul(root, tf.matmul(_ridged(s_covariance), root)))
    solution = tf.matmul(inverse_root, tf.matmul(middle, inverse_root))
    return (solution + tf.linalg.matrix_transpose(solution)) / 2


def _ridged(matrix: tf.Tensor) -> tf.Tensor:
    """A + 1e-6 tr(A) I, or A + 1e-6 I where the trace is 0."""
    eye = tf.eye(matrix.shape[-1], dtype=matrix.dtype)
    trace = tf.linalg.trace(matrix)[:, None, None]
    return matrix + RIDGE * tf.where(trace > 0, trace, tf.ones_like(trace)) * eye


def _roots(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A^1/2 and A^-1/2 of symmetric positive definite matrices A [bands, C, C]."""
    values, vectors = tf.linalg.eigh(matrix)
    roots = tf.sqrt(tf.maximum(values, 1e-12 * values[:, -1:]))[:, None, :]
    return (
        tf.matmul(vectors * roots, vectors, transpose_b=True),
        tf.matmul(vectors / roots, vectors, transpose_b=True),
    )
