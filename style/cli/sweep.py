"""`--sweep`: one labelled sheet of pictures that differ in one or two flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from style.cli.settings import Settings
from vgg_normalize.errors import UsageError

# What a sheet does not use: each is of one run.
UNUSED = ("log", "animation", "preview_every", "checkpoint", "checkpoint_every", "resume")
# What it cannot vary besides.
FIXED = (*UNUSED, "output", "sweep", "task", "memory_folder", "bits")
MAX_PICTURES = 100
# Pixels between pictures.
MARGIN = 8
# Pictures in a row where one flag varies.
MAX_COLUMNS = 6


class Variant(NamedTuple):
    """One picture of a sheet.

    Attributes:
        values: Flag name and value as it was typed, of each flag that varies.
        settings: The settings of its run.
    """

    values: tuple[tuple[str, str], ...]
    settings: Settings

    @property
    def label(self) -> str:
        """The label above it."""
        return "  ".join(f"{name} {value}" for name, value in self.values)


class Cell(NamedTuple):
    """A picture [H, W, 3] and what it is of."""

    variant: Variant
    pixels: np.ndarray


def parse(text: str, flags: Sequence[str]) -> list[tuple[str, list[str]]]:
    """`FLAG:V,V[;FLAG:V,V]` as flag names with values.

    Raises:
        UsageError: It has another form, or names a flag that cannot vary.
    """
    axes = []
    for part in text.split(";"):
        name, colon, values = part.strip().partition(":")
        listed = [value.strip() for value in values.split(",") if value.strip()]
        if not colon or not listed:
            raise UsageError(
                f"Expected --sweep=FLAG:VALUE,VALUE. Received: {part!r}. For example "
                "--sweep=strength:0.2,0.5,0.8."
            )
        if name not in flags or name in FIXED:
            variable = [flag for flag in flags if flag not in FIXED]
            raise UsageError(
                f"Expected a flag in --sweep that a picture depends on. Received: {name!r}. Choose "
                f"from {', '.join(variable)}."
            )
        axes.append((name, listed))
    if len(axes) > 2 or len({name for name, _ in axes}) < len(axes):
        raise UsageError(
            f"Expected one or two different flags in --sweep. Received: {text!r}. Leave some out."
        )
    count = int(np.prod([len(values) for _, values in axes]))
    if count > MAX_PICTURES:
        raise UsageError(
            f"Expected at most {MAX_PICTURES} pictures in --sweep. Received: {count}. Fewer."
        )
    return axes


def combinations(axes: Sequence[tuple[str, list[str]]]) -> list[tuple[tuple[str, str], ...]]:
    """All combinations, row by row: the second flag goes along the rows, or the only one."""
    *rows, (name, values) = axes
    if not rows:
        return [((name, value),) for value in values]
    ((row_name, row_values),) = rows
    return [((row_name, row), (name, value)) for row in row_values for value in values]


def columns_of(variants: Sequence[Variant]) -> int:
    """Pictures in a row: the values of the second of two flags, or up to 6 of a single one."""
    first = variants[0].values
    if len(first) == 1:
        return min(len(variants), MAX_COLUMNS)
    return sum(variant.values[0] == first[0] for variant in variants)


def sheet(cells: Sequence[Cell], count: int, columns: int) -> np.ndarray:
    """The pictures so far with their labels, [H, W, 3] in [0, 1]; places of others are white.

    Args:
        cells: The pictures made so far, in the order of `combinations`.
        count: How many pictures there will be.
        columns: Pictures in a row.
    """
    height = max(cell.pixels.shape[0] for cell in cells)
    width = max(cell.pixels.shape[1] for cell in cells)
    size = max(11, width // 22)
    font = ImageFont.load_default(size)
    strip = size * 8 // 5
    rows = -(-count // columns)
    page = Image.new(
        "RGB",
        (columns * (width + MARGIN) + MARGIN, rows * (height + strip + MARGIN) + MARGIN),
        "white",
    )
    draw = ImageDraw.Draw(page)
    for i, cell in enumerate(cells):
        left = MARGIN + i % columns * (width + MARGIN)
        top = MARGIN + i // columns * (height + strip + MARGIN)
        draw.text((left, top), cell.variant.label, fill="black", font=font)
        pixels = np.round(np.clip(cell.pixels, 0, 1) * 255).astype(np.uint8)
        page.paste(Image.fromarray(pixels), (left, top + strip))
    return np.asarray(page, np.float32) / 255
