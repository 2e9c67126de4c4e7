"""Quantiles of features along directions, for the sliced Wasserstein loss."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# Quantiles of a style that are kept for each direction: of larger pictures each is a mean of a few.
QUANTILES = 2**16


class Projections(NamedTuple):
    """Features along D directions at M positions.

    Attributes:
        values: [D, M].
        weights: How much each position counts, above 0, [M]; None: all alike.
    """

    values: tf.Tensor
    weights: tf.Tensor | None = None


def quantile_function(projections: Projections) -> tf.Tensor:
    """The quantiles of each direction at (i + 0.5) / Q, Q = min(M, `QUANTILES`), [D, Q]."""
    values, weights = projections
    count = values.shape[1]
    quantiles = min(count, QUANTILES)
    quantile_levels = (tf.range(quantiles, dtype=values.dtype) + 0.5) / quantiles
    if weights is None:
        return quantiles_at(tf.sort(values), quantile_levels)
    ordered, ranks, _ = sort_with_ranks(projections)
    quantile_levels = tf.broadcast_to(quantile_levels, [tf.shape(values)[0], quantiles])
    above = tf.searchsorted(ranks, quantile_levels)
    above, below = tf.minimum(above, count - 1), tf.maximum(above - 1, 0)
    rank_above, rank_below = (tf.gather(ranks, i, batch_dims=1) for i in (above, below))
    share = tf.math.divide_no_nan(quantile_levels - rank_below, rank_above - rank_below)
    start, end = (tf.gather(ordered, i, batch_dims=1) for i in (below, above))
    return start + tf.clip_by_value(share, 0, 1) * (end - start)


def sort_with_ranks(projections: Projections) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Values in order, the middle of each one's share of all weights, and the shares, [D, M]."""
    values, weights = projections
    order = tf.argsort(tf.stop_gradient(values))
    shares = tf.gather(tf.cast(weights, values.dtype) / tf.reduce_sum(weights), order)
    ranks = tf.cumsum(shares, axis=1) - shares / 2
    return tf.gather(values, order, batch_dims=1), ranks, shares


def quantiles_at(table: tf.Tensor, ranks: tf.Tensor) -> tf.Tensor:
    """Rows [D, Q] that hold quantiles at (i + 0.5) / Q, at ranks [M] or [D, M] in (0, 1)."""
    if ranks.shape.rank == 1 and table.shape[1] == ranks.shape[0]:
        return table
    last = table.shape[1] - 1
    place = tf.clip_by_value(ranks * table.shape[1] - 0.5, 0, last)
    below = tf.cast(place, tf.int32)
    above = tf.minimum(below + 1, last)
    share = place - tf.cast(below, place.dtype)
    if ranks.shape.rank == 1:
        start, end = tf.gather(table, below, axis=1), tf.gather(table, above, axis=1)
    else:
        start, end = (tf.gather(table, i, batch_dims=1) for i in (below, above))
    return start + share * (end - start)
