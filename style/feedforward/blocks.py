"""What feed-forward networks are built of: convolutions, a mapping network, a residual network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# Size of the code that a learnt style encoder gives (Ghiasi et al. 2017).
CODE_SIZE = 100
# Residual blocks of the networks after Dumoulin et al.
BLOCKS = 5


@keras.saving.register_keras_serializable(package="style")
class ReflectionPadding2D(keras.layers.Layer):
    """Padding by reflection, without repeating the border: [B, H, W, C] -> [B, H + 2n, W + 2n, C].

    Args:
        size: n, the pixels added on each side; less than H and W.
    """

    def __init__(self, size: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, x: Any) -> Any:
        n = self.size
        return keras.ops.pad(x, [[0, 0], [n, n], [n, n], [0, 0]], mode="reflect")

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, *sides, channels = input_shape
        return (batch, *(side and side + 2 * self.size for side in sides), channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


def convolution(
    x: Any, filters: int, kernel: int, random: Any, *, spectral: bool = False, **options: Any
) -> Any:
    """A convolution of x [B, H, W, C], padded by reflection."""
    x = ReflectionPadding2D(kernel // 2)(x)
    options.setdefault("kernel_initializer", keras.initializers.HeNormal(seed=random))
    layer = keras.layers.Conv2D(filters, kernel, **options)
    if not spectral:
        return layer(x)
    layer = keras.layers.SpectralNormalization(layer)
    x = layer(x)
    # Keras draws it without a seed.
    vector = layer.vector_u
    vector.assign(keras.random.truncated_normal(vector.shape, stddev=0.02, seed=random))
    return x


def scaled(x: Any, scale: Any, offset: Any) -> Any:
    """scale x + offset, of x [B, H, W, C] and two [B, C]."""
    return x * scale[:, None, None] + offset[:, None, None]


def glorot(random: Any) -> Any:
    """Glorot and Bengio's normal initialiser with this generator of seeds."""
    return keras.initializers.GlorotNormal(seed=random)


def mapping_network(size: int, random: Any) -> keras.Model:
    """Moments [B, size] -> code [B, 100], through two hidden layers of 256."""
    statistics = keras.Input((size,))
    x = statistics
    for _ in range(2):
        initializer = keras.initializers.HeNormal(seed=random)
        x = keras.layers.Dense(256, "relu", kernel_initializer=initializer)(x)
    x = keras.layers.Dense(CODE_SIZE, kernel_initializer=glorot(random))(x)
    return keras.Model(statistics, x, name="mapping")


def logits(image: Any) -> Any:
    """log(c / (1 - c)) of pictures in [0, 1], c being clipped 1/50 off both ends."""
    clipped = keras.ops.clip(image, 0.02, 0.98)
    return keras.ops.log(clipped) - keras.ops.log(1.0 - clipped)


def residual_network(
    code: Any, normalize: Callable[[Any], Any], seed: int, spectral: bool, skip: bool
) -> keras.Model:
    """Down by 4, residual blocks, up again; `normalize` follows every convolution.

    With `skip` the content's logits are added before the last normalisation: the content is there
    from the first step on.
    """
    random = keras.random.SeedGenerator(seed)

    def block(x: Any, filters: int, kernel: int, *, strides: int = 1, relu: bool = True) -> Any:
        x = convolution(x, filters, kernel, random, strides=strides, spectral=spectral)
        x = normalize(x)
        return keras.layers.ReLU()(x) if relu else x

    content = keras.Input((None, None, 3), name="content")
    x = block(content, 32, 9)
    x = block(x, 64, 3, strides=2)
    x = block(x, 128, 3, strides=2)
    for _ in range(BLOCKS):
        x = keras.layers.Add()([x, block(block(x, 128, 3), 128, 3, relu=False)])
    for filters in (64, 32):
        x = block(keras.layers.UpSampling2D(2)(x), filters, 3)
    x = convolution(x, 3, 9, random, spectral=spectral)
    if skip:
        x = keras.layers.Add()([x, logits(content)])
    image = keras.layers.Activation("sigmoid")(normalize(x))
    return keras.Model({"content": content, "code": code}, {"image": image}, name="transform")
