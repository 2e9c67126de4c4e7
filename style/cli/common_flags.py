"""Flags that several commands of `style` have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import flags

Add = Callable[..., Any]
# The longest side in pixels that may be asked for.
MAX_SIDE = 10**6


def define_output_flags(add: Add) -> None:
    """What the result keeps of the content's colours, where styles go, and the bits of the file."""
    add(
        flags.DEFINE_enum,
        "preserve_color",
        ["none", "luminance", "match"],
        "How to keep the content's colours: none takes the style's, luminance transfers the "
        "luminance only, match recolours the style first.",
    )
    add(
        flags.DEFINE_enum,
        "color_root",
        ["symmetric", "cholesky"],
        "Matrix root by which --preserve_color=match maps the colours of the style.",
    )
    add(
        flags.DEFINE_list,
        "content_mask",
        "Paths of grey pictures, one for each style: the style goes where they are white.",
    )
    add(
        flags.DEFINE_integer,
        "bits",
        "Bits per channel of the picture that is written: 8, or 16 for .png only.",
        lower_bound=8,
        upper_bound=16,
    )


def define_checkpoint_flags(add: Add) -> None:
    """The log, the checkpoints, and going on from these."""
    add(
        flags.DEFINE_string,
        "log",
        "Path of a log in JSON lines, one for each step; by default none is written.",
    )
    add(
        flags.DEFINE_string,
        "checkpoint",
        "Directory for checkpoints; by default none are written.",
    )
    add(
        flags.DEFINE_integer,
        "checkpoint_every",
        "Steps between two checkpoints.",
        lower_bound=1,
    )
    add(flags.DEFINE_bool, "resume", "Resume from the last checkpoint in --checkpoint.")


def define_folder_flags(add: Add) -> None:
    """What happens to a folder of contents."""
    add(
        flags.DEFINE_bool,
        "overwrite",
        "Make pictures again that already exist in the output folder; by default they are kept.",
    )
    add(
        flags.DEFINE_integer,
        "max_skipped",
        "Number of pictures of a folder that may fail; each is named, and the others are made.",
        lower_bound=0,
    )
