"""Reading the pictures that a run is asked to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from style.cli.settings import Settings
from style.images import colors, reading, resizing
from style.synthesis.inputs import Inputs
from vgg_normalize.errors import ImagesError


def read_inputs(settings: Settings) -> tuple[Inputs, bytes | None]:
    """The pictures of a run, and the ICC profile that its result gets.

    Args:
        settings: After `run_transfer.resolve_settings`.

    Raises:
        ImagesError: A picture cannot be read.
        UsageError: There is no picture to begin with.
    """
    content = reading.load(settings.content) if settings.content else None
    styles = [reading.load(path) for path in settings.style]
    own_init = settings.init not in ("content", "style", "noise")
    first = content or styles[0]
    inputs = Inputs(
        settings,
        resizing.shape_for(first.pixels.shape, settings.size),
        content=None if content is None else content.pixels,
        styles=[style.pixels for style in styles],
        content_masks=load_masks(settings.content_mask),
        style_masks=load_masks(settings.style_mask),
        init=reading.load(settings.init or "").pixels if own_init else None,
    )
    return inputs, first.profile


def load_masks(paths: Sequence[str]) -> list[np.ndarray]:
    """Masks [H, W, 1] in [0, 1]: the luma of pictures, each with something white.

    Raises:
        ImagesError: One cannot be read, or is all black.
    """
    masks = []
    for path in paths:
        mask = reading.load(path).pixels @ colors.LUMA
        if not mask.max() > 0:
            raise ImagesError(
                f"Expected a mask with something white. Received: {path!r}, all black. Correct it."
            )
        masks.append(mask[..., None])
    return masks
