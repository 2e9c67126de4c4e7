"""How a take looks on the page: its picture, how far it is, its losses, and the strip of all."""

from __future__ import annotations

import base64
import html
import io
import math

import numpy as np
import pandas as pd
from PIL import Image

from style.studio.take_queue import TakeQueue
from style.studio.takes import Stage, Take

# Long side in pixels of a picture on the page, and in the strip; files have all pixels.
SHOWN, THUMBNAIL = 1024, 192
# Points of a curve, at most.
POINTS = 400
# The least share of the loss that a curve shows.
FLOOR = 1e-4
EMPTY = (
    '<figure class="take"><div class="frame"><p>Choose pictures and press <b>Start</b>. '
    "The picture appears here and grows.</p></div></figure>"
)


def panel(queue: TakeQueue, take: Take | None) -> str:
    """The picture of a take and how far it is, as HTML."""
    if take is None:
        return EMPTY
    image = take.image
    if image is None:
        frame = f"<p>{html.escape(_standing(queue, take))}</p>"
    else:
        alt = f"{take.title} after {take.evaluations} evaluations"
        frame = f'<img id="picture" src="{_data_url(image)}" alt="{alt}">'
    steps = take.settings.steps
    bar = (
        f'<progress max="{steps}" value="{take.evaluations}" '
        f'aria-label="Evaluations done">{take.evaluations} of {steps}</progress>'
    )
    caption = f"<b>{take.title}</b>: {html.escape(_standing(queue, take))}"
    return (
        f'<figure class="take" data-stage="{take.stage.value}"><div class="frame">{frame}</div>'
        f"{bar}<figcaption>{caption}</figcaption></figure>"
    )


def _standing(queue: TakeQueue, take: Take) -> str:
    """How a take stands, in words."""
    if take.stage is Stage.FAILED:
        return take.message
    if take.stage is Stage.WAITING:
        before = queue.before(take)
        return f"waiting in the queue, {before} before it" if before else "about to begin"
    if not take.curve:
        return "preparing the first step"
    parts = [
        f"{take.stage.value}, {take.evaluations} of {take.settings.steps} evaluations",
        f"loss {take.curve[-1][1]:.4g}",
        f"{take.seconds:.0f} s",
    ]
    left = take.seconds_left()
    if left is not None:
        parts.append(f"about {left:.0f} s left")
    return "; ".join([", ".join(parts), *filter(None, [take.message])])


def curve(take: Take | None) -> pd.DataFrame:
    """The losses of a take for a plot: "evaluations", "log10 of the loss" and "term"."""
    rows = []
    points = [] if take is None else take.curve
    for evaluations, loss, terms in points[:: max(1, len(points) // POINTS)]:
        values = {"all": loss, **terms} if len(terms) > 1 else {"all": loss}
        # A term may begin at 0, which would flatten the others.
        least = max(FLOOR * loss, 1e-30)
        rows += [(evaluations, math.log10(max(v, least)), name) for name, v in values.items()]
    # Of an empty table a plot needs to know that these are numbers.
    types = {"evaluations": float, "log10 of the loss": float, "term": str}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def strip(queue: TakeQueue) -> list[tuple[Image.Image, str]]:
    """A thumbnail and a caption of each take."""
    return [(_thumbnail(take), f"{take.title}, {take.stage.value}") for take in queue.takes]


def _thumbnail(take: Take) -> Image.Image:
    if take.image is None:
        return Image.new("RGB", (THUMBNAIL, THUMBNAIL), (226, 226, 222))
    picture = _as_picture(take.image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def _data_url(image: np.ndarray) -> str:
    picture = _as_picture(image)
    picture.thumbnail((SHOWN, SHOWN))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _as_picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(image * 255).astype(np.uint8))
