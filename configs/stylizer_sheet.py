"""Lays three photographs in four styles into one sheet: python configs/stylizer_sheet.py NETWORK SHEET.jpg

NETWORK is a directory that `style.train` saved.  First make the pictures: python configs/pictures.py.
A network of fixed styles (cin) must have been trained on the four made ones under their names.
"""

import sys

import numpy as np

import style
from style.cli.training_preview import lay_out
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
    contents = [read(name) for name in CONTENTS]
    rows = [
        [
            stylizer(content, f"{name}.png" if stylizer.known_styles else picture)
            for name, picture in styles.items()
        ]
        for content in contents
    ]
    style.save_image(output, lay_out(contents, styles.values(), rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
