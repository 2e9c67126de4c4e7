"""The objective and its gradient: of the whole picture at once, or in bounded memory by tiles.

A picture x has windows x_i = R_i x (see `tiling`), and term j the weight w_j, the distance d_j and
sums over positions S_j that add up over tiles:

    L(x) = sum_j w_j d_j(S_j),    S_j = sum_i S_j(x_i).

By tiles, a first pass adds up S_j for each nonlinear d_j.  Then lambda_j = w_j grad d_j(S_j) is
taken once, and a second pass carries it back to the pixels of each tile:

    grad L(x) = sum_i R_i^T grad_x_i [ sum over nonlinear j of lambda_j.S_j(x_i)
                                       + sum over linear j of w_j d_j(S_j(x_i)) ].

Linear d_j are sums over tiles themselves, so they need the second pass only.  Up to rounding both
ways give the same objective and gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from style.objective import tiling as tiles
from style.objective.features import Convolve, Features, feature_extractor
from style.objective.terms import Term
from style.objective.tiling import TileFeatures, Tiling
from vgg_normalize.errors import UsageError

ValueAndGradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]]


def total_sums(
    model: keras.Model,
    picture: tf.Tensor,
    summands: Sequence[tuple[str, Callable[[TileFeatures], Any]]],
    *,
    tile: int = 0,
) -> list[Any]:
    """Sums over a picture.

    Args:
        model: A chain of layers.
        picture: [1, H, W, 3].
        summands: (layer name, function of its `TileFeatures`), whose sums over tiles are wanted.
        tile: Pixels a side of the tiles, see `tiling.make_tiling`; 0: the whole picture.
    """
    names = [name for name, _ in summands]
    tiling = tiles.make_tiling(model, names, tuple(picture.shape[1:3]), tile)
    features = feature_extractor(model, names)

    def of_tile(picture: tf.Tensor, i: tf.Tensor) -> list[Any]:
        window = tiles.crop_window(picture, tiling, i)
        owned = tiles.tile_features(features(window), {}, tiling, i)
        return [function(owned[name]) for name, function in summands]

    return _run_as_graph(lambda picture: tiles.sum_over_tiles(of_tile, tiling, picture), picture)


def total_values(
    model: keras.Model,
    groups: Sequence[tuple[Sequence[Term], tf.Tensor]],
    *,
    content: tf.Tensor,
    tile: int = 0,
) -> list[float]:
    """For each group of terms its value at a picture, without gradients.

    Args:
        model: A chain of layers.
        groups: Terms, and the picture [1, H, W, 3] at which they are evaluated.
        content: The picture that terms compare with, [1, H, W, 3].
        tile: Pixels a side of the tiles, see `tiling.make_tiling`; 0: the whole picture.
    """
    names = [term.layer for terms, _ in groups for term in terms]
    compared = {term.layer for terms, _ in groups for term in terms if term.compares}
    tiling = tiles.make_tiling(model, names, tuple(content.shape[1:3]), tile)
    kernels: dict[str, Convolve] = {}
    extractors = [
        feature_extractor(model, [t.layer for t in terms], kernels=kernels) for terms, _ in groups
    ]
    content_features = feature_extractor(model, sorted(compared), kernels=kernels)

    def of_tile(content: tf.Tensor, pictures: Sequence[tf.Tensor], i: tf.Tensor) -> list[Any]:
        references = content_features(tiles.crop_window(content, tiling, i)) if compared else {}
        sums = []
        for (terms, _), picture, features in zip(groups, pictures, extractors, strict=True):
            window = tiles.crop_window(picture, tiling, i)
            owned = tiles.tile_features(features(window), references, tiling, i)
            sums.append(_sums(terms, owned))
        return sums

    def values(content: tf.Tensor, pictures: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        sums = tiles.sum_over_tiles(of_tile, tiling, content, pictures)
        return [
            tf.add_n(list(_sum_by_kind(terms, totals).values()))
            for (terms, _), totals in zip(groups, sums, strict=True)
        ]

    traced = tf.function(values, autograph=False)
    return [float(value) for value in traced(content, [picture for _, picture in groups])]


def _run_as_graph(function: Callable[[tf.Tensor], Any], x: tf.Tensor) -> Any:
    """The function of x, computed as a graph without TensorFlow's warnings of many tracings."""
    return tf.function(function, autograph=False).get_concrete_function(x)(x)


def make_value_and_gradient(
    model: keras.Model,
    terms: Sequence[Term],
    shape: tuple[int, int],
    *,
    content: tf.Tensor | None = None,
    tile: int = 0,
) -> ValueAndGradient:
    """Image [1, H, W, 3] -> the objective, its gradient, and what each kind of term adds to it.

    The objective is the sum of the kinds' contributions.

    Args:
        model: A chain of layers.
        terms: The summands of the objective.
        shape: Height and width of the images in pixels.
        content: The picture that terms compare with, [1, H, W, 3].
        tile: Pixels a side of the tiles that bound the memory, see `tiling.make_tiling`; 0: the
            whole picture.

    Raises:
        UsageError: Terms compare with the content, and there is none.
    """
    names = [term.layer for term in terms]
    compared = [term.layer for term in terms if term.compares]
    tiling = tiles.make_tiling(model, names, shape, tile)
    if compared and content is None:
        raise UsageError(
            f"Expected the picture that {', '.join(compared)} are compared with. Received: none. "
            "Give `content`."
        )
    if tiling.tiles > 1:
        return _tiled(model, terms, tiling, content if compared else None)
    kernels: dict[str, Convolve] = {}
    features = feature_extractor(model, names, kernels=kernels)
    references: Mapping[str, tf.Tensor] = {}
    if compared and content is not None:
        references = _run_as_graph(feature_extractor(model, compared, kernels=kernels), content)

    def evaluate(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            owned = tiles.tile_features(features(image), references, tiling, 0)
            kinds = _sum_by_kind(terms, _sums(terms, owned))
            total = tf.add_n(list(kinds.values()))
        return _result(kinds, tape.gradient(total, image))

    return evaluate


def _sums(terms: Sequence[Term], owned: Mapping[str, TileFeatures]) -> list[Any]:
    """S_j of each term over what a tile owns."""
    return [term.sums(owned[term.layer]) for term in terms]


def _sum_by_kind(terms: Sequence[Term], sums: Sequence[Any]) -> dict[str, tf.Tensor]:
    """What each kind of term adds to the objective, the sum of its w_j d_j(S_j), float64."""
    kinds: dict[str, tf.Tensor] = {}
    for term, total in zip(terms, sums, strict=True):
        value = term.weight * tf.cast(term.distance(total), tf.float64)
        kinds[term.kind] = kinds[term.kind] + value if term.kind in kinds else value
    return kinds


def _result(
    kinds: Mapping[str, tf.Tensor], gradient: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    rounded = {kind: tf.cast(value, gradient.dtype) for kind, value in kinds.items()}
    return tf.cast(tf.add_n(list(kinds.values())), gradient.dtype), gradient, rounded


class _TiledObjective(NamedTuple):
    """L by tiles: memory for one of them at a time besides the picture and its gradient.

    Attributes:
        tiling: The tiles.
        nonlinear: Terms that need both passes.
        linear: Terms that need the second only.
        nonlinear_features: Window -> features for the first pass.
        all_features: Window -> features for the second.
        content_features: Window of the content -> features that terms compare with.
        content: The picture that terms compare with, [1, H, W, 3]; None where none does.
    """

    tiling: Tiling
    nonlinear: Sequence[Term]
    linear: Sequence[Term]
    nonlinear_features: Features
    all_features: Features
    content_features: Features
    content: tf.Tensor | None

    def sums_of_tile(self, image: tf.Tensor, i: tf.Tensor) -> list[Any]:
        """S_j(x_i) of the nonlinear terms."""
        features = self.nonlinear_features(tiles.crop_window(image, self.tiling, i))
        return _sums(self.nonlinear, tiles.tile_features(features, {}, self.tiling, i))

    def gradient_of_tile(
        self, image: tf.Tensor, slopes: Sequence[tf.Tensor], i: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The gradient over the window of tile i, and what the linear kinds add to L.

        Args:
            image: x, [1, H, W, 3].
            slopes: lambda_j, flat.
            i: The number of the tile.
        """
        references: Mapping[str, tf.Tensor] = {}
        if self.content is not None:
            references = self.content_features(tiles.crop_window(self.content, self.tiling, i))
        window = tiles.crop_window(image, self.tiling, i)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(window)
            owned = tiles.tile_features(self.all_features(window), references, self.tiling, i)
            kinds = _sum_by_kind(self.linear, _sums(self.linear, owned))
            sums = tf.nest.flatten(_sums(self.nonlinear, owned))
            products = [tf.reduce_sum(s * t) for s, t in zip(slopes, sums, strict=True)]
            score = tf.add_n([*kinds.values(), *(tf.cast(p, tf.float64) for p in products)])
        return tape.gradient(score, window), kinds

    def slopes(self, image: tf.Tensor) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """The first pass: lambda_j, flat, and what the nonlinear kinds add to L."""
        totals = (
            tiles.sum_over_tiles(self.sums_of_tile, self.tiling, image) if self.nonlinear else []
        )
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf.nest.flatten(totals))
            kinds = _sum_by_kind(self.nonlinear, totals)
            value = tf.add_n(list(kinds.values())) if kinds else tf.constant(0.0, tf.float64)
        flat = tf.nest.flatten(totals)
        return tape.gradient(value, flat, unconnected_gradients="zero"), kinds

    def gradient(
        self, image: tf.Tensor, slopes: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The second pass: grad L [1, H, W, 3], and what the linear kinds add to L."""
        traced = tf.function(self.gradient_of_tile, autograph=False)
        traced = traced.get_concrete_function(image, slopes, tf.constant(0))

        def add(i: tf.Tensor, gradient: tf.Tensor, kinds: Any) -> tuple[tf.Tensor, tf.Tensor, Any]:
            piece, more = traced(image, slopes, i)
            kinds = tf.nest.map_structure(tf.add, kinds, more)
            return i + 1, tiles.add_to_window(gradient, piece, self.tiling, i), kinds

        # Not tf.zeros_like, which TensorFlow keeps and so copies at the first change.
        blank = tf.raw_ops.Empty(shape=tf.shape(image), dtype=image.dtype, init=True)
        zeros = {term.kind: tf.constant(0.0, tf.float64) for term in self.linear}
        _, gradient, kinds = tf.while_loop(
            lambda i, *_: i < self.tiling.tiles,
            add,
            (tf.constant(0), tf.ensure_shape(blank, image.shape), zeros),
            parallel_iterations=1,
        )
        return gradient, kinds

    def evaluate(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """The objective, its gradient, and what each kind of term adds to it."""
        slopes, nonlinear = self.slopes(image)
        gradient, linear = self.gradient(image, slopes)
        kinds = {k: nonlinear.get(k, 0.0) + linear.get(k, 0.0) for k in (*nonlinear, *linear)}
        return _result(kinds, gradient)


def _tiled(
    model: keras.Model, terms: Sequence[Term], tiling: Tiling, content: tf.Tensor | None
) -> ValueAndGradient:
    nonlinear = [term for term in terms if not term.linear]
    kernels: dict[str, Convolve] = {}

    def extractor(terms: Sequence[Term]) -> Features:
        return feature_extractor(model, [term.layer for term in terms], kernels=kernels)

    return _TiledObjective(
        tiling,
        nonlinear,
        [term for term in terms if term.linear],
        extractor(nonlinear),
        extractor(terms),
        extractor([term for term in terms if term.compares]),
        content,
    ).evaluate
