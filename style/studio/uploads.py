"""Pictures that come from a browser: checked, and never opened by anything else."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from vgg_normalize.errors import ImagesError, UsageError

MAX_BYTES = 50 * 2**20
MAX_PIXELS = 50_000_000
# What paints where the first style goes, the second and so on.
COLORS = {"red": "#d62728", "blue": "#1f77b4", "green": "#2ca02c", "yellow": "#e7ba16"}


def picture_upload(label: str, elem_id: str, **options: Any) -> gr.Image:
    """A field for a picture, whose value is the path of the uploaded file, whatever is in it.

    Gradio would open the file, and tell the user of Pillow's errors.  (A subclass of its component
    would need a front end of its own.)
    """
    field = gr.Image(
        label=label,
        elem_id=elem_id,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=[],
        height=220,
        **options,
    )
    field.preprocess = lambda payload: payload and payload.path  # type: ignore
    return field


def pictures_upload(label: str, elem_id: str, **options: Any) -> gr.Gallery:
    """A field for several pictures, whose value is the list of the paths of the uploaded files."""

    def paths(payload: Any) -> list[str]:
        items = [getattr(item, "image", None) for item in (payload.root if payload else [])]
        return [item.path for item in items if item]

    field = gr.Gallery(
        label=label,
        elem_id=elem_id,
        interactive=True,
        file_types=["image"],
        sources=["upload"],
        buttons=[],
        columns=2,
        height=220,
        object_fit="cover",
        **options,
    )
    field.preprocess = paths  # type: ignore
    return field


def require_allowed(paths: Sequence[str]) -> None:
    """Check that pictures are no larger than a page may ask for.

    Raises:
        ImagesError: One has too many pixels, or is none.
    """
    for path in paths:
        name = os.path.basename(path)
        try:
            with Image.open(path) as picture:
                width, height = picture.size
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ImagesError(
                f"Expected a picture. Received: {name}, which is none that can be read. Choose a JPEG "
                "or PNG."
            ) from error
        if width * height > MAX_PIXELS:
            raise ImagesError(
                f"Expected a picture of at most {MAX_PIXELS / 1e6:.0f} million pixels. Received: "
                f"{name}, {width} x {height}. Make it smaller."
            )


class Masks:
    """Files of what was painted; the same painting gives the same files."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="style-studio-")

    def close(self) -> None:
        """Delete the files."""
        self._folder.cleanup()

    def of_painting(self, painting: Any, styles: int) -> tuple[str, ...]:
        """Paths of one mask for each style, white where its colour was painted; none if nothing was.

        Args:
            painting: The value of the editor: "layers", each uint8, [H, W, 4].
            styles: How many styles there are.

        Raises:
            UsageError: A style was painted nowhere.
        """
        layers = [np.asarray(layer) for layer in (painting or {}).get("layers", [])]
        if not any(layer[..., 3].any() for layer in layers):
            return ()
        colors = np.array([_rgb(color) for color in COLORS.values()])
        chosen = np.full(layers[0].shape[:2], -1)
        for layer in layers:
            distances = np.abs(layer[..., None, :3].astype(int) - colors).sum(-1)
            chosen = np.where(layer[..., 3] > 127, distances.argmin(-1), chosen)
        names = list(COLORS)
        for i in range(styles):
            if not (chosen == i).any():
                raise UsageError(
                    f"Expected {names[i] if i < len(names) else 'another colour'} somewhere, where "
                    f"style {i + 1} goes. Received: a painting without. Paint it, or wipe the painting."
                )
        return tuple(self._save(chosen == i) for i in range(styles))

    def _save(self, mask: np.ndarray) -> str:
        digest = hashlib.sha256(mask.tobytes()).hexdigest()[:16]
        path = Path(self._folder.name) / f"mask_{digest}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        return str(path)


def _rgb(color: str) -> tuple[int, int, int]:
    """#rrggbb as three numbers."""
    number = int(color[1:], 16)
    return number >> 16, number >> 8 & 255, number & 255
