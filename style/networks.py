"""Feed-forward stylisers: a style becomes a code, and a code and a content become a picture.

A `Network` is two Keras models.  `code` makes a code [B, D] of a style picture (or, for fixed
styles, there is none and their weights are the code); `transform` makes a picture of a content and
a code.  In all of them the code sets the scale and offset behind an instance normalisation, so
codes may be mixed, and a mixture of codes is a mixture of styles.

A new network is one function that gives a `Network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from style.layers import (
    AdaptiveInstanceNormalization,
    ConditionalInstanceNormalization,
    moments,
)
from vgg_normalize import chain
from vgg_normalize.errors import NetworkError

# Where AdaIN normalises; of a network that is cut before, its deepest layer.
ADAIN_LAYER = "block4_conv1"
# About the mean of photographs (ImageNet's is 0.485, 0.456, 0.406).
GREY = 0.45
# Numbers in which a learnt style encoder describes a style (Ghiasi et al. 2017).
CODE_SIZE = 100
# Residual blocks of the networks after Dumoulin et al.
BLOCKS = 5


class Network(NamedTuple):
    """A styliser.

    Attributes:
        method: "adain", "encoder" or "cin".
        code: Style [B, H, W, 3] -> code [B, D]; None where style weights [B, S] are the code.
        transform: {"content": [B, H, W, 3], "code": [B, D]} -> {"image": [B, H, W, 3]}, and for
            AdaIN "goal": the features that the picture should have.  H and W are multiples of
            `stride`.
        trained: The models whose weights are learnt; the VGG's never are.
        stride: Of the deepest layer, in pixels.
        describe: {layer: features of a style} -> code, where there are features already.
        code_layers: The VGG's layers that `describe` wants.
        goal_layer: The VGG's layer whose features "goal" are, or None.
    """

    method: str
    code: keras.Model | None
    transform: keras.Model
    trained: tuple[keras.Model, ...]
    stride: int
    describe: Callable[[Mapping[str, Any]], Any] | None = None
    code_layers: tuple[str, ...] = ()
    goal_layer: str | None = None

    @property
    def variables(self) -> list[Any]:
        """What is learnt."""
        return [v for model in self.trained for v in model.trainable_variables]


@keras.saving.register_keras_serializable(package="style")
class ReflectionPadding2D(keras.layers.Layer):
    """Rows and columns mirrored at the border, without the border itself: [B, H + 2n, W + 2n, C].

    Args:
        size: n, less than H and W.
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


def adain(model: keras.Model, *, layer: str | None = None, seed: int = 0) -> Network:
    """The encoder is the normalised VGG to one layer, whose moments the style's replace; a mirrored
    decoder makes the picture.

    The code is mean and deviation [B, 2 C].  A blend of codes is the blend of the AdaIN features,
    and a blend with the content's own code is the paper's alpha, since AdaIN is linear in both.

    Args:
        model: A normalised VGG.
        layer: Where; default: block4_conv1, or the deepest there is.
        seed: Of the decoder's weights.

    Reference: Huang and Belongie, ICCV 2017, sections 5 and 6 (its decoder has no normalisation).
    """
    names = [stage.layer.name for stage in chain.stages(model)]
    layer = layer or (ADAIN_LAYER if ADAIN_LAYER in names else names[-1])
    encoder = chain.features(model, [layer])
    decoder, stride = mirrored_decoder(model, layer, seed=seed)
    channels = encoder.output[layer].shape[-1]

    def describe(features: Mapping[str, Any]) -> Any:
        return keras.ops.concatenate(moments(features[layer]), axis=-1)

    style = keras.Input((None, None, 3), name="style")
    code = keras.Model(style, describe(encoder(style)), name="code")
    content = keras.Input((None, None, 3), name="content")
    given = keras.Input((2 * channels,), name="code")
    goal = AdaptiveInstanceNormalization()(
        [encoder(content)[layer], given[:, channels:], given[:, :channels]]
    )
    transform = keras.Model(
        {"content": content, "code": given}, {"image": decoder(goal), "goal": goal}
    )
    return Network("adain", code, transform, (decoder,), stride, describe, (layer,), layer)


def mirrored_decoder(model: keras.Model, layer: str, *, seed: int = 0) -> tuple[keras.Model, int]:
    """Features of a layer -> picture: the layers up to it backwards, and the stride of the layer.

    Convolutions are padded by reflection and followed by ReLU but for the last; pooling becomes
    nearest-neighbour up-sampling (Huang and Belongie 2017, section 6.1).

    Raises:
        NetworkError: Another kind of layer than convolutions and pooling.
    """
    behind = chain.layers(chain.features(model, [layer]))
    random = keras.random.SeedGenerator(seed)
    features = x = keras.Input((None, None, _channels(behind)), name="features")
    stride = 1
    for one in reversed(behind):
        if isinstance(one, keras.layers.Conv2D):
            channels, kernel = one.get_weights()[0].shape[2], one.kernel_size[0]
            options: dict[str, Any] = {"activation": "relu"}
            if channels == 3:
                # A nearly grey picture at first: far out of range, the losses' first gradients
                # would be so large that Adam's steps stay small for hundreds of steps.
                small = keras.initializers.VarianceScaling(0.01, seed=random)
                options = {"kernel_initializer": small}
                options["bias_initializer"] = keras.initializers.Constant(GREY)
            x = _convolution(x, channels, kernel, random, **options)
        elif isinstance(one, (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)):
            x = keras.layers.UpSampling2D(one.strides)(x)
            stride *= one.strides[0]
        elif not chain.is_input_conversion(one) and chain.is_weighted(one):
            raise NetworkError(
                f"Expected convolutions and pooling up to {layer}. Received: {one.name!r}. Choose "
                "an earlier layer."
            )
    return keras.Model(features, x, name="decoder"), stride


def _channels(layers: list[keras.Layer]) -> int:
    """The channels of the last convolution."""
    return [one for one in layers if isinstance(one, keras.layers.Conv2D)][-1].filters


def _convolution(x: Any, filters: int, kernel: int, random: Any, **options: Any) -> Any:
    x = ReflectionPadding2D(kernel // 2)(x)
    options.setdefault("kernel_initializer", keras.initializers.HeNormal(seed=random))
    return keras.layers.Conv2D(filters, kernel, **options)(x)


def _glorot(random: Any) -> Any:
    return keras.initializers.GlorotNormal(seed=random)


def cin(styles: int, *, seed: int = 0) -> Network:
    """A residual network with conditional instance normalisation: S fixed styles, mixed by weights.

    Reference: Dumoulin, Shlens and Kudlur, ICLR 2017, table 1.
    """
    code = keras.Input((styles,), name="code")

    def normalise(x: Any) -> Any:
        return ConditionalInstanceNormalization(styles)([x, code])

    transform = _residual_network(code, normalise, seed)
    return Network("cin", None, transform, (transform,), 4)


def style_encoder(model: keras.Model, *, layers: tuple[str, ...] = (), seed: int = 0) -> Network:
    """As `cin`, but scales and offsets are predicted from a code that is learnt from the style.

    The moments of the style's VGG features go through two layers to a code of 100 numbers, as
    StyleGAN's mapping does from noise; each normalisation has a linear map of the code of its own.
    Ghiasi et al. take an Inception network's features in place of the VGG's moments.

    Args:
        model: A normalised VGG.
        layers: Whose moments; default: blockK_conv1, K = 1 to 5, of those that there are.
        seed: Of the weights.

    Reference: Ghiasi et al., "Exploring the structure of a real-time, arbitrary neural artistic
    stylization network", BMVC 2017; Karras et al. 2019, section 2.
    """
    random = keras.random.SeedGenerator(seed + 1)
    wanted = layers or style_layers(model)
    encoder = chain.features(model, wanted)
    sizes = keras.Input((2 * sum(encoder.output[name].shape[-1] for name in wanted),))
    hidden = sizes
    for _ in range(2):
        hidden = keras.layers.Dense(
            256, "relu", kernel_initializer=keras.initializers.HeNormal(seed=random)
        )(hidden)
    hidden = keras.layers.Dense(CODE_SIZE, kernel_initializer=_glorot(random))(hidden)
    mapping = keras.Model(sizes, hidden, name="mapping")

    def describe(features: Mapping[str, Any]) -> Any:
        found = [part for name in wanted for part in moments(features[name])]
        return mapping(keras.ops.concatenate(found, axis=-1))

    style = keras.Input((None, None, 3), name="style")
    code = keras.Input((CODE_SIZE,), name="code")

    def normalise(x: Any) -> Any:
        channels = x.shape[-1]
        gamma = keras.layers.Dense(
            channels, bias_initializer="ones", kernel_initializer=_glorot(random)
        )(code)
        beta = keras.layers.Dense(channels, kernel_initializer=_glorot(random))(code)
        return AdaptiveInstanceNormalization()([x, gamma, beta])

    transform = _residual_network(code, normalise, seed)
    learnt = keras.Model(style, describe(encoder(style)), name="code")
    return Network("encoder", learnt, transform, (mapping, transform), 4, describe, wanted)


def style_layers(model: keras.Model) -> tuple[str, ...]:
    """blockK_conv1, K = 1 to 5, of those that the model has; else its deepest layer."""
    names = [stage.layer.name for stage in chain.stages(model)]
    return tuple(n for k in range(1, 6) if (n := f"block{k}_conv1") in names) or (names[-1],)


def _residual_network(code: Any, normalise: Callable[[Any], Any], seed: int) -> keras.Model:
    """Down by 4, residual blocks, up again; a normalisation behind every convolution."""
    random = keras.random.SeedGenerator(seed)

    def block(x: Any, filters: int, kernel: int, *, strides: int = 1, relu: bool = True) -> Any:
        x = _convolution(x, filters, kernel, random, strides=strides)
        x = normalise(x)
        return keras.layers.ReLU()(x) if relu else x

    content = keras.Input((None, None, 3), name="content")
    x = block(content, 32, 9)
    x = block(x, 64, 3, strides=2)
    x = block(x, 128, 3, strides=2)
    for _ in range(BLOCKS):
        x = keras.layers.Add()([x, block(block(x, 128, 3), 128, 3, relu=False)])
    for filters in (64, 32):
        x = block(keras.layers.UpSampling2D(2)(x), filters, 3)
    x = normalise(_convolution(x, 3, 9, random))
    image = keras.layers.Activation("sigmoid")(x)
    return keras.Model({"content": content, "code": code}, {"image": image}, name="transform")
