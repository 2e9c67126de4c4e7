"""Feed-forward stylisers: a style becomes a code, and a code and a content become a picture.

A `Network` is two Keras models.  `code` turns a style picture into a code [B, D] (for fixed styles
there is no such model: the weights of the styles are the code); `transform` turns a content and a
code into a picture.  In all of them the code sets the scale and offset of an instance
normalisation, so codes can be mixed, and a mixture of codes is a mixture of styles.

To add a network, write a function that returns a `Network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from style.feedforward.blocks import (
    CODE_SIZE,
    convolution,
    mapping_network,
    residual_network,
    scaled,
)
from style.feedforward.layers import (
    AdaptiveInstanceNormalization,
    ConditionalInstanceNormalization,
    moments,
)
from style.feedforward.normalizations import NORMALIZATIONS
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import chain

# Where AdaIN normalises; in a VGG that ends before it, the deepest layer does.
ADAIN_LAYER = "block4_conv1"
# About the mean of photographs (ImageNet's is 0.485, 0.456, 0.406).
GREY = 0.45


class Network(NamedTuple):
    """A feed-forward styliser.

    Attributes:
        method: "adain", "encoder" or "cin".
        code: Style [B, H, W, 3] -> code [B, D]; None where style weights [B, S] are the code.
        transform: {"content": [B, H, W, 3], "code": [B, D]} -> {"image": [B, H, W, 3]}, and for
            AdaIN "target": the features that the picture should have.  H and W are multiples of
            `stride`.
        trainable_models: The models that training changes; the VGG is never among them.
        stride: Stride of the deepest layer, in pixels.
        encode_features: {VGG layer: features of a style} -> code [B, D]; what `code` does, where
            the features are known already.  None where `code` is None.
        code_layers: Names of the VGG layers that `encode_features` takes.
        target_layer: Name of the VGG layer of "target"; None where there is no "target".
    """

    method: str
    code: keras.Model | None
    transform: keras.Model
    trainable_models: tuple[keras.Model, ...]
    stride: int
    encode_features: Callable[[Mapping[str, Any]], Any] | None = None
    code_layers: tuple[str, ...] = ()
    target_layer: str | None = None

    @property
    def variables(self) -> list[Any]:
        """The weights that have gradients."""
        return [v for model in self.trainable_models for v in model.trainable_variables]

    @property
    def state(self) -> list[Any]:
        """What training changes besides: moving averages, estimates of singular vectors."""
        return [v for model in self.trainable_models for v in model.non_trainable_variables]


def adain(model: keras.Model, *, layer: str | None = None, seed: int = 0) -> Network:
    """AdaIN: the VGG up to one layer, the style's moments in place of the content's, a decoder.

    With the VGG's features F of that layer and the decoder g:

        t = sigma(F(style)) (F(content) - mu(F(content))) / sigma(F(content)) + mu(F(style))
        image = g(t)

    The code is (mu, sigma) of the style, [B, 2 C].  t is linear in it, so a blend of codes is the
    blend of the features t, and a blend with the content's own code is the paper's alpha.

    Args:
        model: A normalised VGG.
        layer: Name of the layer; default: block4_conv1, or the deepest if the VGG ends before it.
        seed: Seed of the decoder's initial weights.

    Reference: Huang and Belongie, ICCV 2017, sections 5 and 6 (its decoder has no normalisation).
    """
    names = [stage.layer.name for stage in chain.stages(model)]
    layer = layer or (ADAIN_LAYER if ADAIN_LAYER in names else names[-1])
    encoder = chain.features(model, [layer])
    decoder, stride = mirrored_decoder(model, layer, seed=seed)
    channels = encoder.output[layer].shape[-1]

    def encode_features(features: Mapping[str, Any]) -> Any:
        return keras.ops.concatenate(moments(features[layer]), axis=-1)

    style = keras.Input((None, None, 3), name="style")
    style_encoder = keras.Model(style, encode_features(encoder(style)), name="code")
    content = keras.Input((None, None, 3), name="content")
    code = keras.Input((2 * channels,), name="code")
    mean, deviation = code[:, :channels], code[:, channels:]
    target = AdaptiveInstanceNormalization()([encoder(content)[layer], deviation, mean])
    transform = keras.Model(
        {"content": content, "code": code}, {"image": decoder(target), "target": target}
    )
    return Network(
        "adain", style_encoder, transform, (decoder,), stride, encode_features, (layer,), layer
    )


def mirrored_decoder(model: keras.Model, layer: str, *, seed: int = 0) -> tuple[keras.Model, int]:
    """A decoder from a layer's features to a picture, and the stride of that layer.

    It is the VGG up to the layer, backwards.  Convolutions are padded by reflection, and all but
    the last are followed by ReLU; pooling becomes nearest-neighbour up-sampling (Huang and Belongie
    2017, section 6.1).

    Args:
        model: A VGG.
        layer: Name of the layer.
        seed: Seed of the initial weights.

    Raises:
        NetworkError: A layer is neither a convolution nor pooling.
    """
    layers = chain.layers(chain.features(model, [layer]))
    random = keras.random.SeedGenerator(seed)
    features = x = keras.Input((None, None, _channels(layers)), name="features")
    stride = 1
    for encoder_layer in reversed(layers):
        if isinstance(encoder_layer, keras.layers.Conv2D):
            channels = encoder_layer.get_weights()[0].shape[2]
            options: dict[str, Any] = {"activation": "relu"}
            if channels == 3:
                # A nearly grey picture at first: far out of range, the losses' first gradients
                # would be so large that Adam's steps stay small for hundreds of steps.
                small = keras.initializers.VarianceScaling(0.01, seed=random)
                options = {"kernel_initializer": small}
                options["bias_initializer"] = keras.initializers.Constant(GREY)
            x = convolution(x, channels, encoder_layer.kernel_size[0], random, **options)
        elif isinstance(encoder_layer, (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)):
            x = keras.layers.UpSampling2D(encoder_layer.strides)(x)
            stride *= encoder_layer.strides[0]
        elif not chain.is_input_conversion(encoder_layer) and chain.is_weighted(encoder_layer):
            raise NetworkError(
                f"Expected convolutions and pooling up to {layer}. Received: "
                f"{encoder_layer.name!r}. Choose an earlier layer."
            )
    return keras.Model(features, x, name="decoder"), stride


def _channels(layers: list[keras.Layer]) -> int:
    """The number of channels of the last convolution."""
    return [layer for layer in layers if isinstance(layer, keras.layers.Conv2D)][-1].filters


def cin(
    styles: int,
    *,
    normalization: str = "instance",
    spectral: bool = False,
    skip: bool = False,
    seed: int = 0,
) -> Network:
    """A residual network with conditional instance normalisation: S fixed styles, mixed by weights.

    Args:
        styles: S, the number of styles.
        normalization: A key of `NORMALIZATIONS`; the style's scale and offset follow all of them.
        spectral: Whether each kernel is divided by its spectral norm at each step of training.
        skip: Whether the content is added before the last normalisation (`residual_network`).
        seed: Seed of the initial weights.

    Reference: Dumoulin, Shlens and Kudlur, ICLR 2017, table 1; spectral normalisation: Miyato et
    al., ICLR 2018.
    """
    code = keras.Input((styles,), name="code")

    def normalize(x: Any) -> Any:
        if normalization == "instance":
            return ConditionalInstanceNormalization(styles)([x, code])
        scale, offset = (
            keras.layers.Dense(x.shape[-1], use_bias=False, kernel_initializer=initial)(code)
            for initial in ("ones", "zeros")
        )
        return scaled(NORMALIZATIONS[normalization](x.shape[-1])(x), scale, offset)

    transform = residual_network(code, normalize, seed, spectral, skip)
    return Network("cin", None, transform, (transform,), 4)


def style_encoder(
    model: keras.Model,
    *,
    layers: tuple[str, ...] = (),
    normalization: str = "instance",
    spectral: bool = False,
    skip: bool = False,
    seed: int = 0,
) -> Network:
    """As `cin`, but scales and offsets come from a code that is predicted from any style picture.

    The moments of the style's VGG features go through two hidden layers to a code z of 100 numbers,
    as noise does through StyleGAN's mapping network; each normalisation has linear maps of its own,
    gamma = A z + a and beta = B z + b.  Ghiasi et al. take the features of an Inception network in
    place of the VGG's moments.

    Args:
        model: A normalised VGG.
        layers: Names of the layers whose moments are taken; default: those of `style_layers`.
        normalization, spectral, skip, seed: As of `cin`.

    Reference: Ghiasi et al., "Exploring the structure of a real-time, arbitrary neural artistic
    stylization network", BMVC 2017; Karras et al. 2019, section 2.
    """
    random = keras.random.SeedGenerator(seed + 1)
    names = layers or style_layers(model)
    encoder = chain.features(model, names)
    mapping = mapping_network(2 * sum(encoder.output[name].shape[-1] for name in names), random)

    def encode_features(features: Mapping[str, Any]) -> Any:
        statistics = [part for name in names for part in moments(features[name])]
        return mapping(keras.ops.concatenate(statistics, axis=-1))

    style = keras.Input((None, None, 3), name="style")
    code = keras.Input((CODE_SIZE,), name="code")

    def normalize(x: Any) -> Any:
        channels = x.shape[-1]
        # All styles begin as plain normalisation, gamma 1 and beta 0: scales drawn at random drive the
        # last layer's sigmoid to where it has no gradient.
        small = keras.initializers.VarianceScaling(0.01, seed=random)
        gamma = keras.layers.Dense(channels, bias_initializer="ones", kernel_initializer=small)(
            code
        )
        beta = keras.layers.Dense(channels, kernel_initializer=small)(code)
        if normalization == "instance":
            return AdaptiveInstanceNormalization()([x, gamma, beta])
        return scaled(NORMALIZATIONS[normalization](channels)(x), gamma, beta)

    transform = residual_network(code, normalize, seed, spectral, skip)
    encode = keras.Model(style, encode_features(encoder(style)), name="code")
    return Network("encoder", encode, transform, (mapping, transform), 4, encode_features, names)


def style_layers(model: keras.Model) -> tuple[str, ...]:
    """Names of the layers blockK_conv1, K = 1 to 5, that a model has; without any, its deepest."""
    names = [stage.layer.name for stage in chain.stages(model)]
    return tuple(n for k in range(1, 6) if (n := f"block{k}_conv1") in names) or (names[-1],)
