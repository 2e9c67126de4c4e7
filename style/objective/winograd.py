"""Convolutions of 3 x 3 with a quarter of the multiplications or less, the same up to rounding.

Winograd's minimal filtering F(m x m, 3 x 3) (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016): Y = A^T [(G g G^T) * (B^T d B)] A makes m x m outputs Y from w x w
inputs d, w = m + 2, and a kernel g with w^2 products instead of 9 m^2: 36 of 144 for m = 4, 64 of 324
for m = 6.  * is elementwise, and summing over channels makes it w^2 matrix products.  A, B and G
evaluate and interpolate polynomials at w points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize.networks.borders import BorderConv2D

# What a convolution must have at least for this to be faster than oneDNN's (figures in
# tests/benchmarks/bench_style.py): the kernel's input channels times filters, by the precision of
# the products, and pixels a side.  In float16 the transforms would round too much.
MIN_CHANNEL_PRODUCT = {"float32": 64 * 128, "bfloat16": 256 * 512}
MIN_SIDE = 16


class Filtering(NamedTuple):
    """F(m x m, 3 x 3): what makes m x m outputs from windows of w x w with w^2 products.

    Attributes:
        outputs: m.
        window: w = m + 2.
        output: Products to outputs, rows and columns at once, [m^2, w^2].
        input: Windows to what is multiplied, [w^2, w^2].
        kernel: Kernels to what is multiplied, [w^2, 9].
        rotated: Where the products of the kernel rotated by 180 degrees stand, [w^2].
    """

    outputs: int
    window: int
    output: np.ndarray
    input: np.ndarray
    kernel: np.ndarray
    rotated: np.ndarray


def transforms(points: tuple[float, ...]) -> list[np.ndarray]:
    """`output`, `input` and `kernel` of a `Filtering` with polynomials at m + 2 points."""

    def powers(count: int) -> np.ndarray:
        """0 .. count - 1 of the points, [w, count]; of infinity only the highest counts."""
        rows = [np.eye(count)[-1] if np.isinf(p) else p ** np.arange(count) for p in points]
        return np.array(rows)

    # Polynomials are divided by their middle term, see `make_filtering`.
    middle = np.array([p if 0 < abs(p) < np.inf else 1.0 for p in points])[:, None]
    back = np.linalg.inv(powers(len(points))).T * middle
    outputs = powers(len(points) - 2).T
    return [np.kron(matrix, matrix) for matrix in (outputs, back, powers(3) / middle)]


def make_filtering(points: tuple[float, ...]) -> Filtering:
    """F(m x m, 3 x 3) with polynomials at m + 2 points, among them each one's reciprocal.

    When polynomials are divided by their middle term, the values of a kernel rotated by 180 degrees,
    which the gradient needs, are those of the kernel at the reciprocals.
    """
    window = len(points)
    output, inward, kernel = transforms(points)
    swapped = np.array([points.index(1 / point if point else np.inf) for point in points])
    rotated = (window * swapped[:, None] + swapped).reshape(-1)
    return Filtering(window - 2, window, output, inward, kernel, rotated)


# Departure: the paper takes 0, 1, -1, 2, -2 and infinity for m = 4.  These round less (measured in
# tests/unit/style/objective/test_winograd.py).
F4 = make_filtering((0.0, np.inf, 0.5, 2.0, -0.5, -2.0))
F6 = make_filtering((0.0, np.inf, 0.5, 2.0, -0.5, -2.0, 1.0, -1.0))
# Up to so many channels times filters m = 6 is used.  Of larger kernels, 7.1 times as large as they are in
# place of 4 times, reading takes the time that products save.
MAX_F6_CHANNEL_PRODUCT = 256 * 256


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
    kernel: np.ndarray, products: str | None = None, *, filtering: Filtering | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Image [B, H, W, C] -> its convolution [B, H, W, D], stride 1, padding "same".

    Args:
        kernel: [3, 3, C, D].  It is kept transformed, in w^2 / 9 of its size, which serves the
            gradient as well.
        products: Precision in which windows and kernel are multiplied, "bfloat16" for one; the
            transforms keep that of the image.  None: the kernel's.
        filtering: How; default: what is fastest for this kernel and rounds well in this precision.
    """
    channels, filters = kernel.shape[2:]
    if filtering is None:
        small = channels * filters <= MAX_F6_CHANNEL_PRODUCT
        filtering = F6 if small and products != "bfloat16" else F4
    # In float64 a convolution would round 1 or 2 % less, and this take ten times the time.
    precision = np.promote_types(kernel.dtype, np.float32)
    transform = tf.constant(filtering.kernel, precision)
    spread = tf.matmul(transform, tf.reshape(tf.cast(kernel, precision), [9, -1]))
    factors = tf.reshape(spread, [-1, channels, filters])
    return _convolution(filtering, tf.cast(factors, products or kernel.dtype))


def _convolution(filtering: Filtering, factors: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """The convolution with a kernel that is transformed, [w^2, C, D], and its gradient."""

    @tf.custom_gradient
    def convolve(image: tf.Tensor) -> Any:
        # Where the shape is known, outside the graph, which only refers to the indices.
        fixed = image.shape.is_fully_defined()
        with tf.init_scope() if fixed else contextlib.nullcontext():
            indices = _gather_indices(filtering, *_sides(image))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return _convolve(filtering, upstream, factors, indices, rotated=True)

        return _convolve(filtering, image, factors, indices), gradient

    return convolve


def _sides(image: tf.Tensor) -> list[Any]:
    """Batch, height and width, as numbers where all are known."""
    if image.shape.is_fully_defined():
        return list(image.shape[:3])
    return tf.unstack(tf.shape(image)[:3])


def _gather_indices(
    filtering: Filtering, batch: Any, height: Any, width: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where windows' pixels stand in the padded images, and images' pixels in the outputs.

    Windows are ordered as [w, w, B, rows, columns], their outputs as [m, m, B, rows, columns].
    """
    m, w = filtering.outputs, filtering.window
    rows, columns = -(-height // m), -(-width // m)
    high, wide = m * rows + 2, m * columns + 2
    i, j, b, row, column = _grid(w, w, batch, rows, columns)
    windows = (b * high + m * row + i) * wide + m * column + j
    b, y, x = _grid(batch, height, width)
    inside = (y % m) * m + x % m
    pixels = ((inside * batch + b) * rows + y // m) * columns + x // m
    return tf.reshape(windows, [-1]), pixels


def _grid(*counts: Any) -> list[tf.Tensor]:
    """Numbers from 0 along each axis, to be broadcast against each other."""
    axes = np.eye(len(counts), dtype=int)
    return [tf.reshape(tf.range(n), 1 - 2 * axis) for n, axis in zip(counts, axes, strict=True)]


def _convolve(
    filtering: Filtering,
    image: tf.Tensor,
    factors: tf.Tensor,
    indices: tuple[tf.Tensor, tf.Tensor],
    *,
    rotated: bool = False,
) -> tf.Tensor:
    """The convolution, or that with the rotated kernel from filters to channels."""
    order = filtering.rotated if rotated else slice(None)
    inward = tf.constant(filtering.input[order], image.dtype)
    outward = tf.constant(filtering.output[:, order], image.dtype)
    channels, filters = image.shape[3], factors.shape[1 if rotated else 2]
    windows, pixels = indices
    _, height, width = _sides(image)
    after = [1 + -side % filtering.outputs for side in (height, width)]
    padded = tf.pad(image, [[0, 0], [1, after[0]], [1, after[1]], [0, 0]])
    inputs = tf.gather(tf.reshape(padded, [-1, channels]), windows)
    count = filtering.window**2
    values = tf.matmul(inward, tf.reshape(inputs, [count, -1]))
    values = tf.reshape(values, [count, -1, channels])
    products = tf.matmul(tf.cast(values, factors.dtype), factors, transpose_b=rotated)
    products = tf.reshape(tf.cast(products, image.dtype), [count, -1])
    outputs = tf.matmul(outward, products)
    return tf.gather(tf.reshape(outputs, [-1, filters]), pixels)
