"""Terms of an objective from pictures: content, inverted features, styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style.objective import terms as objective
from style.objective import tiling, value_and_gradient
from style.objective.losses import SAMPLES, STYLE_LOSSES, StyleLoss
from style.objective.terms import Term
from vgg_normalize.errors import ImagesError, UsageError

Layers = Sequence[tuple[str, float]]


class Style(NamedTuple):
    """A style picture and how it is used.

    Attributes:
        pixels: [H, W, 3] in [0, 1].
        weight: Its weight in the blend, relative to the other styles'.
        mask: Which part of the picture is used, [H, W] in [0, 1]; None: all of it.
        content_mask: Where in the result it goes, [H, W] in [0, 1], in the result's aspect; None:
            everywhere.
    """

    pixels: np.ndarray
    weight: float = 1.0
    mask: np.ndarray | None = None
    content_mask: np.ndarray | None = None


def as_batch(pixels: np.ndarray) -> tf.Tensor:
    """[H, W, C] -> float32 [1, H, W, C]."""
    return tf.constant(np.ascontiguousarray(pixels[None], np.float32))


def content_terms(
    model: keras.Model, layers: Layers, weight: float, *, shape: tuple[int, int]
) -> list[Term]:
    """Terms that keep the content's features.

    Args:
        model: The network.
        layers: (name, weight) of each layer.
        weight: Factor of all of them.
        shape: Height and width of the result in pixels.
    """
    weighted = [(name, w) for name, w in layers if w and weight]
    shapes = tiling.layer_shapes(model, [name for name, _ in weighted], shape)
    return [objective.content_term(name, weight * w, shapes[name]) for name, w in weighted]


def inversion_terms(
    model: keras.Model, content: np.ndarray, layer: str, weight: float, *, tile: int = 0
) -> list[Term]:
    """The term that reproduces one layer's features.

    Args:
        model: The network.
        content: The picture whose features these are, [H, W, 3] in [0, 1].
        layer: Name of the layer.
        weight: Factor of the term.
        tile: Pixels a side of the tiles in which the content is read; 0: the whole picture.
    """

    def squares(part: tiling.TileFeatures) -> tf.Tensor:
        return tf.reduce_sum(tf.square(tf.cast(part.features, tf.float64)))

    (norm,) = value_and_gradient.total_sums(model, as_batch(content), [(layer, squares)], tile=tile)
    return [objective.inversion_term(layer, weight, float(norm))]


def style_terms(
    model: keras.Model,
    styles: Sequence[Style],
    layers: Layers,
    weight: float,
    *,
    shape: tuple[int, int],
    loss: str = "gram",
    seed: int = 0,
    tile: int = 0,
) -> list[Term]:
    """Terms that give the result the styles' statistics.

    Args:
        model: The network.
        styles: The style pictures; a weight of 0 leaves one out.
        layers: (name, weight) of each layer.
        weight: Factor of all of them.
        shape: Height and width of the result in pixels.
        loss: A key of `losses.STYLE_LOSSES`.
        seed: Random seed for sampled positions.
        tile: Pixels a side of the tiles in which a style is read; 0: the whole picture.

    Raises:
        UsageError: No such loss.
        ImagesError: A mask is empty at a layer.
    """
    if loss not in STYLE_LOSSES:
        raise UsageError(
            f"Expected style_loss {', '.join(STYLE_LOSSES)}. Received: {loss!r}. Choose one."
        )
    style_loss = STYLE_LOSSES[loss]()
    total = sum(style.weight for style in styles)
    terms = []
    random = np.random.Generator(np.random.PCG64(seed))
    weighted = [(name, w) for name, w in layers if w and weight]
    names = [name for name, _ in weighted]
    result_shapes = tiling.layer_shapes(model, names, shape)
    for style in styles:
        if not style.weight:
            continue
        style_shapes = tiling.layer_shapes(model, names, style.pixels.shape[:2])
        style_sums, result_sums = [], []
        for name in names:
            style_sums.append((name, _sums(style_loss, style.mask, style_shapes[name], random)))
            result_sums.append(_sums(style_loss, style.content_mask, result_shapes[name], random))
        totals = value_and_gradient.total_sums(model, as_batch(style.pixels), style_sums, tile=tile)
        for (name, w), sums, style_total in zip(weighted, result_sums, totals, strict=True):
            factor = weight * w * style.weight / total
            target = style_loss.target(style_total)
            terms.append(objective.style_term(name, factor, style_loss, sums, target))
    return terms


def _sums(
    loss: StyleLoss,
    mask: np.ndarray | None,
    size: Sequence[int],
    random: np.random.Generator,
) -> objective.StyleSums:
    """What to add up over a layer: how much each position counts, or which ones are sampled."""
    height, width = int(size[0]), int(size[1])
    guide = None if mask is None else mask_for(mask, (height, width))
    if guide is not None and not guide.sum() > 0:
        raise ImagesError(
            "Expected masks that leave something at every layer. Received: a mask that is empty "
            f"at {height} x {width} positions. Make it larger, or leave out deep layers."
        )
    if not loss.sampled:
        return objective.style_sums(loss, None if guide is None else tf.constant(guide, tf.float32))
    count = height * width
    probabilities = None if guide is None else guide.ravel() / guide.sum()
    possible = count if probabilities is None else int((probabilities > 0).sum())
    drawn = random.choice(count, size=SAMPLES, replace=possible < SAMPLES, p=probabilities)
    positions = np.stack(np.unravel_index(np.sort(drawn), (height, width)), axis=1)
    return objective.style_sums(loss, samples=tf.constant(positions, tf.int32))


def mask_for(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask [H, W] at a layer's resolution: the mean over what each position covers, float64."""
    resized = tf.image.resize(mask[..., None].astype(np.float32), size, method="area")
    return np.asarray(resized[..., 0], np.float64)
