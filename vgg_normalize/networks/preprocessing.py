"""The conversion of images to what a network expects, as a layer inside the network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from vgg_normalize.errors import NetworkError

# Mean of the ImageNet training images, in BGR order, as Caffe's VGG models subtract it.
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
# Mean and standard deviation of images in [0, 1], in RGB order, as torchvision's networks use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
PREPROCESSINGS = ("caffe", "torch", "unit", "none")


@keras.saving.register_keras_serializable("vgg_normalize")
class Preprocessing(keras.layers.Layer):
    """Converts an image, RGB in [0, 1], to what a network expects.

    Args:
        mode: "caffe": BGR in [0, 255] minus the ImageNet mean (the preprocessing of
            keras.applications.vgg19).  "torch": RGB minus the ImageNet mean, divided by the standard
            deviation, as torchvision's networks expect it.  "unit": RGB in [0, 1], unchanged.
            "none": RGB in [0, 255].
    """

    def __init__(self, mode: str = "caffe", **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        if mode not in PREPROCESSINGS:
            raise NetworkError(
                f"Expected preprocessing {', '.join(PREPROCESSINGS)}. Received: {mode!r}. "
                "Choose the one that the network was trained with."
            )
        self.preprocessing_mode = mode

    def call(self, image: Any) -> Any:
        if self.preprocessing_mode == "unit":
            return image
        if self.preprocessing_mode == "torch":
            mean, deviation = np.array([IMAGENET_MEAN, IMAGENET_DEVIATION], self.compute_dtype)
            return (image - mean) / deviation
        pixels = image * 255.0
        if self.preprocessing_mode == "none":
            return pixels
        return keras.ops.flip(pixels, axis=-1) - np.array(IMAGENET_MEAN_BGR, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("trainable", None)
        return {**config, "mode": self.preprocessing_mode}
