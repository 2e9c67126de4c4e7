"""How a take looks on the page: its picture, how far it is, its losses, and the strip of all."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from PIL import Image

from style.studio.take_queue import TakeQueue
from style.studio.takes import Stage, Take

# Long side in pixels of a picture on the page, and in the strip; files have all pixels.
SHOWN, THUMBNAIL = 1024, 192
# The least share of the loss that a curve shows.
FLOOR = 0.01
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
        f"loss {take.curve[-1].loss:.4g}",
        f"{take.seconds:.0f} s",
    ]
    left = take.seconds_left()
    if left is not None:
        parts.append(f"about {left:.0f} s left")
    return ". ".join([", ".join(parts), *filter(None, [take.message])])


def curve(take: Take | None) -> str:
    """The losses of a take by term, as HTML."""
    points = [] if take is None else take.curve
    if take is None or len(points) < 2:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes = figure.add_subplot()
    steps = [point.evaluations for point in points]
    losses = np.array([point.loss for point in points])
    names = list(points[0].terms)
    if len(names) > 1:
        for name in names:
            axes.plot(steps, [point.terms[name] for point in points], label=name, lw=1.2)
    axes.plot(steps, losses, color="#222222", lw=1.6, label="all")
    axes.set_yscale("log")
    # A term may begin at 0, which would flatten the others.
    axes.set_ylim(max(FLOOR * losses.min(), 1e-30), losses.max() * 1.5)
    axes.set_xlabel("evaluations")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, loc="upper right")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    ends = f"from {losses[0]:.3g} to {losses[-1]:.3g} after {steps[-1]} evaluations"
    return f'<img class="curve" src="{_url("png", file)}" alt="Losses of {take.title}: {ends}">'


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
    return _url("jpeg", file)


def _url(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _as_picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(image * 255).astype(np.uint8))
