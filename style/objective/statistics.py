"""Statistics of features as sums over positions.

F is [M, C] (M positions, C channels).  Every statistic here is a function of sums over positions,
so sums of tiles of a picture add up to those of the whole.  A weight t [M] for each position says
how much it counts (guided statistics; Gatys et al., "Controlling Perceptual Factors in Neural
Style Transfer", CVPR 2017); without weights every position counts 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import tensorflow as tf

# Added to variances before the root: the derivative stays finite on a constant channel.
EPSILON = 1e-8


class Sums(NamedTuple):
    """Sums over positions: of t, of t F and of t F F^T; what a statistic does not need is empty."""

    weight: tf.Tensor  # []
    first: tf.Tensor  # [C] or [0]
    second: tf.Tensor  # [C, C], [C] (the diagonal) or [0]


def flatten(features: tf.Tensor) -> tf.Tensor:
    """[1, h, w, C] -> [h w, C]."""
    return tf.reshape(features, [-1, features.shape[-1]])


def flatten_guide(guide: tf.Tensor, origin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The weights t [M] of a tile's positions.

    Args:
        guide: t of the whole layer, [h, w].
        origin: Row and column of the tile's first position, int32 [2].
        size: Rows and columns of the tile, int32 [2].
    """
    return tf.reshape(tf.slice(guide, origin, size), [-1])


def first_sums(f: tf.Tensor, t: tf.Tensor | None = None) -> Sums:
    """Sums for the mean."""
    weight, weighted = _weigh(f, t)
    return Sums(weight, tf.reduce_sum(weighted, axis=0), tf.zeros([0], f.dtype))


def diagonal_sums(f: tf.Tensor, t: tf.Tensor | None = None) -> Sums:
    """Sums for the mean and the standard deviation."""
    weight, weighted = _weigh(f, t)
    return Sums(weight, tf.reduce_sum(weighted, axis=0), tf.reduce_sum(weighted * f, axis=0))


def gram_sums(f: tf.Tensor, t: tf.Tensor | None = None) -> Sums:
    """Sums for the Gram matrix."""
    weight, weighted = _weigh(f, t)
    return Sums(weight, tf.zeros([0], f.dtype), products(f, weighted))


def full_sums(f: tf.Tensor, t: tf.Tensor | None = None) -> Sums:
    """Sums for the mean, the Gram matrix and the covariance."""
    weight, weighted = _weigh(f, t)
    return Sums(weight, tf.reduce_sum(weighted, axis=0), products(f, weighted))


# What each holds, the cheapest first.
_HELD: dict[Callable[..., Sums], set[str]] = {
    first_sums: {"first"},
    diagonal_sums: {"first", "diagonal"},
    gram_sums: {"diagonal", "products"},
    full_sums: {"first", "diagonal", "products"},
}


def covering_sums(wanted: Iterable[Callable[..., Sums]]) -> Callable[..., Sums]:
    """The cheapest of the four kinds of sums that holds what all of these hold."""
    held = set[str]().union(*(_HELD[sums] for sums in wanted))
    return next(sums for sums, holds in _HELD.items() if held <= holds)


@tf.custom_gradient
def products(f: tf.Tensor, weighted: tf.Tensor) -> Any:
    """F^T diag(t) F, [C, C], from F and t F.

    Its derivative along U is t F (U + U^T): one product, where differentiating both factors makes
    two and adds them, which is a tenth of an evaluation.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.matmul(weighted, upstream + tf.transpose(upstream)), None

    return tf.matmul(weighted, f, transpose_a=True), gradient


def _weigh(f: tf.Tensor, t: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    if t is None:
        return tf.cast(tf.shape(f)[0], f.dtype), f
    t = tf.cast(t, f.dtype)
    return tf.reduce_sum(t), f * t[:, None]


def mean(sums: Sums) -> tf.Tensor:
    """mu, [C]."""
    return sums.first / sums.weight


def gram(sums: Sums) -> tf.Tensor:
    """G = F^T F / M, [C, C]."""
    return sums.second / sums.weight


def standard_deviation(sums: Sums) -> tf.Tensor:
    """sigma = sqrt(diag Sigma + 1e-8), [C], from `diagonal_sums` or `full_sums`."""
    squares = sums.second if sums.second.shape.rank == 1 else tf.linalg.diag_part(sums.second)
    variance = squares / sums.weight - tf.square(mean(sums))
    return tf.sqrt(tf.nn.relu(variance) + EPSILON)


def covariance(sums: Sums) -> tf.Tensor:
    """Sigma (biased), [C, C], from `full_sums`."""
    mu = mean(sums)
    return gram(sums) - mu[:, None] * mu[None, :]
