"""Several pictures by one network: those of a folder, or those on the way between styles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from style.cli import folder_outputs
from style.cli.picture_run import PictureRun
from style.cli.read_inputs import read_inputs
from style.cli.settings import Settings
from style.images import writing
from style.synthesis.cache import Cache
from vgg_normalize.runtime.paths import require_distinct
from vgg_normalize.runtime.progress import InterruptHandler, say


def run_folder(settings: Settings, model: keras.Model, stop: InterruptHandler) -> None:
    """Make a picture of each content in a folder; what is there already stays.

    Contents of one size share their graphs and the style's targets.

    Args:
        settings: After `run_transfer.resolve_settings`, with a folder as content and as output.
        model: The network.
        stop: Signals.

    Raises:
        Error: As `folder_outputs.plan_folder` and `make_all`.
        Interrupted: A signal came; finished pictures stay.
    """
    work, cache = folder_outputs.plan_folder(settings, _read(settings)), Cache()

    def make(source: Path, target: Path) -> None:
        of_picture = dataclasses.replace(settings, content=str(source), output=str(target))
        _make(of_picture, model, stop, cache)

    folder_outputs.make_all(settings, work, make, stop, program="style")


def run_interpolation(settings: Settings, model: keras.Model, stop: InterruptHandler) -> None:
    """Make pictures from the first style to the last, OUTPUT_1.png and so on.

    Args:
        settings: After `run_transfer.resolve_settings`, with two styles or more.
        model: The network.
        stop: Signals.

    Raises:
        Error: As `PictureRun`.
        Interrupted: A signal came; finished pictures stay.
    """
    cache, output = Cache(), Path(settings.output)
    blends = blends_along(len(settings.style), settings.interpolate)
    digits = len(str(len(blends)))
    targets = [output.with_stem(f"{output.stem}_{i:0{digits}}") for i in range(1, len(blends) + 1)]
    read = {"content": settings.content, **_read(settings)}
    for target in targets:
        require_distinct(read, {"output": str(target)})
    for blend, target in zip(blends, targets, strict=True):
        of_picture = dataclasses.replace(settings, style_blend=blend, output=str(target))
        _make(of_picture, model, stop, cache)


def blends_along(styles: int, count: int) -> list[tuple[float, ...]]:
    """Weights of the styles at so many points, evenly on the way from each style to the next."""
    blends = []
    for place in np.linspace(0, styles - 1, count):
        weights = np.maximum(0, 1 - np.abs(np.arange(styles) - place))
        blends.append(tuple(round(float(weight), 6) for weight in weights))
    return blends


def _read(settings: Settings) -> dict[str, Sequence[str]]:
    """Flag -> paths of what is read besides the content; an --init that is no path names no file."""
    return {
        "style": settings.style,
        "content_mask": settings.content_mask,
        "style_mask": settings.style_mask,
        "init": [settings.init] if settings.init else [],
    }


def _make(settings: Settings, model: keras.Model, stop: InterruptHandler, cache: Cache) -> None:
    """Make one picture and write it when it is finished, so that none is ever half made."""
    inputs, profile = read_inputs(settings)
    writing.require_fits(settings.output, *inputs.shape, bits=settings.bits)
    run = PictureRun(settings, model, inputs, stop, profile=profile, cache=cache)
    pixels, outcome = run.make()
    pixels = np.clip(pixels, 0, 1)
    writing.save(settings.output, pixels, profile=profile, bits=settings.bits)
    say(f"{settings.output}: {outcome}")
