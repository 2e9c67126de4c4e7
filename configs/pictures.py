"""Writes the pictures that the style configs use into pictures/: python configs/pictures.py

The photographs are scikit-image's (public domain: `chelsea` by Stefan van der Walt, `astronaut` by
NASA); `pip install '.[demo]'` brings them.  The style pictures are made here in code.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from vgg_normalize import sample


def strokes(height: int, width: int, seed: int = 3) -> np.ndarray:
    """A painting of short strokes that follow a swirling field, in blues and yellows."""
    random = np.random.default_rng(seed)
    canvas = np.tile(np.array([0.10, 0.16, 0.36]), (height, width, 1))
    palette = np.array(
        [
            [0.07, 0.13, 0.40],
            [0.16, 0.32, 0.62],
            [0.36, 0.55, 0.76],
            [0.78, 0.83, 0.74],
            [0.94, 0.77, 0.25],
            [0.85, 0.53, 0.16],
        ]
    )
    centers = random.uniform(0, 1, (5, 2)) * [height, width]
    y, x = np.mgrid[:height, :width]
    for i in range(9000):
        long_half = random.uniform(14, 24) * (1 - 0.4 * i / 9000)
        short_half = random.uniform(1.8, 3.2)
        row, column = random.uniform(0, height), random.uniform(0, width)
        offsets = centers - [row, column]
        distance = np.hypot(*offsets.T)
        nearest = int(np.argmin(distance))
        turn = np.exp(-distance[nearest] / 90)
        angle = np.arctan2(offsets[nearest, 0], offsets[nearest, 1]) + np.pi / 2
        angle = turn * angle + (1 - turn) * (0.35 * np.sin(row / 60 + column / 110))
        warm = np.exp(-distance[nearest] / 40) + random.normal(0, 0.22)
        color = palette[int(np.clip(warm * 3.6 + random.uniform(0, 2.2), 0, 5))]
        color = color + random.normal(0, 0.035, 3)
        box = (
            slice(max(int(row - 26), 0), int(row + 26)),
            slice(max(int(column - 26), 0), int(column + 26)),
        )
        dy, dx = y[box] - row, x[box] - column
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = -dx * np.sin(angle) + dy * np.cos(angle)
        cover = (np.abs(along) < long_half) & (np.abs(across) < short_half)
        bristles = 1 + 0.12 * np.cos(across * 3.1 + i)
        canvas[box][cover] = (color[None, None] * bristles[..., None])[cover]
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def main() -> None:
    folder = Path("pictures")
    folder.mkdir(exist_ok=True)
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(strokes(512, 640)).save(folder / "strokes.png")
    leaves = Image.fromarray(sample.picture(4)).resize((480, 660), Image.Resampling.LANCZOS)
    leaves.save(folder / "leaves.png")


if __name__ == "__main__":
    main()
