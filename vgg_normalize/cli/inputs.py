"""What a run works on: the images and the network, opened as the settings say."""

from __future__ import annotations

import os
from typing import NamedTuple

import keras
import tensorflow as tf

from vgg_normalize import measurement, saved_network, vgg
from vgg_normalize.cli.settings import Settings
from vgg_normalize.data import sources
from vgg_normalize.errors import DevicesError, UsageError
from vgg_normalize.networks import chain, vgg_layers
from vgg_normalize.runtime.extras import require_extras
from vgg_normalize.runtime.progress import Heartbeat, say
from vgg_normalize.weights import loading

FLOAT32_BYTES = 4


class Inputs(NamedTuple):
    """The images and the network of a run.

    Attributes:
        source: The images.
        options: How they are read.
        weights: The weights as they were loaded.
        model: The network that has them.
        channels: Number of filters by name of each layer with a ReLU.
    """

    source: sources.Source
    options: measurement.InputOptions
    weights: loading.Weights
    model: keras.Model
    channels: dict[str, int]


def require_valid(settings: Settings) -> None:
    """Check what can be checked before anything is opened.

    Raises:
        UsageError: Flags contradict each other, a format is unknown, or its packages are missing.
    """
    if settings.include_top and (settings.resize == "none" or settings.image_size != 224):
        raise UsageError(
            "Expected images of 224 x 224 with --include_top. Received: "
            f"resize={settings.resize}, image_size={settings.image_size}. Leave both out."
        )
    unknown = [name for name in settings.formats if name not in saved_network.FORMATS]
    if unknown or not settings.formats:
        raise UsageError(
            f"Expected formats of {', '.join(saved_network.FORMATS)}. Received: "
            f"{', '.join(unknown) or 'none'}. Correct --formats."
        )
    if settings.task == "normalize":
        require_extras(settings.formats)


def open_inputs(settings: Settings) -> Inputs:
    """Open the images and build the network.

    Raises:
        ImagesError: The images cannot be read.
        NetworkError: The weights cannot be read, or a format does not fit the network.
        UsageError: The images are smaller than the network needs.
        DevicesError: One image takes more memory than there is.
    """
    source = sources.open_source(
        settings.images or "sample",
        max_images=settings.max_images,
        seed=settings.seed,
        shuffle=settings.target_error > 0,
    )
    Heartbeat.doing("loading the network")
    weights = loading.load(
        settings.weights,
        settings.architecture,
        vgg_layers.weight_shapes(settings.architecture, settings.include_top, settings.last_layer),
        seed=settings.seed,
    )
    vgg_options = vgg_layers.VggOptions(
        settings.architecture,
        pooling=settings.pooling,
        include_top=settings.include_top,
        last_layer=settings.last_layer,
        preprocessing=settings.preprocessing,
        padding=settings.padding,
    )
    model = vgg.with_weights(weights, vgg_options)
    say(f"weights: {weights.description}")
    if weights.note and settings.preprocessing == "caffe":
        say(weights.note)
    saved_network.require_formats(model, settings.formats)
    channels = {
        stage.layer.name: stage.layer.get_weights()[0].shape[-1]
        for stage in chain.stages(model)
        if stage.rectified
    }
    options = measurement.InputOptions(
        settings.batch_size, settings.resize, settings.image_size, chain.min_image_size(model)
    )
    if options.resize != "none":
        _require_image_size(options, next(iter(channels.values())))
    return Inputs(source, options, weights, model, channels)


def _require_image_size(options: measurement.InputOptions, filters: int) -> None:
    """Check that images of this size are large enough for the network, and fit the memory.

    An image of N x N pixels takes N^2 * 3 floats, and its features after the first convolution
    N^2 * C, C the number of filters.  That is a lower bound: it refuses only what cannot be done.

    Args:
        options: How images are read; they are resized.
        filters: Number of filters of the first convolution.
    """
    size = options.image_size
    if size < options.min_side:
        raise UsageError(
            f"Expected images of at least {options.min_side} pixels for this network. "
            f"Received: image_size={size}. Raise --image_size, or cut the network "
            "with --last_layer."
        )
    on_gpu = bool(tf.config.list_physical_devices("GPU"))  # the features are not in main memory
    needed = FLOAT32_BYTES * size**2 * (3 if on_gpu else 3 + filters)
    memory = _main_memory()
    if memory is not None and needed > memory:
        raise DevicesError(
            f"Expected enough memory. Received: {memory / 2**30:.1f} GiB, and at least "
            f"{needed / 2**30:.1f} GiB are needed for images of {size} x {size} pixels. Lower "
            "--image_size."
        )


def _main_memory() -> int | None:
    """Bytes of main memory; None if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
