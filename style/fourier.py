"""A preconditioner for pictures: low frequencies take longer steps.

The losses see edges far more than slow gradients, so the Hessian's eigenvalues grow with
frequency.  P multiplies frequency f by 1 / max(f, f0)^2a, which is the same as optimising in
Fourier space with steps scaled by 1 / max(f, f0)^a.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def gains(height: int, width: int, exponent: float) -> np.ndarray:
    """1 / max(f, f0)^2a on the half plane of a real transform, mean 1, [H, W // 2 + 1].

    f is in cycles a pixel, f0 one cycle over the longer side.
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    found = np.maximum(frequency, 1 / max(height, width)) ** (-2 * exponent)
    return found / found.mean()


def preconditioner(height: int, width: int, exponent: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """P as a function of a gradient [1, H, W, C]; symmetric and positive definite.

    Args:
        height: Of the picture.
        width: Of the picture.
        exponent: a; 0 is the identity.
    """
    if exponent == 0:
        return lambda gradient: gradient
    factors = gains(height, width, exponent)

    def apply(gradient: tf.Tensor) -> tf.Tensor:
        by_channel = tf.transpose(gradient, [0, 3, 1, 2])
        spectrum = tf.signal.rfft2d(by_channel)
        spectrum *= tf.constant(factors, spectrum.dtype)
        filtered = tf.signal.irfft2d(spectrum, [height, width])
        return tf.transpose(filtered, [0, 2, 3, 1])

    return apply
