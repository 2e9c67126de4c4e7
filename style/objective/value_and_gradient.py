"""The objective and its gradient: of the whole picture at once, or in bounded memory by tiles.

A picture x has windows x_i = R_i x (see `tiling`), and term j the weight w_j, the distance d_j and
sums over positions S_j that add up over tiles:

    L(x) = sum_j w_j d_j(S_j),    S_j = sum_i S_j(x_i).

How it is done by tiles stands in `tiled_objective`; up to rounding both ways give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from style.objective import evaluation, windows
from style.objective import tiling as tiles
from style.objective.evaluation import Objective, References
from style.objective.features import Convolve, feature_extractor
from style.objective.terms import Term
from style.objective.tiled_objective import tiled_objective
from style.objective.tiling import TileFeatures
from vgg_normalize.errors import UsageError


def total_sums(
    model: keras.Model,
    picture: tf.Tensor,
    summands: Sequence[tuple[str, Callable[[TileFeatures], Any]]],
    *,
    tile: int = 0,
) -> list[Any]:
    """Sums over a picture [1, H, W, 3]; the other arguments are those of `make_total_sums`."""
    return make_total_sums(model, tuple(picture.shape[1:3]), summands, tile=tile)(picture)


def make_total_sums(
    model: keras.Model,
    shape: tuple[int, int],
    summands: Sequence[tuple[str, Callable[[TileFeatures], Any]]],
    *,
    tile: int = 0,
) -> Callable[[tf.Tensor], list[Any]]:
    """Picture [1, H, W, 3] -> sums over it, traced once.

    Args:
        model: A chain of layers.
        shape: Height and width of the pictures in pixels.
        summands: (layer name, function of its `TileFeatures`), whose sums over tiles are wanted.
        tile: Pixels a side of the tiles, see `tiling.make_tiling`; 0: the whole picture.
    """
    names = [name for name, _ in summands]
    tiling = tiles.make_tiling(model, names, shape, tile)
    features = feature_extractor(model, names)

    def of_tile(picture: tf.Tensor, i: tf.Tensor) -> list[Any]:
        window = windows.crop_window(picture, tiling, i)
        owned = tiles.tile_features(features(window), {}, tiling, i)
        return [function(owned[name]) for name, function in summands]

    return evaluation.traced_once(lambda picture: tiles.sum_over_tiles(of_tile, tiling, picture))


def make_total_values(
    model: keras.Model,
    groups: Sequence[Sequence[Term]],
    shape: tuple[int, int],
    *,
    tile: int = 0,
    kernels: dict[str, Convolve] | None = None,
) -> Callable[[tf.Tensor, Sequence[tf.Tensor]], tuple[list[list[float]], References]]:
    """(content, a picture for each further group) -> what each term adds there, traced once.

    The first group is evaluated at the content, with which the terms of the others may compare.
    The content's features that they compare with come along, for `make_value_and_gradient`; none
    of a picture in tiles, whose features are too large to be kept.

    Args:
        model: A chain of layers.
        groups: Terms, which are evaluated at one picture.
        shape: Height and width of all pictures [1, H, W, 3] in pixels.
        tile: Pixels a side of the tiles, see `tiling.make_tiling`; 0: the whole picture.
        kernels: See `feature_extractor`; default: of this function alone.
    """
    kernels = {} if kernels is None else kernels
    layers = [[term.layer for term in terms] for terms in groups]
    compared = [term.layer for terms in groups for term in terms if term.compares]
    tiling = tiles.make_tiling(model, [name for names in layers for name in names], shape, tile)
    # Of the content in one pass what is evaluated and what is compared with.
    extractors = [
        feature_extractor(model, names, kernels=kernels)
        for names in ([*layers[0], *compared], *layers[1:])
    ]

    def of_tile(pictures: Sequence[tf.Tensor], i: tf.Tensor) -> tuple[list[Any], References]:
        by_picture = [
            features(windows.crop_window(picture, tiling, i))
            for picture, features in zip(pictures, extractors, strict=True)
        ]
        owned = tiles.tile_features(by_picture[0], {}, tiling, i)
        references = {name: owned[name].features for name in compared}
        sums = [
            evaluation.sums_of(terms, tiles.tile_features(features, references, tiling, i))
            for terms, features in zip(groups, by_picture, strict=True)
        ]
        return sums, references if tiling.tiles == 1 else {}

    def values(batch: tf.Tensor) -> tuple[list[list[tf.Tensor]], References]:
        sums, references = tiles.sum_over_tiles(of_tile, tiling, tf.split(batch, len(groups)))
        totals = [evaluation.values_of(*group) for group in zip(groups, sums, strict=True)]
        return totals, references

    traced = evaluation.traced_once(values)

    def call(
        content: tf.Tensor, pictures: Sequence[tf.Tensor]
    ) -> tuple[list[list[float]], References]:
        totals, references = traced(tf.concat([content, *pictures], 0))
        return [[float(value) for value in group] for group in totals], references

    return call


def make_value_and_gradient(
    model: keras.Model,
    terms: Sequence[Term],
    shape: tuple[int, int],
    *,
    content: tf.Tensor | None = None,
    references: References | None = None,
    tile: int = 0,
    kernels: dict[str, Convolve] | None = None,
) -> Objective:
    """Image [1, H, W, 3] -> the objective, its gradient, and what each kind of term adds to it.

    The objective is the sum of the kinds' contributions.

    Args:
        model: A chain of layers.
        terms: The summands of the objective.
        shape: Height and width of the images in pixels.
        content: The picture that terms compare with, [1, H, W, 3].
        references: Its features, where `make_total_values` gave them; default: extracted here.
        tile: Pixels a side of the tiles that bound the memory, see `tiling.make_tiling`; 0: the
            whole picture.
        kernels: See `feature_extractor`; default: of this objective alone.

    Raises:
        UsageError: Terms compare with the content, and there is none.
    """
    kernels = {} if kernels is None else kernels
    names = [term.layer for term in terms]
    compared = [term.layer for term in terms if term.compares]
    tiling = tiles.make_tiling(model, names, shape, tile)
    if compared and content is None:
        raise UsageError(
            f"Expected the picture that {', '.join(compared)} are compared with. Received: none. "
            "Give `content`."
        )
    if tiling.tiles > 1:
        return tiled_objective(model, terms, tiling, content if compared else None, kernels=kernels)
    features = feature_extractor(model, names, kernels=kernels)
    content_features = evaluation.traced_once(feature_extractor(model, compared, kernels=kernels))
    compared_with: dict[str, tf.Variable] = {}

    def compare_with(content: tf.Tensor, references: References | None) -> None:
        layers = references or content_features(content)
        evaluation.store(compared_with, {name: layers[name] for name in compared})

    if compared and content is not None:
        compare_with(content, references)

    def own(layers: Mapping[str, tf.Tensor]) -> dict[str, TileFeatures]:
        return tiles.tile_features(layers, compared_with, tiling, 0)

    def evaluate(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            sums = evaluation.sums_in_turn(terms, features, image, own)
            kinds = evaluation.sum_by_kind(terms, list(sums.values()))
            total = tf.add_n(list(kinds.values()))
        return evaluation.rounded_result(kinds, tape.gradient(total, image))

    return Objective(evaluate, compare_with)
