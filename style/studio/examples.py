"""Pictures to begin with: photographs of scikit-image if it is installed, and made styles."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gradio as gr
from PIL import Image

from style.images import synthetic_styles
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
    makers = [synthetic_styles.strokes, synthetic_styles.hatching]
    if importlib.util.find_spec("scipy") is not None:
        makers.append(synthetic_styles.mosaic)
    return [_save(folder, make.__name__, make(HEIGHT, WIDTH)) for make in makers]


def buttons(paths: list[str], field: gr.Image | gr.Gallery, what: str) -> None:
    """A row of buttons with pictures, each of which puts its picture into a field.

    Args:
        paths: Of the pictures.
        field: For one picture, or for several, which are added to.
        what: What the pictures are called, for a heading.
    """
    gr.Markdown(f"Or try one of these {what}:")
    several = isinstance(field, gr.Gallery)
    with gr.Row():
        for path in paths:
            button = gr.Button(Path(path).stem, icon=path, size="sm", min_width=90)
            if several:
                button.click(
                    lambda chosen, path=path: [*chosen, path],
                    field,
                    field,
                    api_visibility="private",
                )
            else:
                button.click(lambda path=path: path, None, field, api_visibility="private")


def _save(folder: Path, name: str, pixels: object) -> str:
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)  # type: ignore[arg-type]
    return str(path)
