"""Windows of a picture: cutting them out, and adding up what they give."""

from __future__ import annotations

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


def blank(picture: tf.Tensor, tiling: Tiling) -> tf.Tensor:
    """Zeros to add windows to, [1, H, W, C]: the picture's size and the halo on each side."""
    height, width = (side + 2 * tiling.halo for side in tiling.shape)
    shape = [1, height, width, picture.shape[-1]]
    # Not tf.zeros, which TensorFlow keeps and so copies at the first change.
    zeros = tf.raw_ops.Empty(shape=tf.constant(shape), dtype=picture.dtype, init=True)
    return tf.ensure_shape(zeros, shape)


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


def add_to_window(picture: tf.Tensor, piece: tf.Tensor, tiling: Tiling, i: Any) -> tf.Tensor:
    """The picture [1, H, W, C] with a piece added at the window of tile i, in place in a loop."""
    top, left, height, width = tf.unstack(tf.gather(tiling.windows, i))
    begin, channels = [0, top, left, 0], picture.shape[-1]
    old = tf.slice(picture, begin, [1, height, width, channels])
    added = tf.raw_ops.TensorStridedSliceUpdate(
        input=picture,
        begin=begin,
        end=[1, top + height, left + width, channels],
        strides=[1, 1, 1, 1],
        value=old + piece,
    )
    return tf.ensure_shape(added, picture.shape)
