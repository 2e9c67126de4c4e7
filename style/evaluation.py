"""The objective and its gradient: of the whole picture at once, or in bounded memory by tiles.

By tiles a first pass adds up the sums that the terms need, the objective's derivative with respect
to them is taken once, and a second pass carries it back to the pixels of each tile.  Terms whose
distance is linear need the second pass only.  Both ways give the same objective and gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style import convolution, tiles
from style.objective import Term
from style.tiles import IMAGE, Part, Tiling
from vgg_normalize import chain
from vgg_normalize.errors import UsageError

Evaluate = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]]
Convolve = Callable[[tf.Tensor], tf.Tensor]
Features = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def extractor(
    model: keras.Model, names: Sequence[str], *, kernels: dict[str, Convolve] | None = None
) -> Features:
    """Image -> features of these layers, no deeper; with the image itself.

    Args:
        model: A chain of layers.
        names: Layers; `IMAGE` needs none.
        kernels: For evaluations again and again with the weights as they are: where the kernels
            made ready for `convolution.winograd` are kept, by layer, which extractors of the same
            model may share.  None: the layers themselves are called.
    """
    layers = sorted(set(names) - {IMAGE})
    if not layers:
        return lambda image: {IMAGE: image}
    wanted = chain.activations(model, layers)
    path = chain.as_far_as(model, wanted.values())

    def features(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = {}
        tensor = image
        for layer in path:
            tensor = outputs[layer.name] = _call(layer, tensor, kernels)
        return {**{name: outputs[layer.name] for name, layer in wanted.items()}, IMAGE: image}

    return features


def _call(layer: keras.Layer, tensor: tf.Tensor, kernels: dict[str, Convolve] | None) -> tf.Tensor:
    if kernels is None or not convolution.suits(layer, tensor.shape):
        return layer(tensor, training=False)
    if layer.name not in kernels:
        with tf.init_scope():  # outside the graph, which only refers to it
            kernels[layer.name] = convolution.winograd(np.asarray(layer.kernel))
    tensor = kernels[layer.name](tensor)
    return layer.activation(tf.nn.bias_add(tensor, layer.bias) if layer.use_bias else tensor)


def total_sums(
    model: keras.Model,
    picture: tf.Tensor,
    wanted: Sequence[tuple[str, Callable[[Part], Any]]],
    *,
    tile: int = 0,
) -> list[Any]:
    """Sums over a picture [1, H, W, 3]: for each (layer, function of a part) the function's sum."""
    names = [name for name, _ in wanted]
    tiling = tiles.cut(model, names, tuple(picture.shape[1:3]), tile)
    features = extractor(model, names)

    def of_tile(picture: tf.Tensor, i: tf.Tensor) -> list[Any]:
        found = features(tiles.window(picture, tiling, i))
        parts = tiles.parts(found, {}, tiling, i)
        return [function(parts[name]) for name, function in wanted]

    return _once(lambda picture: _over_tiles(of_tile, tiling, picture), picture)


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
        groups: Terms, and the picture [1, H, W, 3] at which they are wanted.
        content: The picture that terms compare with, [1, H, W, 3].
        tile: See `tiles.cut`.
    """
    names = [term.layer for terms, _ in groups for term in terms]
    compared = {term.layer for terms, _ in groups for term in terms if term.compares}
    tiling = tiles.cut(model, names, tuple(content.shape[1:3]), tile)
    kernels: dict[str, Convolve] = {}
    look = [extractor(model, [t.layer for t in terms], kernels=kernels) for terms, _ in groups]
    compare = extractor(model, sorted(compared), kernels=kernels)

    def of_tile(content: tf.Tensor, pictures: Sequence[tf.Tensor], i: tf.Tensor) -> list[Any]:
        references = compare(tiles.window(content, tiling, i)) if compared else {}
        sums = []
        for (terms, _), picture, features in zip(groups, pictures, look, strict=True):
            parts = tiles.parts(features(tiles.window(picture, tiling, i)), references, tiling, i)
            sums.append([term.sums(parts[term.layer]) for term in terms])
        return sums

    def values(content: tf.Tensor, pictures: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        sums = _over_tiles(of_tile, tiling, content, pictures)
        return [
            tf.add_n(list(_by_kind(terms, found).values()))
            for (terms, _), found in zip(groups, sums, strict=True)
        ]

    traced = tf.function(values, autograph=False)
    return [float(value) for value in traced(content, [picture for _, picture in groups])]


def _once(function: Callable[[tf.Tensor], Any], x: tf.Tensor) -> Any:
    """The function of x, computed as a graph without TensorFlow's warnings of many tracings."""
    return tf.function(function, autograph=False).get_concrete_function(x)(x)


def _over_tiles(of_tile: Callable[..., Any], tiling: Tiling, *pictures: Any) -> Any:
    """The sum of a function (pictures, i) over all tiles."""
    if tiling.tiles == 1:
        return of_tile(*pictures, tf.constant(0))
    traced = tf.function(of_tile, autograph=False).get_concrete_function(*pictures, tf.constant(0))
    zeros = tf.nest.map_structure(
        lambda spec: tf.zeros(spec.shape, spec.dtype), traced.structured_outputs
    )

    def add(i: tf.Tensor, total: Any) -> tuple[tf.Tensor, Any]:
        return i + 1, tf.nest.map_structure(tf.add, total, traced(*pictures, i))

    return tf.while_loop(
        lambda i, total: i < tiling.tiles, add, (tf.constant(0), zeros), parallel_iterations=1
    )[1]


def evaluator(
    model: keras.Model,
    terms: Sequence[Term],
    shape: tuple[int, int],
    *,
    content: tf.Tensor | None = None,
    tile: int = 0,
) -> Evaluate:
    """Image [1, H, W, 3] -> the objective, its gradient, and what each kind of term adds to it.

    The objective is the sum of the kinds' contributions.

    Args:
        model: A chain of layers.
        terms: The objective.
        shape: Height and width of the images.
        content: The picture that terms compare with, [1, H, W, 3].
        tile: Pixels a side of the tiles that bound the memory, see `tiles.cut`; 0: none.
    """
    names = [term.layer for term in terms]
    compared = [term.layer for term in terms if term.compares]
    tiling = tiles.cut(model, names, shape, tile)
    if compared and content is None:
        raise UsageError(
            f"Expected the picture that {', '.join(compared)} are compared with. Received: none. "
            "Give `content`."
        )
    if tiling.tiles > 1:
        return _tiled(model, terms, tiling, content if compared else None)
    kernels: dict[str, Convolve] = {}
    features = extractor(model, names, kernels=kernels)
    references: Mapping[str, tf.Tensor] = {}
    if compared and content is not None:
        references = _once(extractor(model, compared, kernels=kernels), content)

    def evaluate(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            parts = tiles.parts(features(image), references, tiling, 0)
            found = _by_kind(terms, [term.sums(parts[term.layer]) for term in terms])
            total = tf.add_n(list(found.values()))
        return _result(found, tape.gradient(total, image))

    return evaluate


def _by_kind(terms: Sequence[Term], sums: Sequence[Any]) -> dict[str, tf.Tensor]:
    """What each kind of term adds to the objective, float64."""
    found: dict[str, tf.Tensor] = {}
    for term, total in zip(terms, sums, strict=True):
        value = term.weight * tf.cast(term.distance(total), tf.float64)
        found[term.kind] = found[term.kind] + value if term.kind in found else value
    return found


def _result(
    found: Mapping[str, tf.Tensor], gradient: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    kinds = {kind: tf.cast(value, gradient.dtype) for kind, value in found.items()}
    return tf.cast(tf.add_n(list(found.values())), gradient.dtype), gradient, kinds


def _tiled(
    model: keras.Model, terms: Sequence[Term], tiling: Tiling, content: tf.Tensor | None
) -> Evaluate:
    """The same by tiles: memory for one of them at a time besides the picture and its gradient."""
    curved = [term for term in terms if not term.linear]
    linear = [term for term in terms if term.linear]
    kernels: dict[str, Convolve] = {}
    look = extractor(model, [term.layer for term in terms], kernels=kernels)
    glance = extractor(model, [term.layer for term in curved], kernels=kernels)
    compare = extractor(model, [term.layer for term in terms if term.compares], kernels=kernels)

    def sums_of(image: tf.Tensor, i: tf.Tensor) -> list[Any]:
        parts = tiles.parts(glance(tiles.window(image, tiling, i)), {}, tiling, i)
        return [term.sums(parts[term.layer]) for term in curved]

    def gradient_of(
        image: tf.Tensor, slopes: Sequence[tf.Tensor], i: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        references = {} if content is None else compare(tiles.window(content, tiling, i))
        window = tiles.window(image, tiling, i)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(window)
            parts = tiles.parts(look(window), references, tiling, i)
            found = _by_kind(linear, [term.sums(parts[term.layer]) for term in linear])
            sums = tf.nest.flatten([term.sums(parts[term.layer]) for term in curved])
            along = [tf.reduce_sum(s * t) for s, t in zip(slopes, sums, strict=True)]
            score = tf.add_n([*found.values(), *(tf.cast(part, tf.float64) for part in along)])
        return tape.gradient(score, window), found

    def evaluate(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        totals = _over_tiles(sums_of, tiling, image) if curved else []
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf.nest.flatten(totals))
            found = _by_kind(curved, totals)
            value = tf.add_n(list(found.values())) if found else tf.constant(0.0, tf.float64)
        slopes = tape.gradient(value, tf.nest.flatten(totals), unconnected_gradients="zero")
        traced = tf.function(gradient_of, autograph=False)
        traced = traced.get_concrete_function(image, slopes, tf.constant(0))

        def add(i: tf.Tensor, gradient: tf.Tensor, kinds: Any) -> tuple[tf.Tensor, tf.Tensor, Any]:
            piece, more = traced(image, slopes, i)
            kinds = tf.nest.map_structure(tf.add, kinds, more)
            return i + 1, tiles.add_at(gradient, piece, tiling, i), kinds

        # Not tf.zeros_like, which TensorFlow keeps and so copies at the first change.
        blank = tf.raw_ops.Empty(shape=tf.shape(image), dtype=image.dtype, init=True)
        none = {term.kind: tf.constant(0.0, tf.float64) for term in linear}
        _, gradient, kinds = tf.while_loop(
            lambda i, *_: i < tiling.tiles,
            add,
            (tf.constant(0), tf.ensure_shape(blank, image.shape), none),
            parallel_iterations=1,
        )
        return _result(
            {k: found.get(k, 0.0) + kinds.get(k, 0.0) for k in (*found, *kinds)}, gradient
        )

    return evaluate
