"""Convolutions of 3 x 3 with a quarter of the multiplications, the same up to rounding.

Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016): Y = A^T [(G g G^T) * (B^T d B)] A makes 4 x 4 outputs Y from 6 x 6
inputs d and a kernel g with 36 products instead of 144; * is elementwise, and summing over channels
makes it 36 matrix products.  A, B and G evaluate and interpolate polynomials at six points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Departure: the paper takes 0, 1, -1, 2, -2 and infinity.  These round less (measured in
# tests/test_convolution.py).  Each stands beside its reciprocal: when polynomials are divided by
# their middle term, the values of a kernel turned by 180 degrees, which the gradient needs, are
# those of the kernel at swapped points.
POINTS = (0.0, np.inf, 0.5, 2.0, -0.5, -2.0)
SWAPPED = (1, 0, 3, 2, 5, 4)
OUTPUTS = 4
WINDOW = 6
# What a convolution must have at least for this to be faster than oneDNN's (figures in
# tests/benchmarks/bench_style.py): the kernel's input channels times filters, and pixels a side.
CHANNELS = 64 * 128
SIDE = 16


def transforms(points: tuple[float, ...]) -> list[np.ndarray]:
    """Those of outputs [16, 36], inputs [36, 36] and kernels [36, 9], rows and columns at once."""

    def powers(count: int) -> np.ndarray:
        """0 .. count - 1 of the points, [6, count]; of infinity only the highest counts."""
        rows = [np.eye(count)[-1] if np.isinf(p) else p ** np.arange(count) for p in points]
        return np.array(rows)

    middle = np.array([p if 0 < abs(p) < np.inf else 1.0 for p in points])[:, None]
    back = np.linalg.inv(powers(WINDOW)).T * middle
    return [np.kron(one, one) for one in (powers(OUTPUTS).T, back, powers(3) / middle)]


OUTPUT, INPUT, KERNEL = transforms(POINTS)
TURNED = (WINDOW * np.array(SWAPPED)[:, None] + SWAPPED).reshape(-1)


def suits(layer: keras.Layer, shape: tf.TensorShape) -> bool:
    """Whether `winograd` computes what this layer does on images of this shape, and is faster.

    Accelerators choose among algorithms themselves.
    """
    if type(layer) is not keras.layers.Conv2D or layer.kernel_size != (3, 3):
        return False
    options = (layer.strides, layer.dilation_rate, layer.groups, layer.padding, layer.data_format)
    if options != ((1, 1), (1, 1), 1, "same", "channels_last"):
        return False
    sides = [side for side in shape[1:3] if side is not None]
    return (
        layer.kernel.shape[2] * layer.kernel.shape[3] >= CHANNELS
        and min(sides, default=SIDE) >= SIDE
        and all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    )


def winograd(kernel: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """Image [B, H, W, C] -> its convolution [B, H, W, D], stride 1, padding "same".

    Args:
        kernel: [3, 3, C, D].  It is kept transformed, in four times its size, which serves the
            gradient as well.
    """
    spread = KERNEL @ kernel.reshape(9, -1).astype(np.float64)
    factors = tf.constant(spread.reshape(-1, *kernel.shape[2:]), kernel.dtype)

    @tf.custom_gradient
    def convolve(image: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return _convolve(upstream, factors, turned=True)

        return _convolve(image, factors), gradient

    return convolve


def _convolve(image: tf.Tensor, factors: tf.Tensor, turned: bool = False) -> tf.Tensor:
    """The convolution, or that with the turned kernel from filters to channels."""
    order = TURNED if turned else slice(None)
    inward = tf.constant(INPUT[order], image.dtype)
    outward = tf.constant(OUTPUT[:, order], image.dtype)
    points = WINDOW * WINDOW
    shape = [*image.shape[:3], factors.shape[1 if turned else 2]]
    batch, height, width, channels = tf.unstack(tf.shape(image))
    rows, columns = -(-height // OUTPUTS), -(-width // OUTPUTS)
    high, wide = OUTPUTS * rows + 2, OUTPUTS * columns + 2
    padded = tf.pad(image, [[0, 0], [1, high - height - 1], [1, wide - width - 1], [0, 0]])
    # Pixel (i, j) of window (row, column), for all of them: [6, 6, B, rows, columns].
    i, j, b, row, column = tf.meshgrid(
        *(tf.range(count) for count in (WINDOW, WINDOW, batch, rows, columns)), indexing="ij"
    )
    pixels = (b * high + OUTPUTS * row + i) * wide + OUTPUTS * column + j
    windows = tf.gather(tf.reshape(padded, [-1, channels]), tf.reshape(pixels, [-1]))
    values = tf.matmul(inward, tf.reshape(windows, [points, -1]))
    values = tf.reshape(values, [points, -1, image.shape[3]])
    products = tf.matmul(values, factors, transpose_b=turned)
    found = tf.matmul(outward, tf.reshape(products, [points, -1]))
    # Where pixel (y, x) stands in [4, 4, B, rows, columns].
    b, y, x = tf.meshgrid(*(tf.range(count) for count in (batch, height, width)), indexing="ij")
    inside = (y % OUTPUTS) * OUTPUTS + x % OUTPUTS
    places = ((inside * batch + b) * rows + y // OUTPUTS) * columns + x // OUTPUTS
    pixels = tf.gather(tf.reshape(found, [-1, shape[3]]), tf.reshape(places, [-1]))
    return tf.ensure_shape(tf.reshape(pixels, [batch, height, width, shape[3]]), shape)
