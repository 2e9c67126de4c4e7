"""A sheet of three photographs in four styles by a network that `style.train` saved.

    python configs/pictures.py
    python configs/stylizer_sheet.py NETWORK SHEET.jpg

The styles of docs/recipes.md's networks are in the sheet; a network of fixed styles (cin) must have
been trained on pictures of these names.
"""

import sys

import numpy as np

import style
from style.images import resizing

SIDE = 192
CONTENTS = ("cat", "astronaut", "coffee")
STYLES = ("strokes", "mosaic", "hatching", "leaves")


def read(name: str) -> np.ndarray:
    """A picture of `configs/pictures.py`, its middle as a square."""
    picture = style.load_image(f"pictures/{name}.png")
    short = min(picture.shape[:2])
    top, left = ((side - short) // 2 for side in picture.shape[:2])
    return resizing.resize(picture[top : top + short, left : left + short], SIDE, SIDE)


def main(network: str, output: str) -> None:
    """Write the sheet: styles on top, contents at the left."""
    stylizer = style.load_stylizer(network)
    styles = {name: read(name) for name in STYLES}
    rows = [np.concatenate([np.ones((SIDE, SIDE, 3)), *styles.values()], 1)]
    for content in map(read, CONTENTS):
        made = [
            stylizer(content, f"{name}.png" if stylizer.known_styles else picture)
            for name, picture in styles.items()
        ]
        rows.append(np.concatenate([content, *made], 1))
    style.save_image(output, np.concatenate(rows).astype(np.float32))


if __name__ == "__main__":
    main(*sys.argv[1:])
