"""Convolutions of 3 x 3 with a quarter of the multiplications, the same up to rounding.

Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016): Y = A^T [(G g G^T) * (B^T d B)] A makes 4 x 4 outputs Y from 6 x 6
inputs d and a kernel g with 36 products instead of 144; * is elementwise, and summing over channels
makes it 36 matrix products.  A, B and G evaluate and interpolate polynomials at six points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize.networks.borders import BorderConv2D

# Departure: the paper takes 0, 1, -1, 2, -2 and infinity.  These round less (measured in
# tests/unit/style/objective/test_winograd.py).  Each stands beside its reciprocal: when polynomials are divided by
# their middle term, the values of a kernel rotated by 180 degrees, which the gradient needs, are
# those of the kernel at swapped points.
POINTS = (0.0, np.inf, 0.5, 2.0, -0.5, -2.0)
SWAPPED = (1, 0, 3, 2, 5, 4)
OUTPUTS = 4
WINDOW = 6
# What a convolution must have at least for this to be faster than oneDNN's (figures in
# tests/benchmarks/bench_style.py): the kernel's input channels times filters, by the precision of
# the products, and pixels a side.  In float16 the transforms would round too much.
MIN_CHANNEL_PRODUCT = {"float32": 64 * 128, "bfloat16": 256 * 512}
MIN_SIDE = 16


def transforms(points: tuple[float, ...]) -> list[np.ndarray]:
    """Those of outputs [16, 36], inputs [36, 36] and kernels [36, 9], rows and columns at once."""

    def powers(count: int) -> np.ndarray:
        """0 .. count - 1 of the points, [6, count]; of infinity only the highest counts."""
        rows = [np.eye(count)[-1] if np.isinf(p) else p ** np.arange(count) for p in points]
        return np.array(rows)

    middle = np.array([p if 0 < abs(p) < np.inf else 1.0 for p in points])[:, None]
    back = np.linalg.inv(powers(WINDOW)).T * middle
    return [np.kron(matrix, matrix) for matrix in (powers(OUTPUTS).T, back, powers(3) / middle)]


OUTPUT, INPUT, KERNEL = transforms(POINTS)
ROTATED = (WINDOW * np.array(SWAPPED)[:, None] + SWAPPED).reshape(-1)


def is_supported(layer: keras.Layer, shape: tf.TensorShape) -> bool:
    """Whether `winograd_convolution` computes what this layer does on images of this shape, and is faster.

    Accelerators choose among algorithms themselves.
    """
    if type(layer) not in (keras.layers.Conv2D, BorderConv2D) or layer.kernel_size != (3, 3):
        return False
    options = (layer.strides, layer.dilation_rate, layer.groups, layer.padding, layer.data_format)
    if options != ((1, 1), (1, 1), 1, "same", "channels_last"):
        return False
    if layer.compute_dtype not in MIN_CHANNEL_PRODUCT:
        return False
    sides = [side for side in shape[1:3] if side is not None]
    return (
        layer.kernel.shape[2] * layer.kernel.shape[3] >= MIN_CHANNEL_PRODUCT[layer.compute_dtype]
        and min(sides, default=MIN_SIDE) >= MIN_SIDE
        and all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    )


def winograd_convolution(
    kernel: np.ndarray, products: str | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Image [B, H, W, C] -> its convolution [B, H, W, D], stride 1, padding "same".

    Args:
        kernel: [3, 3, C, D].  It is kept transformed, in four times its size, which serves the
            gradient as well.
        products: Precision in which windows and kernel are multiplied, "bfloat16" for one; the
            transforms keep that of the image.  None: the kernel's.
    """
    spread = tf.matmul(KERNEL, tf.reshape(tf.cast(kernel, tf.float64), [9, -1]))
    factors = tf.cast(tf.reshape(spread, [-1, *kernel.shape[2:]]), kernel.dtype)
    factors = tf.cast(factors, products or kernel.dtype)

    @tf.custom_gradient
    def convolve(image: tf.Tensor) -> Any:
        # Where the shape is known, outside the graph, which only refers to the indices.
        fixed = image.shape.is_fully_defined()
        with tf.init_scope() if fixed else contextlib.nullcontext():
            windows, pixels = _gather_indices(*_sides(image))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return _convolve(upstream, factors, windows, pixels, rotated=True)

        return _convolve(image, factors, windows, pixels), gradient

    return convolve


def _sides(image: tf.Tensor) -> list[Any]:
    """Batch, height and width, as numbers where all are known."""
    if image.shape.is_fully_defined():
        return list(image.shape[:3])
    return tf.unstack(tf.shape(image)[:3])


def _gather_indices(batch: Any, height: Any, width: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Where windows' pixels stand in the padded images, and images' pixels in the outputs.

    Windows are ordered as [6, 6, B, rows, columns], their outputs as [4, 4, B, rows, columns].
    """
    rows, columns = -(-height // OUTPUTS), -(-width // OUTPUTS)
    high, wide = OUTPUTS * rows + 2, OUTPUTS * columns + 2
    i, j, b, row, column = _grid(WINDOW, WINDOW, batch, rows, columns)
    windows = (b * high + OUTPUTS * row + i) * wide + OUTPUTS * column + j
    b, y, x = _grid(batch, height, width)
    inside = (y % OUTPUTS) * OUTPUTS + x % OUTPUTS
    pixels = ((inside * batch + b) * rows + y // OUTPUTS) * columns + x // OUTPUTS
    return tf.reshape(windows, [-1]), pixels


def _grid(*counts: Any) -> list[tf.Tensor]:
    """Numbers from 0 along each axis, to be broadcast against each other."""
    axes = np.eye(len(counts), dtype=int)
    return [tf.reshape(tf.range(n), 1 - 2 * axis) for n, axis in zip(counts, axes, strict=True)]


def _convolve(
    image: tf.Tensor,
    factors: tf.Tensor,
    windows: tf.Tensor,
    pixels: tf.Tensor,
    *,
    rotated: bool = False,
) -> tf.Tensor:
    """The convolution, or that with the rotated kernel from filters to channels."""
    order = ROTATED if rotated else slice(None)
    inward = tf.constant(INPUT[order], image.dtype)
    outward = tf.constant(OUTPUT[:, order], image.dtype)
    channels, filters = image.shape[3], factors.shape[1 if rotated else 2]
    _, height, width = _sides(image)
    after = [1 + -side % OUTPUTS for side in (height, width)]
    padded = tf.pad(image, [[0, 0], [1, after[0]], [1, after[1]], [0, 0]])
    inputs = tf.gather(tf.reshape(padded, [-1, channels]), windows)
    values = tf.matmul(inward, tf.reshape(inputs, [WINDOW * WINDOW, -1]))
    values = tf.reshape(values, [WINDOW * WINDOW, -1, channels])
    products = tf.matmul(tf.cast(values, factors.dtype), factors, transpose_b=rotated)
    products = tf.reshape(tf.cast(products, image.dtype), [WINDOW * WINDOW, -1])
    outputs = tf.matmul(outward, products)
    return tf.gather(tf.reshape(outputs, [-1, filters]), pixels)
