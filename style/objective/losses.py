"""Style losses: how far the statistics of features are from a reference's.

A `StyleLoss` is three pure functions.  `sums` adds up what the loss needs over positions,
`target` is computed once from the reference's sums, `distance` compares sums with a target.  All
are zero at the target.  `squared_error`, `total_variation`, `range_excess` and `alpha_norm` are
sums over positions themselves.

F is [M, C], mu its mean over positions, Sigma its biased covariance, sigma = sqrt(diag Sigma +
1e-8), G = F^T F / M; index s: the style's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from style.objective import quantiles, statistics

# Positions that the Gaussian kernel compares: all pairs of so many of each picture.
SAMPLES = 512


class StyleLoss(NamedTuple):
    """A loss as pure functions.

    Attributes:
        sums: (F [M, C], t [M] or None) -> sums over positions, which add up over tiles.
        target: Sums of the reference -> what `distance` compares with.
        distance: (sums, target) -> scalar, 0 at the target.
        sampled: Whether `sums` wants F at `SAMPLES` positions instead of at all of them.
        projected: Whether `sums` wants `Projections` of F instead of F.
    """

    sums: Callable[..., Any]
    target: Callable[[Any], Any]
    distance: Callable[[Any, Any], tf.Tensor]
    sampled: bool = False
    projected: bool = False


def gram() -> StyleLoss:
    """Mean over the C x C entries of (G - G_s)^2.

    Reference: Gatys, Ecker and Bethge, CVPR 2016, equations 3 to 5, which is a quarter of this
    with sums over positions in place of the mean G.
    """

    def distance(sums: statistics.Sums, target: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.square(statistics.gram(sums) - target))

    return StyleLoss(statistics.gram_sums, statistics.gram, distance)


def moments() -> StyleLoss:
    """Mean over channels of (mu - mu_s)^2 + (sigma - sigma_s)^2: the "BN statistics".

    Reference: Li, Wang, Liu and Hou, "Demystifying Neural Style Transfer", IJCAI 2017, section 4.2.
    """

    def target(sums: statistics.Sums) -> tuple[tf.Tensor, tf.Tensor]:
        return statistics.mean(sums), statistics.standard_deviation(sums)

    def distance(sums: statistics.Sums, style: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        mu, sigma = target(sums)
        return tf.reduce_mean(tf.square(mu - style[0]) + tf.square(sigma - style[1]))

    return StyleLoss(statistics.diagonal_sums, target, distance)


def mmd_linear() -> StyleLoss:
    """|mu - mu_s|^2 / C: the maximum mean discrepancy with the kernel x.y.

    Reference: Li et al., IJCAI 2017, equation 9.
    """

    def distance(sums: statistics.Sums, target: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.square(statistics.mean(sums) - target))

    return StyleLoss(statistics.first_sums, statistics.mean, distance)


def mmd_poly(*, offset: float = 1.0) -> StyleLoss:
    """(|G - G_s|^2 + 2 c |mu - mu_s|^2) / C^2: all pairs under the kernel (x.y + c)^2.

    Reference: Li et al., IJCAI 2017, equation 10; their c is 0.
    """

    def target(sums: statistics.Sums) -> tuple[tf.Tensor, tf.Tensor]:
        return statistics.gram(sums), statistics.mean(sums)

    def distance(sums: statistics.Sums, style: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        gram_matrix, mu = target(sums)
        channels = tf.cast(tf.shape(mu)[0], mu.dtype)
        squares = tf.reduce_sum(tf.square(gram_matrix - style[0]))
        squares += 2 * offset * tf.reduce_sum(tf.square(mu - style[1]))
        return squares / channels**2

    return StyleLoss(statistics.full_sums, target, distance)


def mmd_gaussian() -> StyleLoss:
    """The kernel exp(-|x - y|^2 / 2 sigma^2) over all pairs of sampled positions.

    The biased estimate, which is never negative; Li et al. take the unbiased one over disjoint
    pairs, drawn anew at each step.  sigma^2 is the mean squared distance between the style's
    sampled features.

    Reference: Li et al., IJCAI 2017, equation 11.
    """

    def kernel(x: tf.Tensor, y: tf.Tensor, bandwidth: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.exp(-_squared_distances(x, y) / (2 * bandwidth)))

    def target(samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        bandwidth = tf.reduce_mean(_squared_distances(samples, samples))
        # A constant picture has no distances: any width will do.
        bandwidth = tf.where(bandwidth > 0, bandwidth, tf.ones_like(bandwidth))
        return samples, bandwidth, kernel(samples, samples, bandwidth)

    def distance(samples: tf.Tensor, target: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        style, bandwidth, within = target
        across = kernel(samples, style, bandwidth)
        return tf.nn.relu(kernel(samples, samples, bandwidth) + within - 2 * across)

    return StyleLoss(lambda f, t=None: f, target, distance, sampled=True)


def _squared_distances(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """|x_i - y_j|^2, [M, N]."""
    norms = tf.reduce_sum(tf.square(x), 1)[:, None] + tf.reduce_sum(tf.square(y), 1)[None, :]
    return tf.nn.relu(norms - 2 * tf.matmul(x, y, transpose_b=True))


def wasserstein() -> StyleLoss:
    """(|mu - mu_s|^2 + tr(Sigma + Sigma_s - 2 (Sigma_s^1/2 Sigma Sigma_s^1/2)^1/2)) / C.

    The squared 2-Wasserstein distance between Gaussians with these moments, per channel.

    Reference: Olkin and Pukelsheim, "The Distance between Two Random Vectors with Given Dispersion
    Matrices", 1982; for style transfer: crowsonkb/style-transfer-pytorch.
    """

    def moments_of(sums: statistics.Sums) -> tuple[tf.Tensor, tf.Tensor]:
        # Small differences of large matrices: in float64, which costs little at C x C.
        exact = statistics.Sums(*(tf.cast(total, tf.float64) for total in sums))
        return statistics.mean(exact), statistics.covariance(exact)

    def target(sums: statistics.Sums) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        mu, sigma = moments_of(sums)
        values, vectors = tf.linalg.eigh(sigma)
        root = tf.matmul(vectors * tf.sqrt(tf.nn.relu(values)), vectors, transpose_b=True)
        return mu, tf.linalg.trace(sigma), root

    def distance(sums: statistics.Sums, style: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        mu, sigma = moments_of(sums)
        mu_s, trace_s, root_s = style
        product = tf.matmul(root_s, tf.matmul(sigma, root_s))
        # What it holds where the variances agree: a constant picture's are rounding errors.
        usual = tf.reduce_max(tf.linalg.diag_part(root_s)) ** 4
        shared = trace_of_root((product + tf.transpose(product)) / 2, usual)
        squares = tf.reduce_sum(tf.square(mu - mu_s)) + tf.linalg.trace(sigma) + trace_s
        channels = tf.cast(tf.shape(mu)[0], mu.dtype)
        return tf.cast((squares - 2 * shared) / channels, sums.first.dtype)

    return StyleLoss(statistics.full_sums, target, distance)


@tf.custom_gradient
def trace_of_root(matrix: tf.Tensor, usual: tf.Tensor) -> Any:
    """tr A^1/2 of a symmetric positive semidefinite matrix [C, C].

    Its derivative A^-1/2 / 2 is infinite where an eigenvalue is 0 (a dead channel); eigenvalues
    below 1e-10 of the largest, or of the `usual` size of such a matrix, count as that there.
    """
    values, vectors = tf.linalg.eigh(matrix)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        floor = tf.maximum(1e-10 * tf.maximum(values[-1], usual), 1e-30)
        inverse_roots = tf.math.rsqrt(tf.maximum(values, floor))
        return upstream * tf.matmul(vectors * inverse_roots, vectors, transpose_b=True) / 2, None

    return tf.reduce_sum(tf.sqrt(tf.nn.relu(values))), gradient


def sliced_wasserstein() -> StyleLoss:
    """Mean over directions v of the squared distance between the quantiles of F v and of F_s v.

    With unit vectors v: the mean squared 2-Wasserstein distance of the projections, which is 0 for
    all v only if the features have the same distribution.  The quantiles of a picture with another
    number of positions are interpolated linearly.

    Reference: Heitz, Vanhoey, Chambon and Belcour, "A Sliced Wasserstein Loss for Neural Texture
    Synthesis", CVPR 2021, equations 4 and 5; they take the nearest quantile.
    """

    def distance(projections: quantiles.Projections, target: tf.Tensor) -> tf.Tensor:
        if projections.weights is None:
            ordered = tf.sort(projections.values)
            count = tf.shape(ordered)[1]
            ranks = (tf.range(tf.cast(count, ordered.dtype), dtype=ordered.dtype) + 0.5) / tf.cast(
                count, ordered.dtype
            )
            return tf.reduce_mean(tf.square(ordered - quantiles.quantiles_at(target, ranks)))
        ordered, ranks, weights = quantiles.sort_with_ranks(projections)
        squares = tf.square(ordered - quantiles.quantiles_at(target, ranks))
        return tf.reduce_mean(tf.reduce_sum(weights * squares, axis=1))

    return StyleLoss(lambda p: p, quantiles.quantile_function, distance, projected=True)


STYLE_LOSSES: dict[str, Callable[[], StyleLoss]] = {
    "gram": gram,
    "moments": moments,
    "mmd_linear": mmd_linear,
    "mmd_poly": mmd_poly,
    "mmd_gaussian": mmd_gaussian,
    "wasserstein": wasserstein,
    "sliced_wasserstein": sliced_wasserstein,
}


def squared_error(f: tf.Tensor, reference: tf.Tensor) -> tf.Tensor:
    """The sum over positions and channels of (F - P)^2.

    Content is its mean (Gatys et al., CVPR 2016, equation 1, takes half the sum); inversion
    divides it by |P|^2 (Mahendran and Vedaldi, IJCV 2016, equation 4).
    """
    return tf.reduce_sum(tf.square(f - reference))


def total_variation(
    image: tf.Tensor,
    size: tf.Tensor | None = None,
    *,
    beta: float = 2.0,
    epsilon: float = 1e-12,
) -> tf.Tensor:
    """The sum over positions and channels of (dx^2 + dy^2)^(beta / 2), forward differences.

    Beyond the last row and column the picture is continued by them, so their differences are 0.
    For beta below 2 the derivative has a pole at 0, which `epsilon` takes away.

    Args:
        image: [1, H, W, C].
        size: How many rows and columns of differences count, int32 [2]; default: all.
        beta: Exponent, above 0; 2 is the plain squared variation.
        epsilon: Added to the squares, in the square of the pixels' unit.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 7.
    """
    down = tf.pad(image[:, 1:] - image[:, :-1], [[0, 0], [0, 1], [0, 0], [0, 0]])
    right = tf.pad(image[:, :, 1:] - image[:, :, :-1], [[0, 0], [0, 0], [0, 1], [0, 0]])
    squares = tf.square(down) + tf.square(right)
    if size is not None:
        squares = squares[:, : size[0], : size[1]]
    if beta != 2.0:
        squares = tf.pow(squares + epsilon, beta / 2) - epsilon ** (beta / 2)
    return tf.reduce_sum(squares)


def range_excess(image: tf.Tensor) -> tf.Tensor:
    """The sum over positions and channels of (x - clip(x, 0, 1))^2."""
    return tf.reduce_sum(tf.square(image - tf.clip_by_value(image, 0, 1)))


def alpha_norm(image: tf.Tensor, *, alpha: float = 6.0) -> tf.Tensor:
    """The sum over positions of (sum over channels of x^2)^(alpha / 2).

    Args:
        image: [1, H, W, C], centred on what a grey world would be.
        alpha: Exponent, above 1; large ones bound the range.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 6.
    """
    return tf.reduce_sum(tf.pow(tf.reduce_sum(tf.square(image), axis=-1), alpha / 2))
