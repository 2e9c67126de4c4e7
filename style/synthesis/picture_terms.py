"""Terms of an objective from pictures: content, inverted features, styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style.objective import statistics, tiling, value_and_gradient
from style.objective import terms as objective
from style.objective.losses import SAMPLES, STYLE_LOSSES, StyleLoss
from style.objective.terms import Term
from style.synthesis import sliced_terms
from style.synthesis.options import Options, StyleLayers, style_losses, weights_of
from style.synthesis.sliced_terms import ComparedLayer
from vgg_normalize.errors import ImagesError

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
    # What tf.constant makes of an array keeps two copies of it; its identity has one.
    return tf.identity(tf.constant(np.ascontiguousarray(pixels[None], np.float32)))


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


def weighted(terms: Sequence[Term], factor: float) -> list[Term]:
    """The terms with their weights times a factor; none where it is 0."""
    return [term._replace(weight=term.weight * factor) for term in terms] if factor else []


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


def regularizers(options: Options, shape: tuple[int, int]) -> list[Term]:
    """Terms of the picture alone.

    Args:
        options: After `resolve`.
        shape: Height and width of the result in pixels.
    """
    inverts = options.task == "inversion"
    weight, beta = options.tv_weight or 0.0, options.tv_beta
    terms = [
        objective.norm_term(options.norm_weight if inverts else 0.0, shape),
        objective.normalized_tv_term(weight, shape, beta)
        if inverts
        else objective.tv_term(weight, (*shape, 3), beta),
        objective.range_term(options.range_weight, (*shape, 3)),
    ]
    return [term for term in terms if term.weight]


def style_terms(
    model: keras.Model,
    styles: Sequence[Style],
    layers: StyleLayers,
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
        layers: (name, weight) of each layer, or (name, weights) with one for each loss of a sum.
        weight: Factor of all of them.
        shape: Height and width of the result in pixels.
        loss: A key of `losses.STYLE_LOSSES`, or a sum of them, see `style_losses`.
        seed: Random seed for sampled positions and for directions.
        tile: Pixels a side of the tiles in which a style is read; 0: the whole picture.

    Raises:
        UsageError: No such loss.
        ImagesError: A mask is empty at a layer.
    """
    shares = style_losses(loss)
    total = sum(style.weight for style in styles)
    random = np.random.Generator(np.random.PCG64(seed))
    # For each loss the weights of its layers, where they are above 0.
    weights = {
        name: {
            layer: weight * share * layer_weight
            for layer, w in layers
            if (layer_weight := weights_of(w, len(shares))[i]) and share and weight
        }
        for i, (name, share) in enumerate(shares.items())
    }
    names = [layer for layer, _ in layers if any(layer in of_loss for of_loss in weights.values())]
    result_shapes = tiling.layer_shapes(model, names, shape)
    terms = []
    for style in styles:
        if not style.weight:
            continue
        compared = _compared(model, style, names, result_shapes)
        factor = style.weight / total
        scaled = {
            name: {layer: factor * w for layer, w in of_loss.items()}
            for name, of_loss in weights.items()
        }
        sliced = scaled.pop(sliced_terms.NAME, {})
        terms += _summed_terms(model, style, compared, scaled, random, tile)
        if sliced:
            terms += sliced_terms.sliced_terms(
                model,
                as_batch(style.pixels),
                [compared[layer]._replace(weight=w) for layer, w in sliced.items()],
                seed=seed,
                tile=tile,
            )
    return terms


def _compared(
    model: keras.Model,
    style: Style,
    names: Sequence[str],
    result_shapes: Mapping[str, Sequence[int]],
) -> dict[str, ComparedLayer]:
    """The shapes and masks of each layer."""
    style_shapes = tiling.layer_shapes(model, names, style.pixels.shape[:2])
    return {
        name: ComparedLayer(
            name,
            1.0,
            style_shapes[name],
            result_shapes[name],
            _guide(style.mask, style_shapes[name]),
            _guide(style.content_mask, result_shapes[name]),
        )
        for name in names
    }


def _summed_terms(
    model: keras.Model,
    style: Style,
    compared: Mapping[str, ComparedLayer],
    weights: Mapping[str, Mapping[str, float]],
    random: np.random.Generator,
    tile: int,
) -> list[Term]:
    """The terms of losses that are functions of sums, which losses of one layer share.

    Args:
        model: The network.
        style: The style picture.
        compared: The layers by name.
        weights: Loss -> layer -> factor of its term.
        random: For sampled positions.
        tile: Pixels a side of the tiles in which the style is read; 0: the whole picture.
    """
    chosen: list[tuple[str, str, StyleLoss, objective.StyleSums, objective.StyleSums]] = []
    for layer in compared.values():
        losses_here = {n: STYLE_LOSSES[n]() for n, w in weights.items() if layer.name in w}
        exact = [loss.sums for loss in losses_here.values() if not loss.sampled]
        shared: tuple[objective.StyleSums, objective.StyleSums] | None = None
        for name, loss in losses_here.items():
            if loss.sampled:
                pair = _sampled_sums(loss, layer, random)
            else:
                shared = shared or _exact_sums(
                    loss._replace(sums=statistics.covering_sums(exact)), layer
                )
                pair = shared
            chosen.append((name, layer.name, loss, *pair))
    wanted = list(dict.fromkeys((layer, sums) for _, layer, _, sums, _ in chosen))
    totals = value_and_gradient.total_sums(model, as_batch(style.pixels), wanted, tile=tile)
    of_style = dict(zip(wanted, totals, strict=True))
    return [
        objective.style_term(
            layer, weights[name][layer], loss, sums, loss.target(of_style[layer, of])
        )._replace(loss=name)
        for name, layer, loss, of, sums in chosen
    ]


def _exact_sums(
    loss: StyleLoss, layer: ComparedLayer
) -> tuple[objective.StyleSums, objective.StyleSums]:
    """What to add up over a layer of the style and of the result."""
    style, result = (
        objective.style_sums(loss, None if guide is None else tf.constant(guide, tf.float32))
        for guide in (layer.style_guide, layer.result_guide)
    )
    return style, result


def _sampled_sums(
    loss: StyleLoss, layer: ComparedLayer, random: np.random.Generator
) -> tuple[objective.StyleSums, objective.StyleSums]:
    """The same at random positions, drawn by how much each counts."""

    def draw(guide: np.ndarray | None, shape: Sequence[int]) -> objective.StyleSums:
        count = int(shape[0]) * int(shape[1])
        probabilities = None if guide is None else guide.ravel() / guide.sum()
        possible = count if probabilities is None else int((probabilities > 0).sum())
        drawn = random.choice(count, size=SAMPLES, replace=possible < SAMPLES, p=probabilities)
        positions = np.stack(np.unravel_index(np.sort(drawn), shape[:2]), axis=1)
        return objective.style_sums(loss, samples=tf.constant(positions, tf.int32))

    style = draw(layer.style_guide, layer.style_shape)
    return style, draw(layer.result_guide, layer.result_shape)


def _guide(mask: np.ndarray | None, shape: Sequence[int]) -> np.ndarray | None:
    """How much each position of a layer counts, [h, w]."""
    if mask is None:
        return None
    guide = mask_for(mask, shape[:2])
    if not guide.sum() > 0:
        raise ImagesError(
            "Expected masks that leave something at every layer. Received: a mask that is empty "
            f"at {shape[0]} x {shape[1]} positions. Make it larger, or leave out deep layers."
        )
    return guide


def mask_for(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask [H, W] at a layer's resolution: the mean over what each position covers, float64."""
    resized = tf.image.resize(mask[..., None].astype(np.float32), size, method="area")
    return np.asarray(resized[..., 0], np.float64)
