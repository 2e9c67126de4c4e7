"""Fixed pictures of a training, and the order of fixed styles."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vgg_normalize.data import decode


def example_order(count: int, first: int, last: int, seed: int) -> np.ndarray:
    """The pictures that examples number `first` to before `last` are, as indices [last - first].

    Each picture comes once an epoch, in an order that depends on the seed and the epoch alone.

    Args:
        count: Number of pictures.
        first: Number of the first example, counted from the beginning of the training.
        last: Number of the example after the last one.
        seed: Random seed of the order.
    """
    epochs = range(first // count, -(-last // count))
    orders = [np.random.Generator(np.random.PCG64([seed, e])).permutation(count) for e in epochs]
    begin = first % count
    return np.concatenate(orders)[begin : begin + last - first] if orders else np.empty(0, int)


def decode_pixels(encoded: bytes) -> np.ndarray:
    """Decode an image file to float32 pixels [H, W, 3] in [0, 1]."""
    return decode.decode(tf.constant(encoded)).numpy().astype(np.float32) / 255


def center_square(encoded: bytes, size: int) -> np.ndarray:
    """The central square of an image file, resized to [size, size, 3] in [0, 1]."""
    return decode.resize(decode.decode(tf.constant(encoded)), "crop", size).numpy()
