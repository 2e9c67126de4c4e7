"""The objective: a weighted sum of terms, each a function of sums over positions.

    content_weight x sum_l w_l C_l + style_weight x sum_l w_l S_l + tv_weight x TV

A `Term` adds up what it needs from one layer ("image" is the picture itself) and makes a number of
the sums.  Because sums of parts add up, the same terms serve the whole picture and tiles of it: a
first pass over the tiles adds up the sums, the objective's derivative with respect to them is taken
once, and a second pass carries it back to the pixels of each tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from style import losses, stats
from style.losses import StyleLoss
from style.tiles import IMAGE, Part
from vgg_normalize.vgg import IMAGENET_MEAN_BGR

# What a pixel is measured against by the regularisers of Mahendran and Vedaldi (IJCV 2016, section
# 4.4): 80 of 255, and differences of 80 / 6.5.
TYPICAL_RANGE = 80 / 255
TYPICAL_DIFFERENCE = 80 / 6.5 / 255


class Term(NamedTuple):
    """One summand of the objective.

    Attributes:
        kind: What it counts under: "content", "style", "tv", "norm".
        layer: Where it looks; "image" is the picture.
        weight: Its factor.
        sums: A `tiles.Part` of that layer -> sums over its positions, which add up over parts.
        distance: The sums over all parts -> scalar.
        linear: Whether `distance` is linear, so that parts have a distance of their own.
        compares: Whether it needs the content's features at the same positions.
    """

    kind: str
    layer: str
    weight: float
    sums: Callable[[Part], Any]
    distance: Callable[[Any], tf.Tensor]
    linear: bool = False
    compares: bool = False


def content_term(layer: str, weight: float, shape: Sequence[float]) -> Term:
    """Mean over positions and channels of (F - P)^2 (Gatys et al., CVPR 2016, equation 1).

    Args:
        layer: Its name.
        weight: Its factor.
        shape: Height, width and channels of the layer.
    """
    count = float(np.prod(shape))
    return _linear_term(
        "content",
        layer,
        weight,
        lambda part: losses.squared_error(part.features, part.reference),
        count,
        compares=True,
    )


def inversion_term(layer: str, weight: float, squared_norm: float) -> Term:
    """|F - P|^2 / |P|^2 (Mahendran and Vedaldi, IJCV 2016, equation 4).

    Args:
        layer: Its name.
        weight: Its factor.
        squared_norm: |P|^2; 0 counts as 1.
    """
    return content_term(layer, weight, [squared_norm if squared_norm > 0 else 1.0])


def _linear_term(
    kind: str,
    layer: str,
    weight: float,
    function: Callable[[Part], tf.Tensor],
    count: float,
    *,
    compares: bool = False,
) -> Term:
    return Term(
        kind,
        layer,
        weight,
        lambda part: tf.cast(function(part), tf.float64),
        lambda total: total / count,
        linear=True,
        compares=compares,
    )


def style_term(layer: str, weight: float, loss: StyleLoss, sums: StyleSums, target: Any) -> Term:
    """The distance of a layer's statistics from a style's.

    Args:
        layer: Its name.
        weight: Its factor.
        loss: Of `losses.STYLE_LOSSES`.
        sums: What `style_sums` gave for the picture.
        target: loss.target of the style's sums.
    """
    return Term("style", layer, weight, sums, lambda found: loss.distance(found, target))


StyleSums = Callable[[Part], Any]


def style_sums(
    loss: StyleLoss, guide: tf.Tensor | None = None, samples: tf.Tensor | None = None
) -> StyleSums:
    """What a style loss adds up over a part of a layer, in float64 where it adds many.

    Args:
        loss: Of `losses.STYLE_LOSSES`.
        guide: How much each position counts, [h, w]; default: all 1.
        samples: Row and column of the positions that a sampled loss looks at, [S, 2].
    """

    def exact(part: Part) -> Any:
        t = None if guide is None else stats.flatten_guide(guide, part.origin, part.size)
        return exact_sums(loss, stats.flatten(part.features), t)

    def sampled(part: Part) -> Any:
        # Samples beyond the part are rows of 0, so that parts add up to all samples.
        at = samples - part.origin
        inside = tf.where(tf.reduce_all((at >= 0) & (at < part.size), axis=1))
        found = tf.gather_nd(part.features[0], tf.gather(at, inside[:, 0]))
        rows = [tf.shape(samples)[0], found.shape[-1]]
        return loss.sums(tf.scatter_nd(tf.cast(inside, tf.int32), found, rows))

    return sampled if loss.sampled else exact


def _neighbours(part: Part) -> tf.Tensor:
    return part.features if part.beyond is None else part.beyond


def exact_sums(loss: StyleLoss, f: tf.Tensor, t: tf.Tensor | None = None) -> Any:
    """The sums of a loss that looks at all positions, in float64: they add up over many parts."""
    return tf.nest.map_structure(lambda total: tf.cast(total, tf.float64), loss.sums(f, t))


def variation_term(weight: float, shape: Sequence[int], beta: float = 2.0) -> Term:
    """Mean over positions and channels of (dx^2 + dy^2)^(beta / 2).

    Args:
        weight: Its factor.
        shape: Height, width and channels of the picture.
        beta: The exponent.
    """
    return _linear_term(
        "tv",
        IMAGE,
        weight,
        lambda part: losses.total_variation(_neighbours(part), part.size, beta=beta),
        float(np.prod(shape)),
    )


def bounded_variation_term(weight: float, shape: Sequence[int], beta: float) -> Term:
    """R_TV^beta: mean over positions of ((dx^2 + dy^2) / V^2)^(beta / 2), V a typical difference.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 7 and section 4.4.
    """
    return _linear_term(
        "tv",
        IMAGE,
        weight,
        lambda part: losses.total_variation(
            _neighbours(part) / TYPICAL_DIFFERENCE, part.size, beta=beta
        ),
        float(shape[0] * shape[1]),
    )


def norm_term(weight: float, shape: Sequence[int]) -> Term:
    """R_alpha: mean over positions of (|x|^2 / B^2)^(alpha / 2), x less the ImageNet mean, alpha 6.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 6 and section 4.4.
    """
    grey = np.array(IMAGENET_MEAN_BGR[::-1], np.float32) / 255

    def total(part: Part) -> tf.Tensor:
        centred = part.features - tf.cast(grey, part.features.dtype)
        return losses.alpha_norm(centred / TYPICAL_RANGE)

    return _linear_term("norm", IMAGE, weight, total, float(shape[0] * shape[1]))
