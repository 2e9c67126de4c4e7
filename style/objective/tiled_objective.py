"""The objective and its gradient by tiles, in bounded memory.

With the notation of `value_and_gradient`, a first pass adds up S_j for each nonlinear d_j.  Then
lambda_j = w_j grad d_j(S_j) is taken once, and a second pass carries it back to the pixels of each
tile:

    grad L(x) = sum_i R_i^T grad_x_i [ sum over nonlinear j of lambda_j.S_j(x_i)
                                       + sum over linear j of w_j d_j(S_j(x_i)) ].

Linear d_j are sums over tiles themselves, so they need the second pass only.  Terms whose sums are large
take turns, each with both passes, so that `MAX_SUMS` bounds what is added up at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from style.objective import evaluation, windows
from style.objective import tiling as tiles
from style.objective.evaluation import Objective, References
from style.objective.features import Convolve, Features, feature_extractor
from style.objective.layer_geometry import layer_shapes
from style.objective.terms import Term
from style.objective.tile_references import TileReferences
from style.objective.tiling import TileFeatures, Tiling

# How many numbers sums of a pass over the tiles may be, of 4 bytes: more take several passes.
MAX_SUMS = 2**26


class TiledObjective(NamedTuple):
    """L by tiles: memory for one of them at a time besides the picture and its gradient.

    Attributes:
        tiling: The tiles.
        nonlinear: Terms that need both passes.
        linear: Terms that need the second only.
        nonlinear_features: Window -> features for the first pass.
        all_features: Window -> features for the second.
        references: What linear terms compare with; None where none does.
    """

    tiling: Tiling
    nonlinear: Sequence[Term]
    linear: Sequence[Term]
    nonlinear_features: Features
    all_features: Features
    references: TileReferences | None

    def sums_of_tile(self, image: tf.Tensor, i: tf.Tensor) -> list[Any]:
        """S_j(x_i) of the nonlinear terms."""
        features = self.nonlinear_features(windows.crop_window(image, self.tiling, i))
        return evaluation.sums_of(self.nonlinear, tiles.tile_features(features, {}, self.tiling, i))

    def gradient_of_tile(
        self, image: tf.Tensor, slopes: Sequence[tf.Tensor], i: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The gradient over the window of tile i, and what the linear kinds add to L.

        Args:
            image: x, [1, H, W, 3].
            slopes: lambda_j, flat.
            i: The number of the tile.
        """
        references = self.references.of_tile(i) if self.references else {}
        with tf.control_dependencies(list(references.values())):  # one window in memory at a time
            window = tf.identity(windows.crop_window(image, self.tiling, i))

        def own(layers: Mapping[str, tf.Tensor]) -> dict[str, TileFeatures]:
            return tiles.tile_features(layers, references, self.tiling, i)

        terms = [*self.linear, *self.nonlinear]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(window)
            sums = evaluation.sums_in_turn(terms, self.all_features, window, own)
            linear, nonlinear = (
                [sums[summand] for summand in evaluation.summands(some)]
                for some in (self.linear, self.nonlinear)
            )
            kinds = evaluation.sum_by_kind(self.linear, linear)
            flat = tf.nest.flatten(nonlinear)
            products = [tf.reduce_sum(s * t) for s, t in zip(slopes, flat, strict=True)]
            score = tf.add_n([*kinds.values(), *(tf.cast(p, tf.float64) for p in products)])
        return tape.gradient(score, window), kinds

    def slopes(self, image: tf.Tensor) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """The first pass: lambda_j, flat, and what the nonlinear kinds add to L."""
        totals = (
            tiles.sum_over_tiles(self.sums_of_tile, self.tiling, image) if self.nonlinear else []
        )
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf.nest.flatten(totals))
            kinds = evaluation.sum_by_kind(self.nonlinear, totals)
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
            return i + 1, windows.add_to_window(gradient, piece, self.tiling, i), kinds

        zeros = {term.kind: tf.constant(0.0, tf.float64) for term in self.linear}
        _, gradient, kinds = tf.while_loop(
            lambda i, *_: i < self.tiling.tiles,
            add,
            (tf.constant(0), windows.blank(image, self.tiling), zeros),
            parallel_iterations=1,
        )
        return windows.fold(gradient, self.tiling), kinds

    def evaluate(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """The objective, its gradient, and what each kind of term adds to it."""
        slopes, nonlinear = self.slopes(image)
        with tf.control_dependencies(slopes):  # one pass in memory at a time
            image = tf.identity(image)
        gradient, linear = self.gradient(image, slopes)
        kinds = {k: nonlinear.get(k, 0.0) + linear.get(k, 0.0) for k in (*nonlinear, *linear)}
        return evaluation.rounded_result(kinds, gradient)


def _rounds(terms: Sequence[Term]) -> list[list[Term]]:
    """The terms in groups, such that what a group adds up is no more than `MAX_SUMS` numbers."""
    rounds: list[list[Term]] = [[]]
    for term in sorted(terms, key=lambda term: term.size):
        if rounds[-1] and sum(t.size for t in rounds[-1]) + term.size > MAX_SUMS:
            rounds.append([])
        rounds[-1].append(term)
    return rounds


def _references(
    model: keras.Model,
    terms: Sequence[Term],
    tiling: Tiling,
    content: tf.Tensor,
    kernels: dict[str, Convolve],
) -> TileReferences:
    compared = [term.layer for term in terms if term.compares]
    shapes = layer_shapes(model, compared, tiling.shape)
    features = feature_extractor(model, compared, kernels=kernels)
    return TileReferences(features, {name: shapes[name] for name in compared}, tiling, content)


def tiled_objective(
    model: keras.Model,
    terms: Sequence[Term],
    tiling: Tiling,
    content: tf.Tensor | None,
    *,
    kernels: dict[str, Convolve],
) -> Objective:
    """The objective by tiles: a sum over rounds of terms, each with both passes."""
    references = None if content is None else _references(model, terms, tiling, content, kernels)

    def extractor(terms: Sequence[Term]) -> Features:
        return feature_extractor(model, [term.layer for term in terms], kernels=kernels)

    def objective(terms: Sequence[Term]) -> TiledObjective:
        nonlinear = [term for term in terms if not term.linear]
        compares = any(term.compares for term in terms)
        return TiledObjective(
            tiling,
            nonlinear,
            [term for term in terms if term.linear],
            extractor(nonlinear),
            extractor(terms),
            references if compares else None,
        )

    parts = [objective(terms) for terms in _rounds(terms)]

    def evaluate(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        value, gradient, kinds = parts[0].evaluate(image)
        for part in parts[1:]:
            with tf.control_dependencies([gradient]):  # one round in memory at a time
                image = tf.identity(image)
            more, piece, of_part = part.evaluate(image)
            value, gradient = value + more, gradient + piece
            for kind, addend in of_part.items():
                kinds[kind] = kinds[kind] + addend if kind in kinds else addend
        return value, gradient, kinds

    def compare_with(content: tf.Tensor, _: References | None) -> None:
        if references is not None:
            references.compare_with(content)

    return Objective(evaluate, compare_with)
