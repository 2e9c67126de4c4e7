"""Flags that several commands of `style` have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import flags

Add = Callable[..., Any]


def define_colors(add: Add) -> None:
    """What the result keeps of the content, and in how many bits it is written."""
    add(
        flags.DEFINE_enum,
        "preserve_color",
        ["none", "luminance", "match"],
        "Keep the content's colours: transfer luminance only, or recolour the style first.",
    )
    add(flags.DEFINE_enum, "color_root", ["symmetric", "cholesky"], "How match maps colours.")
    add(flags.DEFINE_list, "content_mask", "Where each style goes: one grey picture a style.")
    bounds = {"lower_bound": 8, "upper_bound": 16}
    add(flags.DEFINE_integer, "bits", "Bits a channel: 8, or 16 for .png.", **bounds)


def define_going_on(add: Add) -> None:
    """Logs, checkpoints, and going on from these."""
    add(flags.DEFINE_string, "log", "JSON lines: one for each step.")
    add(flags.DEFINE_string, "checkpoint", "Directory for checkpoints.")
    add(
        flags.DEFINE_integer,
        "checkpoint_every",
        "Steps between two checkpoints.",
        lower_bound=1,
    )
    add(flags.DEFINE_bool, "resume", "Go on from the last checkpoint.")
