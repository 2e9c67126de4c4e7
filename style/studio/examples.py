"""Pictures to begin with: photographs of scikit-image if it is installed, and made styles."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from PIL import Image

from style.images import made_styles
from vgg_normalize.data import synthetic

# Those that come inside the package of scikit-image; others would be downloaded.
PHOTOGRAPHS = {"cat": "chelsea", "astronaut": "astronaut", "coffee": "coffee"}
HEIGHT, WIDTH = 384, 480


def photographs(folder: Path) -> list[str]:
    """Paths of example contents, written into a folder."""
    if importlib.util.find_spec("skimage") is None:
        return [_save(folder, "shapes", synthetic.picture(2))]
    from skimage import data

    return [_save(folder, name, getattr(data, made)()) for name, made in PHOTOGRAPHS.items()]


def styles(folder: Path) -> list[str]:
    """Paths of example styles, written into a folder."""
    makers = [made_styles.strokes, made_styles.hatching]
    if importlib.util.find_spec("scipy") is not None:
        makers.append(made_styles.mosaic)
    return [_save(folder, make.__name__, make(HEIGHT, WIDTH)) for make in makers]


def _save(folder: Path, name: str, pixels: object) -> str:
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)  # type: ignore[arg-type]
    return str(path)
