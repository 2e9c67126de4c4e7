"""What terms make of the features of a tile or of a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from style.objective.features import Features
from style.objective.terms import Term
from style.objective.tiling import TileFeatures

# Image [1, H, W, 3] -> the objective, its gradient, and what each kind of term adds to it.
ValueAndGradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]]
# Layer name -> features of the picture that terms compare with.
References = Mapping[str, tf.Tensor]


def traced_once(function: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
    """A function of pictures of one shape as one graph, made at the first call.

    Not a tf.function: TensorFlow counts tracings by the place in the code, and would warn of many
    where a sheet has many pictures.  Nothing here needs AutoGraph, whose conversion would take longer
    than the tracing.
    """
    graphs: list[Callable[[tf.Tensor], Any]] = []

    def call(x: tf.Tensor) -> Any:
        if not graphs:
            spec = tf.TensorSpec(x.shape, x.dtype)
            graphs.append(tf.function(function, autograph=False).get_concrete_function(spec))
        return graphs[0](x)

    return call


class Objective:
    """Image [1, H, W, 3] -> a `ValueAndGradient`; what it compares images with may be replaced.

    Args:
        evaluate: The function.
        compare_with: (picture, its features where they are known) -> None replaces the picture
            that terms compare with, of the same shape.
    """

    def __init__(
        self,
        evaluate: ValueAndGradient,
        compare_with: Callable[[tf.Tensor, References | None], None],
    ) -> None:
        self._evaluate = evaluate
        self.compare_with = compare_with

    def __call__(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """The objective, its gradient, and what each kind of term adds to it."""
        return self._evaluate(image)


def store(variables: dict[str, tf.Variable], values: References) -> None:
    """Put values into the variables of their names, which are made at the first call."""
    for name, value in values.items():
        if name in variables:
            variables[name].assign(value)
        else:
            variables[name] = tf.Variable(value, trainable=False)


def summands(terms: Sequence[Term]) -> list[tuple[str, Any]]:
    """The sums that the terms need, each once however many terms share it."""
    return list(dict.fromkeys((term.layer, term.sums) for term in terms))


def sums_of(terms: Sequence[Term], owned: Mapping[str, TileFeatures]) -> list[Any]:
    """S_j over what a tile owns, one for each of `summands`."""
    return [sums(owned[layer]) for layer, sums in summands(terms)]


def sums_in_turn(
    terms: Sequence[Term],
    features: Features,
    window: tf.Tensor,
    own: Callable[[Mapping[str, tf.Tensor]], Mapping[str, TileFeatures]],
) -> dict[tuple[str, Any], Any]:
    """The same of a window, by summand, with few gradients in memory at a time; see `Features`.

    Args:
        terms: The terms.
        features: Window -> features of their layers at least.
        window: The window of the tile, [1, h, w, 3].
        own: Features of the window -> what the tile owns of them.
    """

    def tap(name: str, layer: tf.Tensor) -> list[Any]:
        return sums_of([term for term in terms if term.layer == name], own({name: layer}))

    by_layer = {name: iter(sums) for name, sums in features(window, tap).items()}
    return {summand: next(by_layer[summand[0]]) for summand in summands(terms)}


def values_of(terms: Sequence[Term], sums: Sequence[Any]) -> list[tf.Tensor]:
    """w_j d_j(S_j) of each term, float64."""
    totals = dict(zip(summands(terms), sums, strict=True))
    values = []
    for term in terms:
        distance = tf.cast(term.distance(totals[term.layer, term.sums]), tf.float64)
        value = term.weight * distance
        values.append(value if term.scale is None else term.scale * value)
    return values


def sum_by_kind(terms: Sequence[Term], sums: Sequence[Any]) -> dict[str, tf.Tensor]:
    """What each kind of term adds to the objective."""
    kinds: dict[str, tf.Tensor] = {}
    for term, value in zip(terms, values_of(terms, sums), strict=True):
        kinds[term.kind] = kinds[term.kind] + value if term.kind in kinds else value
    return kinds


def rounded_result(
    kinds: Mapping[str, tf.Tensor], gradient: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """The objective, its gradient and the kinds in the gradient's precision."""
    rounded = {kind: tf.cast(value, gradient.dtype) for kind, value in kinds.items()}
    return tf.cast(tf.add_n(list(kinds.values())), gradient.dtype), gradient, rounded
