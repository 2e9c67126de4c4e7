"""Normalisation layers of feed-forward stylisers: three uses of `instance_normalization`.

They differ in where scale and offset come from: learnt, the style's own (AdaIN), or looked up
(CIN).  Keras has the other normalisations; x is [B, H, W, C], B the images of a batch:

    normalisation    in keras, or here                              over     divides by
    batch            layers.BatchNormalization()                    B H W    deviation (1)
    synchronised     layers.BatchNormalization(synchronized=True)   B H W    deviation (1, 2)
    layer, image     layers.LayerNormalization(axis=[1, 2, 3])      H W C    deviation (3)
    layer, position  layers.LayerNormalization()                    C        deviation
    group            layers.GroupNormalization(groups)              H W C/g  deviation
    instance         InstanceNormalization(), here                  H W      deviation (4)
    per pixel        ops.rms_normalization(x, epsilon=1e-8)         C        root mean square (5)
    unit             layers.UnitNormalization()                     C        Euclidean norm
    spectral         layers.SpectralNormalization(layer)            weights  spectral norm (6)

A deviation is sqrt(variance + epsilon), the variance biased, after the mean is taken off; Keras'
epsilon is 1e-3 where ours is 1e-5, the papers' of style transfer.
(1) With `training=True`; else by moving averages of mean and variance, kept while training.
(2) B counts the images of all replicas of a `tf.distribute` strategy.
(3) Scale and offset are [H, W, C], so images have one size; GroupNormalization(groups=1) has [C].
(4) GroupNormalization(groups=-1, epsilon=1e-5) gives the same numbers; but its scale and offset
    are its own weights, while stylisers bring theirs from outside.
(5) Karras et al. 2018, section 4.2.  layers.RMSNormalization(epsilon=1e-8) is the same with a
    learnt scale [C], which begins at 1; the function has none, so neither layer is written here.
(6) Of weights, not activations: each call with `training=True` replaces the kernel, as a matrix
    [-1, filters], by itself over an estimate of its largest singular value.

References: Ulyanov, Vedaldi and Lempitsky, "Improved Texture Networks", CVPR 2017; Dumoulin, Shlens
and Kudlur, "A Learned Representation for Artistic Style", ICLR 2017; Huang and Belongie, "Arbitrary
Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017; Karras et al.,
"Progressive Growing of GANs", ICLR 2018; Karras, Laine and Aila, "A Style-Based Generator
Architecture for Generative Adversarial Networks", CVPR 2019 (StyleGAN).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

EPSILON = 1e-5


def moments(x: Any, *, epsilon: float = EPSILON) -> tuple[Any, Any]:
    """The mean and the deviation sqrt(variance + epsilon) of each image and channel.

    Args:
        x: Features [B, H, W, C], of any float type.
        epsilon: Above 0; with 0 the deviation of a constant channel has no derivative.

    Returns:
        mu and sigma, [B, C], in float64 if x is, else in float32: in float16 squares overflow.
        The variance is biased (divided by H W).

    Raises:
        ValueError: x is not float or not [B, H, W, C].

    Reference: Huang and Belongie 2017, equations 5 and 6.
    """
    _check_features("x", x.shape)
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        raise ValueError(f"Expected x of a float type. Received: x of type {x.dtype}.")
    x = _precise(x, x)
    mean = _mean(x)
    # Not ops.moments, whose TensorFlow version has a wrong second derivative (no -1 / (H W)^2).
    return mean, ops.sqrt(_mean(ops.square(x - _spread(mean))) + epsilon)


def instance_normalization(
    x: Any, scale: Any = None, offset: Any = None, *, epsilon: float = EPSILON
) -> Any:
    """scale (x - mu) / sigma + offset, with the `moments` of each image and channel of x.

    Args:
        x: Features [B, H, W, C], of any float type.
        scale: [C] or [B, C]; None: 1.
        offset: [C] or [B, C]; None: 0.
        epsilon: Added to the variance; above 0.

    Returns:
        [B, H, W, C] in x's type, computed as `moments` are.  A constant channel becomes its offset.

    Raises:
        ValueError: x is not float or not [B, H, W, C]; scale or offset do not fit it.

    Reference: Huang and Belongie 2017, equation 4; Ulyanov et al. 2017.
    """
    mean, deviation = moments(x, epsilon=epsilon)
    scale = _precise([1.0] * x.shape[-1] if scale is None else scale, x)
    offset = _precise([0.0] * x.shape[-1] if offset is None else offset, x)
    _check_rows("scale", scale.shape, x.shape[0], x.shape[-1])
    _check_rows("offset", offset.shape, x.shape[0], x.shape[-1])
    # Not x gain + (offset - mu gain): that cancels where mu is large beside sigma.
    result = (_precise(x, x) - _spread(mean)) * _spread(scale / deviation) + _spread(offset)
    return ops.cast(result, x.dtype)


@keras.saving.register_keras_serializable(package="style")
class InstanceNormalization(keras.layers.Layer):
    """Instance normalisation with a learnt scale gamma [C], ones, and offset beta [C], zeros.

    >>> InstanceNormalization()(keras.ops.ones((2, 8, 9, 3))).shape
    TensorShape([2, 8, 9, 3])

    Called with x [B, H, W, C], gives [B, H, W, C], the same in training as at inference.

    Args:
        epsilon: Added to the variance; above 0.
        center, scale: Whether to have beta, and gamma.

    Raises:
        ValueError: epsilon is not above 0; x is not [B, H, W, C] with a known C.

    Reference: Ulyanov et al. 2017.
    """

    def __init__(
        self, epsilon: float = EPSILON, center: bool = True, scale: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.epsilon = _positive(epsilon)
        self.center = center
        self.scale = scale
        self.gamma = self.beta = None

    def build(self, input_shape: Any) -> None:
        # Without autocast: in float16 learnt values would lose what float32 statistics keep.
        options = {"shape": self.compute_output_shape(input_shape)[-1:], "autocast": False}
        if self.scale:
            self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        if self.center:
            self.beta = self.add_weight(name="beta", initializer="zeros", **options)

    def call(self, x: Any) -> Any:
        return instance_normalization(x, self.gamma, self.beta, epsilon=self.epsilon)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        _check_features("x", input_shape)
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = {"epsilon": self.epsilon, "center": self.center, "scale": self.scale}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="style")
class AdaptiveInstanceNormalization(keras.layers.Layer):
    """AdaIN: sigma(style) (x - mu(x)) / sigma(x) + mu(style); adain(x, x) = x.

    >>> x, style = keras.ops.ones((2, 8, 9, 3)), keras.ops.ones((2, 4, 5, 3))
    >>> AdaptiveInstanceNormalization()([x, style]).shape
    TensorShape([2, 8, 9, 3])

    Called with [x, style]: features x [B, H, W, C] and a style's, [B or 1, any, any, C]; or with
    [x, gamma, beta]: gamma and beta [B or 1, C] in place of the style's deviation and mean, as
    StyleGAN computes them from a latent vector.  Gives [B, H, W, C]; there are no weights.

    Args:
        epsilon: Added to both variances, so that adain(x, x) = x; above 0.

    Raises:
        ValueError: epsilon is not above 0; not 2 or 3 inputs, or they do not fit.

    Reference: Huang and Belongie 2017, equation 8; Karras et al. 2019, equation 1.
    """

    def __init__(self, epsilon: float = EPSILON, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = _positive(epsilon)

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        self.compute_output_shape(_shapes(inputs))
        x, *style = inputs
        scale, offset = style if len(style) == 2 else moments(*style, epsilon=self.epsilon)[::-1]
        return instance_normalization(x, scale, offset, epsilon=self.epsilon)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        _check_inputs(input_shape, "[x, style] or [x, gamma, beta]", 2, 3)
        x, *style = input_shape
        _check_features("x", x)
        if len(style) == 2:
            _check_rows("gamma", style[0], x[0], x[-1])
            _check_rows("beta", style[1], x[0], x[-1])
        else:
            _check_features("style", style[0])
            _check_rows("the style's moments", style[0][::3], x[0], x[-1])
        return tuple(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="style")
class ConditionalInstanceNormalization(keras.layers.Layer):
    """Instance normalisation with a scale and an offset for each of S styles, mixed by weights.

    >>> x, weights = keras.ops.ones((2, 8, 9, 3)), [[1.0, 0.0], [0.7, 0.3]]
    >>> ConditionalInstanceNormalization(styles=2)([x, keras.ops.array(weights)]).shape
    TensorShape([2, 8, 9, 3])

    Called with [x, weights]: features x [B, H, W, C] and a row of weights [B or 1, S] for each
    image.  A one-hot row is that style; any other mixes the rows of gamma and beta [S, C] (ones and
    zeros to begin with) as given, whatever the weights add up to.  Gives [B, H, W, C].

    Args:
        styles: S, at least 1.
        epsilon: Added to the variance; above 0.

    Raises:
        ValueError: styles or epsilon is too small; not 2 inputs, or they do not fit.

    Reference: Dumoulin et al. 2017; Huang and Belongie 2017, equation 7.
    """

    def __init__(self, styles: int, epsilon: float = EPSILON, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(styles, int) or styles < 1:
            raise ValueError(f"Expected styles to be a whole number >= 1. Received: {styles=}.")
        self.styles = styles
        self.epsilon = _positive(epsilon)

    def build(self, input_shape: Any) -> None:
        shape = (self.styles, self.compute_output_shape(input_shape)[-1])
        options = {"shape": shape, "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = self.add_weight(name="beta", initializer="zeros", **options)

    def call(self, inputs: Any) -> Any:
        self.compute_output_shape(_shapes(inputs))
        x, weights = inputs
        scale, offset = _mix(weights, self.gamma), _mix(weights, self.beta)
        return instance_normalization(x, scale, offset, epsilon=self.epsilon)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        _check_inputs(input_shape, "[x, weights]", 2)
        x, weights = input_shape
        _check_features("x", x)
        _check_rows("weights", weights, x[0], self.styles, "S")
        return tuple(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "styles": self.styles, "epsilon": self.epsilon}


def _mean(x: Any) -> Any:
    """The mean over H and W, [B, C]: first along rows, so that no sum is longer than a side.

    TensorFlow's sum over both at once adds one position after the other on a CPU: at 1024 x 1024 in
    float32 it is wrong by up to 4e-3 of the mean, and slower.
    """
    return ops.mean(ops.mean(x, axis=2), axis=1)


def _mix(weights: Any, table: Any) -> Any:
    """weights [B, S] times table [S, C]; not by matmul, which rounds to TF32 on many GPUs."""
    return ops.sum(ops.cast(weights, table.dtype)[..., None] * table, axis=-2)


def _spread(row: Any) -> Any:
    """Reshape [C] or [B, C] so that it broadcasts over H and W."""
    return row[..., None, None, :]


def _precise(value: Any, x: Any) -> Any:
    """Cast a value to the type in which x's statistics are computed."""
    return ops.cast(value, keras.backend.result_type(x.dtype, "float32"))


def _shapes(inputs: Any) -> Any:
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), inputs)


def _check_inputs(shapes: Any, expected: str, *counts: int) -> None:
    if len(shapes) not in counts or not all(isinstance(shape, list | tuple) for shape in shapes):
        raise ValueError(f"Expected inputs {expected}. Received: inputs of shapes {shapes}.")


def _check_features(name: str, shape: Any) -> None:
    if len(shape) != 4 or shape[-1] is None:
        raise ValueError(f"Expected {name} [B, H, W, C], C known. Received: {name} of {shape=}.")


def _check_rows(name: str, shape: Any, images: int | None, size: int, letter: str = "C") -> None:
    rows, width = (1, 1, *shape)[-2:]
    shared = rows in (1, None) or images in (rows, None)
    if len(shape) not in (1, 2) or not shared or width not in (size, None):
        expected = f"[{letter}] or [B, {letter}] with B={images} or 1 and {letter}={size}"
        raise ValueError(f"Expected {name} {expected}. Received: {name} of {shape=}.")


def _positive(epsilon: float) -> float:
    if epsilon > 0:
        return float(epsilon)
    raise ValueError(f"Expected epsilon > 0. Received: {epsilon=}.")
