"""The objective: a weighted sum of terms, each a function of sums over positions.

    content_weight x sum_l w_l C_l + style_weight x sum_l w_l S_l + tv_weight x TV

A `Term` adds up what it needs from one layer ("image" is the picture itself) and makes a number of
the sums.  Because sums of parts add up, the same terms serve the whole picture and tiles of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style import losses, stats
from style.losses import StyleLoss
from vgg_normalize import chain
from vgg_normalize.vgg import IMAGENET_MEAN_BGR

IMAGE = "image"
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
        sums: Features [1, h, w, C] -> sums over positions.
        distance: Those sums -> scalar.
    """

    kind: str
    layer: str
    weight: float
    sums: Callable[[tf.Tensor], Any]
    distance: Callable[[Any], tf.Tensor]


def content_term(layer: str, weight: float, reference: tf.Tensor) -> Term:
    """Mean over positions and channels of (F - P)^2 (Gatys et al., CVPR 2016, equation 1)."""
    count = float(np.prod(reference.shape))
    return Term(
        "content",
        layer,
        weight,
        lambda f: losses.squared_error(f, reference),
        lambda total: total / tf.cast(count, total.dtype),
    )


def inversion_term(layer: str, weight: float, reference: tf.Tensor) -> Term:
    """|F - P|^2 / |P|^2 (Mahendran and Vedaldi, IJCV 2016, equation 4)."""
    norm = tf.reduce_sum(tf.square(reference))
    norm = tf.where(norm > 0, norm, tf.ones_like(norm))
    return Term(
        "content",
        layer,
        weight,
        lambda f: losses.squared_error(f, reference),
        lambda total: total / norm,
    )


def style_term(
    layer: str,
    weight: float,
    loss: StyleLoss,
    target: Any,
    *,
    guide: tf.Tensor | None = None,
    samples: tf.Tensor | None = None,
) -> Term:
    """The distance of a layer's statistics from a style's.

    Args:
        layer: Its name.
        weight: Its factor.
        loss: Of `losses.STYLE_LOSSES`.
        target: What `style_target` gave.
        guide: How much each position counts, [h w]; default: all 1.
        samples: Positions that a sampled loss looks at, [S].
    """

    def sums(f: tf.Tensor) -> Any:
        flat = stats.flatten(f)
        if loss.sampled and samples is not None:
            return loss.sums(tf.gather(flat, samples))
        return loss.sums(flat, None if guide is None else tf.cast(guide, f.dtype))

    return Term("style", layer, weight, sums, lambda found: loss.distance(found, target))


def style_target(
    loss: StyleLoss,
    features: tf.Tensor,
    *,
    guide: tf.Tensor | None = None,
    samples: tf.Tensor | None = None,
) -> Any:
    """What `style_term` compares with, from the style's features [1, h, w, C]."""
    flat = stats.flatten(features)
    if loss.sampled and samples is not None:
        return loss.target(loss.sums(tf.gather(flat, samples)))
    return loss.target(loss.sums(flat, guide))


def variation_term(weight: float, shape: Sequence[int], beta: float = 2.0) -> Term:
    """Mean over positions and channels of (dx^2 + dy^2)^(beta / 2)."""
    count = float(np.prod(shape))
    return Term(
        "tv",
        IMAGE,
        weight,
        lambda image: losses.total_variation(image, beta=beta),
        lambda total: total / count,
    )


def bounded_variation_term(weight: float, shape: Sequence[int], beta: float) -> Term:
    """R_TV^beta: mean over positions of ((dx^2 + dy^2) / V^2)^(beta / 2), V a typical difference.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 7 and section 4.4.
    """
    positions = float(shape[0] * shape[1])
    return Term(
        "tv",
        IMAGE,
        weight,
        lambda image: losses.total_variation(image / TYPICAL_DIFFERENCE, beta=beta),
        lambda total: total / positions,
    )


def norm_term(weight: float, shape: Sequence[int]) -> Term:
    """R_alpha: mean over positions of (|x|^2 / B^2)^(alpha / 2), x less the ImageNet mean, alpha 6.

    Reference: Mahendran and Vedaldi, IJCV 2016, equation 6 and section 4.4.
    """
    positions = float(shape[0] * shape[1])
    grey = np.array(IMAGENET_MEAN_BGR[::-1], np.float32) / 255
    return Term(
        "norm",
        IMAGE,
        weight,
        lambda image: losses.alpha_norm((image - tf.cast(grey, image.dtype)) / TYPICAL_RANGE),
        lambda total: total / positions,
    )


Evaluate = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]]


def extractor(model: keras.Model, terms: Sequence[Term]) -> Callable[[tf.Tensor], Mapping]:
    """Image -> features of the layers that the terms look at, no deeper; with the image itself."""
    layers = sorted({term.layer for term in terms} - {IMAGE})
    network = chain.features(model, layers) if layers else None

    def features(image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        found = {} if network is None else network(image, training=False)
        return {**found, IMAGE: image}

    return features


def evaluation(model: keras.Model, terms: Sequence[Term]) -> Evaluate:
    """Image [1, H, W, 3] -> the objective, its gradient, and what each kind of term adds to it.

    The objective is the sum of the kinds' contributions.
    """
    features = extractor(model, terms)

    def evaluate(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            found = features(image)
            parts: dict[str, tf.Tensor] = {}
            for term in terms:
                value = term.weight * term.distance(term.sums(found[term.layer]))
                parts[term.kind] = parts[term.kind] + value if term.kind in parts else value
            total = tf.add_n(list(parts.values()))
        return total, tape.gradient(total, image), parts

    return evaluate
