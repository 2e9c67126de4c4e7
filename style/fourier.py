"""A preconditioner for pictures: it learns the curvature of each frequency and colour.

The losses see edges far more than slow gradients, and some colours more than others, so the Hessian
is far from a multiple of the identity; but it is nearly diagonal in frequency.  In each band of
frequencies let S and Y be the covariances [C, C] over colours of recent differences s of the
picture and y of the gradient.  If y = A s there, then A S A = Y; the one symmetric positive
definite solution gives the band's share of P,

    P = A^-1 = Y^-1/2 (Y^1/2 S Y^1/2)^1/2 Y^-1/2,

the geometric mean of S and Y^-1.  Until some pairs are known, frequency f is multiplied by
1 / max(f, f0)^2a, which is optimising in Fourier space with steps scaled by 1 / max(f, f0)^a.

P being the geometric mean is ours; for quasi-Newton matrices by spectra see the diagonal scalings
of Gilbert and Lemarechal, "Some numerical experiments with variable-storage quasi-Newton
algorithms", Mathematical Programming 1989.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from style.optimizers import Preconditioner

# Bands of frequency, spaced evenly in log f.
BANDS = 24
# Share of the past that is kept at each new pair.
DECAY = 0.8
# Pairs after which what was learnt is used.
WARM_UP = 3
# Added to the covariances, relative to their traces: a colour that never moved stays solvable.
RIDGE = 1e-6


class Spectrum(NamedTuple):
    """What has been learnt.

    Attributes:
        pairs: How many pairs were seen.
        moves: Covariances of s in each band, [bands, C, C].
        changes: Covariances of y.
        gains: P in each band.
    """

    pairs: tf.Tensor
    moves: tf.Tensor
    changes: tf.Tensor
    gains: tf.Tensor


def frequencies(height: int, width: int) -> np.ndarray:
    """|f| in cycles a pixel on the half plane of a real transform, at least one over the longer
    side, [H, W // 2 + 1]."""
    found = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    return np.maximum(found, 1 / max(height, width))


def bands(height: int, width: int) -> np.ndarray:
    """The band of each frequency, [H, W // 2 + 1], from 0 (slowest) up; none is empty."""
    found = frequencies(height, width)
    edges = np.geomspace(found.min(), found.max() * (1 + 1e-9), BANDS + 1)
    numbers = np.digitize(found, edges[1:-1])
    return np.unique(numbers, return_inverse=True)[1].reshape(found.shape)


def preconditioner(
    height: int, width: int, *, exponent: float = 0.25, learn: bool = True
) -> Preconditioner:
    """P for pictures [1, H, W, C]; symmetric and positive definite at any time.

    Args:
        height: Of the picture.
        width: Of the picture.
        exponent: a of the start; 0 is the identity.
        learn: Whether to learn from pairs.
    """
    band = bands(height, width)
    count = int(band.max()) + 1
    rings = tf.constant(band.ravel(), tf.int32)
    # A column of the half plane stands for its mirror image too, but for the first and, of an even
    # width, the last.  With these weights band sums of |x|^2 add up to x.x (Parseval).
    twice = np.full(band.shape, 2.0)
    twice[:, 0] = 1
    if width % 2 == 0:
        twice[:, -1] = 1
    weight = tf.constant(twice.ravel() / (height * width), tf.float64)
    slow = frequencies(height, width) ** (-2 * exponent)
    start = np.bincount(band.ravel(), slow.ravel()) / np.bincount(band.ravel())
    start /= start.mean()

    def spectrum(x: tf.Tensor) -> list[tf.Tensor]:
        transform = tf.signal.rfft2d(tf.transpose(x[0], [2, 0, 1]))
        return tf.unstack(tf.reshape(transform, [x.shape[-1], -1]))

    def init(x: tf.Tensor) -> Spectrum:
        channels = x.shape[-1]
        gains = start[:, None, None] * np.eye(channels)
        none = tf.zeros([count, channels, channels], x.dtype)
        return Spectrum(tf.constant(0), none, none, tf.constant(gains, x.dtype))

    def covariances(x: tf.Tensor) -> tf.Tensor:
        planes = spectrum(x)
        share = tf.cast(weight, x.dtype)
        found = {}
        for i, a in enumerate(planes):
            for j, b in enumerate(planes[: i + 1]):
                product = tf.math.real(a) * tf.math.real(b) + tf.math.imag(a) * tf.math.imag(b)
                found[i, j] = found[j, i] = tf.math.unsorted_segment_sum(
                    share * product, rings, count
                )
        channels = range(len(planes))
        return tf.stack([tf.stack([found[i, j] for j in channels], -1) for i in channels], -1)

    def update(known: Spectrum, s: tf.Tensor, y: tf.Tensor) -> tuple[Spectrum, tf.Tensor]:
        change = covariances(y)
        learnt = learn_from(known, s, y, change) if learn else known
        gamma = tf.reduce_sum(s * y) / tf.reduce_sum(learnt.gains * change)
        # What was learnt has a scale already: the geometric mean of 1 and of Nocedal and Wright's.
        return learnt, tf.where(learnt.pairs > WARM_UP, tf.sqrt(gamma), gamma)

    def learn_from(known: Spectrum, s: tf.Tensor, y: tf.Tensor, change: tf.Tensor) -> Spectrum:
        # Divided by s.y every pair counts the same, however long its step was.
        curvature = tf.reduce_sum(s * y)
        curvature = tf.where(curvature > 0, curvature, tf.ones_like(curvature))
        first = tf.cast(known.pairs == 0, s.dtype)
        keep = DECAY * (1 - first)
        moves = keep * known.moves + (1 - keep) * covariances(s) / curvature
        changes = keep * known.changes + (1 - keep) * change / curvature
        pairs = known.pairs + 1
        # Eigenvalues of what is not finite raise; then nothing is learnt.
        finite = tf.reduce_all(tf.math.is_finite(moves) & tf.math.is_finite(changes))
        safe = (tf.where(finite, sums, 0) for sums in (moves, changes))
        learnt = tf.cast(solve(*(tf.cast(sums, tf.float64) for sums in safe)), s.dtype)
        usable = finite & (pairs > WARM_UP) & tf.reduce_all(tf.math.is_finite(learnt))
        return Spectrum(pairs, moves, changes, tf.where(usable, learnt, known.gains))

    def apply(known: Spectrum, gradient: tf.Tensor) -> tf.Tensor:
        planes = spectrum(gradient)
        filtered = []
        for i in range(len(planes)):
            mixed = tf.zeros_like(planes[0])
            for j, plane in enumerate(planes):
                mixed += plane * tf.cast(tf.gather(known.gains[:, i, j], rings), plane.dtype)
            filtered.append(mixed)
        transform = tf.reshape(tf.stack(filtered), [len(planes), height, width // 2 + 1])
        return tf.transpose(tf.signal.irfft2d(transform, [height, width]), [1, 2, 0])[None]

    return Preconditioner(init, update, apply)


def solve(moves: tf.Tensor, changes: tf.Tensor) -> tf.Tensor:
    """The symmetric positive definite P with P Y P = S, for each band: [bands, C, C]."""
    root, inverse = _roots(_ridged(changes))
    middle, _ = _roots(tf.matmul(root, tf.matmul(_ridged(moves), root)))
    found = tf.matmul(inverse, tf.matmul(middle, inverse))
    return (found + tf.linalg.matrix_transpose(found)) / 2


def _ridged(matrix: tf.Tensor) -> tf.Tensor:
    eye = tf.eye(matrix.shape[-1], dtype=matrix.dtype)
    trace = tf.linalg.trace(matrix)[:, None, None]
    return matrix + RIDGE * tf.where(trace > 0, trace, tf.ones_like(trace)) * eye


def _roots(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Square root and its inverse of symmetric positive definite matrices."""
    values, vectors = tf.linalg.eigh(matrix)
    roots = tf.sqrt(tf.maximum(values, 1e-12 * values[:, -1:]))[:, None, :]
    return (
        tf.matmul(vectors * roots, vectors, transpose_b=True),
        tf.matmul(vectors / roots, vectors, transpose_b=True),
    )
