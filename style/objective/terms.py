"""The objective: a weighted sum of terms, each a function of sums over positions.

    content_weight x sum_l w_l C_l + style_weight x sum_l w_l S_l + tv_weight x TV
        + range_weight x R

A `Term` adds up what it needs from one layer ("image" is the picture itself) and makes a number of
the sums.  Because sums of tiles add up, the same terms serve the whole picture and tiles of it: a
first pass over the tiles adds up the sums, the objective's derivative with respect to them is taken
once, and a second pass carries it back to the pixels of each tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from style.objective import losses, quantiles, statistics, tiling
from style.objective.losses import StyleLoss
from style.objective.tiling import IMAGE, TileFeatures
from vgg_normalize.networks.preprocessing import IMAGENET_MEAN_BGR

# What a pixel is measured against by the regularisers of Mahendran and Vedaldi (IJCV 2016, section
# 4.4): 80 of 255, and differences of 80 / 6.5.
TYPICAL_RANGE = 80 / 255
TYPICAL_DIFFERENCE = 80 / 6.5 / 255


class Term(NamedTuple):
    """One summand of the objective.

    Attributes:
        kind: What it counts under: "content", "style", "tv", "norm", "range".
        layer: The layer whose features it takes; "image" is the picture.
        weight: Its factor in the objective.
        sums: `TileFeatures` of that layer -> sums over its positions, which add up over tiles.
        distance: The sums over all tiles -> scalar.
        linear: Whether `distance` is linear, so that tiles have a distance of their own.
        compares: Whether it needs the content's features at the same positions.
        loss: Which style loss it is, of a "style".
        size: How many numbers its sums are, where there are many.
        scale: A further factor, which may change between pictures.
        renew: (draw, picture [1, H, W, 3]) -> None, of a term with something that is chosen anew
            from time to time: the number of the draw, from 0, and the picture then.

    Terms with the same layer and the same `sums`, the object itself, share what these add up.
    """

    kind: str
    layer: str
    weight: float
    sums: Callable[[TileFeatures], Any]
    distance: Callable[[Any], tf.Tensor]
    linear: bool = False
    compares: bool = False
    loss: str = ""
    size: int = 0
    scale: tf.Variable | None = None
    renew: Callable[[int, tf.Tensor], None] | None = None


def content_term(layer: str, weight: float, shape: Sequence[float]) -> Term:
    """Mean over positions and channels of (F - P)^2 (Gatys et al., CVPR 2016, equation 1).

    Args:
        layer: Name of the layer.
        weight: Its factor in the objective.
        shape: Height, width and channels of the layer.
    """
    count = float(np.prod(shape))
    return _linear_term(
        "content",
        layer,
        weight,
        lambda tile: losses.squared_error(tile.features, tile.reference),
        count,
    )._replace(compares=True)


def inversion_term(layer: str, weight: float, squared_norm: float) -> Term:
    """|F - P|^2 / |P|^2 (Mahendran and Vedaldi, IJCV 2016, equation 4).

    Args:
        layer: Name of the layer.
        weight: Its factor in the objective.
        squared_norm: |P|^2; 0 counts as 1.
    """
    return content_term(layer, weight, [squared_norm if squared_norm > 0 else 1.0])


def _linear_term(
    kind: str,
    layer: str,
    weight: float,
    function: Callable[[TileFeatures], tf.Tensor],
    count: float,
) -> Term:
    """The sum of a function over tiles, divided by `count`."""
    return Term(
        kind,
        layer,
        weight,
        lambda tile: tf.cast(function(tile), tf.float64),
        lambda total: total / count,
        linear=True,
    )


def style_term(layer: str, weight: float, loss: StyleLoss, sums: StyleSums, target: Any) -> Term:
    """The distance of a layer's statistics from a style's.

    Args:
        layer: Name of the layer.
        weight: Its factor in the objective.
        loss: One of `losses.STYLE_LOSSES`.
        sums: What `style_sums` returned for the picture.
        target: loss.target of the style's sums.
    """
    return Term("style", layer, weight, sums, lambda total: loss.distance(total, target))


StyleSums = Callable[[TileFeatures], Any]


def style_sums(
    loss: StyleLoss, guide: tf.Tensor | None = None, samples: tf.Tensor | None = None
) -> StyleSums:
    """What a style loss adds up over a tile of a layer, in float64 where it adds many.

    Args:
        loss: One of `losses.STYLE_LOSSES`.
        guide: How much each position counts, [h, w]; default: all 1.
        samples: Row and column of the positions that a sampled loss takes, [S, 2].
    """

    def exact(tile: TileFeatures) -> Any:
        t = None if guide is None else statistics.flatten_guide(guide, tile.origin, tile.size)
        return exact_sums(loss, statistics.flatten(tile.features), t)

    def sampled(tile: TileFeatures) -> Any:
        # Samples outside the tile are rows of 0, so that tiles add up to all samples.
        position = samples - tile.origin
        inside = tf.where(tf.reduce_all((position >= 0) & (position < tile.size), axis=1))
        features = tf.gather_nd(tile.features[0], tf.gather(position, inside[:, 0]))
        shape = [tf.shape(samples)[0], features.shape[-1]]
        return loss.sums(tf.scatter_nd(tf.cast(inside, tf.int32), features, shape))

    return sampled if loss.sampled else exact


def projection_sums(
    directions: tf.Variable, shape: Sequence[int]
) -> Callable[[TileFeatures], tf.Tensor]:
    """What is added up for a projected loss: F v at the tile's positions and 0 elsewhere, [D, h, w].

    Args:
        directions: Unit vectors v, [D, C].
        shape: Height and width of the whole layer.
    """

    def sums(tile: TileFeatures) -> tf.Tensor:
        features = tile.features[0]
        values = tf.einsum("dc,hwc->dhw", tf.cast(directions, features.dtype), features)
        paddings = tf.concat([[[0, 0]], tiling.margins(tile, shape)], 0)
        return tf.ensure_shape(tf.pad(values, paddings), [directions.shape[0], *shape[:2]])

    return sums


def select(projections: tf.Tensor, guide: np.ndarray | None = None) -> quantiles.Projections:
    """Projections [D, h, w] at the positions that count, with a guide [h, w] at those above 0."""
    values = tf.reshape(projections, [projections.shape[0], -1])
    if guide is None:
        return quantiles.Projections(values)
    weights = guide.ravel()
    positions = np.flatnonzero(weights > 0)
    return quantiles.Projections(
        tf.gather(values, positions, axis=1), tf.constant(weights[positions], values.dtype)
    )


def _with_border(tile: TileFeatures) -> tf.Tensor:
    return tile.features if tile.with_border is None else tile.with_border


def exact_sums(loss: StyleLoss, f: tf.Tensor, t: tf.Tensor | None = None) -> Any:
    """The sums of a loss that takes all positions, in float64: they add up over many tiles."""
    return tf.nest.map_structure(lambda total: tf.cast(total, tf.float64), loss.sums(f, t))


def tv_term(weight: float, shape: Sequence[int], beta: float = 2.0) -> Term:
    """Mean over positions and channels of (dx^2 + dy^2)^(beta / 2).

    Args:
        weight: Its factor in the objective.
        shape: Height, width and channels of the picture.
        beta: The exponent, above 0; 2 is the mean squared difference.
    """
    return _linear_term(
        "tv",
        IMAGE,
        weight,
        lambda tile: losses.total_variation(_with_border(tile), tile.size, beta=beta),
        float(np.prod(shape)),
    )


def normalized_tv_term(weight: float, shape: Sequence[int], beta: float) -> Term:
    """R_TV^beta: mean over positions of ((dx^2 + dy^2) / V^2)^(beta / 2), V a typical difference.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 7 and section 4.4.
    """
    return _linear_term(
        "tv",
        IMAGE,
        weight,
        lambda tile: losses.total_variation(
            _with_border(tile) / TYPICAL_DIFFERENCE, tile.size, beta=beta
        ),
        float(shape[0] * shape[1]),
    )


def range_term(weight: float, shape: Sequence[int]) -> Term:
    """Mean over positions and channels of (x - clip(x, 0, 1))^2.

    Args:
        weight: Its factor in the objective.
        shape: Height, width and channels of the picture.
    """
    return _linear_term(
        "range",
        IMAGE,
        weight,
        lambda tile: losses.range_excess(tile.features),
        float(np.prod(shape)),
    )


def norm_term(weight: float, shape: Sequence[int]) -> Term:
    """R_alpha: mean over positions of (|x|^2 / B^2)^(alpha / 2), x less the ImageNet mean, alpha 6.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 6 and section 4.4.
    """
    grey = np.array(IMAGENET_MEAN_BGR[::-1], np.float32) / 255

    def total(tile: TileFeatures) -> tf.Tensor:
        centred = tile.features - tf.cast(grey, tile.features.dtype)
        return losses.alpha_norm(centred / TYPICAL_RANGE)

    return _linear_term("norm", IMAGE, weight, total, float(shape[0] * shape[1]))
