"""Terms of the sliced Wasserstein loss, whose random directions are drawn anew from time to time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style.objective import losses, value_and_gradient
from style.objective import terms as objective
from style.objective.quantiles import QUANTILES
from style.objective.terms import Term

NAME = "sliced_wasserstein"
# Projections that are in memory together, of 4 bytes each: 256 MiB.
BATCH = 2**26


class ComparedLayer(NamedTuple):
    """A layer where a result is compared with a style.

    Attributes:
        name: Of the layer.
        weight: Factor of its terms.
        style_shape: Height, width and channels of the style's features.
        result_shape: Those of the result's.
        style_guide: How much each of the style's positions counts, [h, w]; None: all alike.
        result_guide: How much each of the result's positions counts, likewise.
    """

    name: str
    weight: float
    style_shape: Sequence[int]
    result_shape: Sequence[int]
    style_guide: np.ndarray | None = None
    result_guide: np.ndarray | None = None


class _Slice(NamedTuple):
    """Some of a layer's directions [D, C], from the `first` on, and the style's quantiles there."""

    layer: ComparedLayer
    first: int
    directions: tf.Variable
    quantiles: tf.Variable


def sliced_terms(
    model: keras.Model,
    style: tf.Tensor,
    layers: Sequence[ComparedLayer],
    *,
    seed: int = 0,
    tile: int = 0,
) -> list[Term]:
    """The terms of one style, with as many directions as each layer has channels.

    A layer with many positions has a term for each batch of its directions, so that by tiles no more
    than `BATCH` projections need be in memory (see `value_and_gradient`).

    Args:
        model: The network.
        style: The style picture, [1, H, W, 3].
        layers: Where it is compared.
        seed: Random seed of the directions.
        tile: Pixels a side of the tiles in which the style is read; 0: the whole picture.
    """
    loss = losses.sliced_wasserstein()
    slices = [part for layer in layers for part in _slices(layer)]
    groups = [[part] for part in slices] if tile else [slices]
    shape = (int(style.shape[1]), int(style.shape[2]))
    reads = [
        value_and_gradient.make_total_sums(
            model,
            shape,
            [
                (p.layer.name, objective.projection_sums(p.directions, p.layer.style_shape))
                for p in group
            ],
            tile=tile,
        )
        for group in groups
    ]

    def renew(draw: int, picture: tf.Tensor) -> None:
        del picture  # whatever it is, the directions are the seed's
        vectors = {
            layer.name: unit_vectors(int(layer.style_shape[2]), [seed, 2, draw, i])
            for i, layer in enumerate(layers)
        }
        for group, read in zip(groups, reads, strict=True):
            for part in group:
                rows = slice(part.first, part.first + part.directions.shape[0])
                part.directions.assign(vectors[part.layer.name][rows])
            for part, projections in zip(group, read(style), strict=True):
                selected = objective.select(projections, part.layer.style_guide)
                part.quantiles.assign(tf.cast(loss.target(selected), tf.float32))

    renew(0, style)
    return [_term(part, loss)._replace(renew=renew) for part in slices]


def unit_vectors(dimensions: int, seed: Sequence[int]) -> np.ndarray:
    """As many random unit vectors as dimensions, uniform on the sphere, float32 [C, C]."""
    vectors = np.random.Generator(np.random.PCG64(seed)).standard_normal((dimensions, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _slices(layer: ComparedLayer) -> list[_Slice]:
    """The layer's directions in batches."""
    channels = int(layer.style_shape[2])
    style_positions, result_positions = (
        int(np.prod(shape[:2])) for shape in (layer.style_shape, layer.result_shape)
    )
    count = max(1, min(channels, BATCH // max(style_positions, result_positions)))
    if layer.style_guide is not None:
        style_positions = int((layer.style_guide > 0).sum())
    quantiles = min(style_positions, QUANTILES)
    slices = []
    for first in range(0, channels, count):
        rows = min(count, channels - first)
        slices.append(
            _Slice(
                layer,
                first,
                tf.Variable(tf.zeros([rows, channels]), trainable=False),
                tf.Variable(tf.zeros([rows, quantiles]), trainable=False),
            )
        )
    return slices


def _term(part: _Slice, loss: losses.StyleLoss) -> Term:
    """The mean over these directions, by their share of all."""
    layer, rows = part.layer, int(part.directions.shape[0])

    def distance(total: tf.Tensor) -> tf.Tensor:
        projections = objective.select(total, layer.result_guide)
        return loss.distance(projections, tf.cast(part.quantiles, total.dtype))

    return Term(
        "style",
        layer.name,
        layer.weight * rows / int(layer.style_shape[2]),
        objective.projection_sums(part.directions, layer.result_shape),
        distance,
        loss=NAME,
        size=rows * int(np.prod(layer.result_shape[:2])),
    )
