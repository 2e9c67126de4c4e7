"""What a training minimises, from its settings."""

from __future__ import annotations

import dataclasses

import keras

from style.cli.settings import TrainSettings
from style.cli.training_pictures import TrainingPictures
from style.feedforward import calibration
from style.feedforward.batch_losses import LossConfig
from style.feedforward.networks import Network
from style.synthesis.defaults import resolve_layers
from style.synthesis.options import CONTENT_LAYERS, STYLE_LAYERS
from style.synthesis.strength import style_weights
from vgg_normalize.networks import chain
from vgg_normalize.runtime.progress import Heartbeat, say

# Significant digits of a style weight: what rounding of sums leaves alike on all processes, and when
# a training is resumed.
DIGITS = 3


def resolve(settings: TrainSettings, model: keras.Model) -> TrainSettings:
    """The settings with the layers and the style loss that are meant where none is given."""
    names = [stage.layer.name for stage in chain.stages(model)]
    adain = settings.method == "adain"
    # AdaIN's styles as far as its own layer (Huang and Belongie 2017, section 6.1).
    style_layers = STYLE_LAYERS[:4] if adain else STYLE_LAYERS
    return dataclasses.replace(
        settings,
        content_layers=resolve_layers(settings.content_layers, CONTENT_LAYERS["features"], names),
        style_layers=resolve_layers(settings.style_layers, style_layers, names),
        style_loss=settings.style_loss or ("moments" if adain else "gram"),
    )


def calibrate(
    settings: TrainSettings, network: Network, model: keras.Model, pictures: TrainingPictures
) -> TrainSettings:
    """The settings with the style weight that their strength comes to for the first pictures."""
    if settings.strength is None:
        return settings
    Heartbeat.doing("working out the style weight")
    contents, styles = pictures.first_squares()
    content_worth, style_worth = calibration.worths(
        network, model, config(settings), contents, styles
    )
    name = settings.style_loss or ""
    weights = style_weights(
        *(settings.strength, {name: 1.0}),
        *(settings.content_weight * content_worth, {name: style_worth}),
    )
    weight = float(f"{weights[name]:.{DIGITS}g}")
    say(f"--strength={settings.strength:g} comes to --style_weight={weight:g}")
    return dataclasses.replace(settings, style_weight=weight)


def config(settings: TrainSettings) -> LossConfig:
    """The objective that the settings describe."""
    return LossConfig(
        settings.content_layers,
        settings.style_layers,
        settings.content_weight,
        settings.style_weight or 0.0,
        settings.tv_weight,
        settings.style_loss or "",
        settings.balance,
    )
