"""Options and network -> options with every default filled in."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import keras

from style.synthesis.options import (
    CONTENT_LAYERS,
    INITS,
    NEIGHBORS_TV_WEIGHT,
    RENEW_EVERY,
    STYLE_LAYERS,
    TV_WEIGHTS,
    UNUSED,
    Options,
    StyleLayers,
)
from vgg_normalize.errors import NetworkError, UsageError
from vgg_normalize.networks import borders, chain
from vgg_normalize.networks.precision import with_precision

AnyOptions = TypeVar("AnyOptions", bound=Options)
LayersT = TypeVar("LayersT", bound=StyleLayers)


def resolve(options: AnyOptions, model: keras.Model, *, styles: int) -> AnyOptions:
    """The options with every default that depends on the task or the network filled in.

    What the task does not use is as if it had not been given.

    Args:
        options: As they were given.
        model: The network.
        styles: How many style pictures there are.

    Raises:
        UsageError: No weight of the styles is above 0, or there is not one for each.
        NetworkError: The network has no such layer.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(options)}
    unused = UNUSED[options.task]
    options = dataclasses.replace(
        options, **{name: defaults[name] for name in unused if name in defaults}
    )
    blend = options.style_blend
    if "style" not in unused:
        blend = blend or (1.0,) * styles
        require_one_each("style_blend", len(blend), styles)
        if not sum(blend) > 0:
            raise UsageError("Expected a style_blend above 0. Received: only zeros. Correct it.")
    names = [stage.layer.name for stage in chain.stages(model)]
    default_tv_weight = TV_WEIGHTS[options.task]
    if options.content_loss == "neighbors":
        default_tv_weight = NEIGHBORS_TV_WEIGHT
    tv_weight, renew_every = options.tv_weight, options.renew_every
    return dataclasses.replace(
        options,
        style_blend=blend,
        content_layers=resolve_layers(
            options.content_layers, CONTENT_LAYERS[options.content_loss], names
        ),
        style_layers=resolve_layers(options.style_layers, STYLE_LAYERS, names),
        tv_weight=default_tv_weight if tv_weight is None else tv_weight,
        init=options.init or INITS[options.task],
        padding="wrap" if options.wrap else options.padding or borders.padding_of(model),
        renew_every=RENEW_EVERY[options.content_loss] if renew_every is None else renew_every,
    )


def as_asked_for(model: keras.Model, options: Options) -> keras.Model:
    """The network with the borders and in the precision of the options.

    Raises:
        NetworkError: A layer cannot be padded so.
    """
    model = borders.with_padding(model, options.padding or "zero")
    policy = options.precision if options.precision == "float32" else f"mixed_{options.precision}"
    return with_precision(model, policy)


def require_one_each(what: str, count: int, styles: int) -> None:
    """Raises UsageError where there is something, but not one for each style."""
    if count and count != styles:
        raise UsageError(
            f"Expected {styles} in {what}, one for each style. Received: {count}. Give as many as "
            "styles."
        )


def resolve_layers(given: LayersT, default: LayersT, names: list[str]) -> LayersT:
    """The layers that were given, or of the default those that the network has, or its deepest.

    Raises:
        NetworkError: The network has no such layer.
    """
    unknown = [name for name, _ in given if name not in names]
    if unknown:
        raise NetworkError(
            f"Expected layers of this network: {', '.join(names)}. Received: "
            f"{', '.join(unknown)}. Choose from these, or use a deeper `model`."
        )
    if given:
        return given
    chosen: Any = tuple(pair for pair in default if pair[0] in names) or ((names[-1], 1.0),)
    return chosen
