"""Windows of a picture: cutting them out, and adding up what they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from style.objective.tiling import Tiling


def crop_window(picture: tf.Tensor, tiling: Tiling, i: Any) -> tf.Tensor:
    """The window of tile i of a picture [1, H, W, C], [1, h, w, C]."""
    if tiling.tiles == 1:
        return picture
    top, left, height, width = tf.unstack(tf.gather(tiling.windows, i))
    if tiling.wraps:
        for axis, first, side in ((1, top, height), (2, left, width)):
            places = (first + tf.range(side) - tiling.halo) % tiling.shape[axis - 1]
            picture = tf.gather(picture, places, axis=axis)
        return picture
    return tf.slice(picture, [0, top, left, 0], [1, height, width, picture.shape[-1]])


def zeros(shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """Zeros to put something into, in place in a loop."""
    # Not tf.zeros, which TensorFlow keeps and so copies at the first change.
    empty = tf.raw_ops.Empty(shape=tf.constant(list(shape)), dtype=dtype, init=True)
    return tf.ensure_shape(empty, shape)


def blank(picture: tf.Tensor, tiling: Tiling) -> tf.Tensor:
    """Zeros to add windows to, [1, H, W, C]: the picture's size and the halo on each side."""
    height, width = (side + 2 * tiling.halo for side in tiling.shape)
    return zeros([1, height, width, picture.shape[-1]], picture.dtype)


def fold(total: tf.Tensor, tiling: Tiling) -> tf.Tensor:
    """What was added in the halo, added where the picture goes on, [1, H, W, C]."""
    if not tiling.halo:
        return total
    channels = total.shape[-1]
    folded = total[0]
    for side in tiling.shape:
        places = (np.arange(side + 2 * tiling.halo) - tiling.halo) % side
        folded = tf.math.unsorted_segment_sum(folded, places, side)
        folded = tf.transpose(folded, [1, 0, 2])
    return tf.ensure_shape(folded[None], [1, *tiling.shape, channels])


def put(picture: tf.Tensor, piece: tf.Tensor, corner: tf.Tensor) -> tf.Tensor:
    """The picture [1, H, W, C] with a piece [1, h, w, C] at a row and column, in place in a loop."""
    (top, left), channels = tf.unstack(corner), picture.shape[-1]
    height, width = tf.unstack(tf.shape(piece)[1:3])
    changed = tf.raw_ops.TensorStridedSliceUpdate(
        input=picture,
        begin=[0, top, left, 0],
        end=[1, top + height, left + width, channels],
        strides=[1, 1, 1, 1],
        value=piece,
    )
    return tf.ensure_shape(changed, picture.shape)


def add_to_window(picture: tf.Tensor, piece: tf.Tensor, tiling: Tiling, i: Any) -> tf.Tensor:
    """The picture [1, H, W, C] with a piece added at the window of tile i, in place in a loop."""
    top, left, height, width = tf.unstack(tf.gather(tiling.windows, i))
    old = tf.slice(picture, [0, top, left, 0], [1, height, width, picture.shape[-1]])
    return put(picture, old + piece, tf.stack([top, left]))
