"""What counts as images: floats [B, H, W, C], in [0, 1]."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize.errors import ImagesError
from vgg_normalize.networks import chain

# Resampling overshoots a little; what lies beyond is in other units: 0 to 255, or -1 to 1.
LEAST, MOST = -0.5, 1.5


def as_images(batch: Any, model: keras.Model, where: str = "a batch") -> tf.Tensor:
    """A batch as float32, if it is one of images for this network.

    Args:
        batch: Anything like an array, [B, H, W, C].
        model: A chain; its input says C, and H and W where it takes one size only.
        where: What the batch is called in errors.

    Raises:
        ImagesError: Integers, another shape (channels first, a single image), or values well
            outside [0, 1].
    """
    array = batch if tf.is_tensor(batch) else np.asarray(batch)
    dtype = tf.as_dtype(array.dtype)
    if not dtype.is_floating:
        raise ImagesError(
            f"Expected images of floats in [0, 1]. Received: {where} of {dtype.name}. Convert it: "
            "batch.astype('float32') / 255."
        )
    expected, shape = chain.image_shape(model), tuple(array.shape)
    sizes = zip(shape[1:], expected, strict=False)
    if len(shape) != 4 or any(want is not None and side != want for side, want in sizes):
        sides = [letter if n is None else n for letter, n in zip("HWC", expected, strict=False)]
        raise ImagesError(
            f"Expected images [B, {', '.join(map(str, sides))}]. Received: {where} of shape "
            f"{list(shape)}. {_remedy(shape, expected)}"
        )
    images = tf.cast(tf.convert_to_tensor(array), tf.float32)
    if shape[0]:
        low, high = float(tf.reduce_min(images)), float(tf.reduce_max(images))
        # What is not finite is another fault, which is named by its layer.
        if np.isfinite([low, high]).all() and (low < LEAST or high > MOST):
            raise ImagesError(
                f"Expected images in [0, 1]. Received: {where} with values from {low:g} to "
                f"{high:g}. Divide 0 to 255 by 255; (x + 1) / 2 where they lie in [-1, 1]."
            )
    return images


def _remedy(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> str:
    channels = expected[-1]
    if len(shape) == 3 and shape[-1] == channels:
        return "Give a batch: image[None]."
    if len(shape) == 4 and shape[1] == channels:
        return "Put channels last: batch.transpose(0, 2, 3, 1)."
    return "Correct it."
